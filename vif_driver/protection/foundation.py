# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host's external networks stand on: from tunnels and bridges down to the NICs.

It is a graph of devices.  At its top are the addresses at which tunnels begin, and the bridges by
which networks of the provider leave the host; below each device are those that it needs.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from vif_driver import marks
from vif_driver.host.addresses import Ip
from vif_driver.host.neutron_agent import Underlay
from vif_driver.host.snapshot import Address, Snapshot
from vif_driver.host.switch import Switch
from vif_driver.tunnels import overhead, words
from vif_driver.vnic import NAME_ID_LENGTH

#: How what is said of a vNIC's device begins.
VNIC = "belongs to vNIC "

#: How the bridges begin that VDSM makes in Open vSwitch for networks of its own switch type
#: ``ovs`` (lib/vdsm/network/nmstate/ovs/network.py).
VDSM_BRIDGE = "vdsmbr_"

#: How the bridges of Neutron's Linux bridge agent begin; eleven characters of the network's id
#: follow.
NEUTRON_BRIDGE = "brq"

#: Kinds of device whose ports stand in for each other.
BONDS = ("bond", "team")

# The taps and bridges of vNICs, ours and those that Neutron's agents know by the same names.
_VNIC_DEVICE = re.compile(rf"(tap|qbr|qvb|qvo|qtp)([0-9a-f]{{8}}-[0-9a-f]{{{NAME_ID_LENGTH - 9}}})")

# What the kernel's datapath of Open vSwitch makes, and the Linux bridge agent for its tunnels.
_TUNNEL_DEVICE = re.compile(r"ovs-system|ovs-netdev|[a-z0-9]+_sys(_[0-9]+)?|vxlan-[0-9]+")


class How(enum.Enum):
    """What a device is to the one above it."""

    #: It has the address, or is the bridge or device of a physical network.
    TOP = enum.auto()
    #: The port of a bridge.
    PORT = enum.auto()
    #: A member of a bond, which can do without it as long as there is another.
    MEMBER = enum.auto()
    #: What a VLAN stands on.
    VLAN = enum.auto()
    #: What anything else stands on.
    BELOW = enum.auto()


@dataclasses.dataclass(frozen=True)
class Purpose:
    """Why something is protected.

    Attributes:
        device: at the top.
        what: what a device below it does, as in "eth0 carries this host's OVN tunnels".
        where: the setting that says so.
        address: where the tunnels begin; None if it isn't about tunnels.
        kinds: of tunnel.
        itself: what the device at the top does; the same if empty.
    """

    device: str
    what: str
    where: str
    address: Address | None = None
    kinds: tuple[str, ...] = ()
    itself: str = ""


