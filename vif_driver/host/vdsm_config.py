# SPDX-License-Identifier: GPL-2.0-or-later
"""What VDSM has written down of the networks and bonds that it has set up.

A JSON file each (VDSM's lib/vdsm/network/netconfpersistence.py).  With every change all of them are
written anew into a folder of another name, to which ``netconf``, a link, leads from then on.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Generic, TypeVar

from vif_driver.errors import HostError, VifError

log = logging.getLogger(__name__)

#: VDSM's running configuration: what it applied last.
FOLDER = Path("/var/lib/vdsm/staging/netconf")

# Bytes, many times what an entry has.
_MAX_SIZE = 256 * 1024

_T = TypeVar("_T")

# When a file was written, by which it is known to be the same.
_State = tuple[int, int, int]


class Unreadable(HostError):
    """VDSM has written something down, and this process can't read it."""


class Entries(Generic[_T]):
    """The entries of one kind; a file is read again only when it is another one.

    Args:
        kind: ``nets`` or ``bonds``.
        parse: gives an entry, by its name and what its file has; may raise a VifError.
        folder: VDSM's.
    """

    def __init__(
        self, kind: str, parse: Callable[[str, object], _T], folder: Path = FOLDER
    ) -> None:
        self._folder = folder / kind
        self._parse = parse
        self._known: dict[str, tuple[_State, _T | None]] = {}

    def all(self) -> Mapping[str, _T]:
        """Give them by their names; those that can't be understood are left out.

        Raises:
            Unreadable: there are some, but not for this process.
        """
        known = self._known
        try:
            with os.scandir(self._folder) as found:
                states = {entry.name: _state(entry) for entry in found}
            self._known = {
                name: known[name]
                if name in known and known[name][0] == state
                else (state, self._read(name))
                for name, state in states.items()
                if state is not None
            }
        except FileNotFoundError:  # VDSM has not set up its first network yet
            return {}
        except OSError as error:
            raise Unreadable(
                f"VDSM's notes of its networks cannot be read ({error})",
                "see who may, and SELinux's labels (ls -lZ): restorecon -RF /var/lib/vdsm/staging",
            ) from None
        return {name: entry for name, (_, entry) in self._known.items() if entry is not None}

    def _read(self, name: str) -> _T | None:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                content: Any = json.loads(file.read(_MAX_SIZE))
            return self._parse(name, content)
        except (FileNotFoundError, ValueError, RecursionError, VifError) as error:
            log.warning("%s is left out: %s", path, error)
            return None


def _state(entry: os.DirEntry[str]) -> _State | None:
    try:
        status = entry.stat()
    except FileNotFoundError:  # it has just gone
        return None
    if not stat.S_ISREG(status.st_mode):  # VDSM makes no others, and one might block who opens it
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
