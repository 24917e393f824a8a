# SPDX-License-Identifier: GPL-2.0-or-later
"""A setupNetworks request, as VDSM means it.

Names, defaults and spellings are those of VDSM's lib/vdsm/network/canonicalize.py, which has
usually been over a request before a hook sees it; what it does not know, nobody here does.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from vif_driver.errors import BadRequest

#: What VDSM takes where a network says nothing (lib/vdsm/network/link/iface.py).
DEFAULT_MTU = 1500

LEGACY, OVS = "legacy", "ovs"

#: The addresses of a device, for one version of IP: none, or given by DHCP or a router.  Any other
#: text is the static address with its prefix, or the text that is no address.
NO_ADDRESS = ""
DYNAMIC = ("dhcp", "autoconf", "dhcp autoconf")

#: The address of a network that VDSM's own notes say nothing of.
UNKNOWN = "?"

_REMEDY = "send it through the engine"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as it is to be, or to be removed.

    Attributes:
        name: VDSM's, and that of its bridge.
        remove: it is to go; nothing else is said of it.
        base: the NIC or bond that it stands on; None for a bridge without any.
        vlan: its tag, or None.
        bridged: it has a bridge of its name; otherwise its address is on the VLAN or the base.
        mtu: bytes.
        switch: ``legacy`` for the kernel's devices, ``ovs`` for Open vSwitch.
        ipv4: see :data:`NO_ADDRESS`.
        ipv6: the same.
    """

    name: str
    remove: bool = False
    base: str | None = None
    vlan: int | None = None
    bridged: bool = True
    mtu: int = DEFAULT_MTU
    switch: str = LEGACY
    ipv4: str = NO_ADDRESS
    ipv6: str = NO_ADDRESS

    @property
    def vlan_device(self) -> str | None:
        """The VLAN that VDSM makes for it; None if it has none."""
        if self.base is None or self.vlan is None or self.switch == OVS:
            return None
        return f"{self.base}.{self.vlan}"

    @property
    def port(self) -> str | None:
        """What its bridge has as a port, or has its address."""
        return self.vlan_device or self.base

    @property
    def top(self) -> str | None:
        """The device that has its address."""
        return self.name if self.bridged or self.switch == OVS else self.port

    def address(self, version: int) -> str:
        """Give its address, of version 4 or 6."""
        return self.ipv4 if version == 4 else self.ipv6


@dataclasses.dataclass(frozen=True)
class Bond:
    """A bond as it is to be, or to be removed.

    Attributes:
        name: of the device.
        remove: it is to go; nothing else is said of it.
        members: all that it is to have.
        switch: see :class:`Network`.
    """

    name: str
    remove: bool = False
    members: frozenset[str] = frozenset()
    switch: str = LEGACY


@dataclasses.dataclass(frozen=True)
class SetupRequest:
    """What VDSM is to change.

    Attributes:
        networks: by their names.
        bonds: by their names.
        restores: VDSM brings back what was, at boot or after a failure.
    """

    networks: Mapping[str, Network] = dataclasses.field(default_factory=dict)
    bonds: Mapping[str, Bond] = dataclasses.field(default_factory=dict)
    restores: bool = False

    @property
    def names(self) -> dict[str, str]:
        """Every device and network that it names, and where."""
        found: dict[str, str] = {}
        for network in self.networks.values():
            found.setdefault(network.name, f"network {quoted(network.name)}")
            if network.base is not None:
                found.setdefault(network.base, f"network {quoted(network.name)}")
            if network.port is not None:
                found.setdefault(network.port, f"network {quoted(network.name)}")
        for bond in self.bonds.values():
            for name in (bond.name, *sorted(bond.members)):
                found.setdefault(name, f"bond {quoted(bond.name)}")
        return found


def quoted(name: str) -> str:
    """Put a name that came from outside into a message; VDSM's own have 15 characters."""
    return repr(name if len(name) <= 32 else f"{name[:31]}…")


