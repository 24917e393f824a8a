# SPDX-License-Identifier: GPL-2.0-or-later
"""How findings and tables are shown: to people, and to programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from vif_driver.errors import one_line
from vif_driver.inspection.finding import Finding, State

_WORDS = {
    State.OK: "ok",
    State.WARNING: "warning",
    State.BAD: "BAD",
    State.UNKNOWN: "unknown",
}
# SGR of ECMA-48: green, yellow, red, yellow.
_COLOURS = {State.OK: "32", State.WARNING: "33", State.BAD: "31;1", State.UNKNOWN: "33"}


def print_json(value: Any) -> None:
    """Show to a program."""
    print(json.dumps(value, indent=2))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Show rows in columns as wide as they need to be; the last one ends where it ends.

    What others have named goes to a terminal of root's: nothing of it controls that.
    """
    shown = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in list(zip(*shown))[:-1]]
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        print("  ".join([*cells, row[-1]]).rstrip())


def print_findings(findings: Iterable[Finding]) -> None:
    """Show findings, one a line, and below it what to do."""
    shown = list(findings)
    names = max((len(one_line(finding.name)) for finding in shown), default=0)
    states = max(map(len, _WORDS.values()))
    told: set[str] = set()
    for finding in shown:
        word = _coloured(_WORDS[finding.state].ljust(states), finding.state)
        print(f"{word}  {one_line(finding.name).ljust(names)}  {one_line(finding.detail)}")
        # How to see what is not seen is the same for most of it.
        if finding.remedy and not (finding.state is State.UNKNOWN and finding.remedy in told):
            print(f"{' ' * (states + names + 4)}-> {one_line(finding.remedy)}")
            told.add(finding.remedy)


def as_dict(finding: Finding) -> dict[str, str]:
    """Give a finding as vifctl(8) describes it."""
    return {
        "name": finding.name,
        "state": finding.state.value,
        "detail": finding.detail,
        "remedy": finding.remedy,
    }


def _coloured(text: str, state: State) -> str:
    return f"\033[{_COLOURS[state]}m{text}\033[0m" if sys.stdout.isatty() else text
