# SPDX-License-Identifier: GPL-2.0-or-later
"""Which daemons run on this host, by what /proc shows to everybody."""

from __future__ import annotations

import os
import re
from pathlib import Path

PROC = Path("/proc")

# Interpreter, its options, the script: the name of a daemon is among the first words.
_WORDS = 4


def find(name: str, proc: Path = PROC) -> int | None:
    """Give the process id of a daemon, a program or a script; None if it does not run.

    A daemon that renames itself for ps, as Neutron's do, begins with its name all the same.

    Args:
        name: of the program's file, without its folder.
        proc: where the kernel shows its processes.
    """
    for process in _numbers(proc):
        try:
            raw = (proc / str(process) / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        words = re.split(rb"[\0 ]+", raw, maxsplit=_WORDS)[:_WORDS]
        if name.encode() in (os.path.basename(word) for word in words if word[:1] != b"-"):
            return process
    return None


def of_unit(unit: str, proc: Path = PROC) -> list[int]:
    """Give the process ids of a unit of systemd's, by its control group.

    Args:
        unit: its name, with the suffix.
        proc: where the kernel shows its processes.
    """
    found = []
    for process in _numbers(proc):
        try:
            path = proc / str(process) / "cgroup"
            groups = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has just ended
        if any(_is_of(unit, line.split("/")) for line in groups.splitlines()):
            found.append(process)
    return found


def _is_of(unit: str, group: list[str]) -> bool:
    # Below a user's own systemd anybody may have a unit of any name.
    return unit in group and not any(part.startswith("user@") for part in group)


def runs(process: int, name: str, proc: Path = PROC) -> bool:
    """Tell whether a process id is that of a running program.

    Args:
        process: its id, from a file that the daemon may have left behind.
        name: of the program; the kernel keeps 15 characters of it (proc(5), comm).
        proc: where the kernel shows its processes.
    """
    try:
        comm = (proc / str(process) / "comm").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return comm.rstrip("\n") == name[:15]


def user(process: int, proc: Path = PROC) -> int | None:
    """Give the user id that a process works as; None if it doesn't run."""
    try:
        status = (proc / str(process) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # Real, effective, saved, file system (proc(5)).  The owner of the folder is not to be trusted
    # for it: of a daemon that has changed its user that is root.
    found = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.M)
    return None if found is None else int(found[1])


def _numbers(proc: Path) -> list[int]:
    try:
        return sorted(int(entry) for entry in os.listdir(proc) if entry.isdigit())
    except OSError:
        return []
