# SPDX-License-Identifier: GPL-2.0-or-later
"""What a setupNetworks request would do to the devices of this host.

It follows what VDSM has nmstate do (lib/vdsm/network/nmstate: linux_bridge.py, bond.py, state.py,
ovs/network.py), with the kernel's devices as they are now.  What repeats what is, does nothing.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vif_driver.host.snapshot import Snapshot
from vif_driver.host.switch import Switch
from vif_driver.protection.foundation import BONDS, VDSM_BRIDGE
from vif_driver.protection.request import (
    DEFAULT_MTU,
    OVS,
    UNKNOWN,
    Bond,
    Network,
    SetupRequest,
    quoted,
)

#: What VDSM makes under a name.
BRIDGE, BOND, PORT = "bridge", "bond", "port"


class What(enum.Enum):
    """What becomes of a device."""

    #: It goes, or becomes something else.
    REMOVED = enum.auto()
    #: A bridge takes it as a port.
    TAKEN = enum.auto()
    #: A bond takes it as a member.
    BONDED = enum.auto()
    #: Open vSwitch takes it as a port.
    SWITCHED = enum.auto()
    #: Its bridge or bond lets go of it.
    RELEASED = enum.auto()
    #: A network has its address on it.
    USED = enum.auto()
    #: A network takes one of its VLANs.
    TAGGED = enum.auto()
    #: Its addresses become those of a network.
    ADDRESSED = enum.auto()
    #: It gets another MTU.
    SIZED = enum.auto()
    #: Something is named so, or stands on it.
    NAMED = enum.auto()


class Change(NamedTuple):
    """What a request would do to a device.

    Attributes:
        what: the kind.
        device: it need not be there.
        text: a clause, such as "network 'x' would be removed".
        upper: of RELEASED, the bridge or bond.
        made: of NAMED, the kind of device that would be made under that name, if any.
        tag: of TAGGED, the VLAN, None for packets without.
        mtu: of SIZED, the new one in bytes.
        before, after: of ADDRESSED, the network; None if there was none, or will be.  Of TAKEN,
            SWITCHED and TAGGED, ``after`` is the one that has the device's addresses from then
            on, if any.
    """

    what: What
    device: str
    text: str
    upper: str | None = None
    made: str | None = None
    tag: int | None = None
    mtu: int = 0
    before: Network | None = None
    after: Network | None = None


@dataclasses.dataclass(frozen=True)
class Running:
    """What VDSM has written down of the networks that it has set up.

    Attributes:
        networks: by their names.
        bonds: by their names.
    """

    networks: Mapping[str, Network] = dataclasses.field(default_factory=dict)
    bonds: Mapping[str, Bond] = dataclasses.field(default_factory=dict)

    def repeats(self, entry: Network | Bond) -> bool:
        """Tell whether an entry of a request is what is already."""
        if entry.remove:
            return False
        known = self.networks if isinstance(entry, Network) else self.bonds
        return known.get(entry.name) == entry


def changes(
    request: SetupRequest, running: Running, snapshot: Snapshot, switch: Switch
) -> Iterator[Change]:
    """Give what a request would do."""
    return _Changes(request, running, snapshot, switch).all()


class _Changes:
    def __init__(
        self, request: SetupRequest, running: Running, snapshot: Snapshot, switch: Switch
    ) -> None:
        self._request = request
        self._running = running
        self._snapshot = snapshot
        self._switch = switch
        self._removed: set[str] = set()

    def all(self) -> Iterator[Change]:
        """Give everything, in the order of the request; what depends on all of it comes last."""
        networks = [
            network
            for network in self._request.networks.values()
            if not self._running.repeats(network)
        ]
        bonds = [bond for bond in self._request.bonds.values() if not self._running.repeats(bond)]
        found: list[Change] = []
        for network in networks:
            found += self._of_network(network)
        for bond in bonds:
            found += self._of_bond(bond)
        self._removed = {change.device for change in found if change.what is What.REMOVED}
        for network in networks:
            found += self._sizes(network)
        return iter(found)

    # ---- networks ----------------------------------------------------------------------------

    def _of_network(self, network: Network) -> Iterator[Change]:
        before = self._before(network.name)
        if network.remove:
            yield from self._of_removal(network.name, before)
            return
        who = f"network {quoted(network.name)}"
        made = PORT if network.switch == OVS else BRIDGE if network.bridged else None
        if before is not None and before.top == network.name:
            made = None  # it is there, and its own
        yield Change(What.NAMED, network.name, f"{who} would be made", made=made)
        if network.base is not None:
            yield Change(What.NAMED, network.base, f"{who} would stand on {network.base}")
        if before is not None:
            yield from self._of_move(before, network, who)
        if network.switch == OVS:
            yield from self._of_switched(before, network, who)
        else:
            yield from self._of_links(before, network, who)
        if network.top is not None:
            text = f"{who} would give {network.top} other addresses"
            same = before if before is not None and before.top == network.top else None
            yield Change(What.ADDRESSED, network.top, text, before=same, after=network)

    def _before(self, name: str) -> Network | None:
        """Give a network as VDSM has written it down, or else as it can be seen on the host."""
        return self._running.networks.get(name) or self._seen(name)

    def _seen(self, name: str) -> Network | None:
        """Give the network that has a bridge of its name, or a port of VDSM's in Open vSwitch."""
        mtu = self._snapshot.devices[name].mtu if name in self._snapshot.devices else DEFAULT_MTU
        seen = Network(name, mtu=mtu, ipv4=UNKNOWN, ipv6=UNKNOWN)
        interface = self._switch.by_name.get(name)
        if interface is not None and interface.type == "internal":
            if not interface.bridge.startswith(VDSM_BRIDGE) or name == interface.bridge:
                return None
            others = self._switch.by_bridge[interface.bridge]
            base = next((other.name for other in others if other.is_of_system), None)
            return dataclasses.replace(seen, base=base, vlan=interface.tag, switch=OVS)
        if self._snapshot.kind(name) != "bridge":
            return None
        ports = [port for port in self._snapshot.ports(name) if self._snapshot.kind(port) != "tun"]
        if len(ports) != 1:
            return seen
        link = self._snapshot.devices[ports[0]]
        if link.kind == "vlan":
            return dataclasses.replace(seen, base=link.parent, vlan=link.tag)
        return dataclasses.replace(seen, base=link.name)

    def _of_removal(self, name: str, before: Network | None) -> Iterator[Change]:
        text = f"network {quoted(name)} would be removed"
        yield Change(What.NAMED, name, text)
        if before is None:
            return
        if before.switch == OVS:
            yield Change(What.REMOVED, name, text)
            return
        if before.vlan_device is not None:
            yield Change(What.REMOVED, before.vlan_device, text)
        if before.bridged:
            yield Change(What.REMOVED, name, text)
        elif before.base is not None and before.vlan_device is None:
            yield Change(What.ADDRESSED, before.base, text)

    def _of_move(self, before: Network, network: Network, who: str) -> Iterator[Change]:
        """Tell what a network leaves behind that becomes another one."""
        move = f"{who} would move to {network.port or 'no device'}"
        if before.switch != network.switch:
            text = f"{who} would go from switch type {before.switch} to {network.switch}"
            for device in dict.fromkeys((before.vlan_device, before.top)):
                if device is not None:
                    yield Change(What.REMOVED, device, text)
        elif network.switch == OVS:
            if (before.base, before.vlan) != (network.base, network.vlan):
                yield Change(What.REMOVED, network.name, f"{who} would move to {network.base}")
        else:
            if before.vlan_device not in (None, network.vlan_device):
                yield Change(What.REMOVED, before.vlan_device or "", move)
            if before.bridged and not network.bridged:
                text = f"{who} would not be bridged any more"
                yield Change(What.REMOVED, network.name, text)
            elif before.top is not None and before.top not in (network.top, before.vlan_device):
                yield Change(What.ADDRESSED, before.top, move)

    def _of_links(self, before: Network | None, network: Network, who: str) -> Iterator[Change]:
        """Tell what becomes of VLAN, base and bridge of the kernel's kind."""
        port = network.port
        if network.vlan_device is not None and network.base is not None:
            yield from self._of_vlan(network.vlan_device, network.base, network.vlan, who)
        if not network.bridged:
            was_there = before is not None and not before.bridged and before.port == port
            if port is not None and not was_there:
                yield Change(What.USED, port, f"{who} would have its address on {port}")
            return
        if self._snapshot.kind(network.name) == "bridge":
            for other in self._snapshot.ports(network.name):
                if other != port:
                    text = f"{who} would move from {other} to {port or 'no device'}"
                    yield Change(What.RELEASED, other, text, upper=network.name)
        link = self._snapshot.devices.get(port or "")
        if link is not None and link.master != network.name:
            text = f"{who} would take {link.name} as the port of its bridge"
            yield Change(What.TAKEN, link.name, text, after=self._heir(before, network))

    def _heir(self, before: Network | None, network: Network) -> Network | None:
        """Give a network that takes a device over of which VDSM has had none, with its address.

        So the engine makes the management network of a host that it adds, by which time host-deploy
        has already told OVN the host's address (``host_deploy_ovn_tunneling_interface``).
        """
        others = (other.port for other in self._running.networks.values())
        return None if before is not None or network.port in others else network

    def _of_vlan(self, name: str, base: str, tag: int | None, who: str) -> Iterator[Change]:
        link = self._snapshot.devices.get(name)
        if link is None:
            yield Change(What.TAGGED, base, f"{who} would take VLAN {tag} of {base}", tag=tag)
        elif (link.kind, link.parent, link.tag) != ("vlan", base, tag):
            yield Change(What.REMOVED, name, f"{who} would make {name} VLAN {tag} of {base}")

    def _of_switched(self, before: Network | None, network: Network, who: str) -> Iterator[Change]:
        """Tell what becomes of the base of a network of Open vSwitch's kind."""
        base = network.base
        if base is None:
            return
        heir = self._heir(before, network) if network.vlan is None else None
        interface = self._switch.by_name.get(base)
        if interface is None or not interface.bridge.startswith(VDSM_BRIDGE):
            text = f"{who} would put {base} into a bridge of Open vSwitch"
            yield Change(What.SWITCHED, base, text, after=heir)
        if before is None or (before.base, before.vlan) != (base, network.vlan):
            what = "the packets without a VLAN" if network.vlan is None else f"VLAN {network.vlan}"
            text = f"{who} would take {what} of {base}"
            yield Change(What.TAGGED, base, text, tag=network.vlan, after=heir)

    # ---- bonds -------------------------------------------------------------------------------

    def _of_bond(self, bond: Bond) -> Iterator[Change]:
        who = f"bond {quoted(bond.name)}"
        is_bond = self._snapshot.kind(bond.name) in BONDS
        if bond.remove:
            yield Change(What.NAMED, bond.name, f"{who} would be removed")
            yield Change(What.REMOVED, bond.name, f"{who} would be removed")
            return
        made = None if is_bond else BOND
        yield Change(What.NAMED, bond.name, f"{who} would be made", made=made)
        before = self._running.bonds.get(bond.name)
        if before is not None and before.switch != bond.switch:
            text = f"{who} would go from switch type {before.switch} to {bond.switch}"
            yield Change(What.REMOVED, bond.name, text)
        if is_bond and before is None and self._running.networks:
            yield self._of_adoption(bond, who)
        for member in self._snapshot.ports(bond.name) if is_bond else ():
            if member not in bond.members:
                text = f"{who} would lose {member}"
                yield Change(What.RELEASED, member, text, upper=bond.name)
        for member in sorted(bond.members):
            yield Change(What.NAMED, member, f"{who} would take {member}")
            link = self._snapshot.devices.get(member)
            if link is not None and link.master != bond.name:
                yield Change(What.BONDED, member, f"{who} would take {member}")

    def _of_adoption(self, bond: Bond, who: str) -> Change:
        """Tell what becomes of a bond that somebody else has made.

        VDSM takes over each bond that a network of the request stands on (network/canonicalize.py,
        ``canonicalize_external_bonds_used_by_nets``), and one that is new to it gets no addresses
        but those of the request's networks (nmstate/bond.py, ``is_new``).
        """
        heirs = (net for net in self._request.networks.values() if not net.remove)
        heir = next((net for net in heirs if net.port == bond.name), None)
        text = f"{who}, new to VDSM, would lose its addresses"
        if heir is not None:
            text = f"{who}, new to VDSM, would have other addresses"
        return Change(What.ADDRESSED, bond.name, text, after=heir)

    # ---- sizes -------------------------------------------------------------------------------

    def _sizes(self, network: Network) -> Iterator[Change]:
        """Tell which devices get which MTU by a network."""
        who = f"network {quoted(network.name)}"
        before = self._before(network.name)
        if not network.remove:
            for device in dict.fromkeys((network.vlan_device, network.top)):
                if device not in (network.base, None):
                    yield self._size(device or "", network.mtu, who)
            if network.base is not None:
                yield self._size(network.base, self._size_of_base(network), who)
        if before is not None and before.base is not None and before.base != network.base:
            size = self._size_of_left_base(before)
            if size is not None:
                yield self._size(before.base, size, who)

    @staticmethod
    def _size(device: str, mtu: int, who: str) -> Change:
        return Change(What.SIZED, device, f"{who} would lower the MTU of {device}", mtu=mtu)

    def _size_of_base(self, network: Network) -> int:
        wanted = [other.mtu for other in self._standing_on(network.base)]
        if network.switch == OVS:
            wanted += [other.mtu for other in self._others(network.base)]
        else:
            wanted += self._vlan_sizes(network.base)
        return max(wanted)

    def _size_of_left_base(self, left: Network) -> int | None:
        """Give the MTU of a base that a network leaves; None if it stays as it is."""
        staying = self._standing_on(left.base)
        if not all(map(self._running.repeats, staying)):
            return None  # what those networks make of it is told with them
        if staying:
            return self._size_of_base(staying[0])
        if left.switch == OVS:
            return max((other.mtu for other in self._others(left.base)), default=DEFAULT_MTU)
        vlans = self._vlan_sizes(left.base)
        known = self._running.networks.values()
        if [network.name for network in known if network.base == left.base] == [left.name]:
            return max([DEFAULT_MTU, *vlans])
        return max(vlans) if vlans else None

    def _standing_on(self, base: str | None) -> list[Network]:
        """Give the request's networks on a device."""
        return [
            network
            for network in self._request.networks.values()
            if network.base == base and not network.remove
        ]

    def _others(self, base: str | None) -> list[Network]:
        """Give VDSM's networks on a device that the request doesn't speak of."""
        return [
            network
            for network in self._running.networks.values()
            if network.base == base and network.name not in self._request.networks
        ]

    def _vlan_sizes(self, base: str | None) -> list[int]:
        wanted = {
            network.vlan_device: network.mtu
            for network in self._request.networks.values()
            if not network.remove
        }
        return [
            wanted.get(vlan.name, vlan.mtu)
            for vlan in self._snapshot.vlans(base or "")
            if vlan.name not in self._removed
        ]
