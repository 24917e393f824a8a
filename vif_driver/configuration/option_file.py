# SPDX-License-Identifier: GPL-2.0-or-later
"""Files in the format of oslo.config, such as Neutron's: options are set, all else stays.

What a line means is decided as oslo.config decides it (its ``iniparser``, and ``cfg`` for the names
of sections), not as configparser does: an option may be there several times, its value goes on in
lines that are indented, the first of ``=`` and ``:`` ends its name, and nothing behind a value is a
comment.  Comments, order, empty lines, line endings and bytes that are no UTF-8 are kept.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from vif_driver.errors import ConfigError, one_line

# Python's universal newlines, with which oslo.config opens its files.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

_DEFAULT = "DEFAULT"


@dataclasses.dataclass(frozen=True)
class _Assignment:
    # Lines from ``start`` up to, without, ``end``.
    section: str
    option: str
    value: str
    start: int
    end: int


class OptionFile:
    """A file's content.

    Args:
        raw: its bytes.
        path: which file, for messages.

    Raises:
        ConfigError: oslo.config could not read it either; the line is named.
    """

    def __init__(self, raw: bytes, path: Path) -> None:
        self.path = path
        self._lines: list[str] = _LINE.findall(raw.decode("utf-8", "surrogateescape"))
        self._read()

    @property
    def raw(self) -> bytes:
        """The content as it is now."""
        return "".join(self._lines).encode("utf-8", "surrogateescape")

    def get(self, section: str, option: str) -> str | None:
        """Give an option's value, the last one if there are several; None if it isn't set."""
        found = self._find(section, option)
        return None if found is None else found.value

    def set(self, section: str, option: str, value: str) -> bool:
        """Set an option.

        Of several it is the last one, which is in force.  One that is new stands below its
        commented sample, or else after the last option of its section.

        Args:
            section: it is made if it isn't there.
            option: its name.
            value: without line breaks.

        Returns:
            Whether anything changed.
        """
        found = self._find(section, option)
        if found is not None and found.value == value:
            return False
        if found is not None:
            first = self._lines[found.start]
            name = re.split(r"[=:]", first, maxsplit=1)[0]
            sign = first[len(name) :][:1]
            blank = re.match(r"[ \t]*", first[len(name) + 1 :])
            space = blank[0] if blank is not None and found.value else " "
            ending = _ending(self._lines[found.end - 1])
            self._lines[found.start : found.end] = [f"{name}{sign}{space}{value}{ending}"]
        else:
            self._insert(section, f"{option} = {value}")
        self._read()
        return True

    def remove(self, section: str, option: str) -> bool:
        """Remove the value of an option that is in force; tells whether there was one."""
        found = self._find(section, option)
        if found is None:
            return False
        del self._lines[found.start : found.end]
        self._read()
        return True

    def _find(self, section: str, option: str) -> _Assignment | None:
        wanted = (_normal(section), option)
        same = [one for one in self._assignments if (one.section, one.option) == wanted]
        return same[-1] if same else None

    def _insert(self, section: str, line: str) -> None:
        newline = _ending(self._lines[0]) if self._lines else ""
        newline = newline or "\n"
        if self._lines and not _ending(self._lines[-1]):
            self._lines[-1] += newline
        wanted = _normal(section)
        if wanted not in self._headers:
            empty = [newline] if self._lines and self._lines[-1].strip() else []
            self._lines += [*empty, f"[{section}]{newline}", f"{line}{newline}"]
            return
        place = self._headers[wanted] + 1
        assigned = [one.end for one in self._assignments if one.section == wanted]
        place = max([place, *assigned])
        option = re.escape(line.partition(" ")[0])
        sample = re.compile(rf"[#;][ \t]*{option}[ \t]*[=:]")
        current = None
        for number, text in enumerate(self._lines):
            current = self._starts.get(number, current)
            if current == wanted and sample.match(text):
                place = number + 1
        self._lines.insert(place, f"{line}{newline}")

    def _read(self) -> None:
        self._assignments: list[_Assignment] = []
        #: The last header of each section, and where each section starts.
        self._headers: dict[str, int] = {}
        self._starts: dict[int, str] = {}
        section: str | None = None
        current: _Assignment | None = None
        for number, raw in enumerate(self._lines):
            line = raw.rstrip()
            if line and line[0] in " \t":
                if current is None:
                    raise self._error(number, "continues nothing")
                current = dataclasses.replace(
                    current, value=f"{current.value}\n{line.lstrip()}", end=number + 1
                )
                self._assignments[-1] = current
                continue
            current = None
            if not line or line[0] in "#;":
                continue
            if line[0] == "[":
                if not line.endswith("]") or len(line) <= 2:
                    raise self._error(number, "is no section")
                section = _normal(line[1:-1])
                self._headers[section] = number
                self._starts[number] = section
                continue
            split = re.match(r"([^=:]*)[=:](.*)", line)
            if split is None or not split[1].strip():
                raise self._error(number, "sets no option")
            if section is None:
                raise self._error(number, "stands before the first section")
            current = _Assignment(
                section, split[1].strip(), _unquoted(split[2].strip()), number, number + 1
            )
            self._assignments.append(current)

    def _error(self, number: int, what: str) -> ConfigError:
        # Not what the line says, which may be a secret.
        return ConfigError(
            one_line(f"{self.path}: line {number + 1} {what}"), "Neutron can't read it; mend it"
        )


def _normal(section: str) -> str:
    return section if section == _DEFAULT else section.lower()


def _unquoted(value: str) -> str:
    if value and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _ending(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]
