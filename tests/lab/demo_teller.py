# SPDX-License-Identifier: GPL-2.0-or-later
"""How the demo talks: steps with their time, and what they show, in plain text of 80 columns."""

from __future__ import annotations

import contextlib
import difflib
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

WIDTH = 80
INDENT = "    "
BOLD, RED, GREEN, PLAIN = "\033[1m", "\033[31m", "\033[32m", "\033[0m"


class Failed(Exception):
    """The demo did not show what it should; the text is one line."""


class Teller:
    """Writes what the demo does, as it does it.

    Args:
        stream: where to; it gets colours if it is a terminal.

    Attributes:
        doing: the step that is under way, or was when something failed.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.doing = ""
        self._stream = sys.stdout if stream is None else stream
        self._coloured = self._stream.isatty()
        self._open = False

    def chapter(self, title: str) -> None:
        """Write a heading."""
        self._line("")
        self._line(title, BOLD)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Say what begins; at its end, how long it took."""
        self.doing = text
        begun = time.monotonic()
        self._write(f"- {text} ...")
        self._open = True
        yield
        took = f"{time.monotonic() - begun:.1f} s"
        if self._open:
            room = WIDTH - len(f"- {text} ...")
            self._write(f"{took:>{room}}\n" if room > len(took) else f"\n{took:>{WIDTH}}\n")
            self._open = False
        else:
            self._write(f"{took:>{WIDTH}}\n")

    def show(self, text: str, colour: str = "") -> None:
        """Show what something said."""
        for line in text.splitlines():
            self._line(f"{INDENT}{line}".rstrip(), colour)

    def diff(self, before: str, after: str) -> None:
        """Show all of two texts at once, with what one has and the other has not marked."""
        old, new = before.splitlines(), after.splitlines()
        lines = list(difflib.unified_diff(old, new, lineterm="", n=len(old) + len(new)))
        for line in lines[3:] or [f" {line}" for line in new]:
            self.show(line, {"-": RED, "+": GREEN}.get(line[0], ""))

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Show names and values."""
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            self.show(f"{name:<{width}}  {value}")

    def failure(self, text: str) -> None:
        """Say what failed: one line, however long."""
        self._end_line()
        self._write(self._in_colour(text, RED) + "\n")

    def _line(self, text: str, colour: str = "") -> None:
        self._end_line()
        wrapped = textwrap.wrap(
            text, WIDTH, subsequent_indent=INDENT * 2, drop_whitespace=False, break_on_hyphens=False
        )
        for line in wrapped or [""]:
            self._write(self._in_colour(line.rstrip(), colour) + "\n")

    def _end_line(self) -> None:
        if self._open:
            self._write("\n")
            self._open = False

    def _in_colour(self, text: str, colour: str) -> str:
        return f"{colour}{text}{PLAIN}" if colour and self._coloured else text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
