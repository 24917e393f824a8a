# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are written in one go, and are on the disk afterwards.

Root writes with it in folders of daemons', such as /etc/openvswitch, which is user openvswitch's on
EL.  What such a user puts there must not lead root elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

# Of SELinux (xattr(7)).
_LABEL = "security.selinux"

# As many as the kernel follows (path_resolution(7)).
_LINKS = 40


def follow(path: Path) -> Path:
    """Give what a path leads to, by symbolic links of root's or this process' own user's only.

    Args:
        path: what it leads to need not be there.

    Raises:
        OSError: a link on the way is somebody else's, or there are too many.
    """
    found, links = Path("/"), 0
    left = [*reversed(path.absolute().parts[1:])]
    while left:
        name = left.pop()
        if name == "..":
            found = found.parent
            continue
        found /= name
        try:
            status = found.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISLNK(status.st_mode):
            continue
        if status.st_uid not in (0, os.geteuid()):
            raise OSError(errno.EPERM, f"{found} is a symbolic link of user {status.st_uid}'s")
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = Path(os.readlink(found))
        found = Path("/") if target.is_absolute() else found.parent
        left += reversed([part for part in target.parts if part != "/"])
    return found


def read(path: Path) -> bytes:
    """Read a file.

    Raises:
        OSError: it can't be read, is none, or is found by a link of somebody else's only.
    """
    # One that is no file could block who opens it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(follow(path), flags), "rb") as file:
        _require_file(os.fstat(file.fileno()))
        return file.read()


def look(path: Path) -> os.stat_result:
    """Give owner and permissions of a file; see :func:`read`."""
    status = os.lstat(follow(path))
    _require_file(status)
    return status


def _require_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")


def replace(path: Path, content: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file: at any moment, even of a power cut, it has the old content or the new one.

    A symbolic link stays one, and what it leads to is written; see :func:`follow`.  A file that is
    there keeps its SELinux label.

    Args:
        path: its name; its folder is there.
        content: all that it is to have.
        mode: its permissions.
        owner: user and group id; this process' own if not given.

    Raises:
        OSError: the old one stays.
    """
    path = follow(path)
    unfinished = _unfinished(path)
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


def tidy(path: Path) -> None:
    """Remove what somebody who was killed while he wrote a file has left beside it.

    Raises:
        OSError: it stays.
    """
    with contextlib.suppress(FileNotFoundError):
        _unfinished(follow(path)).unlink()


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.vif-driver")


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
