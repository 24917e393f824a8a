# SPDX-License-Identifier: GPL-2.0-or-later
"""A view of /sys that shows the devices of the network namespace a test is in."""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNS = 0x20000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000


def mount() -> None:
    """Mount it for this thread alone, and for whatever that starts.

    /sys shows the devices of the namespace in which it was mounted; /proc/sys, on the other hand,
    those of who reads it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for outcome in (
        libc.unshare(_CLONE_NEWNS),
        libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None),
        libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None),
    ):
        if outcome:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
