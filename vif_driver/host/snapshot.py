# SPDX-License-Identifier: GPL-2.0-or-later
"""Every network device and address of this host, as the kernel has them at one moment.

Spoken is netlink itself (host.netlink_dump): whoever asks here has a caller who waits.  Needs no
privilege.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vif_driver.errors import Unavailable
from vif_driver.host import link_events
from vif_driver.host.addresses import Ip
from vif_driver.host.netlink_dump import attributes as attributes_of
from vif_driver.host.netlink_dump import dump

# linux/rtnetlink.h and linux/if_link.h
_GET_LINK, _GET_ADDRESS = 18, 22
_LINK = struct.Struct("=BBHiII")
_NAME, _MTU, _PARENT, _MASTER, _INFO, _GROUP, _FILTER, _NAMESPACE = 3, 4, 5, 10, 18, 27, 29, 37
_LINK_ATTRIBUTES = frozenset((_NAME, _MTU, _PARENT, _MASTER, _INFO, _GROUP, _NAMESPACE))
_WITHOUT_STATISTICS = 8
_KIND, _DATA = 1, 2
_VLAN_TAG, _VXLAN_PARENT = 1, 3

# linux/if_addr.h
_ADDRESS = struct.Struct("=BBBBI")
_THEIRS, _OURS, _FLAGS = 1, 2, 8
_PERMANENT = 0x80

# Seconds for the kernel, which may be busy with its network lock.
_TIMEOUT = 5.0


class Device(NamedTuple):
    """A network device.

    Attributes:
        name: its name.
        kind: ``bridge``, ``vlan``, ``bond``, ``veth``, ``tun``, ...; empty for a physical one.
        mtu: bytes.
        master: the bridge, bond, ... that it is a port of, or None.
        parent: the device that it stands on, as a VLAN does; None if on none of this namespace's.
        peer: the other end, of a veth pair whose ends are both here.
        tag: of a VLAN.
        group: the device group, 0 by default.
    """

    name: str
    kind: str
    mtu: int
    master: str | None
    parent: str | None
    peer: str | None
    tag: int | None
    group: int


class Address(NamedTuple):
    """An address of this host.

    Attributes:
        ip: the address.
        length: of its network's prefix, in bits.
        device: which has it.
        lasting: it was given for good, and not by DHCP or a router for some time.
    """

    ip: Ip
    length: int
    device: str
    lasting: bool


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What there is.

    Attributes:
        devices: by their names.
        addresses: of all devices.
    """

    devices: Mapping[str, Device] = dataclasses.field(default_factory=dict)
    addresses: tuple[Address, ...] = ()

    @functools.cached_property
    def _ports(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for device in self.devices.values():
            if device.master is not None:
                found.setdefault(device.master, []).append(device.name)
        return found

    @functools.cached_property
    def _vlans(self) -> dict[str, list[Device]]:
        found: dict[str, list[Device]] = {}
        for device in self.devices.values():
            if device.kind == "vlan" and device.parent is not None:
                found.setdefault(device.parent, []).append(device)
        return found

    def ports(self, name: str) -> list[str]:
        """Give the ports of a bridge, the members of a bond; none if it is neither."""
        return self._ports.get(name, [])

    def vlans(self, name: str) -> list[Device]:
        """Give the VLANs that stand on a device."""
        return self._vlans.get(name, [])

    def kind(self, name: str) -> str | None:
        """Give the kind of a device; None if it isn't there."""
        device = self.devices.get(name)
        return None if device is None else device.kind


def take() -> Snapshot:
    """Ask the kernel.

    Raises:
        Unavailable: it did not answer.
    """
    names: dict[int, str] = {}
    route = socket.NETLINK_ROUTE
    try:
        devices = _devices(dump(route, _GET_LINK, _LINK_QUESTION, _TIMEOUT), names)
        question = _ADDRESS.pack(0, 0, 0, 0, 0)
        addresses = _addresses(dump(route, _GET_ADDRESS, question, _TIMEOUT))
    except OSError as error:
        raise Unavailable(
            f"the kernel does not tell its network devices ({error})", "see dmesg"
        ) from error
    return Snapshot(
        devices,
        tuple(
            Address(ip, length, names[index], lasting)
            for index, ip, length, lasting in addresses
            if index in names  # it may have gone between the two questions
        ),
    )


class Snapshots:
    """Takes snapshots for one who looks again and again; what is known to be the same is kept.

    The kernel tells of a change at the moment it makes it, in a queue that nobody is woken for: as
    long as that is empty, things are as they were.  (Of an address of IPv6 it tells a moment later,
    from a thread of its own.  Of the group of a device that is down alone it says nothing; ours are
    made with theirs.)
    """

    def __init__(self) -> None:
        self._changes: link_events.Changes | None = None
        self._reading = threading.Lock()
        # How often something was found to have changed, and of which of these times the last is.
        self._generation = 0
        self._last: tuple[int, Snapshot] = (-1, Snapshot())

    def unchanged(self) -> Snapshot | None:
        """Give the last one, if it shows what is; does not block."""
        generation, last = self._last
        return last if generation == self._look() else None

    def take(self) -> Snapshot:
        """Give one of how things are now; may be called in another thread.

        Raises:
            Unavailable: the kernel did not answer.
        """
        # First: what changes while the question is answered, has the next one asked again.
        generation = self._look()
        known, last = self._last
        if known != generation:
            last = take()
            self._last = generation, last
        return last

    def close(self) -> None:
        """Stop listening."""
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def _look(self) -> int:
        with self._reading:
            if self._has_changed():
                self._generation += 1
            return self._generation

    def _has_changed(self) -> bool:
        try:
            if self._changes is None:
                self._changes = link_events.Changes(link_events.LINKS_AND_ADDRESSES)
                return True
            return self._changes.any()
        except OSError:
            return True  # nobody can tell


_LINK_QUESTION = _LINK.pack(0, 0, 0, 0, 0, 0) + struct.pack("=HHI", 8, _FILTER, _WITHOUT_STATISTICS)


def _devices(messages: list[memoryview], names: dict[int, str]) -> dict[str, Device]:
    """Take the answers about devices apart, and note their names by their numbers."""
    found: dict[int, dict[int, memoryview]] = {}
    for message in messages:
        _, _, _, index, _, _ = _LINK.unpack_from(message)
        attributes = found[index] = attributes_of(message[_LINK.size :], _LINK_ATTRIBUTES)
        names[index] = _text(attributes[_NAME])
    return {names[index]: _device(attributes, names) for index, attributes in found.items()}


def _device(attributes: dict[int, memoryview], names: Mapping[int, str]) -> Device:
    kind, data = "", None
    if _INFO in attributes:
        info = attributes_of(attributes[_INFO], _INFO_ATTRIBUTES)
        kind = _text(info[_KIND]) if _KIND in info else ""
        data = info.get(_DATA)
    # The number of a device in another namespace says nothing here.
    below = None if _NAMESPACE in attributes else _number(attributes.get(_PARENT))
    tag = None
    if data is not None and kind == "vlan":
        tag = _number(attributes_of(data, _VLAN_ATTRIBUTES).get(_VLAN_TAG))
    elif data is not None and kind == "vxlan":
        below = _number(attributes_of(data, _VXLAN_ATTRIBUTES).get(_VXLAN_PARENT)) or below
    other = names.get(below or 0)
    return Device(
        name=_text(attributes[_NAME]),
        kind=kind,
        mtu=_number(attributes.get(_MTU)) or 0,
        master=names.get(_number(attributes.get(_MASTER)) or 0),
        parent=None if kind == "veth" else other,
        peer=other if kind == "veth" else None,
        tag=tag,
        group=_number(attributes.get(_GROUP)) or 0,
    )


_INFO_ATTRIBUTES = frozenset((_KIND, _DATA))
_VLAN_ATTRIBUTES = frozenset((_VLAN_TAG,))
_VXLAN_ATTRIBUTES = frozenset((_VXLAN_PARENT,))


def _addresses(messages: list[memoryview]) -> Iterator[tuple[int, Ip, int, bool]]:
    for message in messages:
        _, length, flags, _, index = _ADDRESS.unpack_from(message)
        attributes = attributes_of(message[_ADDRESS.size :], _ADDRESS_ATTRIBUTES)
        # On a point-to-point device the first is the other end's.
        own = attributes.get(_OURS, attributes.get(_THEIRS))
        if own is not None and len(own) in (4, 16):
            flags = _number(attributes.get(_FLAGS)) or flags
            yield index, ipaddress.ip_address(bytes(own)), length, bool(flags & _PERMANENT)


_ADDRESS_ATTRIBUTES = frozenset((_OURS, _THEIRS, _FLAGS))


def _number(value: memoryview | None) -> int | None:
    return None if value is None else int.from_bytes(value, "little" if _LITTLE else "big")


_LITTLE = struct.pack("=H", 1)[0] == 1


def _text(value: memoryview) -> str:
    # A name is what its administrator made it, in whatever encoding.
    return bytes(value).rstrip(b"\0").decode("utf-8", "surrogateescape")
