# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that are about to leave this host: what if the host dies where they were to go.

The network follows by what the agent there does, see agent.switchover.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging

from vif_driver import switchover
from vif_driver.agent.ovn import PATIENCE, Ovn
from vif_driver.errors import HostError, VifError
from vif_driver.host.domains import Domains
from vif_driver.journal import about
from vif_driver.vnic import VnicIdentity

log = logging.getLogger(__name__)

#: Seconds between two looks at a VM that is about to leave, and how many of them must find that it
#: isn't being migrated any more.
LEAVING_LOOK = 15.0
LEAVING_LOOKS = 4

_EVENT = "migration"


@dataclasses.dataclass(frozen=True)
class _Departure:
    """A VM that is about to leave.

    Attributes:
        ids: of its vNICs.
        watch: looks whether it stays.
    """

    ids: frozenset[str]
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
        self._departures: dict[str, _Departure] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop; the next agent knows nothing of it."""
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
        ids = frozenset((subject.id,))
        earlier = self._departures.get(subject.vm_id)
        if earlier is not None:
            # It may be of an attempt that has failed: the VM is looked at anew.
            earlier.watch.cancel()
            ids |= earlier.ids
        watch = asyncio.get_running_loop().create_task(self._watch(subject.vm_id, sorted(ids)))
        self._tasks.add(watch)
        watch.add_done_callback(self._tasks.discard)
        self._departures[subject.vm_id] = _Departure(ids, watch)

    def left(self, subject: VnicIdentity) -> None:
        """VDSM says that the VM is gone."""
        departure = self._departures.pop(subject.vm_id or "", None)
        if departure is not None:
            departure.watch.cancel()

    async def _watch(self, vm_id: str, ids: list[str]) -> None:
        """Undo what a destination that died has left, if the VM has stayed."""
        try:
            if await self._stays(vm_id):
                await self._undo(vm_id, ids)
        except Exception:
            log.exception("VM %s: its move is not followed", vm_id, extra=about(vm=vm_id))
        self._departures.pop(vm_id, None)

    async def _stays(self, vm_id: str) -> bool:
        """Wait until a VM isn't being migrated any more; False if it is gone."""
        quiet = 0
        while quiet < LEAVING_LOOKS:
            await asyncio.sleep(LEAVING_LOOK)
            try:
                migrating = await self._domains.is_migrating(vm_id)
            except HostError:
                continue
            if migrating is None:
                return False
            quiet = 0 if migrating else quiet + 1
        return True

    async def _undo(self, vm_id: str, ids: list[str]) -> None:
        try:
            remote, chassis = await self._ovn.location()
            northbound = await self._ovn.northbound(remote, ids)
            try:
                await northbound.wait_connected(PATIENCE)
                undo = functools.partial(switchover.undo, vm_id=vm_id, source=chassis)
                await northbound.edit(f"undo the move of VM {vm_id}", undo)
            finally:
                northbound.close()
        except VifError as error:
            log.warning("VM %s has stayed; %s", vm_id, error, extra=about(vm=vm_id, event=_EVENT))
