# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's process: from its start to the signal that ends it."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

from vif_driver import __version__, config, wire
from vif_driver.agent import server
from vif_driver.errors import VifError
from vif_driver.events import Events
from vif_driver.host import Host
from vif_driver.host.links import Links
from vif_driver.host.ovsdb import Ovsdb

log = logging.getLogger(__name__)

#: What ``vifctl status`` asks; every other request is a VDSM event.
STATUS = "status"


class Agent:
    """Answers what comes over the socket.

    Args:
        settings: the configuration.
        ovsdb: Open vSwitch's database.
        links: network devices.
    """

    def __init__(self, settings: config.Config, ovsdb: Ovsdb, links: Links) -> None:
        self._settings = settings
        self._ovsdb = ovsdb
        self._events = Events(settings, Host(links=links, ovsdb=ovsdb))
        self._answered = 0
        self._failed = 0

    async def answer(self, request: wire.Request) -> wire.Reply:
        """Answer one request."""
        if request.event == STATUS:
            return wire.Reply(data=json.dumps(self._status()).encode())
        reply = await self._events.handle(request)
        self._answered += 1
        self._failed += reply.status != 0
        return reply

    def _status(self) -> dict[str, object]:
        bridge = self._settings.integration_bridge
        connected = self._ovsdb.replica.connected
        return {
            "version": __version__,
            "pid": os.getpid(),
            "ovsdb_connected": connected,
            "integration_bridge": bridge,
            "integration_bridge_exists": connected and self._ovsdb.has_bridge(bridge),
            "events_answered": self._answered,
            "events_failed": self._failed,
        }


async def run(settings: config.Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        VifError: the agent cannot start.
    """
    ovsdb, links = Ovsdb(), Links()
    callers = server.callers_of_this_host()
    path = Path(wire.SOCKET)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    ovsdb.replica.open()
    with server.listen(path, callers) as listener:
        service = server.Server(Agent(settings, ovsdb, links).answer, callers)
        serving = asyncio.ensure_future(service.serve(listener))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        log.info("vif-agent %s serves on %s", __version__, path)
        try:
            await serving
        except asyncio.CancelledError:
            log.info("vif-agent ends")
    ovsdb.replica.close()
    await links.close()


def main(arguments: list[str] | None = None) -> int:
    """Run ``vif-agent``."""
    parser = argparse.ArgumentParser(
        prog="vif-agent",
        description="Prepares this host for the vNICs of external networks, for VDSM's hooks.",
    )
    parser.add_argument("--debug", action="store_true", help="log every request")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if options.debug else logging.INFO,
        format="%(levelname)s %(message)s",
    )
    try:
        asyncio.run(run(config.load()))
    except VifError as error:
        log.error("%s", error)
        return 1
    return 0