class Foundation:
    """What there is, and what stands on what.

    Args:
        snapshot: the kernel's devices and addresses.
        switch: Open vSwitch.
        underlay: what Neutron's agents are told.
        integration_bridge: the bridge of the vNICs.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        switch: Switch,
        underlay: Underlay,
        integration_bridge: str,
    ) -> None:
        self.snapshot = snapshot
        self.switch = switch
        self._underlay = underlay
        self.integration_bridges = frozenset(self._integration_bridges(integration_bridge))
        self.purposes = tuple(_merged(self._purposes()))
        self._lowers: dict[str, list[tuple[str, How]]] = {}
        self._uppers: dict[str, dict[tuple[str | None, How], None]] = {}
        self._tags: dict[str, set[int | None]] = {}
        self._carried: dict[str, dict[Purpose, None]] = {}
        for purpose in self.purposes:
            self._uppers.setdefault(purpose.device, {})[(None, How.TOP)] = None
            self._walk(purpose)

    # ---- what is protected -------------------------------------------------------------------

    @property
    def devices(self) -> Iterable[str]:
        """Every device that something stands on, the top ones first."""
        return self._carried.keys()

    def carried(self, device: str) -> list[Purpose]:
        """Give what stands on a device; nothing if it isn't protected."""
        return list(self._carried.get(device, ()))

    def describe(self, device: str) -> str:
        """Say what a protected device does, as the end of a sentence that begins with it."""
        own = self.own(device)
        if own is not None:
            return own
        said: dict[str, list[str]] = {}
        for purpose in self.carried(device):
            what = purpose.itself if purpose.device == device and purpose.itself else purpose.what
            said.setdefault(what, []).append(purpose.where)
        return " and ".join(f"{what} ({', '.join(where)})" for what, where in said.items())

    def own(self, name: str) -> str | None:
        """Say what a device is that belongs to Open vSwitch, a provider's agent or a vNIC.

        Returns:
            None for any other.
        """
        if name in self.integration_bridges and name in self.switch.by_bridge:
            return "is the integration bridge of the external networks"
        interface = self.switch.by_name.get(name)
        if interface is not None:
            if interface.vnic_id is not None:
                return f"{VNIC}{interface.vnic_id}"
            if interface.type not in ("", "system", "internal"):
                return f"is a port of Open vSwitch (type {interface.type})"
        device = self.snapshot.devices.get(name)
        if device is None:
            return None
        vnic = _VNIC_DEVICE.fullmatch(name)
        if vnic is not None:
            return f"{VNIC}{vnic[2]}…"
        if device.group == marks.GROUP:
            return "belongs to a vNIC"
        if _TUNNEL_DEVICE.fullmatch(name):
            return "carries tunnels of the external networks"
        if _is_neutron_bridge(name):
            return "is a bridge of Neutron's Linux bridge agent"
        return None

    # ---- how it is used ----------------------------------------------------------------------

    def uppers(self, device: str) -> Iterable[tuple[str | None, How]]:
        """Give the devices that need one, and for what; None stands for its being at the top."""
        return self._uppers.get(device, {}).keys()

    def tags(self, device: str) -> frozenset[int | None]:
        """Give the VLANs in which packets leave by a device, None for those without.

        Those of a provider's networks are known to the provider alone.
        """
        return frozenset(self._tags.get(device, ()))

    def addresses(self, device: str) -> list[Purpose]:
        """Give the tunnels that begin at an address of a device."""
        return [
            purpose
            for purpose in self.carried(device)
            if purpose.device == device and purpose.address is not None
        ]

    def needed_mtu(self, device: str, purposes: Collection[Purpose] | None = None) -> int:
        """Give the MTU at which the largest packet of any vNIC here fits into every tunnel.

        Where a tunnel's end has a smaller one already, no device below it needs more.

        Args:
            device: by which they go.
            purposes: those that count; all if None.

        Returns:
            Bytes; 0 if nothing needs any.
        """
        rooms = {
            purpose: max(overhead(kind, purpose.address.ip.version) for kind in purpose.kinds)
            for purpose in self.carried(device)
            if purpose.address is not None and purpose.kinds
            if purposes is None or purpose in purposes
        }
        largest = self._largest_vnic_mtu() if rooms else 0
        if not largest:
            return 0
        ends = {end: self.snapshot.devices.get(end.device) for end in rooms}
        return max(
            largest + room if (link := ends[end]) is None else min(largest + room, link.mtu)
            for end, room in rooms.items()
        )

    def broken(self, lost: Iterable[tuple[str | None, str]]) -> dict[Purpose, list[str]]:
        """Tell what takes the ground from under something.

        Args:
            lost: pairs of a device, or None for the top, and one that it would have no more.

        Returns:
            What would stand on nothing, and the devices to blame: those that are lost, and bonds
            none of whose members stays.
        """
        gone = frozenset(lost)
        sound: dict[str, bool] = {}
        found = {}
        for purpose in self.purposes:
            if (None, purpose.device) in gone:
                found[purpose] = [purpose.device]
            elif blamed := self._judge(purpose.device, gone, sound):
                found[purpose] = blamed
        return found

    def _judge(
        self,
        top: str,
        gone: frozenset[tuple[str | None, str]],
        sound: dict[str, bool],
    ) -> list[str]:
        """Find out who is to blame if ``top`` has not all that it needs; nobody if it has."""
        blamed: dict[str, None] = {}
        for device in self._upwards(top):
            if device not in sound:
                members, others = self._lowers_of(device)
                # One that is not judged yet is part of a ring, and no worse than the rest of it.
                stays = [
                    (device, lower) not in gone and sound.get(lower, True)
                    for lower in (*members, *others)
                ]
                some = any(stays[: len(members)]) or not members
                sound[device] = some and all(stays[len(members) :])
        waiting, seen = [top], {top}
        while waiting:
            device = waiting.pop()
            if sound[device]:
                continue
            members, others = self._lowers_of(device)
            gone_members = [lower for lower in members if (device, lower) in gone]
            if members and not any(sound[one] for one in members if one not in gone_members):
                if gone_members:
                    blamed[device] = None
                others = [*others, *(one for one in members if one not in gone_members)]
            for lower in others:
                if (device, lower) in gone:
                    blamed[lower] = None
                elif lower not in seen:
                    seen.add(lower)
                    waiting.append(lower)
        return list(blamed)

    def _lowers_of(self, device: str) -> tuple[list[str], list[str]]:
        """Give the members of a bond, and what else a device needs."""
        lowers = self._lowers.get(device, [])
        members = [lower for lower, how in lowers if how is How.MEMBER]
        return members, [lower for lower, how in lowers if how is not How.MEMBER]

    def _upwards(self, top: str) -> list[str]:
        """Give a device and all below it, each after those that it needs."""
        order: list[str] = []
        seen: set[str] = set()
        waiting = [(top, False)]
        while waiting:
            device, done = waiting.pop()
            if done:
                order.append(device)
            elif device not in seen:
                seen.add(device)
                waiting.append((device, True))
                waiting += [(lower, False) for lower, _ in self._lowers.get(device, [])]
        return order

    # ---- how it is found ---------------------------------------------------------------------

    def _walk(self, purpose: Purpose) -> None:
        """Follow what stands on a device down to the NICs."""
        # Which of a provider's VLANs leave by its bridge, the host does not know.
        begin: frozenset[int | None] = frozenset(() if purpose.address is None else (None,))
        waiting = [(purpose.device, begin)]
        seen = set(waiting)
        while waiting:
            device, tags = waiting.pop()
            self._carried.setdefault(device, {})[purpose] = None
            self._tags.setdefault(device, set()).update(tags)
            if device not in self._lowers:
                self._lowers[device] = list(dict.fromkeys(self._below(device)))
            own_tag = self._tag(device)
            below = tags if own_tag is None else frozenset((own_tag,))
            for lower, how in self._lowers[device]:
                self._uppers.setdefault(lower, {})[(device, how)] = None
                if (lower, below) not in seen:
                    seen.add((lower, below))
                    waiting.append((lower, below))

    def _tag(self, device: str) -> int | None:
        """Give the VLAN in which what passes a device leaves it; None if it adds none."""
        link = self.snapshot.devices.get(device)
        if link is not None and link.kind == "vlan":
            return link.tag
        interface = self.switch.by_name.get(device)
        return interface.tag if interface is not None and interface.type == "internal" else None

    def _below(self, device: str) -> Iterator[tuple[str, How]]:
        """Give what a device needs: of the kernel's and of Open vSwitch's."""
        link = self.snapshot.devices.get(device)
        if link is not None:
            if link.parent is not None:
                yield link.parent, How.VLAN if link.kind == "vlan" else How.BELOW
            if link.kind == "bridge":
                yield from ((port, How.PORT) for port in self._ways_out(device))
            elif link.kind in BONDS:
                yield from ((port, How.MEMBER) for port in self.snapshot.ports(device))
            if link.peer is not None:
                yield from self._behind(link.peer)
        interface = self.switch.by_name.get(device)
        if interface is not None and interface.type == "internal" and interface.bridge != device:
            yield interface.bridge, How.BELOW
        yield from self._below_switch(device)

    def _ways_out(self, bridge: str) -> Iterator[str]:
        """Give the ports of a Linux bridge that lead to no VM."""
        return (port for port in self.snapshot.ports(bridge) if not self._leads_to_vm(port))

    def _behind(self, peer: str) -> Iterator[tuple[str, How]]:
        """Give what the far end of a veth pair is a port of."""
        link = self.snapshot.devices[peer]
        if link.master is not None and self.snapshot.kind(link.master) == "bridge":
            yield link.master, How.BELOW
        interface = self.switch.by_name.get(peer)
        if interface is not None and interface.is_of_system:
            yield interface.bridge, How.BELOW

    def _below_switch(self, name: str) -> Iterator[tuple[str, How]]:
        """Give the ways out of a bridge of Open vSwitch, and the members of a bond of its."""
        ports: dict[str, list[str]] = {}
        for interface in self.switch.by_bridge.get(name, ()):
            if interface.type == "patch":
                peer = self.switch.by_name.get(interface.options.get("peer", ""))
                # What leads to the VMs is not the way out.
                if peer is not None and peer.bridge not in {name, *self.integration_bridges}:
                    yield peer.bridge, How.PORT
            elif interface.is_of_system and not self._leads_to_vm(interface.name):
                ports.setdefault(interface.port, []).append(interface.name)
        for port, devices in ports.items():
            if len(devices) == 1:
                yield devices[0], How.PORT
            else:
                yield port, How.PORT
        for member in self.switch.bonds.get(name, ()):
            if member.name != name and member.is_of_system:
                yield member.name, How.MEMBER

    def _leads_to_vm(self, name: str) -> bool:
        interface = self.switch.by_name.get(name)
        # The userspace datapath has its internal ports as taps, too.
        is_internal = interface is not None and interface.type == "internal"
        return self._is_vnic(name) or (self.snapshot.kind(name) == "tun" and not is_internal)

    def _is_vnic(self, name: str) -> bool:
        interface = self.switch.by_name.get(name)
        if interface is not None and interface.vnic_id is not None:
            return True
        return _VNIC_DEVICE.fullmatch(name) is not None

    # ---- what it is for ----------------------------------------------------------------------

    def _integration_bridges(self, configured: str) -> Iterator[str]:
        yield configured
        if self._underlay.integration_bridge is not None:
            yield self._underlay.integration_bridge
        for key, value in self.switch.settings.items():
            # ovn-controller(8): ovn-bridge, or ovn-bridge-CHASSIS; other keys begin so, too.
            if (key == "ovn-bridge" or key.startswith("ovn-bridge-")) and (
                value in self.switch.by_bridge
            ):
                yield value

    def _purposes(self) -> Iterator[Purpose]:
        yield from self._tunnels()
        for bridge, where in self._mappings():
            if bridge in self.switch.by_bridge or self.snapshot.kind(bridge) == "bridge":
                what, itself = f"is an uplink of {bridge}", "is a bridge of the external networks"
                yield Purpose(bridge, what, where, itself=itself)
        for physical, device in self._underlay.interfaces.items():
            if device in self.snapshot.devices:
                what = f"is the device of Neutron's physical network {physical}"
                yield Purpose(device, what, "physical_interface_mappings")
        for name in self.snapshot.devices:
            if _is_neutron_bridge(name):
                yield Purpose(name, "carries a network of Neutron's Linux bridge agent", name)

    def _tunnels(self) -> Iterator[Purpose]:
        settings = self.switch.settings
        kinds = tuple(
            dict.fromkeys(
                kind
                for key in _variants(settings, "ovn-encap-type")
                for kind in words(settings[key])
            )
        )
        for key in _variants(settings, "ovn-encap-ip"):
            for text in words(settings[key]):
                what = "carries this host's OVN tunnels"
                yield from self._end(text, what, f"{key} {text}", kinds or ("geneve",))
        for interface in self.switch.interfaces:
            if interface.type not in ("", "system", "internal", "patch"):
                text = interface.options.get("local_ip", "")
                what = "carries tunnels of Open vSwitch"
                yield from self._end(text, what, f"local_ip {text}", (interface.type,))
        for text, kind in self._underlay.tunnel_ends.items():
            yield from self._end(text, "carries Neutron's tunnels", f"local_ip {text}", kind)

    def _end(self, text: str, what: str, where: str, kinds: tuple[str, ...]) -> Iterator[Purpose]:
        ip = _ip(text)
        if ip is None or ip.is_loopback or ip.is_unspecified:
            return
        for address in self.snapshot.addresses:
            if address.ip == ip:
                yield Purpose(address.device, what, where, address, kinds)

    def _mappings(self) -> Iterator[tuple[str, str]]:
        """Give the bridges of physical networks, and where that is set."""
        settings = self.switch.settings
        for key in _variants(settings, "ovn-bridge-mappings"):
            for pair in words(settings[key]):
                yield pair.partition(":")[2], f"{key} {pair}"
        for mappings in (self._underlay.switches, self._underlay.bridges):
            for physical, bridge in mappings.items():
                yield bridge, f"Neutron's bridge_mappings {physical}:{bridge}"
        # The same to be seen in Open vSwitch, where Neutron's files may not be read.
        for interface in self.switch.interfaces:
            if interface.type == "patch" and interface.bridge in self.integration_bridges:
                peer = self.switch.by_name.get(interface.options.get("peer", ""))
                if peer is not None and peer.bridge not in self.integration_bridges:
                    yield peer.bridge, f"a patch from {interface.bridge}"

    def _largest_vnic_mtu(self) -> int:
        sizes = [
            device.mtu
            for device in self.snapshot.devices.values()
            if self._is_vnic(device.name) and not device.name.startswith("qbr")
        ]
        return max(sizes, default=0)


def _merged(purposes: Iterable[Purpose]) -> Iterator[Purpose]:
    """Leave out what is said again, in the order in which it was said first."""
    found: dict[tuple[str, Ip | None], Purpose] = {}
    for purpose in purposes:
        key = (purpose.device, None if purpose.address is None else purpose.address.ip)
        known = found.setdefault(key, purpose)
        kinds = tuple(dict.fromkeys((*known.kinds, *purpose.kinds)))
        found[key] = dataclasses.replace(known, kinds=kinds)
    return iter(found.values())


def _variants(settings: Mapping[str, str], key: str) -> list[str]:
    """Give the keys of a setting of OVN's: for every chassis, and for a single one."""
    return sorted(name for name in settings if name == key or name.startswith(f"{key}-"))


def _ip(text: str) -> Ip | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None  # such as ``flow``


def _is_neutron_bridge(name: str) -> bool:
    return name.startswith(NEUTRON_BRIDGE) and len(name) == len(NEUTRON_BRIDGE) + NAME_ID_LENGTH
