# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells VDSM and Prometheus of this host's external networks.

Nothing is looked at but when somebody asks, or something has happened anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import socket
import time
from typing import TYPE_CHECKING

from vif_driver import vnic
from vif_driver.agent.readiness import Readiness
from vif_driver.agent.reconcile import Reconciler
from vif_driver.agent.survey import Survey
from vif_driver.agent.switchover import Switchover
from vif_driver.config import Config
from vif_driver.errors import BadRequest, HostError, Unavailable
from vif_driver.host import (
    Host,
    kernel,
    link_statistics,
    ovn_controller,
    ovsdb_socket,
    threads,
)
from vif_driver.host.domains import Domains
from vif_driver.marks import BOOT_KEY, BOOT_REMOVED_KEY
from vif_driver.wire import Reply, Request

if TYPE_CHECKING:
    from vif_driver.inspection.vnics import ExternalVnic
    from vif_driver.reporting.figures import Drops, Figures
    from vif_driver.reporting.metrics import MetricsFile

log = logging.getLogger(__name__)

#: Seconds after which it is looked anew whether ovn-controller is connected: for the capabilities,
#: which are wanted every few minutes, and for the statistics.
CONTROLLER_AGE = (5.0, 60.0)

#: Seconds for which the capabilities wait for a database that is just being restarted.
RECONNECTION = 1.5

#: Seconds between two writings of the file of metrics; and after which it is written even if
#: nothing has changed, so that its age tells whether somebody still looks after it.
PERIOD = 10.0
REFRESH = 60.0

# Seconds for a look at the kernel's tables.
_KERNEL_TIME = 0.5


