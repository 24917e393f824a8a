# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are written in one go, and are on the disk afterwards."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Of SELinux (xattr(7)).
_LABEL = "security.selinux"


def replace(path: Path, content: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file: at any moment, even of a power cut, it has the old content or the new one.

    A symbolic link stays one; what it leads to is written.  A file that is there keeps its SELinux
    label.

    Args:
        path: its name; its folder is there.
        content: all that it is to have.
        mode: its permissions.
        owner: user and group id; this process' own if not given.

    Raises:
        OSError: the old one stays.
    """
    path = path.resolve()
    unfinished = path.with_name(f".{path.name}.vif-driver")
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()  # of somebody who was killed
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            if owner is not None:
                os.fchown(handle, *owner)
            os.fchmod(handle, mode)
            _label_like(path, handle)
            os.fsync(handle)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file, if it is there, for good.

    Raises:
        OSError: it stays.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def _label_like(path: Path, handle: int) -> None:
    # Where there is no SELinux, or no file, there is no label.
    with contextlib.suppress(OSError):
        os.setxattr(handle, _LABEL, os.getxattr(path, _LABEL))


def sync_folder(folder: Path) -> None:
    """See that the names in a folder are on the disk.

    Raises:
        OSError: they are not.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