def parse(data: bytes) -> SetupRequest:
    """Read what VDSM hands to before_network_setup.

    Raises:
        BadRequest: VDSM itself could make nothing of it.
    """
    try:
        request = _mapping("the request", json.loads(data).get("request"))
    # A document can be nested deeper than Python's stack.
    except (ValueError, AttributeError, RecursionError) as error:
        raise BadRequest(f"the request is not what VDSM sends ({error})", _REMEDY) from error
    options = request.get("options")
    # First of all: whatever else is wrong, to refuse this would cut the host off.
    if isinstance(options, dict) and to_bool(options.get("_inRollback")):
        return SetupRequest(restores=True)
    networks = _mapping("networks", request.get("networks"))
    bonds = _mapping("bondings", request.get("bondings"))
    return SetupRequest(
        {name: parse_network(name, attributes) for name, attributes in networks.items()},
        {name: parse_bond(name, attributes) for name, attributes in bonds.items()},
    )


def parse_network(name: str, attributes: object) -> Network:
    """Read a network's attributes, of a request or as VDSM has written them down.

    Raises:
        BadRequest: VDSM itself could make nothing of them.
    """
    what = f"network {quoted(name)}"
    given = _mapping(what, attributes)
    if to_bool(given.get("remove")):
        return Network(name, remove=True)
    return Network(
        name=name,
        base=_name(what, "nic", given) or _name(what, "bonding", given),
        vlan=_number(what, "vlan", given, None),
        bridged=to_bool(given.get("bridged", True)),
        mtu=_number(what, "mtu", given, DEFAULT_MTU) or DEFAULT_MTU,
        switch=_switch(given),
        ipv4=_ipv4(given),
        ipv6=_ipv6(given),
    )


def parse_bond(name: str, attributes: object) -> Bond:
    """Read a bond's attributes; see :func:`parse_network`."""
    what = f"bond {quoted(name)}"
    given = _mapping(what, attributes)
    if to_bool(given.get("remove")):
        return Bond(name, remove=True)
    members = given.get("nics") or ()
    if not isinstance(members, (list, tuple)) or not all(isinstance(nic, str) for nic in members):
        raise BadRequest(f"the nics of {what} are no list of names", _REMEDY)
    return Bond(name, members=frozenset(members), switch=_switch(given))


def to_bool(value: object) -> bool:
    """Read a truth value as VDSM does (lib/vdsm/common/conv.py)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() == "true":
        return True
    try:
        return bool(int(value))  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return False


def _mapping(what: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{what} is no JSON object", _REMEDY)
    return value


def _name(what: str, key: str, given: Mapping[str, Any]) -> str | None:
    value = given.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"the {key} of {what} is no name", _REMEDY)
    return value


def _number(what: str, key: str, given: Mapping[str, Any], default: int | None) -> int | None:
    value = given.get(key)
    if value is None or value == "":
        return default
    try:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(value)
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"the {key} of {what} is no number", _REMEDY) from error


def _switch(given: Mapping[str, Any]) -> str:
    custom = given.get("custom")
    if isinstance(custom, dict) and to_bool(custom.get("ovs")):
        return OVS
    return OVS if given.get("switch") == OVS else LEGACY


def _ipv4(given: Mapping[str, Any]) -> str:
    if given.get("ipaddr"):
        return _address(given["ipaddr"], given.get("netmask") or given.get("prefix"))
    return "dhcp" if given.get("bootproto") == "dhcp" else NO_ADDRESS


def _ipv6(given: Mapping[str, Any]) -> str:
    if given.get("ipv6addr"):
        return _address(given["ipv6addr"], None)
    ways = {"dhcp": given.get("dhcpv6"), "autoconf": given.get("ipv6autoconf")}
    return " ".join(way for way, wanted in ways.items() if to_bool(wanted))


def _address(address: object, mask: object) -> str:
    text = f"{address}" if mask is None else f"{address}/{mask}"
    try:
        return str(ipaddress.ip_interface(text))
    except ValueError:
        return text  # VDSM says so; it is not the address that the device has
