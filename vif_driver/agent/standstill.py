# SPDX-License-Identifier: GPL-2.0-or-later
"""Has nothing be lost that is sent to a VM while it stands still for its move.

At the end of a live migration the guest stands still on this host until it runs on the other.  That
one is silent until the guest speaks there, and drops what is for it.  The guest cannot speak before
it runs; but only this host is told that it stands still, and from then on the other one may take
part.  What is sent to the guest then waits in the queue of its tap there.

The connection to the northbound database has to be there by then, so it is made when VDSM says that
the VM is about to leave.  Without it, nothing is worse than that a VM is away for as long as it
stands still.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Collection

from vif_driver import switchover
from vif_driver.agent.ovn import PATIENCE, Ovn
from vif_driver.errors import VifError
from vif_driver.host.domains import Domains, Happening
from vif_driver.host.northbound import Northbound
from vif_driver.journal import about

log = logging.getLogger(__name__)

_EVENT = "migration"


class Standstill:
    """The VMs that are about to leave, until they stand still.

    Args:
        domains: libvirt's VMs.
        ovn: OVN's databases.
    """

    def __init__(self, domains: Domains, ovn: Ovn) -> None:
        self._ovn = ovn
        self._leaving: dict[str, set[str]] = {}
        # One for all VMs: a host that all of them leave at once is one client, not many.
        self._connecting: asyncio.Task[Northbound] | None = None
        self._chassis = ""
        self._telling: set[asyncio.Task[None]] = set()
        self._unfollow = domains.follow(self._on_event)

    async def close(self) -> None:
        """Stop."""
        self._unfollow()
        tasks = list(self._telling)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._leaving.clear()
        self._disconnect()

    def expect(self, vm_id: str, names: Collection[str]) -> None:
        """Get ready for a VM that is about to leave.

        Args:
            vm_id: the VM.
            names: of its logical switch ports.
        """
        self._leaving.setdefault(vm_id, set()).update(names)
        if self._connecting is None or _has_failed(self._connecting):
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        elif self._connecting.done():
            self._include(self._connecting.result())

    def forget(self, vm_id: str) -> None:
        """Have done with a VM, whatever has become of it."""
        self._leaving.pop(vm_id, None)
        if not self._leaving:
            self._disconnect()

    def _on_event(self, vm_id: str | None, happening: Happening) -> None:
        if vm_id is None or vm_id not in self._leaving:
            return
        if happening is Happening.STANDS_STILL:
            task = asyncio.get_running_loop().create_task(self._tell(vm_id))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        elif happening is Happening.GONE:
            self.forget(vm_id)

    async def _tell(self, vm_id: str) -> None:
        """Say in a VM's ports' rows that it stands still."""
        begun = asyncio.get_running_loop().time()
        extra = about(vm=vm_id, event=_EVENT)
        try:
            if self._connecting is None:
                return
            northbound = await asyncio.shield(self._connecting)
            await northbound.wait_connected(PATIENCE)
            unblock = functools.partial(switchover.unblock, vm_id=vm_id, source=self._chassis)
            what = f"have what is sent to VM {vm_id} wait for it"
            if await northbound.edit(what, unblock, PATIENCE):
                took = asyncio.get_running_loop().time() - begun
                extra = about(vm=vm_id, event=_EVENT, seconds=took)
                log.info("VM %s stands still; what is sent to it waits for it", vm_id, extra=extra)
        except VifError as error:
            # The destination warns of the same fault; this host only cannot make its work better.
            log.info(
                "VM %s stands still; what is sent to it is lost: %s", vm_id, error, extra=extra
            )
        finally:
            self.forget(vm_id)

    async def _connect(self) -> Northbound:
        remote, self._chassis = await self._ovn.location()
        northbound = await self._ovn.northbound(
            remote, sorted(set().union(*self._leaving.values()))
        )
        self._include(northbound)  # those that were named meanwhile
        return northbound

    def _include(self, northbound: Northbound) -> None:
        northbound.include(sorted(set().union(*self._leaving.values())))

    def _disconnect(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.add_done_callback(_close)
            connecting.cancel()


def _has_failed(connecting: asyncio.Task[Northbound]) -> bool:
    return connecting.done() and (connecting.cancelled() or connecting.exception() is not None)


def _close(connecting: asyncio.Task[Northbound]) -> None:
    if not _has_failed(connecting):
        connecting.result().close()
