# SPDX-License-Identifier: GPL-2.0-or-later
"""A device that Neutron's Linux bridge agent finds and puts on its network's bridge.

The agent enslaves ``tap…`` only if that is on no bridge the first time it sees it; otherwise it
reports the port ACTIVE and never connects it, even when the device is taken off later.  VDSM, on
the other hand, knows no NIC without a ``<source bridge>``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vif_driver.attachments.base import Attachment, Undo, known_link, needs_agent, require_free
from vif_driver.attachments.private_bridge import PrivateBridge
from vif_driver.errors import HostError
from vif_driver.host import kernel, link_events, neutron_agent
from vif_driver.interface_xml import Connection
from vif_driver.vnic import Vnic, VnicIdentity

if TYPE_CHECKING:
    from vif_driver.host.links import Links

#: VDSM's bridge without any port that leads anywhere.
DUMMY_BRIDGE = ";vdsmdummy;"

#: How the bridges that Neutron's agent makes are called (BRIDGE_NAME_PREFIX of
#: neutron_lib/constants.py).
NEUTRON_BRIDGE_PREFIX = "brq"


class LinuxBridgeAttachment(Attachment):
    """The guest's tap on a private bridge; ``tap…`` is the far end of its veth pair.

    That end is on no bridge from the moment it exists until the agent takes it, and down: it
    carries nothing until it is in its network, and the host can't be reached through it.
    """

    name = "linux_bridge"

    def is_there(self, vnic: VnicIdentity) -> bool:
        """Tell whether the bridge or its veth pair is there."""
        return any(map(kernel.has_device, (vnic.bridge, vnic.bridge_end)))

    def connection(self, vnic: VnicIdentity) -> Connection:
        """Connect to the vNIC's own Linux bridge."""
        return Connection(bridge=vnic.bridge, target=vnic.hidden_tap)

    async def expect(self, vnic: VnicIdentity, undo: Undo) -> None:
        """Make the bridge and the veth pair."""
        links = self._privileged()
        require_free(vnic.hidden_tap)
        await self.claim_tap_name(vnic)
        await _private_bridge(links, vnic).make(*known_link(vnic), undo)

    async def adapt(self, vnic: Vnic) -> None:
        """Set the address and the MTU of the devices."""
        await _private_bridge(self._privileged(), vnic).adapt(vnic.mac, vnic.mtu)

    async def finish(self, vnic: VnicIdentity) -> None:
        """Check that the guest's tap is on the private bridge."""
        await _private_bridge(self._privileged(), vnic).check_guest_tap()

    def is_ready(self, vnic: VnicIdentity) -> bool:
        """Tell whether both ends of the veth pair are where they belong."""
        return kernel.master(vnic.hidden_tap) == vnic.bridge and _is_taken(vnic)

    async def wait_ready(self, vnic: VnicIdentity, timeout: float) -> bool:
        """Wait for the kernel's word that it did."""
        return await link_events.wait(lambda: self.is_ready(vnic), timeout)

    async def user(self, vnic: VnicIdentity) -> str | None:
        """Give the VM that the bridge was made for, while its tap is on it."""
        return await _private_bridge(self._privileged(), vnic).user()

    async def release(self, vnic: VnicIdentity) -> None:
        """Remove the bridge and the veth pair."""
        bridge = _private_bridge(self._privileged(), vnic)
        await bridge.require_unused()
        await bridge.remove()

    def _privileged(self) -> Links:
        if self.host.links is None:
            raise needs_agent("only it can make or remove the bridge of this vNIC")
        return self.host.links


class DummyBridgeAttachment(LinuxBridgeAttachment):
    """The guest's tap on VDSM's dummy bridge, taken off once libvirt has made it.

    The way of older hooks, a race with the agent that this side cannot win for certain; for
    hosts that still have guests plugged so, or an agent patched to take the tap off itself.
    """

    name = "linux_bridge_dummy"
    finishes_early = True

    def is_there(self, vnic: VnicIdentity) -> bool:
        """Tell whether the tap is there."""
        return kernel.has_device(vnic.tap)

    def connection(self, vnic: VnicIdentity) -> Connection:
        """Connect to the dummy bridge under the name that the agent looks for."""
        return Connection(bridge=DUMMY_BRIDGE, target=vnic.tap)

    async def expect(self, vnic: VnicIdentity, undo: Undo) -> None:
        """Check that libvirt will find the bridge, and the tap's name free."""
        self._privileged()
        if not kernel.has_device(DUMMY_BRIDGE):
            raise HostError(
                f"the bridge {DUMMY_BRIDGE} does not exist",
                "restart vdsmd, which makes it",
            )
        await self.claim_tap_name(vnic)

    async def adapt(self, vnic: Vnic) -> None:
        """Nothing: libvirt makes the only device."""

    async def finish(self, vnic: VnicIdentity) -> None:
        """Take the tap off the dummy bridge, unless the agent already has it elsewhere."""
        links = self._privileged()
        tap = await links.get(vnic.tap)
        dummy = await links.get(DUMMY_BRIDGE)
        if tap is None:
            raise HostError(f"there is no tap {vnic.tap}", "see libvirtd's log")
        if dummy is not None and tap.master == dummy.index:
            await links.change(vnic.tap, master="")

    def is_ready(self, vnic: VnicIdentity) -> bool:
        """Tell whether the agent has the tap."""
        return _is_taken(vnic)

    async def user(self, vnic: VnicIdentity) -> str | None:
        """Nothing on the host says whose tap it is."""
        return None

    async def release(self, vnic: VnicIdentity) -> None:
        """Nothing: the tap goes with the guest."""


def _is_taken(vnic: VnicIdentity) -> bool:
    """Tell whether the agent has put the device that it looks for on its network's bridge."""
    bridge = kernel.master(vnic.tap)
    return bridge is not None and (
        bridge.startswith(NEUTRON_BRIDGE_PREFIX) or bridge in neutron_agent.linux_bridges()
    )


def _private_bridge(links: Links, vnic: VnicIdentity) -> PrivateBridge:
    return PrivateBridge(links, vnic, far_end=vnic.tap, guest_tap=vnic.hidden_tap, far_end_up=False)
