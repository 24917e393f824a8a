# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that are started here after both hosts of a migration of theirs have died.

What the two were to take back from OVN's northbound database keeps every other host from the port,
and has the former destination wait for the word of a guest that will never arrive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from vif_driver import switchover
from vif_driver.agent.ovn import Ovn
from vif_driver.errors import HostError, Unavailable
from vif_driver.host.domains import Domains
from vif_driver.host.northbound_rows import Edit, LogicalSwitchPort
from vif_driver.host.starts import Start
from vif_driver.journal import about

log = logging.getLogger(__name__)

#: Seconds after a start at which it is looked what was left; nobody is to wait for that.
DELAY = 1.0

#: Seconds between two attempts, and how many there are: after a power failure OVN's databases may
#: come back later than the first VMs.
PAUSE = 15.0
ATTEMPTS = 4

_EVENT = "migration"


class Abandoned:
    """Looks once per start what migrations have left at OVN.

    Args:
        domains: libvirt's VMs.
        ovn: OVN's databases.
        is_moving: tells whether a VM, by its id, is about to arrive here or to leave.
    """

    def __init__(self, domains: Domains, ovn: Ovn, is_moving: Callable[[str], bool]) -> None:
        self._domains = domains
        self._ovn = ovn
        self._is_moving = is_moving
        self._looks: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop; what is not done is left."""
        tasks = list(self._looks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def started(self, start: Start) -> None:
        """VDSM has started a VM."""
        ids = [vnic.id for vnic in start.vnics if vnic.plugin in switchover.PLUGINS]
        if not ids or not self._ovn.has_northbound or start.vm_id in self._looks:
            return
        task = asyncio.get_running_loop().create_task(self._look(start.vm_id, ids))
        self._looks[start.vm_id] = task
        task.add_done_callback(lambda _: self._looks.pop(start.vm_id, None))

    async def _look(self, vm_id: str, ids: Collection[str]) -> None:
        extra = about(vm=vm_id, event=_EVENT)
        try:
            await asyncio.sleep(DELAY)
            for attempt in range(ATTEMPTS):
                if attempt:
                    await asyncio.sleep(PAUSE)
                try:
                    changed = await self._take_back(vm_id, ids)
                except Unavailable as error:
                    # Whether there is anything to take back is not known; most often there isn't.
                    log.debug("VM %s was started here; %s", vm_id, error, extra=extra)
                    continue
                if changed:
                    log.warning(
                        "VM %s was started here; what a move of it had left at OVN is gone",
                        vm_id,
                        extra=extra,
                    )
                return
        except HostError as error:
            log.debug("VM %s was started here; %s", vm_id, error, extra=extra)
        except Exception:
            log.exception("VM %s: what its moves have left is not known", vm_id, extra=extra)

    async def _take_back(self, vm_id: str, ids: Collection[str]) -> bool:
        # Nobody's word for it: it could be a VM that is on its way between two other hosts.
        if await self._domains.is_migrating(vm_id) is not False:
            return False

        def undo(port: LogicalSwitchPort) -> Edit | None:
            return None if self._is_moving(vm_id) else switchover.undo(port, vm_id=vm_id)

        what = f"take back what moves of VM {vm_id} have left"
        return bool(await self._ovn.edit_once(ids, what, undo))
