# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tests.bench [NAME ...]``: measure, show a table, write build/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from tests.bench.bench import Bench
from tests.bench.figure import Figure
from tests.bench.figures import FIGURES
from tests.lab.harness.machine import PROJECT

RESULTS = PROJECT / "build" / "bench.json"
ROW = "{:<22} {:>10} {:<8} {:>6}  {}"
Entry = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit status is 0 if everything was measured and no limit missed."""
    known = {figure.name: figure for figure in FIGURES}
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"one of: {', '.join(known)}; all if none")
    names = parser.parse_args(arguments).name
    for name in names:
        if name not in known:
            parser.error(f"there is no figure {name}; known are {', '.join(known)}")
    if os.geteuid() != 0:
        print("bench: it needs root, for a lab host to measure on", file=sys.stderr)
        return 1
    wanted = [known[name] for name in dict.fromkeys(names)] or list(FIGURES)
    measured, failed = measure(wanted)
    kept = load() if names else []
    save(measured, [entry for entry in kept if entry["name"] not in {f.name for f in wanted}])
    missed = [entry["name"] for entry in measured if entry["ok"] is False]
    if missed:
        print(f"bench: beyond the limit: {', '.join(missed)}", file=sys.stderr)
    if failed:
        print(f"bench: could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if missed or failed else 0


def measure(figures: Sequence[Figure]) -> tuple[list[Entry], list[str]]:
    """Measure figures, one after the other, and show them as they come.

    Returns:
        What was measured, and the names of those that could not be.
    """
    measured: list[Entry] = []
    failed: list[str] = []
    print(ROW.format("figure", "value", "unit", "limit", "ok"), flush=True)
    with Bench() as bench:
        for figure in figures:
            try:
                entry = figure.entry(figure.measure(bench))
            except Exception as error:  # the other figures are wanted all the same
                failed.append(figure.name)
                print(ROW.format(figure.name, "-", figure.unit, "", "FAILED"), flush=True)
                print(f"bench: {figure.name}: {type(error).__name__}: {error}", file=sys.stderr)
                logs = bench.save_logs()
                if logs is not None:
                    print(f"bench: the logs are in {logs}", file=sys.stderr)
                continue
            measured.append(entry)
            print(row(entry), flush=True)
    print()
    for entry in measured:
        print(f"{entry['name']}: {entry['how']}.")
    return measured, failed


def row(entry: Entry) -> str:
    """Give an entry's line of the table."""
    limit = "" if entry["limit"] is None else f"{entry['limit']:g}"
    verdict = {True: "yes", False: "NO", None: ""}[entry["ok"]]
    value = entry["value"]
    digits = 0 if value == int(value) or value >= 1000 else 3
    return ROW.format(entry["name"], f"{value:.{digits}f}", entry["unit"], limit, verdict).rstrip()


def load() -> list[Entry]:
    """Read what earlier runs measured."""
    try:
        entries: list[Entry] = json.loads(RESULTS.read_text())
    except FileNotFoundError:
        return []
    return entries


def save(measured: Sequence[Entry], kept: Sequence[Entry]) -> None:
    """Write build/bench.json, in the order of the list of figures."""
    order = {figure.name: number for number, figure in enumerate(FIGURES)}
    entries = sorted([*measured, *kept], key=lambda entry: order.get(entry["name"], len(order)))
    RESULTS.parent.mkdir(exist_ok=True)
    draft = RESULTS.with_suffix(".new")
    draft.write_text(json.dumps(entries, indent=2) + "\n")
    draft.replace(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
