# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's word that a network device has changed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

#: Multicast groups of rtnetlink(7) for devices (RTMGRP_LINK), and for addresses as well (and
#: RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR).
LINKS = 0x1
LINKS_AND_ADDRESSES = LINKS | 0x10 | 0x100

_BUFFER = 64 * 1024

# Seconds.
_MOMENT = 0.05

# Of a message the length and the type (struct nlmsghdr), and the type that says that a device is
# gone (RTM_DELLINK); both stand in the host's byte order.
_HEADER = struct.Struct("=IH10x")
_GONE = 17


class Watch:
    """Tells, for as long as it is open, when a network device is gone.

    Args:
        listener: called then; several at once count as one.
    """

    def __init__(self, listener: Callable[[], None]) -> None:
        self._listener = listener
        self._events = _open()
        asyncio.get_running_loop().add_reader(self._events, self._read)

    def close(self) -> None:
        """Stop telling."""
        asyncio.get_running_loop().remove_reader(self._events)
        self._events.close()

    def _read(self) -> None:
        gone = False
        try:
            while True:
                gone = _tells_of_one_gone(self._events.recv(_BUFFER)) or gone
        except BlockingIOError:
            pass
        except OSError:
            gone = True  # some messages were lost (ENOBUFS), perhaps of one that is gone
        if gone:
            self._listener()


class Changes:
    """Tells, when it is asked, whether network devices have changed.

    It wakes nobody: the kernel keeps the messages, and of those that it has no room for it says
    that there were some.

    Args:
        groups: of rtnetlink(7), those of what is to be told.
    """

    def __init__(self, groups: int = LINKS) -> None:
        self._events = _open(groups)

    def close(self) -> None:
        """Stop listening."""
        self._events.close()

    def any(self) -> bool:
        """Tell whether one was made, changed or removed since this was asked last."""
        changed = False
        try:
            while True:
                self._events.recv(_BUFFER)
                changed = True
        except BlockingIOError:
            return changed
        except OSError:
            return True  # some messages were lost (ENOBUFS)


def _tells_of_one_gone(messages: bytes) -> bool:
    begin = 0
    while begin + _HEADER.size <= len(messages):
        length, kind = _HEADER.unpack_from(messages, begin)
        if kind == _GONE:
            return True
        # The next one begins at a multiple of four (NLMSG_ALIGN); none is shorter than its header.
        begin += max((length + 3) & ~3, _HEADER.size)
    return False


async def wait(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until something holds that depends on nothing but network devices.

    Args:
        condition: asked at once, and again whenever the kernel says that a device has changed.
        timeout: seconds.

    Returns:
        False if they pass first.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    # Before the first look, so that nothing happens between the two.
    with _open() as events:
        told = False
        while not condition():
            left = deadline - loop.time()
            if left <= 0:
                return False
            message = asyncio.ensure_future(loop.sock_recv(events, _BUFFER))
            try:
                # Of a device that goes the kernel tells a moment before /sys shows it gone.
                timeout = min(left, _MOMENT) if told else left
                told = bool((await asyncio.wait([message], timeout=timeout))[0])
            finally:
                # The loop has to let go of the descriptor before it is closed.
                message.cancel()
                await asyncio.wait([message])
            # What the messages say is not read: the question is asked anew.  ENOBUFS, some were
            # lost, is as good a reason to ask as any.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                message.result()
            _drain(events)
    return True


def _open(groups: int = LINKS) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    events = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    events.bind((0, groups))
    return events


def _drain(events: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            events.recv(_BUFFER)
