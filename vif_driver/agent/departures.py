# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that are about to leave this host: what if the host dies where they were to go.

The network follows by what the agent there does, see agent.switchover.  What that leaves in OVN's
northbound database if it dies, nobody else would ever remove.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable

from vif_driver import switchover
from vif_driver.agent.ovn import Ovn
from vif_driver.agent.standstill import Standstill
from vif_driver.agent.told import Told
from vif_driver.errors import HostError, VifError
from vif_driver.host.domains import Domains
from vif_driver.host.northbound_rows import Edit
from vif_driver.journal import about
from vif_driver.vnic import VnicIdentity

log = logging.getLogger(__name__)

#: Seconds between two looks at a VM that is about to leave, and how many of them must find that it
#: isn't being migrated any more.  Once it is gone, an agent that lives needs less than one such
#: pause to finish where the VM is.
LEAVING_LOOK = 15.0
LEAVING_LOOKS = 4

#: More vNICs than a host can have, and than a VM can; whoever says so could name any.
MAX_LEAVING = 4096
MAX_OF_VM = 64

_EVENT = "migration"

_Step = Callable[..., "Edit | None"]


@dataclasses.dataclass(frozen=True)
class _Departure:
    """A VM that is about to leave.

    Attributes:
        ids: of its vNICs.
        told: VDSM says that it is gone.
        watch: looks what becomes of it.
    """

    ids: frozenset[str]
    told: Told
    watch: asyncio.Task[None]


class Departures:
    """The VMs that are about to leave this host.

    Args:
        domains: libvirt's VMs.
        ovn: OVN's databases.
    """

    def __init__(self, domains: Domains, ovn: Ovn) -> None:
        self._domains = domains
        self._ovn = ovn
        self._standstill = Standstill(domains, ovn)
        self._departures: dict[str, _Departure] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop; the next agent knows nothing of it."""
        await self._standstill.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def leaving(self, subject: VnicIdentity) -> None:
        """VDSM is about to move the VM of a vNIC away."""
        if (
            subject.vm_id is None
            or subject.plugin not in switchover.PLUGINS
            or not self._ovn.has_northbound
        ):
            return
        earlier = self._departures.get(subject.vm_id)
        ids = frozenset() if earlier is None else earlier.ids
        counts = {MAX_OF_VM: len(ids), MAX_LEAVING: self._count()}
        exceeded = [limit for limit, count in counts.items() if count >= limit]
        if subject.id not in ids and exceeded:
            log.warning(
                "%s: its move is not watched from here: %d vNICs are about to leave already",
                subject,
                exceeded[0],
                extra=about(subject, event=_EVENT),
            )
            return
        if earlier is not None:
            # It may be of an attempt that has failed: the VM is looked at anew.
            earlier.watch.cancel()
        ids |= {subject.id}
        told = Told()
        watch = asyncio.get_running_loop().create_task(self._watch(subject.vm_id, ids, told))
        self._tasks.add(watch)
        watch.add_done_callback(self._tasks.discard)
        self._departures[subject.vm_id] = _Departure(ids, told, watch)

    def left(self, subject: VnicIdentity) -> None:
        """VDSM says that the VM is gone: a reason to ask libvirt, which may know better."""
        departure = self._departures.get(subject.vm_id or "")
        if departure is not None:
            departure.told.set()

    def includes(self, vm_id: str) -> bool:
        """Whether a VM is about to leave."""
        return vm_id in self._departures

    def _count(self) -> int:
        return sum(len(departure.ids) for departure in self._departures.values())

    async def _watch(self, vm_id: str, ids: frozenset[str], told: Told) -> None:
        """See to it that nothing of a migration stays in the database."""
        try:
            if await self._look(vm_id) is None:
                pass  # whoever it is, this host has never had it
            elif await self._stays(vm_id, ids, told):
                await self._edit(vm_id, ids, "has stayed", switchover.undo)
            else:
                # The agent where it is does the same, and sooner, unless it has died.
                await asyncio.sleep(LEAVING_LOOK)
                if await self._look(vm_id) is None:
                    await self._edit(vm_id, ids, "has left", switchover.finish_from_source)
                else:
                    await self._edit(vm_id, ids, "is here again", switchover.undo)
        except Exception:
            log.exception(
                "VM %s: its move is not followed", vm_id, extra=about(vm=vm_id, event=_EVENT)
            )
        self._standstill.forget(vm_id)
        del self._departures[vm_id]

    async def _stays(self, vm_id: str, ids: frozenset[str], told: Told) -> bool:
        """Wait until a VM isn't being migrated any more; False if it is gone."""
        self._standstill.expect(vm_id, ids)
        quiet = 0
        while quiet < LEAVING_LOOKS:
            hastened = await told.within(LEAVING_LOOK)
            told.clear()
            migrating = await self._look(vm_id)
            if migrating is None:
                return False
            if migrating:
                quiet = 0
            elif not hastened:
                quiet += 1
        return True

    async def _look(self, vm_id: str) -> bool | None:
        """Ask libvirt, until it answers, whether a VM is being migrated; None if it is not here."""
        while True:
            try:
                return await self._domains.is_migrating(vm_id)
            except HostError:
                await asyncio.sleep(LEAVING_LOOK)

    async def _edit(self, vm_id: str, ids: frozenset[str], why: str, step: _Step) -> None:
        """Take a step with the ports of a VM.

        Args:
            vm_id: which.
            ids: of its vNICs.
            why: what has become of the VM, for messages.
            step: one of vif_driver.switchover for the source.
        """
        extra = about(vm=vm_id, event=_EVENT)
        for attempt in range(LEAVING_LOOKS):
            if attempt:
                await asyncio.sleep(LEAVING_LOOK)
            try:
                changed = await self._try_to_edit(vm_id, ids, why, step)
            except VifError as error:
                log.warning("VM %s %s; %s", vm_id, why, error, extra=extra)
                continue
            if changed:
                log.warning(
                    "VM %s %s; what its move had left at OVN is gone", vm_id, why, extra=extra
                )
            return

    async def _try_to_edit(
        self, vm_id: str, ids: frozenset[str], why: str, step: _Step
    ) -> list[str]:
        _, chassis = await self._ovn.location()
        change = functools.partial(step, vm_id=vm_id, source=chassis)
        return await self._ovn.edit_once(ids, f"end the move of VM {vm_id}, which {why}", change)
