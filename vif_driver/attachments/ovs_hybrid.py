# SPDX-License-Identifier: GPL-2.0-or-later
"""The tap on a Linux bridge where iptables filters it, joined to the integration bridge.

For Neutron's Open vSwitch agent with the firewall driver ``iptables_hybrid``: its rules match
the tap as a port of a Linux bridge, by its name.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from vif_driver.attachments.base import Attachment, Undo, known_link, needs_agent, wait_in_ovsdb
from vif_driver.attachments.ovs import is_wired_by_neutron
from vif_driver.attachments.private_bridge import PrivateBridge
from vif_driver.errors import BadRequest, HostError, NameTaken, Unavailable
from vif_driver.host import kernel
from vif_driver.interface_xml import DEAD_VLAN, Connection
from vif_driver.marks import ROW_KEY
from vif_driver.vnic import Vnic, VnicIdentity

if TYPE_CHECKING:
    from vif_driver.host.links import Links
    from vif_driver.host.ovsdb import Ovsdb

# Seconds; ovs-vswitchd takes milliseconds, a loaded one with thousands of ports a second.
_OFPORT_TIMEOUT = 5.0

_NAME = "ovs_hybrid"

#: The columns of a Port row that we make.
#:
#: Until Neutron's agent wires the port, only frames of the dead VLAN may pass, which a guest does
#: not send and the agent's flows drop.  A tag alone would still admit untagged frames, into that
#: VLAN; with vlan_mode=trunk as well, an agent that sets nothing but the tag would leave the port
#: dead (https://bugs.launchpad.net/neutron/+bug/1930414), while a tag overrides trunks.
#:
#: ``transient``: where ovs-ctl is told to, it deletes such ports before ovs-vswitchd starts.
PORT_COLUMNS = {
    "trunks": [DEAD_VLAN],
    "external_ids": {ROW_KEY: _NAME},
    "other_config": {"transient": "true"},
}


class OvsHybridAttachment(Attachment):
    """A bridge ``qbr…``, joined by ``qvb…`` and ``qvo…`` to the integration bridge."""

    name = _NAME

    def is_there(self, vnic: VnicIdentity) -> bool:
        """Tell whether a device or the port is there."""
        ovsdb = self.host.ovsdb
        if ovsdb is not None and (not ovsdb.replica.connected or ovsdb.port(vnic.switch_end)):
            return True  # or unknown, which the next step will tell
        return any(map(kernel.has_device, (vnic.bridge, vnic.bridge_end, vnic.switch_end)))

    def connection(self, vnic: VnicIdentity) -> Connection:
        """Connect to the vNIC's own Linux bridge."""
        return Connection(bridge=vnic.bridge, target=vnic.tap)

    async def expect(self, vnic: VnicIdentity, undo: Undo) -> None:
        """Make the bridge and the veth pair."""
        links, ovsdb = self._privileged()
        if not kernel.has_bridge_netfilter():
            raise HostError(
                "the kernel does not pass bridged frames through iptables, so security groups "
                "would be silently off",
                "load the module: modprobe br_netfilter",
            )
        _require_vm(vnic)
        await self.require_integration_bridge()
        await self.claim_tap_name(vnic)
        if ovsdb.port(vnic.switch_end) is not None:
            raise NameTaken(
                f"Open vSwitch has a port {vnic.switch_end} that was not made for this vNIC",
                f"remove it if nothing uses it: ovs-vsctl del-port {vnic.switch_end}",
            )
        await _private_bridge(links, vnic).make(*known_link(vnic), undo)

    async def adapt(self, vnic: Vnic) -> None:
        """Set the address and the MTU of the devices."""
        await _private_bridge(self._privileged()[0], vnic).adapt(vnic.mac, vnic.mtu)

    async def connect(self, vnic: Vnic, undo: Undo) -> None:
        """Make the Open vSwitch port."""
        _, ovsdb = self._privileged()
        name = vnic.switch_end
        await ovsdb.wait_connected()
        port = ovsdb.port(name)
        if port is not None and _mark(vnic).items() <= port.external_ids.items():
            return  # an agent that did not live to say so has made it
        undo.on_failure(f"port {name}", functools.partial(ovsdb.delete_port, name, _mark(vnic)))
        await ovsdb.add_port(
            self.config.integration_bridge,
            name,
            port=PORT_COLUMNS,
            interface={"external_ids": interface_ids(vnic.id, _require_vm(vnic), vnic.mac)},
        )
        await ovsdb.wait_ofport(name, _OFPORT_TIMEOUT)

    async def finish(self, vnic: VnicIdentity) -> None:
        """Check that the tap is where its security groups are applied."""
        links, _ = self._privileged()
        await _private_bridge(links, vnic).check_guest_tap()

    def is_ready(self, vnic: VnicIdentity) -> bool:
        """Tell whether the port is wired and the guest's tap joined to it."""
        ovsdb = self.host.ovsdb
        port = None if ovsdb is None else ovsdb.port(vnic.switch_end)
        return (
            port is not None
            and all(port.external_ids.get(key) == value for key, value in _mark(vnic).items())
            and port.ofport is not None
            and port.ofport > 0
            and is_wired_by_neutron(port)
            and kernel.master(vnic.tap) == vnic.bridge
        )

    async def wait_ready(self, vnic: VnicIdentity, timeout: float) -> bool:
        """Wait for the agent's word in the database."""
        return await wait_in_ovsdb(self.host, lambda: self.is_ready(vnic), timeout)

    async def user(self, vnic: VnicIdentity) -> str | None:
        """Give the VM that the bridge was made for, while its tap is on it."""
        return await _private_bridge(self._privileged()[0], vnic).user()

    async def release(self, vnic: VnicIdentity) -> None:
        """Remove the Open vSwitch port, the veth pair and the bridge."""
        links, ovsdb = self._privileged()
        bridge = _private_bridge(links, vnic)
        await bridge.require_unused()
        try:
            await ovsdb.wait_connected()
            await ovsdb.delete_port(vnic.switch_end, _mark(vnic))
        finally:
            # Without the database, the devices at least.
            await bridge.remove()

    def _privileged(self) -> tuple[Links, Ovsdb]:
        if self.host.links is None:
            raise needs_agent("only it can make or remove the bridge of a filtered vNIC")
        if self.host.ovsdb is None:
            raise Unavailable(
                "Open vSwitch is not installed on this host",
                "install the package openvswitch and restart vif-agent",
            )
        return self.host.links, self.host.ovsdb


def _private_bridge(links: Links, vnic: VnicIdentity) -> PrivateBridge:
    return PrivateBridge(links, vnic, far_end=vnic.switch_end, guest_tap=vnic.tap, netfilter=True)


def _require_vm(vnic: VnicIdentity) -> str:
    if vnic.vm_id is None:
        raise BadRequest("VDSM did not say which VM the vNIC belongs to", "start it through VDSM")
    return vnic.vm_id


def interface_ids(vnic_id: str, vm_id: str, mac: str) -> dict[str, str]:
    """Give the ``external_ids`` of an Interface row that we make."""
    return {
        "iface-id": vnic_id,
        "iface-status": "active",
        "attached-mac": mac,
        "vm-id": vm_id,
        ROW_KEY: _NAME,
    }


def _mark(vnic: VnicIdentity) -> dict[str, str]:
    """What the row of this vNIC in this VM carries."""
    vm = {} if vnic.vm_id is None else {"vm-id": vnic.vm_id}
    return {ROW_KEY: OvsHybridAttachment.name, "iface-id": vnic.id, **vm}
