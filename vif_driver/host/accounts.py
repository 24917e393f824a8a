# SPDX-License-Identifier: GPL-2.0-or-later
"""Users of this host, and what they may read."""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Account:
    """As whom a program runs.

    Attributes:
        uid: the user's number.
        groups: the numbers of all its groups.
    """

    uid: int
    groups: frozenset[int]

    def may_read(self, path: Path) -> bool:
        """Tell by the permission bits whether it may read a file that is there."""
        folders = path.parents
        return self._may(path, 4) and all(self._may(folder, 1) for folder in folders)

    def _may(self, path: Path, bit: int) -> bool:
        if self.uid == 0:
            return True
        try:
            status = path.stat()
        except OSError:
            return False
        if status.st_uid == self.uid:
            return bool(status.st_mode >> 6 & bit)
        if status.st_gid in self.groups:
            return bool(status.st_mode >> 3 & bit)
        return bool(status.st_mode & bit)


def of_process(process: int, proc: Path = Path("/proc")) -> Account | None:
    """Tell as whom a process runs; None if it has ended."""
    try:
        text = (proc / str(process) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE))
    try:
        uid, gid = int(fields["Uid"].split()[1]), int(fields["Gid"].split()[1])
        return Account(uid, frozenset((gid, *map(int, fields["Groups"].split()))))
    except (KeyError, IndexError, ValueError):
        return None


def named(name: str) -> Account | None:
    """Look a user up; None if there is none of that name."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, frozenset(os.getgrouplist(name, entry.pw_gid)))
