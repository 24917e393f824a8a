# SPDX-License-Identifier: GPL-2.0-or-later
"""Removes what VMs have left, and plugs again what they have lost, while the host runs.

Nothing polls: a device or a VM that is gone and a row that changes are reasons to look.  Whatever
is found must be found again after a grace period; whoever cannot answer meanwhile, Open vSwitch's
database or libvirt, starts that period anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Hashable, Iterable, Mapping

from vif_driver import attachments
from vif_driver.attachments import private_bridge
from vif_driver.config import Config
from vif_driver.errors import HostError, VifError
from vif_driver.events.turns import Turns
from vif_driver.host import Host, kernel, link_events
from vif_driver.host.domains import Domains
from vif_driver.host.ovsdb_rows import PortRows
from vif_driver.host.starts import START_TIME, Starts
from vif_driver.journal import about
from vif_driver.reconciliation import in_use, leftovers, lost
from vif_driver.reconciliation.leftovers import IdleDevices, Leftover, StalePort, UnusedQos
from vif_driver.reconciliation.lost import LostPort

log = logging.getLogger(__name__)

#: Seconds between an event and the look at what it has changed; more events meanwhile are one.
SETTLE = 1.0

#: Seconds for which a port must be missing.
LOST_GRACE = 1.0

#: Ports that are removed in one transaction; the agent answers nobody while it prepares one.
BATCH = 500

_EVENT = "reconcile"


@dataclasses.dataclass
class Counts:
    """What was done since the agent started.

    Attributes:
        removed: stale ports, rows of QoS, and sets of devices that were removed.
        plugged: ports that were plugged again.
    """

    removed: int = 0
    plugged: int = 0


class Reconciler:
    """Keeps the host as its VMs have it.

    Args:
        config: the configuration.
        host: what the agent may use.
        domains: libvirt's VMs, watched.
        starts: the VMs that are being started.
        turns: who may work on which vNIC.
    """

    def __init__(
        self, config: Config, host: Host, domains: Domains, starts: Starts, turns: Turns
    ) -> None:
        self._config = config
        self._host = host
        self._domains = domains
        self._starts = starts
        self._turns = turns
        self._running = contextlib.ExitStack()
        self._task: asyncio.Task[None] | None = None
        # For start(): on Python 3.9 an event belongs to the loop in which it is made.
        self._reason: asyncio.Event
        self._again: asyncio.TimerHandle
        # When each was found first, in the loop's time.
        self._leftovers: dict[Hashable, float] = {}
        self._lost: dict[str, float] = {}
        # The integration bridge's interfaces at the last look: one that is missing since may be a
        # VM's.  None if every VM is to be looked at.
        self._names: set[str] | None = None
        self.counts = Counts()

    def start(self) -> None:
        """Begin; must be called in the running loop."""
        self._reason = asyncio.Event()
        loop = asyncio.get_running_loop()
        if self._host.ovsdb is not None:
            self._running.callback(self._host.ovsdb.replica.subscribe(self._reason.set))
        self._running.callback(self._domains.subscribe(self._on_domain))
        self._running.callback(link_events.Watch(self._reason.set).close)
        self._look_after(0)
        self._task = loop.create_task(self._run())

    async def close(self) -> None:
        """Stop; what is not done is left to the next agent."""
        self._running.close()
        if self._task is not None:
            self._again.cancel()
            self._task.cancel()
            await asyncio.wait([self._task])

    def _on_domain(self, vm_id: str | None) -> None:
        if vm_id is None:
            self._names = None  # libvirt may have found VMs that it didn't know of
        self._reason.set()

    async def _run(self) -> None:
        while True:
            await self._reason.wait()
            await asyncio.sleep(SETTLE)
            self._reason.clear()
            self._again.cancel()
            try:
                wait = await self._look()
            except HostError as error:
                # Nothing is known to be of no use.  Whoever is silent will be heard of.
                log.debug("not looking for what VMs have left: %s", error)
                self._forget()
            except Exception:
                log.exception("looking for what VMs have left failed")
                self._forget()
            else:
                if wait is not None:
                    self._look_after(wait)

    def _look_after(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._again = loop.call_later(max(0.0, seconds - SETTLE), self._reason.set)

    def _forget(self) -> None:
        self._leftovers.clear()
        self._lost.clear()
        self._names = None

    async def _look(self) -> float | None:
        """Look, and act on what has been found for long enough; give when to look again."""
        ovsdb = self._host.ovsdb
        names = set() if ovsdb is None else ovsdb.names(self._config.integration_bridge)
        missing = set() if self._names is None else (self._names - names) & kernel.devices()
        ask = self._names is None or bool(missing or self._lost)
        found = await leftovers.find(self._config, self._host, self._starts, ask=ask)
        waits = self._due_after(found.leftovers)
        gone = []
        if ask and found.in_use is not None:
            gone = await lost.find(self._config, self._host, found.in_use)
        self._names = names
        due = [one for one in found.leftovers if waits[one.key] <= 0]
        await self._remove(due)
        late = self._lost_for_long(gone)
        for port in late:
            await self._plug(port)
        left = [wait for key, wait in waits.items() if wait > 0]
        # What could not be removed is tried again, as is what is still missing.
        left += [self._config.grace] * bool(due) + [LOST_GRACE] * bool(gone)
        left += [START_TIME] * any(start.age < START_TIME for start in self._starts.all())
        return min(left, default=None)

    def _due_after(self, found: Iterable[Leftover]) -> dict[Hashable, float]:
        """Tell after how many seconds each is to be removed."""
        now = asyncio.get_running_loop().time()
        before, self._leftovers = self._leftovers, {}
        waits = {}
        for one in found:
            since = self._leftovers[one.key] = before.get(one.key, now)
            waits[one.key] = since + one.patience - now
            if one.key not in before:
                extra = about(vm=one.vm_id, vnic_id=one.vnic_id, event=_EVENT)
                log.info("%s is left over (%s)", one, one.why, extra=extra)
        return waits

    def _lost_for_long(self, found: Iterable[LostPort]) -> list[LostPort]:
        now = asyncio.get_running_loop().time()
        before = self._lost
        self._lost = {port.name: before.get(port.name, now) for port in found}
        return [port for port in found if now - self._lost[port.name] >= LOST_GRACE]

    # ---- what was left -----------------------------------------------------------------------

    async def _remove(self, due: list[Leftover]) -> None:
        ports = [one for one in due if isinstance(one, StalePort)]
        qos = [one for one in due if isinstance(one, UnusedQos)]
        for begin in range(0, max(len(ports), len(qos)), BATCH):
            end = begin + BATCH
            await self._remove_rows(ports[begin:end], qos[begin:end])
        for one in due:
            if isinstance(one, IdleDevices):
                await self._remove_devices(one)

    async def _remove_rows(self, ports: list[StalePort], qos: list[UnusedQos]) -> None:
        assert self._host.ovsdb is not None  # noqa: S101, that is where they were found
        taps = {port.rows.uuid: port.tap for port in ports}

        def is_stale(rows: PortRows) -> bool:
            # A plug that has begun meanwhile wins; so does any device.
            taken = self._turns.is_taken(taps[rows.uuid])
            return not taken and not kernel.has_device(rows.name)

        ports = [port for port in ports if is_stale(port.rows)]
        # Before the deed: an agent that is killed after it could not tell any more.
        for port in ports:
            self._tell(port, row=port.rows.record(), row_id=port.rows.uuid)
        for one in qos:
            self._tell(one, row={one.table: dict(one.row)}, row_id=one.uuid)
        unused = {
            table: [one.uuid for one in qos if one.table == table] for table in ("QoS", "Queue")
        }
        try:
            rows = [port.rows for port in ports]
            removed = await self._host.ovsdb.remove(rows, is_stale, unused)
        except VifError as error:
            log.error("%d stale rows were not removed: %s", len(ports) + len(qos), error)
            return
        self.counts.removed += len(removed) + len(qos)
        for port in ports:
            if port.rows not in removed:
                log.info("%s was not removed: it has changed meanwhile", port)

    async def _remove_devices(self, one: IdleDevices) -> None:
        tap = "tap" + one.idle.stem
        if self._turns.is_taken(tap):
            return
        async with self._turns.of(tap):
            try:
                if not await self._is_still_idle(one):
                    return
                self._tell(one)
                await self._release(one)
            except VifError as error:
                log.error("%s: not removed: %s", one, error, extra=about(vm=one.vm_id))
                return
        self.counts.removed += 1

    async def _is_still_idle(self, one: IdleDevices) -> bool:
        """Look again, now that nobody else works on the vNIC."""
        found = await leftovers.find(self._config, self._host, self._starts)
        return any(other.key == one.key for other in found.leftovers)

    async def _release(self, one: IdleDevices) -> None:
        if one.vnic is not None:
            for attachment in attachments.found(one.vnic, self._config, self._host):
                await attachment.release(one.vnic)
            return
        assert self._host.links is not None  # noqa: S101, that is how they were found
        await private_bridge.remove_unnamed(self._host.links, one.idle)

    @staticmethod
    def _tell(
        one: Leftover, row: Mapping[str, object] | None = None, row_id: str | None = None
    ) -> None:
        extra = about(vm=one.vm_id, vnic_id=one.vnic_id, event=_EVENT, row=row, row_id=row_id)
        log.info("removing %s: %s", one, one.why, extra=extra)

    # ---- what was lost -----------------------------------------------------------------------

    async def _plug(self, port: LostPort) -> None:
        """Plug a port again, unless somebody works on its vNIC."""
        if self._turns.is_taken(port.tap) or self._host.ovsdb is None:
            return
        extra = about(vm=port.vm_id, vnic_id=port.vnic_id, event=_EVENT)
        async with self._turns.of(port.tap):
            try:
                used = await in_use.ask(self._host)
                if port not in await lost.find(self._config, self._host, used):
                    return
                await self._host.ovsdb.add_port(
                    self._config.integration_bridge,
                    port.name,
                    port=port.port,
                    interface=port.interface,
                )
            except HostError as error:
                log.error("%s is missing and was not plugged again: %s", port, error, extra=extra)
                return
        self.counts.plugged += 1
        log.warning("%s was missing; plugged again", port, extra=extra)
        if port.has_limits:
            log.warning(
                "%s: the limits of its bandwidth are lost; change them in the engine and back",
                port,
                extra=extra,
            )
