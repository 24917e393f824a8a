# SPDX-License-Identifier: GPL-2.0-or-later
"""Has the provider's network follow VMs that move to this host, or from it.

The destination drives it, since neither side is told the other.  What it does to OVN's northbound
database stands in vif_driver.switchover; here it is decided when.  libvirt's word counts: VDSM's
hooks come late, and of a migration that was cancelled there is none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from vif_driver import attachments, switchover
from vif_driver.agent.abandoned import Abandoned
from vif_driver.agent.departures import Departures
from vif_driver.agent.ovn import PATIENCE, Ovn
from vif_driver.agent.told import Told
from vif_driver.attachments import Attachment
from vif_driver.attachments.base import Undo
from vif_driver.config import Config
from vif_driver.errors import BadRequest, HostError, Unavailable, VifError
from vif_driver.host import Host, certificates, kernel, link_events
from vif_driver.host.domains import Domains, Happening, State
from vif_driver.host.northbound import Northbound
from vif_driver.host.northbound_rows import Edit, LogicalSwitchPort
from vif_driver.host.southbound import Southbound
from vif_driver.host.starts import START_TIME, Start, Starts, uptime
from vif_driver.interface_xml import Interface
from vif_driver.journal import about
from vif_driver.reporting.counts import Switchovers
from vif_driver.vnic import SecurityGroups, Vnic, VnicIdentity, parse_interface

log = logging.getLogger(__name__)

#: Seconds after the end of a migration within which the source has surely let go of its tap.
SETTLE = 5.0

# Seconds between two attempts to change the database, at first and at most.
_RETRY = (0.2, 5.0)

_EVENT = "migration"

# A vNIC and the attachment that it has; None if an earlier agent knew.
_Unfinished = tuple[VnicIdentity, "Attachment | None"]

_Step = Callable[..., "Edit | None"]


@dataclasses.dataclass
class _Arrival:
    """A VM that is about to arrive, or has just arrived.

    Attributes:
        vm_id: which.
        token: tells this arrival from others of the same VM, as in its file below /run.
        noted: the ids of the vNICs in whose rows a note of ours may be.
        chassis: the name of this host at OVN, once there is a connection.
        northbound: the connection, with the rows of these vNICs; None without.
        happening: what libvirt said last of it.
        seen: libvirt has, or had, the VM.
        completed: VDSM has said that the migration is over.
        begun: when it was first heard of, in seconds since the host was booted.
        told: wakes who follows it.
        unfinished: vNICs of which not all was known, by their taps.
        held: vNICs that are kept from OVN until the VM runs here, by their taps.
        failure: why the northbound database cannot be used.
        connecting: taken by who makes the connection.
        tasks: what is done for it.
        over: nobody follows it any more.
    """

    vm_id: str
    token: str = ""
    noted: set[str] = dataclasses.field(default_factory=set)
    chassis: str = ""
    northbound: Northbound | None = None
    happening: Happening = Happening.OTHER
    seen: bool = False
    completed: bool = False
    begun: float = dataclasses.field(default_factory=uptime)
    told: Told = dataclasses.field(default_factory=Told)
    unfinished: dict[str, _Unfinished] = dataclasses.field(default_factory=dict)
    held: dict[str, VnicIdentity] = dataclasses.field(default_factory=dict)
    failure: VifError | None = None
    connecting: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    tasks: dict[str, asyncio.Task[None]] = dataclasses.field(default_factory=dict)
    over: bool = False

    def disconnect(self) -> None:
        """Drop the connection."""
        if self.northbound is not None:
            self.northbound.close()
            self.northbound = None

    def stop(self) -> None:
        """End whatever is done for it, apart from what calls this."""
        self.over = True
        current = asyncio.current_task()
        for task in self.tasks.values():
            if task is not current:
                task.cancel()
        self.disconnect()


class Switchover:
    """The VMs that are about to arrive here, or to leave.

    Args:
        config: the configuration.
        host: what the agent may use.
        domains: libvirt's VMs, watched.
        starts: the VMs that are being started, or arrive.
    """

    def __init__(self, config: Config, host: Host, domains: Domains, starts: Starts) -> None:
        self._config = config
        self._host = host
        self._domains = domains
        self._starts = starts
        self._arrivals: dict[str, _Arrival] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ovn = Ovn(config, host)
        self._departures = Departures(domains, self._ovn)
        self._abandoned = Abandoned(domains, self._ovn, self._is_moving)
        self.counts = Switchovers()
        self._unfollow = domains.follow(self._on_event)

    def recover(self) -> None:
        """Take up the arrivals that an earlier agent left; must be called in the running loop."""
        for start in self._starts.all():
            if start.arrives:
                log.info("VM %s: its arrival goes on", start.vm_id, extra=about(vm=start.vm_id))
                self._take_up(start)

    async def close(self) -> None:
        """Stop; what is not done is left to the next agent."""
        self._unfollow()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._departures.close()
        await self._abandoned.close()
        for arrival in self._arrivals.values():
            arrival.disconnect()

    # ---- what VDSM tells; see events.migration.Coordinator -----------------------------------

    def started(self, start: Start) -> None:
        """VDSM has started a VM."""
        self._abandoned.started(start)

    async def arriving(self, subject: VnicIdentity, attachment: Attachment) -> str:
        """Get ready for a vNIC whose VM is about to arrive."""
        assert subject.vm_id is not None  # noqa: S101, asked before
        arrival = self._current(subject.vm_id)
        if not isinstance(subject, Vnic):
            arrival.unfinished[subject.tap] = (subject, attachment)
        if attachment.finishes_early:
            self._do(arrival, f"{subject.tap} comes", self._finish_early(subject, attachment))
        if subject.plugin not in switchover.PLUGINS:
            return ""
        try:
            if arrival.failure is not None:
                raise arrival.failure  # which need not be waited for once more
            await self._announce(arrival, subject)
        except _NotHere:
            raise
        except VifError as error:
            if arrival.over:
                raise _not_any_more(subject.vm_id) from error
            if isinstance(error, Unavailable):
                arrival.failure = error
            return self._hold(arrival, subject, error)
        return ""

    def arrived(self, subject: VnicIdentity) -> None:
        """VDSM says that the VM is here."""
        arrival = self._arrivals.get(subject.vm_id or "")
        if arrival is not None:
            arrival.completed = True
            arrival.told.set()

    async def cancel(self, vm_id: str) -> None:
        """Take back what was done for a VM that does not arrive after all."""
        arrival = self._arrivals.get(vm_id)
        if arrival is not None:
            arrival.happening = Happening.GONE
            arrival.told.set()
        start = self._starts.get(vm_id)
        if start is None or not start.arrives:
            return
        if arrival is None or arrival.token != start.token:
            self._starts.forget(vm_id)  # else when everything is as it was

    def leaving(self, subject: VnicIdentity) -> None:
        """VDSM is about to move the VM of a vNIC away."""
        self._departures.leaving(subject)

    def left(self, subject: VnicIdentity) -> None:
        """VDSM says that the VM is gone."""
        self._departures.left(subject)

    def _is_moving(self, vm_id: str) -> bool:
        return vm_id in self._arrivals or self._departures.includes(vm_id)

    # ---- a VM that arrives -------------------------------------------------------------------

    def _current(self, vm_id: str) -> _Arrival:
        """Give the arrival of a VM that VDSM asks about, begun now if there is none."""
        start = self._starts.get(vm_id)
        token = "" if start is None else start.token
        arrival = self._arrivals.get(vm_id)
        if arrival is not None:
            if arrival.happening is Happening.OTHER and arrival.token == token:
                return arrival
            arrival.stop()
        later = _Arrival(vm_id, token)
        if arrival is not None:
            # It has not been dealt with to the end; what it has left is this one's business now.
            later.noted |= arrival.noted
            later.held.update(arrival.held)
        return self._begin(later)

    def _begin(self, arrival: _Arrival) -> _Arrival:
        self._arrivals[arrival.vm_id] = arrival
        self._do(arrival, "follow", self._follow(arrival))
        return arrival

    async def _announce(self, arrival: _Arrival, subject: VnicIdentity) -> None:
        """Let OVN bind the port here in addition.

        Raises:
            _NotHere: OVN would not let it be here.
            VifError: the databases cannot be asked.
        """
        remote, chassis = await self._ovn.location()
        southbound = Southbound(remote, certificates.find())
        standing = await southbound.standing(subject.id, chassis, PATIENCE)
        if standing is None:
            raise HostError(f"OVN has no port {subject.id}", "see whether the provider runs")
        if not standing.is_registered:
            raise _NotHere(
                f"this host ({chassis}) is not registered at OVN: the vNIC would have no network",
                "start ovn-controller: systemctl start ovn-controller",
            )
        if self._ovn.has_northbound and not standing.shares_ports:
            raise _NotHere(
                "OVN is too old to let two hosts have a port at a time",
                "update OVN to 22.09 or later, or set northbound = off in vif-driver.conf",
            )
        known = await self._connected(arrival, [subject.id])
        try:
            await known.wait_connected(PATIENCE)
            if not await known.wait(lambda: known.port(subject.id) is not None, PATIENCE):
                raise HostError(f"OVN has no port {subject.id}", "see whether the provider runs")
        except VifError:
            if not arrival.noted:
                arrival.disconnect()
            raise
        strategy = switchover.strategy(standing.northd, await self._ovn.controller_version())

        def announced(port: LogicalSwitchPort) -> Edit | None:
            if port.name != subject.id:
                return None
            return switchover.announce(
                port,
                vm_id=arrival.vm_id,
                source=standing.chassis,
                destination=chassis,
                strategy=strategy,
            )

        # Whether it was made is not known of a request without an answer.
        arrival.noted.add(subject.id)
        await known.edit(f"announce the move of {subject.id}", announced, PATIENCE)

    def _hold(self, arrival: _Arrival, subject: VnicIdentity, why: VifError) -> str:
        """Without the northbound database: keep the port from OVN until the VM runs here."""
        log.warning(
            "%s: its move is not coordinated, the VM will be without network for longer: %s",
            subject,
            why,
            extra=about(subject, event=_EVENT),
        )
        ovsdb = self._host.ovsdb
        if ovsdb is not None:
            arrival.held[subject.tap] = subject
            hold = functools.partial(ovsdb.hold, subject.tap, subject.id, START_TIME)
            self._do(arrival, f"{subject.tap} held", self._persist(hold, arrival.vm_id))
        return f"vif-driver: the move of {subject} is not coordinated: {why}"

    async def _release(self, arrival: _Arrival) -> None:
        for tap, subject in arrival.held.items():
            task = arrival.tasks.get(f"{tap} held")
            if task is not None:
                task.cancel()
            if self._host.ovsdb is not None:
                await self._host.ovsdb.release(tap, subject.id)

    async def _follow(self, arrival: _Arrival) -> None:
        """See an arrival through to its end."""
        vm = arrival.vm_id
        try:
            if await self._comes(arrival):
                await self._see_it_run(arrival)
            else:
                log.info("VM %s does not arrive", vm, extra=about(vm=vm, event=_EVENT))
                await self._persist(lambda: self._release(arrival), vm)
                undo = functools.partial(switchover.undo, vm_id=vm)
                await self._edit(arrival, "undo", undo)
        except Exception:
            # The next agent finds the start; a port must not stay hidden for so long.
            log.exception("VM %s: its move is not followed", vm, extra=about(vm=vm, event=_EVENT))
            try:
                await self._persist(lambda: self._release(arrival), vm)
            finally:
                self._drop(arrival)
        else:
            self._forget(arrival)

    async def _see_it_run(self, arrival: _Arrival) -> None:
        vm = arrival.vm_id
        begun = asyncio.get_running_loop().time()
        self._note(vm, started=True)  # the next agent need not wait for it
        self._complete(arrival)
        await self._persist(lambda: self._release(arrival), vm)
        await self._edit(arrival, "switch", switchover.switch)
        took = asyncio.get_running_loop().time() - begun
        self.counts.add(took)
        extra = about(vm=vm, event=_EVENT, seconds=took)
        log.info("VM %s runs here; its ports followed in %.0f ms", vm, took * 1000, extra=extra)
        await self._until_completed(arrival)
        await asyncio.sleep(SETTLE)
        await self._edit(arrival, "finish", switchover.finish)

    def _note(self, vm_id: str, **facts: Any) -> None:
        """Have the next agent know something of a VM that arrives."""
        start = self._starts.get(vm_id)
        if start is None or not start.arrives:
            return
        try:
            self._starts.put(dataclasses.replace(start, **facts))
        except HostError as error:
            log.error("VM %s: %s", vm_id, error, extra=about(vm=vm_id, event=_EVENT))

    def _forget(self, arrival: _Arrival) -> None:
        """Have done with an arrival."""
        self._drop(arrival)
        start = self._starts.get(arrival.vm_id)
        # A later one may have begun, which has not asked about a vNIC yet.
        if start is not None and start.arrives and start.token == arrival.token:
            self._starts.forget(arrival.vm_id)

    def _drop(self, arrival: _Arrival) -> None:
        arrival.stop()
        if self._arrivals.get(arrival.vm_id) is arrival:
            del self._arrivals[arrival.vm_id]

    async def _comes(self, arrival: _Arrival) -> bool:
        """Wait until a VM runs here, or it is certain that it won't."""
        while arrival.happening is Happening.OTHER:
            arrival.told.clear()
            try:
                state = await self._domains.state(arrival.vm_id)
            except HostError:
                pass  # it will be heard of
            else:
                self._note_state(arrival, state)
            if arrival.happening is Happening.OTHER:
                await arrival.told.within(START_TIME)
        return arrival.happening is Happening.RUNS

    def _note_state(self, arrival: _Arrival, state: State | None) -> None:
        if arrival.happening is not Happening.OTHER:
            return  # libvirt has said more since it was asked
        if state is State.RUNNING:
            arrival.happening = Happening.RUNS
        elif state is not None:
            if not arrival.seen:
                arrival.seen = True
                self._note(arrival.vm_id, seen=True)  # once it is gone, it won't come
            self._complete(arrival)
        elif arrival.seen or uptime() - arrival.begun >= START_TIME:
            arrival.happening = Happening.GONE

    async def _until_completed(self, arrival: _Arrival) -> None:
        """Wait until VDSM says that the migration is over, or the VM is gone."""
        while not arrival.completed and arrival.happening is not Happening.GONE:
            arrival.told.clear()
            # VDSM may have said so to an agent that is no more.
            if not await arrival.told.within(SETTLE) and await self._is_settled(arrival.vm_id):
                return

    async def _is_settled(self, vm_id: str) -> bool:
        try:
            return not await self._domains.is_migrating(vm_id)
        except HostError:
            return False  # as libvirt says of a VM as long as it is just coming, too

    def _complete(self, arrival: _Arrival) -> None:
        """Do what had to wait for the VM's XML, beside everything else."""
        task = arrival.tasks.get("complete")
        if arrival.unfinished and (task is None or task.done()):
            work = self._persist(lambda: self._complete_all(arrival), arrival.vm_id)
            self._do(arrival, "complete", work)

    async def _complete_all(self, arrival: _Arrival) -> None:
        for tap, (subject, attachment) in list(arrival.unfinished.items()):
            way = attachment or await self._find(subject)
            try:
                if way is not None:
                    await self._complete_one(subject, way)
            except BadRequest as error:
                log.error("%s: %s", subject, error, extra=about(subject, event=_EVENT))
            arrival.unfinished.pop(tap, None)

    async def _complete_one(self, subject: VnicIdentity, way: Attachment) -> None:
        assert subject.vm_id is not None  # noqa: S101, asked before
        xml = await self._domains.interface_of_tap(subject.vm_id, way.connection(subject).target)
        if xml is not None:
            interface = Interface(xml)
            whole = parse_interface(subject, interface.mac, interface.mtu)
            async with Undo() as undo:
                await way.adapt(whole)
                await way.connect(whole, undo)

    async def _find(self, subject: VnicIdentity) -> Attachment | None:
        """Tell by which attachment an earlier agent made what is there of a vNIC."""
        if self._host.ovsdb is not None:
            await self._host.ovsdb.wait_connected()
        found = attachments.found(subject, self._config, self._host)
        return found[0] if found else None

    async def _finish_early(self, subject: VnicIdentity, attachment: Attachment) -> None:
        tap = attachment.connection(subject).target
        try:
            if await link_events.wait(lambda: kernel.has_device(tap), START_TIME):
                await attachment.finish(subject)
        except VifError as error:
            log.error("%s: %s", subject, error, extra=about(subject, event=_EVENT))

    def _take_up(self, start: Start) -> None:
        """Go on where an earlier agent has ended."""
        arrival = _Arrival(start.vm_id, start.token, seen=start.seen, begun=start.since)
        if start.started:
            arrival.happening = Happening.RUNS  # whatever has become of it since
        for vnic in start.vnics:
            if vnic.plugin in switchover.PLUGINS:
                arrival.held[vnic.tap] = vnic
                if self._ovn.has_northbound:
                    arrival.noted.add(vnic.id)
                continue
            arrival.unfinished[vnic.tap] = (vnic, None)
            way = attachments.choose(vnic, SecurityGroups.DEFAULT, self._config, self._host)
            if way.finishes_early:
                self._do(arrival, f"{vnic.tap} comes", self._finish_early(vnic, way))
        self._begin(arrival)

    # ---- inside ------------------------------------------------------------------------------

    async def _edit(self, arrival: _Arrival, what: str, step: _Step) -> None:
        """Take a step with all ports of a VM in whose rows a note of ours may be."""
        vm = arrival.vm_id

        async def attempt() -> None:
            try:
                northbound = await self._connected(arrival, [])
            except Unavailable:
                raise
            except HostError as error:
                # By its settings this host has none, which it had: nobody knows until when.
                log.error("VM %s: %s", vm, error, extra=about(vm=vm, event=_EVENT))
                arrival.noted.clear()
                return
            change = functools.partial(step, destination=arrival.chassis)
            await northbound.edit(f"{what} the move of VM {vm}", change)

        if arrival.noted:
            await self._persist(attempt, vm)

    async def _connected(self, arrival: _Arrival, more: list[str]) -> Northbound:
        """Give the connection for an arrival, made now if there is none; it may take a while.

        Args:
            arrival: which.
            more: ids of vNICs whose rows are wanted as well.

        Raises:
            Unavailable: Open vSwitch's database or the resolver does not answer.
            HostError: by its settings this host has no northbound database.
        """
        async with arrival.connecting:
            if arrival.northbound is None:
                remote, arrival.chassis = await self._ovn.location()
                names = sorted({*arrival.noted, *more})
                arrival.northbound = await self._ovn.northbound(remote, names)
            if arrival.over:
                arrival.disconnect()
                raise _not_any_more(arrival.vm_id)
            arrival.northbound.include(more)
            return arrival.northbound

    async def _persist(self, attempt: Callable[[], Coroutine[Any, Any, None]], vm_id: str) -> None:
        """Do something as often as it takes."""
        pause, told = _RETRY[0], ""
        while True:
            try:
                await attempt()
            except VifError as error:
                if str(error) != told:
                    told = str(error)
                    log.error("VM %s: %s", vm_id, error, extra=about(vm=vm_id, event=_EVENT))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY[1])
            else:
                return

    def _on_event(self, vm_id: str | None, happening: Happening) -> None:
        arrivals = self._arrivals.values() if vm_id is None else [self._arrivals.get(vm_id)]
        for arrival in arrivals:
            if arrival is None:
                continue
            if happening in (Happening.RUNS, Happening.GONE):
                arrival.happening = happening
            arrival.told.set()

    def _do(self, arrival: _Arrival, what: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something for an arrival, in the place of an earlier attempt at the same."""
        earlier = arrival.tasks.get(what)
        if earlier is not None:
            earlier.cancel()
        arrival.tasks[what] = self._run(work)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                log.error("a migration was not followed", exc_info=task.exception())

        task.add_done_callback(ended)
        return task


def _not_any_more(vm_id: str) -> HostError:
    return HostError(f"VM {vm_id} is not about to arrive any more", "migrate it again")


class _NotHere(HostError):
    """The vNIC would have no network here."""
