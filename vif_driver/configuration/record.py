# SPDX-License-Identifier: GPL-2.0-or-later
"""The note on the disk of what the host was before, and who may write it.

It is there while a host is being configured, and after that only if whoever did it was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vif_driver.configuration.change import Noted
from vif_driver.configuration.kinds import KINDS
from vif_driver.errors import HostError
from vif_driver.host import whole_files

#: Root's; what is in it may be secret.
FOLDER = Path("/var/lib/vif-driver")

_NAME = "configure.json"

# Of the note's form.
_VERSION = 1


class Record:
    """The note; see :func:`hold`.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME

    def read(self) -> tuple[str, str | None, list[Noted]] | None:
        """Give what an earlier run has left; None if there is nothing.

        Returns:
            The command that was run, what was asked for, and the changes in the order in which
            they were made.

        Raises:
            HostError: it cannot be understood.
        """
        try:
            content = json.loads(self._path.read_bytes())
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']}")
            changes = [(KINDS[one["kind"]], dict(one["before"])) for one in content["changes"]]
            return content["command"], content["request"], changes
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(
                f"{self._path} has what the host was before an interrupted vifctl configure, and "
                f"cannot be understood ({error})",
                "look what it says, put that back by hand and remove the file",
            ) from error

    def write(self, command: str, request: str | None, noted: Sequence[Noted]) -> None:
        """Note changes; they are on the disk when this returns.

        Raises:
            HostError: they are not.
        """
        content: dict[str, Any] = {
            "version": _VERSION,
            "command": command,
            "request": request,
            "changes": [{"kind": kind.kind, "before": before} for kind, before in noted],
        }
        try:
            whole_files.replace(self._path, json.dumps(content).encode(), mode=0o600)
        except OSError as error:
            raise HostError(
                f"{self._path} cannot be written ({error.strerror}): without it nothing is changed",
                "make room for it",
            ) from error

    def remove(self) -> None:
        """Remove it: there is nothing to be put back."""
        whole_files.remove(self._path)


def interrupted(folder: Path | None = None) -> str | None:
    """Give the command that was killed and has left its note; for root.

    Returns:
        None if there is none; what one does that still runs is its own business.

    Raises:
        HostError: there is a note that cannot be understood.
    """
    folder = FOLDER if folder is None else folder
    if not (folder / _NAME).exists():
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        left = Record(folder).read()
    except BlockingIOError:
        return None
    finally:
        os.close(handle)
    return None if left is None else left[0]


@contextlib.contextmanager
def hold(folder: Path | None = None) -> Iterator[Record]:
    """Be the only one who configures this host.

    Raises:
        HostError: another one does, or the folder is not to be had.
    """
    folder = FOLDER if folder is None else folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{folder} cannot be used ({error.strerror})", "run it as root") from error
    try:
        try:
            # Ends with this process, however it ends.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                "this host is being configured by another vifctl or vdsm-tool", "wait for its end"
            ) from None
        yield Record(folder)
    finally:
        os.close(handle)
