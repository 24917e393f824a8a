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
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from vif_driver import attachments
from vif_driver.agent.account import Account
from vif_driver.attachments import private_bridge
from vif_driver.config import Config
from vif_driver.errors import HostError, VifError
from vif_driver.events.turns import Turns
from vif_driver.host import Host, kernel, link_events
from vif_driver.host.domains import Domains
from vif_driver.host.ovsdb_rows import PortRows
from vif_driver.host.starts import START_TIME, Starts
from vif_driver.journal import about
from vif_driver.marks import ROW_KEY
from vif_driver.reconciliation import in_use, leftovers, lost
from vif_driver.reconciliation.leftovers import IdleDevices, Leftover, StalePort, UnusedQos
from vif_driver.reconciliation.lost import LostPort
from vif_driver.reconciliation.report import Report

log = logging.getLogger(__name__)

#: Seconds between an event and the look at what it has changed; more events meanwhile are one.
SETTLE = 1.0

#: Seconds for which a port must be missing.
LOST_GRACE = 1.0

#: Seconds until what failed is tried again, should nothing that happens be a reason before.
RETRY = 60.0

#: Ports that are removed in one transaction; the agent answers nobody while it prepares one.
BATCH = 200

#: Of what is found for the first time, as many as are told one by one; after a power cut it may be
#: all that a host has had, and the journal takes only so many lines at once.
TOLD = 100

#: Seconds beyond the grace period after which whoever asked for a look is told that it takes long.
ASK_TIME = 30.0

_EVENT = "reconcile"

