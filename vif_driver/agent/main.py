# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's process: from its start to the signal that ends it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
from pathlib import Path

from vif_driver import __version__, attachments, config, journal, wire
from vif_driver.agent import server, service_manager
from vif_driver.agent.keeper import Keeper
from vif_driver.agent.readiness import Readiness, Waiting
from vif_driver.agent.reconcile import ASK_TIME, Reconciler
from vif_driver.agent.reporter import Reporter
from vif_driver.agent.switchover import Switchover
from vif_driver.errors import ConfigError, Unavailable, VifError
from vif_driver.events import PLUGS, REPORTS, Events
from vif_driver.events.turns import Turns
from vif_driver.host import Host, starts
from vif_driver.host.domains import Domains
from vif_driver.host.links import Links
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.host.starts import Starts
from vif_driver.protection.guard import Guard
from vif_driver.protection.known import OF_AGENT, Known
from vif_driver.reconciliation.report import Report
from vif_driver.reporting import METRICS

log = logging.getLogger(__name__)

#: What ``vifctl`` asks; every other request is a VDSM event.
STATUS = "status"
RECONCILE = "reconcile"

# The hooks of VDSM's user have no need of the first, and it takes long; VDSM's own service for the
# host's network, which is root's, runs the hooks of the second.
_FOR_ROOT = frozenset((RECONCILE, "before_network_setup"))

# Seconds that the answer to a VM's start takes beyond the deadline of its vNICs, for telling what
# is wrong and for libvirt.
_RESUME_TIME = 30.0

# Seconds that the answer to RECONCILE may take beyond what the reconciler takes at the most.
_REPORT_TIME = 10.0

# Seconds for VDSM's reports, whose hooks wait a little longer.
_REPORT_PATIENCE = {"after_get_caps": 4.0, "after_get_stats": 1.5}


class Agent:
    """Answers what comes over the socket.

    Args:
        settings: the configuration.
        links: network devices.
        ovsdb: Open vSwitch's database; None on a host without.
        domains: libvirt's VMs.
        trouble: what is wrong with the configuration; ``settings`` are the defaults then.
    """

    def __init__(
        self,
        settings: config.Config,
        links: Links,
        ovsdb: Ovsdb | None,
        domains: Domains,
        trouble: ConfigError | None = None,
    ) -> None:
        self._trouble = trouble
        host, pending = Host(links=links, ovsdb=ovsdb, domains=domains), Starts()
        self._host = host
        self._settings = settings
        self._ovsdb = ovsdb
        self._domains = domains
        self.readiness = Readiness(settings, host, domains, pending)
        turns = Turns()
        self.reconciler = Reconciler(settings, host, domains, pending, turns)
        self.switchover = Switchover(settings, host, domains, pending)
        guard = Guard(settings, host, Known(OF_AGENT))
        self.keeper = Keeper(settings, host, guard)
        self.reporter = Reporter(
            settings, host, domains, self.readiness, self.reconciler, self.switchover
        )
        self._events = Events(
            settings,
            host,
            pending,
            self.readiness,
            trouble,
            turns,
            self.switchover,
            self.reporter,
            guard,
        )

    async def handle(self, request: wire.Request) -> wire.Reply:
        """Answer one request."""
        if request.event == STATUS:
            return wire.Reply(data=json.dumps(self._status()).encode())
        if request.event == RECONCILE:
            return wire.Reply(data=json.dumps((await self._reconcile()).as_dict()).encode())
        reply = await self._events.handle(request)
        if request.event not in REPORTS:
            self.reporter.answered(request, reply)
        if request.event in PLUGS:
            self.reconciler.look_soon()
        return reply

    async def withdraw(self, request: wire.Request) -> None:
        """Take back what was done for a caller who is gone."""
        await self._events.withdraw(request)

    async def _reconcile(self) -> Report:
        if self._trouble is not None:
            return Report(trouble=f"vif-agent does not look after this host: {self._trouble}")
        return await self.reconciler.now()

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
            "libvirt_connected": self._domains.connected,
            "configuration_error": None if self._trouble is None else str(self._trouble),
            "events_answered": self.reporter.events,
            "events_failed": self.reporter.events_failed,
            "grace": self._settings.grace,
            "stale_removed": self.reconciler.counts.removed,
            "plugged_again": self.reconciler.counts.plugged,
            "waiting": [self._describe(waiting) for waiting in self.readiness.waiting],
        }

    def _describe(self, waiting: Waiting) -> dict[str, object]:
        ways = attachments.found(waiting.vnic, self._settings, self._host)
        return {
            "vnic_id": waiting.vnic.id,
            "vm_id": waiting.vnic.vm_id,
            "attachment": ways[0].name if ways else None,
            "for": waiting.purpose,
            "seconds": round(asyncio.get_running_loop().time() - waiting.begun, 1),
        }


async def run(settings: config.Config, trouble: ConfigError | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: the configuration.
        trouble: what is wrong with it; whoever starts a VM is told, instead of waiting for an
            agent that doesn't come up, and VMs that wait are resumed.

    Raises:
        VifError: the agent cannot start.
    """
    callers = server.callers_of_this_host()
    listener = service_manager.listener()
    if listener is None:
        _make_folders(callers)
        listener = server.listen(Path(wire.SOCKET), callers)
    ovsdb, links, domains = _open_ovsdb(), Links(), Domains()
    with listener:
        agent = Agent(settings, links, ovsdb, domains, trouble)
        domains.watch()
        agent.readiness.recover()
        agent.switchover.recover()
        agent.keeper.start()
        agent.reporter.start()
        if trouble is None:  # else it isn't known which bridge is ours to look after
            agent.reconciler.start()
        patience = {
            "after_vm_start": settings.start_deadline + _RESUME_TIME,
            RECONCILE: settings.grace + ASK_TIME + _REPORT_TIME,
            **_REPORT_PATIENCE,
        }
        serves = server.Server(agent, callers, patience, _FOR_ROOT)
        serving = asyncio.ensure_future(serves.serve(listener))
        watchdog = asyncio.ensure_future(service_manager.feed_watchdog())
        log.info("vif-agent %s serves on %s", __version__, wire.SOCKET)
        service_manager.notify("READY=1")
        await _until_told_to_end(serving)
        service_manager.notify("STOPPING=1")
        log.info("vif-agent ends")
        watchdog.cancel()
        serving.cancel()
        # Those who wait for a VM to become ready are not to hold up the end: they ask the next
        # agent, which finds the start where this one leaves it.
        await agent.keeper.close()
        await agent.reporter.close()
        await agent.switchover.close()
        await agent.reconciler.close()
        await agent.readiness.close()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    if ovsdb is not None:
        ovsdb.replica.close()
    await domains.close()
    await links.close()


async def _until_told_to_end(serving: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()  # it ends by itself only by an error


def _make_folders(callers: server.Callers) -> None:
    """Make what systemd-tmpfiles makes where the agent is a service."""
    for path in (Path(wire.SOCKET).parent, starts.FOLDER, starts.RELEASED, METRICS.parent):
        path.mkdir(exist_ok=True)
        # Whatever the umask is: VDSM's user has to get through.
        path.chmod(0o755)
    os.chown(starts.RELEASED, callers.owner, 0)


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
    journal.configure("vif-agent", logging.DEBUG if options.debug else logging.INFO)
    settings, trouble = config.load_or_defaults()
    if trouble is not None:
        log.error("no vNIC is plugged until it is corrected and vif-agent restarted: %s", trouble)
    try:
        asyncio.run(run(settings, trouble))
    except VifError as error:
        log.error("%s", error)
        return 1
    return 0
