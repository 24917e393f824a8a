# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's part of the computer's control groups (cgroups(7)), for machines that run systemd.

Each of these machines has one group, which is the root of all that it can see.  They lie in one
directory per lab, below the group of the lab's owner; no controller is switched on, so that they
only tell which process belongs to which unit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from .command import run_command
from .deadline import wait_until
from .inside import cgroup_sweeper

if TYPE_CHECKING:
    from .anchor import Anchor

# In the anchor's mount namespace.
MOUNT = "/run/cgroup"


class Cgroups:
    """The control groups of a lab; there are none until the first is asked for.

    Args:
        anchor: the lab's.

    Attributes:
        name: of the directory that they are in.
    """

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self.name = f"lab-{uuid.uuid4().hex[:12]}"
        self._parent: int | None = None
        self._sweeper: subprocess.Popen[bytes] | None = None
        self._opening = threading.Lock()

    def add(self, machine: str) -> str:
        """Make the group of a machine, empty.

        Returns:
            Its directory, as the anchor's mount namespace has it.
        """
        with self._opening:  # machines are booted side by side
            if self._parent is None:
                self._open()
        self.remove(machine)
        os.mkdir(f"{self.name}/{machine}", dir_fd=self._parent)
        return f"{MOUNT}{_own_group()}/{self.name}/{machine}"

    def remove(self, machine: str) -> None:
        """Remove the group of a machine that has no power any more.

        Raises:
            TimeoutError: somebody is still in it.
        """
        parent = self._parent
        if parent is not None:
            name = f"{self.name}/{machine}"
            what = f"end of the control group {name}"
            wait_until(lambda: cgroup_sweeper.remove_tree(parent, name), 10, what)

    def leftovers(self) -> list[str]:
        """The groups that are there, as paths."""
        if self._parent is None:
            return []
        found: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            for directory, _, _, _ in os.fwalk(self.name, dir_fd=self._parent):
                found.append(directory)
        if not found and not self._anchor.alive:
            self._close()
        return found

    def _open(self) -> None:
        enter = ["nsenter", "-t", str(self._anchor.pid), "-m", "--"]
        self._anchor.outside(MOUNT).mkdir(exist_ok=True)
        run_command("anchor", [*enter, "mount", "-t", "cgroup2", "cgroup2", MOUNT])
        parent = self._anchor.outside(MOUNT + _own_group())
        self._parent = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        # The sweeper first: there is to be no moment in which nobody would remove them.
        arguments, handles = [str(self._parent), self.name], [self._parent]
        self._sweeper = self._anchor.start_survivor("cgroup_sweeper.py", arguments, handles)
        os.mkdir(self.name, dir_fd=self._parent)

    def _close(self) -> None:
        if self._sweeper is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._sweeper.wait(timeout=10)
            self._sweeper = None
        if self._parent is not None:
            os.close(self._parent)
            self._parent = None


def _own_group() -> str:
    """The group that this process is in, as a path below the mount; '' for its root."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::/") and not line.startswith("0::/.."):
            return line[len("0::") :].rstrip("/")
    return ""