_Key = TypeVar("_Key", bound=Hashable)


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
        # When the turn of each comes, in the loop's time, if it is still found then.
        self._leftovers: dict[Hashable, float] = {}
        self._lost: dict[str, float] = {}
        # The integration bridge's interfaces at the last look: one that is missing since may be a
        # VM's.  None if every VM is to be looked at, once there is a bridge.
        self._names: set[str] | None = None
        # Of those who asked, and of those of them who did before the look that runs.
        self._accounts: list[Account] = []
        self._asked: list[Account] = []
        self.counts = Counts()

    def start(self) -> None:
        """Begin; must be called in the running loop."""
        self._reason = asyncio.Event()
        loop = asyncio.get_running_loop()
        if self._host.ovsdb is not None:
            self._running.callback(self._host.ovsdb.replica.subscribe(self._on_database))
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
        for account in self._accounts:
            account.failed("vif-agent ends; repeat it when it runs again")

    async def now(self) -> Report:
        """Have a look be taken at once, and what it finds removed after the grace period.

        The looks are the same ones as ever, one after the other; this waits for two of them.
        """
        if self._task is None or self._task.done():
            return Report(trouble="vif-agent does not look after this host; restart it")
        account = Account(max(self._config.grace, LOST_GRACE) + 2 * SETTLE)
        self._accounts.append(account)
        try:
            self._reason.set()
            return await account.report(self._config.grace + ASK_TIME)
        finally:
            self._accounts.remove(account)

    def look_soon(self) -> None:
        """Look, and again when it is certain that what was made just now has come to nothing."""
        if self._task is not None:
            self._reason.set()

    def _on_domain(self, vm_id: str | None) -> None:
        if vm_id is None:  # libvirt is away, or back and has found VMs that it didn't know of
            self._forget("the connection to libvirt broke")
        self._reason.set()

    def _on_database(self) -> None:
        assert self._host.ovsdb is not None  # noqa: S101, that is who tells
        if not self._host.ovsdb.replica.connected:
            self._forget("the connection to Open vSwitch's database broke")
        self._reason.set()

    async def _run(self) -> None:
        while True:
            await self._reason.wait()
            await asyncio.sleep(SETTLE)
            self._reason.clear()
            self._again.cancel()
            self._asked = list(self._accounts)
            try:
                wait = await self._look()
            except HostError as error:
                # Nothing is known to be of no use.  Who comes back will be heard of; not so
                # somebody who was there, and answered too late.
                log.debug("not looking for what VMs have left: %s", error)
                self._forget(str(error))
                wait = RETRY
            except Exception:
                log.exception("looking for what VMs have left failed")
                self._forget("the look failed; see journalctl -u vif-agent")
                wait = RETRY
            if wait is not None:
                self._look_after(wait)

    def _look_after(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._again = loop.call_later(max(0.0, seconds - SETTLE), self._reason.set)

    def _forget(self, why: str) -> None:
        self._leftovers.clear()
        self._lost.clear()
        self._names = None
        for account in self._asked:
            account.failed(why)

    async def _look(self) -> float | None:
        """Look, and act on what has been found for long enough; give when to look again."""
        ask = self._is_any_missing() or bool(self._lost or self._asked)
        found = await leftovers.find(self._config, self._host, self._starts, ask=ask)
        waits = self._due_after(found.leftovers)
        gone = []
        if ask and found.in_use is not None:
            gone = await lost.find(self._config, self._host, found.in_use)
        # Those first who have no network.
        await self._plug_due(gone)
        await self._remove([one for one in found.leftovers if waits[one.key] <= 0])
        for account in self._asked:
            account.looked(found, waits, gone)
        now = asyncio.get_running_loop().time()
        ages = [start.age for start in self._starts.all()]
        left = [time - now for time in (*self._leftovers.values(), *self._lost.values())]
        left += [START_TIME - age for age in ages if age < START_TIME]
        return min(left, default=None)

    def _is_any_missing(self) -> bool:
        """Tell whether a VM may have lost a port since the last look."""
        ovsdb, bridge = self._host.ovsdb, self._config.integration_bridge
        before, self._names = self._names, None
        if ovsdb is None or not ovsdb.has_bridge(bridge):
            return False
        self._names = ovsdb.names(bridge)
        return before is None or bool((before - self._names) & kernel.devices())

    def _due_after(self, found: Sequence[Leftover]) -> dict[Hashable, float]:
        """Tell after how many seconds each is to be removed."""
        new = [one for one in found if one.key not in self._leftovers]
        self._leftovers = _times(self._leftovers, {one.key: one.patience for one in found})
        for one in new[:TOLD]:
            extra = about(vm=one.vm_id, vnic_id=one.vnic_id, event=_EVENT)
            log.info("%s is left over (%s)", one, one.why, extra=extra)
        if len(new) > TOLD:
            log.info("%d more are left over", len(new) - TOLD)
        now = asyncio.get_running_loop().time()
        return {key: time - now for key, time in self._leftovers.items()}

    async def _plug_due(self, found: Sequence[LostPort]) -> None:
        """Plug what has been missing for long enough."""
        loop = asyncio.get_running_loop()
        self._lost = _times(self._lost, {port.name: LOST_GRACE for port in found})
        for port in found:
            if self._lost.get(port.name, math.inf) <= loop.time():
                wait = await self._plug(port)
                self._lost[port.name] = loop.time() + wait

    # ---- what was left -----------------------------------------------------------------------

    async def _remove(self, due: list[Leftover]) -> None:
        now = asyncio.get_running_loop().time()
        for one in due:
            if one.key in self._leftovers:
                self._leftovers[one.key] = now + max(RETRY, one.patience)
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
            # A plug that has begun meanwhile wins; so does any device.  And if somebody was away
            # meanwhile, the grace period has begun anew.
            taken = self._turns.is_taken(taps[rows.uuid])
            return rows.uuid in self._leftovers and not taken and not kernel.has_device(rows.name)

        ports = [port for port in ports if is_stale(port.rows)]
        qos = [one for one in qos if one.key in self._leftovers]
        if not ports and not qos:
            return
        # Before the deed: an agent that is killed after it could not tell any more.
        for port in ports:
            self._tell(port, row=port.rows.record(), row_id=port.rows.uuid)
        for one in qos:
            self._tell(one, row={one.table: dict(one.row)}, row_id=one.uuid)
        await asyncio.sleep(0)  # there are others to be answered, too
        unused = {
            table: [one.uuid for one in qos if one.table == table] for table in ("QoS", "Queue")
        }
        try:
            rows = [port.rows for port in ports]
            removed = await self._host.ovsdb.remove(rows, is_stale, unused)
        except VifError as error:
            log.error("%d stale rows were not removed: %s", len(ports) + len(qos), error)
            return
        gone = {rows.uuid for rows in removed}
        self._count_removed([*(port for port in ports if port.rows.uuid in gone), *qos])
        for port in ports:
            if port.rows.uuid not in gone:
                log.info("%s was not removed: it has changed meanwhile", port)

    async def _remove_devices(self, one: IdleDevices) -> None:
        tap = "tap" + one.idle.stem
        if self._turns.is_taken(tap):
            return
        async with self._turns.of(tap):
            try:
                # Look again, now that nobody else works on the vNIC.
                if not await leftovers.is_idle(self._config, self._host, self._starts, one):
                    return
                if one.key not in self._leftovers:
                    return  # somebody was away meanwhile
                rows = self._port_of(one)
                if rows is None:
                    self._tell(one)
                else:
                    self._tell(one, row=rows.record(), row_id=rows.uuid)
                await self._release(one)
            except VifError as error:
                log.error("%s: not removed: %s", one, error, extra=about(vm=one.vm_id))
                return
        self._count_removed([one])

    def _port_of(self, one: IdleDevices) -> PortRows | None:
        """Give the port that goes with devices."""
        ovsdb = self._host.ovsdb
        ports = [] if ovsdb is None or not one.is_hybrid else ovsdb.whole("qvo" + one.idle.stem)
        ours = [
            port
            for port in ports
            if ROW_KEY in port.ids and port.ids.get("iface-id") == one.vnic_id
        ]
        return ours[0] if ours else None

    async def _release(self, one: IdleDevices) -> None:
        if one.vnic is not None:
            for attachment in attachments.found(one.vnic, self._config, self._host):
                await attachment.release(one.vnic)
            return
        assert self._host.links is not None  # noqa: S101, that is how they were found
        await private_bridge.remove_unnamed(self._host.links, one.idle)

    def _count_removed(self, removed: Sequence[Leftover]) -> None:
        self.counts.removed += len(removed)
        for account in self._accounts:
            account.removed(removed)

    @staticmethod
    def _tell(
        one: Leftover, row: Mapping[str, object] | None = None, row_id: str | None = None
    ) -> None:
        extra = about(vm=one.vm_id, vnic_id=one.vnic_id, event=_EVENT, row=row, row_id=row_id)
        log.info("removing %s: %s", one, one.why, extra=extra)

    # ---- what was lost -----------------------------------------------------------------------

    async def _plug(self, port: LostPort) -> float:
        """Plug a port again, unless somebody works on its vNIC.

        Returns:
            Seconds until that is tried again, should it be missing still.
        """
        if self._turns.is_taken(port.tap) or self._host.ovsdb is None:
            return LOST_GRACE
        extra = about(vm=port.vm_id, vnic_id=port.vnic_id, event=_EVENT)
        async with self._turns.of(port.tap):
            try:
                used = await in_use.ask(self._host, port.vm_id)
                if port not in await lost.find(self._config, self._host, used):
                    return LOST_GRACE
                await self._host.ovsdb.add_port(
                    self._config.integration_bridge,
                    port.name,
                    port=port.port,
                    interface=port.interface,
                )
            except HostError as error:
                log.error("%s is missing and was not plugged again: %s", port, error, extra=extra)
                return RETRY
        self.counts.plugged += 1
        for account in self._accounts:
            account.plugged(port)
        log.warning("%s was missing; plugged again", port, extra=extra)
        if port.has_limits:
            log.warning(
                "%s: the limits of its bandwidth are lost; change them in the engine and back",
                port,
                extra=extra,
            )
        # If it is lost once more before the next look, that is another loss.
        return LOST_GRACE


def _times(before: Mapping[_Key, float], found: Mapping[_Key, float]) -> dict[_Key, float]:
    """Tell when the turn comes of what was found: as before, or after so many seconds."""
    now = asyncio.get_running_loop().time()
    return {key: before.get(key, now + seconds) for key, seconds in found.items()}
