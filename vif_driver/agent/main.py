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
from vif_driver.errors import Unavailable, VifError
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

    def __init__(self, settings: config.Config, ovsdb: Ovsdb | None, links: Links) -> None:
        self._settings = settings
        self._ovsdb = ovsdb
        self._events = Events(settings, Host(links=links, ovsdb=ovsdb))
        self._answered = 0
        self._failed = 0

    async def handle(self, request: wire.Request) -> wire.Reply:
        """Answer one request."""
        if request.event == STATUS:
            return wire.Reply(data=json.dumps(self._status()).encode())
        reply = await self._events.handle(request)
        self._answered += 1
        self._failed += reply.status != 0
        return reply

    async def withdraw(self, request: wire.Request) -> None:
        """Take back what was done for a caller who is gone."""
        await self._events.withdraw(request)

    def _status(self) -> dict[str, object]:
        bridge = self._settings.integration_bridge
        ovsdb = self._ovsdb
        connected = ovsdb is not None and ovsdb.replica.connected
        return {
            "version": __version__,
            "pid": os.getpid(),
            "openvswitch_installed": ovsdb is not None,
            "ovsdb_connected": connected,
            "integration_bridge": bridge,
            "integration_bridge_exists": ovsdb is not None
            and connected
            and ovsdb.has_bridge(bridge),
            "events_answered": self._answered,
            "events_failed": self._failed,
        }


async def run(settings: config.Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        VifError: the agent cannot start.
    """
    ovsdb, links = _open_ovsdb(), Links()
    callers = server.callers_of_this_host()
    path = Path(wire.SOCKET)
    path.parent.mkdir(exist_ok=True)
    # Whatever the umask is: VDSM's user has to get through.
    path.parent.chmod(0o755)
    with server.listen(path, callers) as listener:
        service = server.Server(Agent(settings, ovsdb, links), callers)
        serving = asyncio.ensure_future(service.serve(listener))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        log.info("vif-agent %s serves on %s", __version__, path)
        try:
            await serving
        except asyncio.CancelledError:
            log.info("vif-agent ends")
    if ovsdb is not None:
        ovsdb.replica.close()
    await links.close()


def _open_ovsdb() -> Ovsdb | None:
    try:
        ovsdb = Ovsdb()
    except Unavailable as error:
        # A host of Neutron's Linux bridge agent needs none.
        log.warning("%s", error)
        return None
    ovsdb.replica.open()
    return ovsdb


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
