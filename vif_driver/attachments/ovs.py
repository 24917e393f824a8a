# SPDX-License-Identifier: GPL-2.0-or-later
"""The tap as a port of the integration bridge, for Neutron's Open vSwitch agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vif_driver.attachments.base import Attachment, Undo, wait_in_ovsdb
from vif_driver.errors import HostError
from vif_driver.host import kernel
from vif_driver.interface_xml import DEAD_VLAN, Connection
from vif_driver.vnic import VnicIdentity

if TYPE_CHECKING:
    from vif_driver.host.ovsdb import Port

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

    async def expect(self, vnic: VnicIdentity, undo: Undo) -> None:
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

    def is_ready(self, vnic: VnicIdentity) -> bool:
        """Tell whether the port of this very tap is wired."""
        ovsdb = self.host.ovsdb
        port = None if ovsdb is None else ovsdb.port(vnic.tap)
        return (
            port is not None
            and port.bridge == self.config.integration_bridge
            and port.external_ids.get("iface-id") == vnic.id
            and port.ofport is not None
            and port.ofport > 0
            # Open vSwitch's word on an earlier tap of that name does not count.
            and port.ifindex in (None, kernel.ifindex(vnic.tap))
            and kernel.has_device(vnic.tap)
            and self._is_wired(port)
        )

    async def wait_ready(self, vnic: VnicIdentity, timeout: float) -> bool:
        """Wait for the agent's word in the database."""
        return await wait_in_ovsdb(self.host, lambda: self.is_ready(vnic), timeout)

    async def user(self, vnic: VnicIdentity) -> str | None:
        """Give the VM that libvirt plugged the tap for."""
        ovsdb = self.host.ovsdb
        if ovsdb is None or not ovsdb.replica.connected or not kernel.has_device(vnic.tap):
            return None
        port = ovsdb.port(vnic.tap)
        if port is None or port.external_ids.get("iface-id") != vnic.id:
            return None
        return port.external_ids.get("vm-id")

    def _is_wired(self, port: Port) -> bool:
        return is_wired_by_neutron(port)

    async def release(self, vnic: VnicIdentity) -> None:
        """Nothing: libvirt removes the port that it made."""


def is_wired_by_neutron(port: Port) -> bool:
    """Tell whether Neutron's agent has put a port into its network's VLAN.

    It sets the tag when the port's flows and filter are in place, and the dead VLAN's on a port
    that it doesn't know or has to disconnect (neutron/plugins/ml2/drivers/openvswitch/agent).
    """
    return port.tag not in (None, DEAD_VLAN)
