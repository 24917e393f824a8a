# SPDX-License-Identifier: GPL-2.0-or-later
"""mount(2), pivot_root(2) and unshare(2), for programs that run with ``python3 -I -S``."""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SHARED = 0x100000
MNT_DETACH = 2
CLONE_NEWCGROUP = 0x02000000
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount ``source`` of filesystem type ``kind`` on ``target``.

    Raises:
        OSError: the kernel refused; the message names the mount.
    """
    arguments = [text.encode() or None for text in (source, target, kind)]
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None)
    _check(result, f"mount {source} on {target} ({kind or hex(flags)} {options})")


def bind(source: str, target: str, read_only: bool = False) -> None:
    """Show ``source``, with the mounts below it, at ``target`` too."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def leave_cgroups() -> None:
    """Make the control groups that this process is in the only ones it can see.

    Raises:
        OSError: the kernel refused.
    """
    _check(_libc.unshare(CLONE_NEWCGROUP), "unshare of the control groups")


def make_private() -> None:
    """Stop mounts from travelling between this namespace and the one it was copied from."""
    mount("", "/", flags=MS_REC | MS_PRIVATE)


def make_shared() -> None:
    """Let mounts travel between this namespace and those that will be copied from it."""
    mount("", "/", flags=MS_REC | MS_SHARED)


def change_root(new_root: str) -> None:
    """Make ``new_root``, a mount point, the root of the mount namespace and drop the old one."""
    os.chdir(new_root)
    number = SYS_PIVOT_ROOT[os.uname().machine]
    # pivot_root(".", ".") stacks the old root on the new one: no directory needed to park it.
    _check(_libc.syscall(number, b".", b"."), f"pivot_root {new_root}")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