class Reporter:
    """Answers for the agent; see events.host.Reporter.

    Args:
        config: the configuration.
        host: what the agent may use.
        domains: libvirt's VMs, watched.
        readiness: knows what is waited for.
        reconciler: knows what was removed and plugged again.
        switchover: knows which VMs have arrived.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        domains: Domains,
        readiness: Readiness,
        reconciler: Reconciler,
        switchover: Switchover,
    ) -> None:
        self._config = config
        self._host = host
        self._domains = domains
        self._readiness = readiness
        self._reconciler = reconciler
        self._switchover = switchover
        self._survey = Survey(config, host, domains)
        self._since = time.time()
        self._boot_id = kernel.boot_id()
        #: VDSM's events that were answered, and those of them with a failure.
        self.events = 0
        self.events_failed = 0
        # Whether ovn-controller is connected, and when that was looked, in the loop's time.
        self._controller: bool | None = None
        self._controller_looked = -math.inf
        # The indexes of the devices of hybrid vNICs, and the vNICs of which they are.
        self._drops: Drops | None = None
        self._devices: dict[int, str] = {}
        self._devices_of: tuple[ExternalVnic, ...] = ()
        # None before the first figures are written, or where they can't be.
        self._metrics: MetricsFile | None = None
        self._without_metrics = False
        self._written: Figures | None = None
        self._written_at = -math.inf
        self._trouble = ""
        self._timer: asyncio.TimerHandle | None = None
        self._publishing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; must be called in the running loop."""
        self._survey.start()
        self._publish_soon(1.0)

    async def close(self) -> None:
        """Stop, and take the figures back: a file without an agent would tell of yesterday."""
        if self._timer is not None:
            self._timer.cancel()
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.wait([self._publishing])
        await self._survey.close()
        self._without_metrics = True  # whoever is still answered
        if self._metrics is not None:
            with contextlib.suppress(OSError):
                self._metrics.clear()

    def answered(self, request: Request, reply: Reply) -> None:
        """Take note of an event of VDSM's that was not about a report."""
        self.events += 1
        self.events_failed += reply.status != 0
        with contextlib.suppress(BadRequest):  # which is what the caller was answered
            vm_id = vnic.parse_vm_id(request.properties.get("vmId"))
            if vm_id is not None:
                self._survey.outdated(vm_id)
        self._publish_soon(PERIOD)

    # ---- what VDSM asks for; see events.host.Reporter ----------------------------------------

    async def capabilities(self, report: bytes) -> bytes | None:
        """Add to VDSM's capabilities."""
        from vif_driver.reporting import capabilities, large  # with what they need, not little

        await self._wait_for_database()
        settings = self._settings()
        own = capabilities.compose(
            capabilities.Capabilities(
                settings=settings,
                bridge=self._config.integration_bridge,
                bridge_exists=self._bridge_exists(),
                controller_connected=await self._controller_connected(CONTROLLER_AGE[0]),
                vnics=await self._survey.vnics(),
            )
        )
        return await large.add(report, own, capabilities.binding_ids(settings))

    async def statistics(self, report: bytes) -> bytes | None:
        """Add to VDSM's statistics of the host."""
        from vif_driver.reporting import figures, large

        known = await self.figures()
        if self._timer is None:
            self._publish(known)
        return await large.add(report, figures.compose(known), {})

    # ---- what is known -----------------------------------------------------------------------

    async def figures(self) -> Figures:
        """Give the figures as they are now."""
        from vif_driver.reporting.figures import Figures, count

        vnics = await self._survey.vnics()
        ovsdb = self._host.ovsdb
        return Figures(
            since=self._since,
            vnics=count(vnics),
            waiting=len(self._readiness.waiting),
            stale_removed=self._reconciler.counts.removed,
            boot_stale_removed=self._boot_removed(),
            plugged_again=self._reconciler.counts.plugged,
            switchovers=dataclasses.replace(self._switchover.counts),
            hybrid_drops=await self._hybrid_drops(vnics),
            connected={
                "ovsdb": None if ovsdb is None else ovsdb.replica.connected,
                "libvirt": self._domains.connected,
                "ovn_controller": await self._controller_connected(CONTROLLER_AGE[1]),
            },
            bridge_exists=self._bridge_exists(),
            events=self.events,
            events_failed=self.events_failed,
        )

    async def _wait_for_database(self) -> None:
        """Wait for a database that is just being restarted.

        Without its names of the host the engine binds ports to what it calls the host itself.
        """
        ovsdb = self._host.ovsdb
        if ovsdb is None or ovsdb.replica.connected or ovsdb_socket.is_down():
            return
        with contextlib.suppress(Unavailable):
            await ovsdb.replica.wait_connected(RECONNECTION)

    def _settings(self) -> dict[str, str] | None:
        ovsdb = self._host.ovsdb
        return dict(ovsdb.settings()) if ovsdb is not None and ovsdb.replica.connected else None

    def _bridge_exists(self) -> bool | None:
        ovsdb = self._host.ovsdb
        if ovsdb is None or not ovsdb.replica.connected:
            return None
        return ovsdb.has_bridge(self._config.integration_bridge)

    def _boot_removed(self) -> int | None:
        settings = self._settings() or {}
        removed = settings.get(BOOT_REMOVED_KEY, "")
        if settings.get(BOOT_KEY) != self._boot_id or not removed.isdigit():
            return None
        return int(removed)

    async def _controller_connected(self, age: float) -> bool | None:
        """Tell whether ovn-controller is connected, as it was seen at most so many seconds ago."""
        remote = ovn_controller.setting(self._settings() or {}, "ovn-remote")
        if not remote:
            return None
        now = asyncio.get_running_loop().time()
        if self._controller_looked <= now - age:
            self._controller_looked = now
            try:
                self._controller = await threads.run(
                    lambda: ovn_controller.seems_connected(remote), _KERNEL_TIME, "connections"
                )
            except asyncio.TimeoutError:
                self._controller = None
        return self._controller

    async def _hybrid_drops(self, vnics: tuple[ExternalVnic, ...]) -> dict[tuple[str, str], int]:
        from vif_driver.reporting.figures import Drops, hybrid_devices

        if self._drops is None:
            self._drops = Drops()
        if vnics is not self._devices_of:
            self._devices = _indexes(hybrid_devices(vnics))
            self._devices_of = vnics
        if self._devices:
            try:
                found = await threads.run(link_statistics.dropped, _KERNEL_TIME, "statistics")
            except (HostError, asyncio.TimeoutError) as error:
                log.debug("what devices have dropped is not known: %r", error)
            else:
                self._drops.update(found, self._devices)
        return dict(self._drops.packets)

    # ---- metrics -----------------------------------------------------------------------------

    def _publish_soon(self, seconds: float) -> None:
        if self._timer is None and not self._without_metrics:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._begin_publishing)

    def _begin_publishing(self) -> None:
        self._timer = None
        self._publishing = asyncio.get_running_loop().create_task(self._publish_now())

    async def _publish_now(self) -> None:
        try:
            self._publish(await self.figures())
        except Exception:
            log.exception("the metrics were not written")

    def _publish(self, figures: Figures) -> None:
        """Write the file of metrics if there is a reason, later if it has just been written."""
        if self._without_metrics:
            return
        age = asyncio.get_running_loop().time() - self._written_at
        if figures == self._written and age < REFRESH:
            return
        if age < PERIOD:
            self._publish_soon(PERIOD - age)
            return
        self._written, self._written_at = figures, asyncio.get_running_loop().time()
        try:
            if self._metrics is None:
                from vif_driver.reporting.metrics import MetricsFile

                self._metrics = MetricsFile()
            self._metrics.write(figures)
        except ImportError:
            self._without_metrics = True
            log.info(
                "no metrics are written: the library is not installed; "
                "if you want them, install python3-prometheus_client and restart vif-agent"
            )
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning(
                    "the metrics cannot be written (%s); run systemd-tmpfiles --create "
                    "vif-driver.conf",
                    self._trouble,
                )
        else:
            self._trouble = ""


def _indexes(devices: list[str]) -> dict[int, str]:
    """Give how the names of devices begin, by their indexes; of those that are there."""
    found = {}
    for name in devices:
        try:
            found[socket.if_nametoindex(name)] = name[:3]
        except OSError:
            continue
    return found
