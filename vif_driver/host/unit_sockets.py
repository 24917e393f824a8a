# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections of the processes of a systemd unit, by what /proc shows to root."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from vif_driver.host.processes import PROC

# Include/net/tcp_states.h: TCP_ESTABLISHED, as proc(5) shows it.
_ESTABLISHED = "01"


def connections(unit: str, ports: Collection[int], proc: Path = PROC) -> set[int]:
    """Give the sockets of a unit's processes that are connected to one of some ports.

    Args:
        unit: its name, with the suffix.
        ports: of the other side.
        proc: where the kernel shows its processes.

    Returns:
        The sockets' numbers (inodes).
    """
    found: set[int] = set()
    for process in _processes(unit, proc):
        own = set(_sockets(process))
        for table in ("tcp", "tcp6"):
            found |= own & set(_connected(process / "net" / table, ports))
    return found


def _processes(unit: str, proc: Path) -> Iterator[Path]:
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            groups = (process / "cgroup").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has just ended
        if any(_is_of(unit, line.split("/")) for line in groups.splitlines()):
            yield process


def _is_of(unit: str, group: list[str]) -> bool:
    # Below a user's own systemd anybody may have a unit of any name.
    return unit in group and not any(part.startswith("user@") for part in group)


def _sockets(process: Path) -> Iterator[int]:
    try:
        for link in (process / "fd").iterdir():
            socket = re.fullmatch(r"socket:\[([0-9]+)\]", os.readlink(link))
            if socket is not None:
                yield int(socket[1])
    except OSError:
        return  # it has just ended


def _connected(table: Path, ports: Collection[int]) -> Iterator[int]:
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if fields[3] == _ESTABLISHED and int(fields[2].rpartition(":")[2], 16) in ports:
            yield int(fields[9])
