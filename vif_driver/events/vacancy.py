# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a vNIC can be plugged: no other VM has it, and nothing of an earlier plug is left."""

from __future__ import annotations

import logging

from vif_driver import attachments
from vif_driver.config import Config
from vif_driver.errors import HostError
from vif_driver.host import Host
from vif_driver.host.starts import FORGOTTEN, START_TIME, Starts
from vif_driver.vnic import VnicIdentity

log = logging.getLogger(__name__)


class Vacancy:
    """Sees that a vNIC is free.

    Args:
        config: the configuration.
        host: what this process may use.
        starts: the VMs that are being started.
    """

    def __init__(self, config: Config, host: Host, starts: Starts) -> None:
        self._config = config
        self._host = host
        self._starts = starts

    async def require_unused(self, subject: VnicIdentity) -> None:
        """Make sure that no other VM of this host has the vNIC.

        Raises:
            HostError: one has.
        """
        for start in self._starts.older_than(FORGOTTEN):
            if await self._is_gone(start.vm_id):
                self._starts.forget(start.vm_id)
        for start in self._starts.of_vnic(subject):
            if start.vm_id == subject.vm_id:
                continue
            if start.age < START_TIME or await self._is_gone(start.vm_id) is False:
                raise _used_by(start.vm_id, "is being started")
        identity = VnicIdentity(subject.id, subject.plugin, vm_id=None)
        for attachment in attachments.found(identity, self._config, self._host):
            user = await attachment.user(identity)
            if user not in (None, subject.vm_id):
                raise _used_by(str(user), "runs")

    async def _is_gone(self, vm_id: str) -> bool | None:
        """Tell whether libvirt has no such VM; None if it doesn't say."""
        domains = self._host.domains
        if domains is None:
            return None
        try:
            return await domains.state(vm_id) is None
        except HostError as error:
            log.warning("VM %s: %s", vm_id, error)
            return None

    async def clear(self, subject: VnicIdentity) -> None:
        """Remove what an earlier plug of the vNIC left, in whatever VM and by whatever way.

        A port left behind would come up in the VLAN that it had, or be a second one for the
        provider's port.

        Raises:
            HostError: a running guest uses it.
        """
        identity = VnicIdentity(subject.id, subject.plugin, vm_id=None)
        for attachment in attachments.found(identity, self._config, self._host):
            await attachment.release(identity)


def _used_by(vm_id: str, does: str) -> HostError:
    return HostError(
        f"the vNIC is already that of VM {vm_id}, which {does} on this host",
        "stop that VM, or give this one a vNIC of its own: no two may have one vnic_id",
    )
