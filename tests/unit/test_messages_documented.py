# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/messages.md has every message that an administrator can meet, and no other."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.messages import Message, collect

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "messages.md"

# A row of one of the page's tables: the message as code, then what it means and what to do.
_ROW = re.compile(r"\| `(?P<text>[^`]+)` \| (?P<told>.*) \|")


@pytest.fixture(scope="module")
def said() -> list[Message]:
    """What the driver says."""
    files = [*_ROOT.glob("vif_driver/**/*.py"), *_ROOT.glob("hooks.d/*")]
    return collect([path for path in files if path.is_file()], _ROOT)


@pytest.fixture(scope="module")
def documented() -> list[tuple[str, str]]:
    """The messages of the page, each with what stands behind it."""
    rows = map(_ROW.fullmatch, _PAGE.read_text(encoding="utf-8").splitlines())
    return [(row["text"].replace("\\|", "|"), row["told"].strip()) for row in rows if row]


def test_every_message_is_documented(
    said: list[Message], documented: list[tuple[str, str]]
) -> None:
    known = {text for text, _ in documented}

    missing = {one.text: one for one in said if one.text not in known}

    lines = [
        f"{one.where}:{one.line}\n| `{one.text.replace('|', chr(92) + '|')}` | WHAT IT MEANS |"
        for one in missing.values()
    ]
    assert not lines, "put these rows into docs/messages.md:\n" + "\n".join(lines)


def test_no_message_is_documented_that_nobody_says(
    said: list[Message], documented: list[tuple[str, str]]
) -> None:
    texts = {one.text for one in said}

    gone = [text for text, _ in documented if text not in texts]

    assert not gone, "take these rows out of docs/messages.md:\n" + "\n".join(gone)


def test_each_message_is_explained_once(documented: list[tuple[str, str]]) -> None:
    twice = [text for text, count in Counter(text for text, _ in documented).items() if count > 1]
    unexplained = [text for text, told in documented if not re.search("[a-z]{3}", told)]

    assert not twice
    assert not unexplained
