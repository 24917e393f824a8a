# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent and systemd say to each other: sockets handed over, readiness, the watchdog."""

from __future__ import annotations

import asyncio
import os
import socket

from systemd import daemon

from vif_driver.errors import VifError


def listener() -> socket.socket | None:
    """Give the listening socket that systemd made (sd_listen_fds(3)); None without systemd.

    Raises:
        VifError: what it handed over is something else.
    """
    descriptors = daemon.listen_fds()
    if not descriptors:
        return None
    if len(descriptors) != 1 or not daemon.is_socket_unix(
        descriptors[0], socket.SOCK_STREAM, 1, None
    ):
        raise VifError(
            "systemd handed over something else than one listening unix socket",
            "correct vif-agent.socket: systemctl revert vif-agent.socket",
        )
    handed = socket.socket(fileno=descriptors[0])
    handed.setblocking(False)
    return handed


def notify(state: str) -> None:
    """Tell systemd something (sd_notify(3)); nothing happens without it."""
    daemon.notify(state)


async def feed_watchdog() -> None:
    """Tell systemd that the loop turns, as often as its unit asks for, until cancelled."""
    # sd_watchdog_enabled(3) advises half of the time.  It may be meant for another process.
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID") or str(os.getpid())
    if not microseconds.isdigit() or not int(microseconds) or meant_for != str(os.getpid()):
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(int(microseconds) / 2_000_000)
