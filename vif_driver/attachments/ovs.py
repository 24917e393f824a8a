# SPDX-License-Identifier: GPL-2.0-or-later
"""The tap as a port of the integration bridge, for Neutron's Open vSwitch agent."""

from __future__ import annotations

from vif_driver.attachments.base import Attachment
from vif_driver.errors import HostError
from vif_driver.host import kernel
from vif_driver.interface_xml import Connection
from vif_driver.vnic import Vnic, VnicIdentity

# Seconds for what libvirt has committed to arrive here.
_PORT_TIMEOUT = 2.0


class OvsAttachment(Attachment):
    """libvirt plugs the tap; nothing is needed on the host.

    Until Neutron's agent has wired the port to its network, a port without a VLAN would be a
    trunk into every tenant's.  libvirt therefore makes it with the dead VLAN, in the transaction
    that adds the port.
    """

    name = "ovs"
    _dead_vlan = True

    def is_there(self, vnic: VnicIdentity) -> bool:
        """Tell whether the tap is there."""
        return kernel.has_device(vnic.tap)

    def connection(self, vnic: VnicIdentity) -> Connection:
        """Connect to the integration bridge under the port's id."""
        return Connection(
            bridge=self.config.integration_bridge,
            target=vnic.tap,
            interface_id=vnic.id,
            dead_vlan=self._dead_vlan,
        )

    async def prepare(self, vnic: Vnic) -> None:
        """Check that libvirt will find the bridge, and the tap's name free."""
        await self.require_integration_bridge()
        await self.claim_tap_name(vnic)

    async def finish(self, vnic: VnicIdentity) -> None:
        """Check that libvirt plugged the tap under the port's id."""
        ovsdb = self.host.ovsdb
        if ovsdb is None:
            return
        await ovsdb.wait_connected()
        if not await ovsdb.wait_port(vnic.tap, {"iface-id": vnic.id}, _PORT_TIMEOUT):
            raise HostError(
                f"Open vSwitch has no port {vnic.tap} with iface-id {vnic.id}",
                "see libvirtd's log; the vNIC has no network until it is plugged again",
            )

    async def release(self, vnic: VnicIdentity) -> None:
        """Nothing: libvirt removes the port that it made."""
