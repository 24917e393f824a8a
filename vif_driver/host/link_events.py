# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's word that a network device has changed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

#: Multicast group of rtnetlink(7) for devices (RTMGRP_LINK).
_LINKS = 1

_BUFFER = 64 * 1024


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
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as events:
        # Before the first look, so that nothing happens between the two.
        events.bind((0, _LINKS))
        while not condition():
            left = deadline - loop.time()
            if left <= 0:
                return False
            message = asyncio.ensure_future(loop.sock_recv(events, _BUFFER))
            try:
                await asyncio.wait([message], timeout=left)
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


def _drain(events: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            events.recv(_BUFFER)
