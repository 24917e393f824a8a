# SPDX-License-Identifier: GPL-2.0-or-later
"""Which requests are refused, on hosts on paper; tests/lab/test_protection.py has real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import pytest

from vif_driver.host.neutron_agent import Underlay
from vif_driver.protection.known import Protected
from vif_driver.protection.policy import judge, judge_blindly, message
from vif_driver.protection.request import SetupRequest

from .underlay import PaperHost, bonds, networks

REMOVE = {"remove": True}
TUN = {
    "bonding": "bond0",
    "vlan": 100,
    "bridged": False,
    "mtu": 9000,
    "ipaddr": "192.0.2.1",
    "netmask": "255.255.255.0",
}
BRIDGED = {**TUN, "bridged": True}
DATA = {"bonding": "bond0", "vlan": 5, "mtu": 1500}
OVS_NET = {"nic": "eth0", "vlan": 100, "switch": "ovs", "ipaddr": "192.0.2.1", "prefix": 24}
MANAGEMENT = {"nic": "eth0", "ipaddr": "192.0.2.1", "prefix": 24, "mtu": 1500}
STORAGE = {"nic": "eth0", "vlan": 7, "mtu": 9000}
DUAL = {"nic": "eth0", "bridged": False, "ipv6addr": "2001:db8::1/64", "bootproto": "dhcp"}

Expected = Optional[tuple[str, str]]
Row = tuple[str, dict[str, Any], dict[str, Any], Expected]


def wide(**settings: str) -> PaperHost:
    """eth0 and eth1 in bond0, eth2 and eth4 free, and eth3 the uplink of a provider's bridge."""
    host = PaperHost(ovn_encap_ip="192.0.2.1", ovn_bridge_mappings="physnet1:br-ex", **settings)
    host.nic("eth0", "eth1", "eth2", "eth3", "eth4")
    host.bond("bond0", "eth0", "eth1", mtu=9000)
    host.running["bondings"]["bond0"] = {"nics": ["eth1", "eth0"], "switch": "legacy"}
    host.ovs_bridge("br-ex", "eth3")
    host.patch("br-int", "br-ex")
    host.tap(8900)
    return host


def on_vlan() -> PaperHost:
    """Tunnels begin on bond0.100, VDSM's network tun without a bridge; data is another VLAN."""
    host = wide()
    host.address(host.vlan("bond0", 100, mtu=9000), "192.0.2.1/24")
    host.network("tun", **TUN)
    host.bridge("data", host.vlan("bond0", 5))
    host.network("data", **DATA)
    return host


def on_bridge() -> PaperHost:
    """Tunnels begin on the bridge of VDSM's network tun, with a VM of its own on it."""
    host = wide()
    host.nic("vnet0", kind="tun")
    vlan = host.vlan("bond0", 100, mtu=9000)
    host.address(host.bridge("tun", vlan, "vnet0", mtu=9000), "192.0.2.1/24")
    host.network("tun", **BRIDGED)
    return host


def unnoted() -> PaperHost:
    """The same, and VDSM's notes cannot be read."""
    host = on_bridge()
    host.running = {"networks": {}, "bondings": {}}
    return host


def on_nic() -> PaperHost:
    """Tunnels begin on eth0 itself, by IPv6, and VDSM's network tun is there."""
    host = PaperHost(ovn_encap_ip="2001:db8::1", ovn_encap_type="geneve,vxlan")
    host.nic("eth0", "eth1", mtu=2000)
    host.address("eth0", "192.0.2.7/24", lasting=False)
    host.address("eth0", "2001:db8::1/64")
    host.tap(1500)
    host.network("tun", **DUAL, mtu=2000)
    return host


def by_hand() -> PaperHost:
    """Tunnels begin on eth0, which VDSM has no network on; the address came by DHCP."""
    host = PaperHost(ovn_encap_ip_hv1="192.0.2.1")
    host.nic("eth0", "eth1")
    host.address("eth0", "192.0.2.1/24", lasting=False)
    return host


def by_hand_on_vlan() -> PaperHost:
    """Tunnels begin on bond0.100, which VDSM has no network on; it has one on bond0.5."""
    host = wide()
    host.address(host.vlan("bond0", 100, mtu=9000), "192.0.2.1/24")
    host.bridge("data", host.vlan("bond0", 5))
    host.network("data", **DATA)
    return host


def two_ends() -> PaperHost:
    """Tunnels begin at two addresses, on eth0 and on a bridge over eth1."""
    host = PaperHost(ovn_encap_ip="192.0.2.1, 198.51.100.1")
    host.nic("eth0", "eth1", "eth2")
    host.address("eth0", "192.0.2.1/24")
    host.address(host.bridge("second", "eth1"), "198.51.100.1/24")
    host.network("first", nic="eth0", bridged=False, ipaddr="192.0.2.1", prefix="24")
    host.network("second", nic="eth1", ipaddr="198.51.100.1", netmask="255.255.255.0")
    return host


def bond_by_hand() -> PaperHost:
    """Tunnels begin on bond0, which VDSM has not made and knows nothing of."""
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.nic("eth0", "eth1", "eth4")
    host.address(host.bond("bond0", "eth0", "eth1"), "192.0.2.1/24")
    host.bridge("ovirtmgmt", "eth4")
    host.network("ovirtmgmt", nic="eth4")
    return host


def beside_storage() -> PaperHost:
    """Tunnels begin on the bridge ovirtmgmt, of 1500; below it eth0 has 9000 for VLAN 7."""
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.nic("eth0", mtu=9000)
    host.address(host.bridge("ovirtmgmt", "eth0"), "192.0.2.1/24")
    host.change("eth0", mtu=9000)
    host.bridge("storage", host.vlan("eth0", 7, mtu=9000), mtu=9000)
    host.bridge("red", host.vlan("eth0", 8))
    host.tap(1500)
    host.network("ovirtmgmt", **MANAGEMENT)
    host.network("storage", **STORAGE)
    host.network("red", nic="eth0", vlan=8, mtu=1500)
    return host


def large_by_a_neighbour() -> PaperHost:
    """Tunnels begin on eth0, which has 9000 for VLAN 7 alone: VDSM's network on it has 1500."""
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.address(host.nic("eth0", mtu=9000), "192.0.2.1/24")
    host.bridge("storage", host.vlan("eth0", 7, mtu=9000), mtu=9000)
    host.bridge("red", host.vlan("eth0", 8))
    host.tap(8900)
    host.network("ovirtmgmt", **{**MANAGEMENT, "bridged": False})
    host.network("storage", **STORAGE)
    host.network("red", nic="eth0", vlan=8, mtu=1500)
    return host


def in_ovs() -> PaperHost:
    """Tunnels begin on an internal port in VLAN 7, on a bridge whose uplinks are a bond."""
    host = PaperHost()
    host.nic("eth0", "eth1", "eth2")
    host.ovs_bridge("br-phy")
    host.ovs_port("br-phy", "tunnels", type="internal", tag=7)
    for member in ("eth0", "eth1"):
        host.ovs_port("br-phy", member, port="uplinks")
    host.address("tunnels", "192.0.2.1/24")
    options = {"local_ip": "192.0.2.1", "remote_ip": "192.0.2.2"}
    host.ovs_port("br-int", "vxlan-1", type="vxlan", options=options)
    return host


def of_vdsm_in_ovs() -> PaperHost:
    """Tunnels begin on VDSM's network tun of switch type ovs."""
    host = PaperHost(ovn_encap_ip="192.0.2.1", ovn_bridge_mappings="tun:vdsmbr_x,data:vdsmbr_x")
    host.nic("eth0", "eth1")
    host.ovs_bridge("vdsmbr_x", "eth0")
    host.ovs_port("vdsmbr_x", "tun", type="internal", tag=100)
    host.ovs_port("vdsmbr_x", "data", type="internal", tag=5)
    host.address("tun", "192.0.2.1/24")
    host.network("tun", **OVS_NET)
    host.network("data", nic="eth0", vlan=5, switch="ovs")
    return host


def of_linux_bridge() -> PaperHost:
    """Neutron's Linux bridge agent: a tunnel's end on eth0, a VLAN network on eth1, one mapped."""
    host = PaperHost()
    host.underlay = Underlay(
        interfaces={"physnet1": "eth1"},
        bridges={"physnet2": "br-flat"},
        tunnel_ends={"192.0.2.1": ("vxlan",)},
    )
    host.nic("eth0", "eth1", "eth2", "eth3")
    host.address("eth0", "192.0.2.1/24")
    host.bridge("brq0a1b2c3d-00", host.vlan("eth1", 12))
    host.bridge("br-flat", "eth2")
    return host


def passes(what: str, asked: dict[str, Any], bondings: dict[str, Any] | None = None) -> Row:
    return what, asked, bondings or {}, None


def refused(
    what: str,
    device: str,
    words: str,
    asked: dict[str, Any],
    bondings: dict[str, Any] | None = None,
) -> Row:
    return what, asked, bondings or {}, (device, words)


ROWS: dict[Callable[[], PaperHost], list[Row]] = {
    on_vlan: [
        passes("nothing at all", {}),
        passes("the same again", {"tun": TUN}),
        passes("with other words", {"tun": {**TUN, "vlan": "100", "mtu": "9000"}}),
        passes("by prefix", {"tun": {**TUN, "netmask": None, "prefix": "24"}}),
        passes("the bond again", {}, {"bond0": {"nics": ["eth0", "eth1"]}}),
        passes(
            "other bond options", {}, {"bond0": {"nics": ["eth1", "eth0"], "options": "mode=1"}}
        ),
        passes("gateway and DNS", {"tun": {**TUN, "gateway": "192.0.2.254", "nameservers": []}}),
        passes("the default route", {"tun": {**TUN, "defaultRoute": True}}),
        passes("IPv6 besides", {"tun": {**TUN, "ipv6addr": "2001:db8::1/64"}}),
        passes("an unknown attribute", {"tun": {**TUN, "colour": "green"}}),
        passes("a VLAN on the bond", {"x": {"bonding": "bond0", "vlan": 6}}),
        passes("an untagged network on the bond", {"x": {"bonding": "bond0"}}),
        passes("one without a bridge", {"x": {"bonding": "bond0", "bridged": False}}),
        passes("the other VLAN goes", {"data": REMOVE}),
        passes("the other VLAN moves", {"data": {"nic": "eth2", "vlan": 5}}),
        passes("the bond grows", {}, {"bond0": {"nics": ["eth0", "eth1", "eth2"]}}),
        passes("a member stays", {}, {"bond0": {"nics": ["eth0", "eth2"]}}),
        passes("a member goes elsewhere", {}, {"bond1": {"nics": ["eth0", "eth2"]}}),
        passes("a VLAN on the provider's uplink", {"x": {"nic": "eth3", "vlan": 9}}),
        passes("a free NIC", {"x": {"nic": "eth4", "mtu": 900}}),
        passes("free NICs in a bond", {}, {"bond1": {"nics": ["eth2", "eth4"]}}),
        passes("no such NIC", {"x": {"nic": "eth99"}}),
        passes("no such network to remove", {"nobody": REMOVE}),
        passes("no such bond to remove", {}, {"bond9": REMOVE}),
        passes("larger packets", {"tun": {**TUN, "mtu": 9100}}),
        passes("smaller ones with room to spare", {"tun": {**TUN, "mtu": 8958}}),
        passes("a bridge without a device", {"x": {}}),
        refused("it is removed", "bond0.100", "'tun' would be removed", {"tun": REMOVE}),
        refused("in other words", "bond0.100", "would be removed", {"tun": {"remove": "1"}}),
        refused("another VLAN", "bond0.100", "move to bond0.101", {"tun": {**TUN, "vlan": 101}}),
        refused("no VLAN", "bond0.100", "move to bond0", {"tun": {**TUN, "vlan": None}}),
        refused(
            "another base",
            "bond0.100",
            "would move to eth4.100",
            {"tun": {**TUN, "bonding": None, "nic": "eth4"}},
        ),
        refused("a bridge", "bond0.100", "would take bond0.100 as the port", {"tun": BRIDGED}),
        refused("switch type", "bond0.100", "legacy to ovs", {"tun": {**TUN, "switch": "ovs"}}),
        refused(
            "of the bond", "bond0", "to ovs", {}, {"bond0": {"nics": ["eth0"], "switch": "ovs"}}
        ),
        refused("another address", "bond0.100", "other", {"tun": {**TUN, "ipaddr": "192.0.2.9"}}),
        refused(
            "another prefix",
            "bond0.100",
            "other addresses than 192.0.2.1/24",
            {"tun": {**TUN, "netmask": "255.255.0.0"}},
        ),
        refused(
            "DHCP", "bond0.100", "other", {"tun": {**TUN, "ipaddr": None, "bootproto": "dhcp"}}
        ),
        refused("no address", "bond0.100", "other addresses", {"tun": {**TUN, "ipaddr": ""}}),
        refused(
            "too small",
            "bond0.100",
            "from 9000 to 8957, and tunnels need 8958",
            {"tun": {**TUN, "mtu": 8957}},
        ),
        refused("too small by default", "bond0.100", "9000 to 1500", {"tun": {**TUN, "mtu": None}}),
        refused(
            "the same VLAN twice",
            "bond0.100",
            "'x' would take bond0.100 as the port of its bridge",
            {"x": {"bonding": "bond0", "vlan": 100}},
        ),
        refused(
            "and without a bridge",
            "bond0.100",
            "'x' would give bond0.100 other addresses than 192.0.2.1/24",
            {"x": {"bonding": "bond0", "vlan": 100, "bridged": False, "mtu": 9000}},
        ),
        refused("the bond goes", "bond0", "'bond0' would be removed", {}, {"bond0": REMOVE}),
        refused(
            "all members change", "bond0", "lose eth0, so that", {}, {"bond0": {"nics": ["eth2"]}}
        ),
        refused(
            "no members", "bond0", "would keep none of its members", {}, {"bond0": {"nics": []}}
        ),
        refused(
            "all members elsewhere",
            "bond0",
            "'bond1' would take eth0, so that bond0 would keep none",
            {},
            {"bond1": {"nics": ["eth0"]}, "bond2": {"nics": ["eth1"]}},
        ),
        refused(
            "one taken, one let go",
            "bond0",
            "'x' would take eth0 as the port of its bridge, so that bond0",
            {"x": {"nic": "eth0"}},
            {"bond0": {"nics": ["eth0", "eth2"]}},
        ),
        passes("a member by that VLAN", {"x": {"nic": "eth0", "vlan": 100, "mtu": 9000}}),
        refused(
            "both members by it",
            "bond0",
            "'x' would take VLAN 100 of eth0, so that bond0 would keep none",
            {"x": {"nic": "eth0", "vlan": 100}, "y": {"nic": "eth1", "vlan": 100}},
        ),
        refused(
            "the bond in a bond", "bond0", "would take bond0", {}, {"bond1": {"nics": ["bond0"]}}
        ),
        refused(
            "the bond in OVS", "bond0", "put bond0", {"x": {"bonding": "bond0", "switch": "ovs"}}
        ),
        refused("the uplink in a bridge", "eth3", "would take eth3 as the", {"x": {"nic": "eth3"}}),
        refused(
            "the uplink used", "eth3", "address on eth3", {"x": {"nic": "eth3", "bridged": False}}
        ),
        refused(
            "the uplink in a bond", "eth3", "take eth3", {}, {"bond1": {"nics": ["eth3", "eth4"]}}
        ),
        refused("the integration bridge", "br-int", "would be made", {"br-int": {"nic": "eth4"}}),
        refused("removed as well", "br-int", "would be removed", {"br-int": REMOVE}),
        refused("on the integration bridge", "br-int", "stand on br-int", {"x": {"nic": "br-int"}}),
        refused(
            "the provider's bridge", "br-ex", "'br-ex' would be made", {"br-ex": {"nic": "eth4"}}
        ),
        refused("named like a member", "eth0", "'eth0' would be made", {"eth0": {"nic": "eth4"}}),
        refused("a patch", "br-int-br-ex", "would be made", {"br-int-br-ex": {}}),
        refused("a VM's tap", "tap3c1ad1e9-4d", "stand on", {"x": {"nic": "tap3c1ad1e9-4d"}}),
        refused(
            "in a bond", "br-int", "'bond1' would take br-int", {}, {"bond1": {"nics": ["br-int"]}}
        ),
        refused("connectivityCheck is no licence", "bond0.100", "", {"tun": REMOVE}),
    ],
    on_bridge: [
        passes("the same again", {"tun": BRIDGED}),
        passes("STP", {"tun": {**BRIDGED, "stp": True}}),
        refused("it is removed", "tun", "'tun' would be removed", {"tun": REMOVE}),
        refused("no bridge", "tun", "would not be bridged any more", {"tun": TUN}),
        refused("another VLAN", "bond0.100", "move to bond0.7", {"tun": {**BRIDGED, "vlan": 7}}),
        refused(
            "another base", "bond0.100", "", {"tun": {**BRIDGED, "bonding": "", "nic": "eth4"}}
        ),
        refused(
            "another address", "tun", "192.0.2.1/24", {"tun": {**BRIDGED, "ipaddr": "192.0.2.3"}}
        ),
        refused("its VLAN elsewhere", "bond0.100", "as the port", {"x": {**BRIDGED, "ipaddr": ""}}),
        passes("untagged besides", {"x": {"bonding": "bond0", "bridged": False}}),
        refused(
            "too small",
            "bond0.100",
            "MTU of bond0.100 from 9000",
            {"tun": {**BRIDGED, "mtu": 1500}},
        ),
    ],
    unnoted: [
        passes("the same again", {"tun": BRIDGED}, {"bond0": {"nics": ["eth0", "eth1"]}}),
        refused("it is removed", "tun", "'tun' would be removed", {"tun": REMOVE}),
        refused("no bridge", "tun", "would not be bridged any more", {"tun": TUN}),
        refused("another VLAN", "bond0.100", "move to bond0.7", {"tun": {**BRIDGED, "vlan": 7}}),
        refused(
            "another address", "tun", "192.0.2.1/24", {"tun": {**BRIDGED, "ipaddr": "192.0.2.3"}}
        ),
        refused("DHCP", "tun", "other", {"tun": {**BRIDGED, "ipaddr": "", "bootproto": "dhcp"}}),
    ],
    on_nic: [
        passes("the same again", {"tun": {**DUAL, "mtu": 2000}}),
        passes(
            "the other version",
            {"tun": {**DUAL, "mtu": 2000, "bootproto": "none", "ipaddr": "10.0.0.1", "prefix": 8}},
        ),
        passes("a VLAN besides", {"x": {"nic": "eth0", "vlan": 4, "mtu": 2000}}),
        refused(
            "another address", "eth0", "other", {"tun": {**DUAL, "ipv6addr": "2001:db8::2/64"}}
        ),
        refused(
            "by a router",
            "eth0",
            "other addresses than 2001:db8::1/64",
            {"tun": {**DUAL, "ipv6addr": None, "ipv6autoconf": True}},
        ),
        refused(
            "a bridge", "eth0", "would take eth0 as the port", {"tun": {**DUAL, "bridged": True}}
        ),
        refused("a bridge of another", "eth0", "'x' would take eth0", {"x": {"nic": "eth0"}}),
        refused(
            "with the same address",
            "eth0",
            "'x' would take eth0",
            {"x": {"nic": "eth0", "ipv6addr": "2001:db8::1/64", "mtu": 2000}},
        ),
        refused(
            "a bond", "eth0", "'bond1' would take eth0", {}, {"bond1": {"nics": ["eth0", "eth1"]}}
        ),
        refused(
            "Open vSwitch", "eth0", "bridge of", {"x": {"nic": "eth0", "vlan": 9, "switch": "ovs"}}
        ),
        refused("removed", "eth0", "'tun' would be removed", {"tun": REMOVE}),
        refused(
            "moved", "eth0", "would move to eth1", {"tun": {**DUAL, "nic": "eth1", "mtu": 2000}}
        ),
        refused(
            "VDSM takes the MTU of the last network that comes",
            "eth0",
            "from 2000 to 1500, and tunnels need 1578",
            {"x": {"nic": "eth0", "vlan": 4, "mtu": 1500}},
        ),
    ],
    by_hand: [
        passes(
            "taken over as it is", {"x": {"nic": "eth0", "bridged": False, "bootproto": "dhcp"}}
        ),
        passes(
            "taken over with the address",
            {"x": {"nic": "eth0", "bridged": False, "ipaddr": "192.0.2.1", "prefix": 24}},
        ),
        refused(
            "without", "eth0", "other addresses than", {"x": {"nic": "eth0", "bridged": False}}
        ),
        passes(
            "the management network of a host that is added",
            {"ovirtmgmt": {"nic": "eth0", "bootproto": "dhcp", "defaultRoute": True}},
        ),
        passes(
            "with a static address",
            {"ovirtmgmt": {"nic": "eth0", "ipaddr": "192.0.2.1", "netmask": "255.255.255.0"}},
        ),
        passes(
            "in Open vSwitch",
            {"ovirtmgmt": {"nic": "eth0", "bootproto": "dhcp", "switch": "ovs"}},
        ),
        refused("with another address", "eth0", "as the port", {"ovirtmgmt": {"nic": "eth0"}}),
        refused(
            "with the other version's",
            "eth0",
            "as the port",
            {"ovirtmgmt": {"nic": "eth0", "dhcpv6": True, "ipv6autoconf": True}},
        ),
        refused(
            "in a VLAN of Open vSwitch's",
            "eth0",
            "into a bridge of Open",
            {"ovirtmgmt": {"nic": "eth0", "vlan": 4, "bootproto": "dhcp", "switch": "ovs"}},
        ),
        passes("no vNIC needs any MTU", {"x": {"nic": "eth0", "vlan": 3, "mtu": 900}}),
    ],
    by_hand_on_vlan: [
        passes("the management network of a host that is added", {"ovirtmgmt": BRIDGED}),
        refused(
            "with another address",
            "bond0.100",
            "as the port",
            {"ovirtmgmt": {**BRIDGED, "ipaddr": "192.0.2.7"}},
        ),
        refused(
            "a network of VDSM's that comes here",
            "bond0.100",
            "'data' would take bond0.100 as the port",
            {"data": BRIDGED},
        ),
    ],
    two_ends: [
        refused("the first", "eth0", "'first' would be removed", {"first": REMOVE}),
        refused("the second", "second", "'second' would be removed", {"second": REMOVE}),
        passes("the third is nobody's", {"x": {"nic": "eth2"}}),
        refused(
            "below the second", "eth1", "would take eth1", {}, {"bond1": {"nics": ["eth1", "eth2"]}}
        ),
    ],
    bond_by_hand: [
        refused(
            "VDSM takes it over for a VLAN",
            "bond0",
            "bond 'bond0', new to VDSM, would lose its addresses",
            {"x": {"bonding": "bond0", "vlan": 5}},
            {"bond0": {"nics": ["eth0", "eth1"]}},
        ),
        refused(
            "for other options",
            "bond0",
            "lose its addresses",
            {},
            {"bond0": {"nics": ["eth0", "eth1"], "options": "mode=1"}},
        ),
        refused(
            "for a network with another address",
            "bond0",
            "other addresses than 192.0.2.1/24",
            {"x": {"bonding": "bond0", "bridged": False, "ipaddr": "192.0.2.2", "prefix": 24}},
            {"bond0": {"nics": ["eth0", "eth1"]}},
        ),
        passes(
            "for one with its address",
            {"x": {"bonding": "bond0", "bridged": False, "ipaddr": "192.0.2.1", "prefix": 24}},
            {"bond0": {"nics": ["eth0", "eth1"]}},
        ),
        passes("another NIC's VLAN", {"x": {"nic": "eth4", "vlan": 5}}),
    ],
    beside_storage: [
        passes("what made eth0 large goes", {"storage": REMOVE}),
        passes("becomes as small as the bridge", {"storage": {**STORAGE, "mtu": 1500}}),
        refused(
            "the bridge becomes smaller",
            "ovirtmgmt",
            "from 1500 to 1400, and tunnels need 1500",
            {"ovirtmgmt": {**MANAGEMENT, "mtu": 1400}},
        ),
    ],
    large_by_a_neighbour: [
        refused("that goes", "eth0", "from 9000 to 1500", {"storage": REMOVE}),
        refused(
            "while another is repeated",
            "eth0",
            "from 9000 to 1500",
            {"storage": REMOVE, "ovirtmgmt": {**MANAGEMENT, "bridged": False}},
        ),
        passes("another goes", {"red": REMOVE}),
    ],
    in_ovs: [
        passes("one uplink of two", {"x": {"nic": "eth0"}}),
        refused(
            "both", "uplinks", "keep none of its", {"x": {"nic": "eth0"}, "y": {"nic": "eth1"}}
        ),
        passes("another VLAN of both", {}),
        refused(
            "its VLAN of both",
            "uplinks",
            "'x' would take VLAN 7 of eth0",
            {"x": {"nic": "eth0", "vlan": 7}, "y": {"nic": "eth1", "vlan": 7}},
        ),
        refused("named like the port", "tunnels", "other addresses", {"tunnels": {"nic": "eth2"}}),
        refused(
            "named like the bond", "uplinks", "would be made", {}, {"uplinks": {"nics": ["eth2"]}}
        ),
        refused("the tunnel", "vxlan-1", "would be made", {"vxlan-1": {"nic": "eth2"}}),
    ],
    of_vdsm_in_ovs: [
        passes("the same again", {"tun": OVS_NET}),
        passes("another network", {"x": {"nic": "eth0", "vlan": 6, "switch": "ovs"}}),
        passes("the other one goes", {"data": REMOVE}),
        refused("removed", "tun", "'tun' would be removed", {"tun": REMOVE}),
        refused("another VLAN", "tun", "would move to eth0", {"tun": {**OVS_NET, "vlan": 7}}),
        refused("another NIC", "tun", "would move to eth1", {"tun": {**OVS_NET, "nic": "eth1"}}),
        refused("another address", "tun", "other", {"tun": {**OVS_NET, "ipaddr": "192.0.2.2"}}),
        refused("legacy", "tun", "from switch type ovs", {"tun": {**OVS_NET, "switch": "legacy"}}),
        refused(
            "its VLAN again", "eth0", "take VLAN 100 of eth0", {"x": {**OVS_NET, "ipaddr": None}}
        ),
        refused(
            "the NIC in a bond",
            "eth0",
            "would take eth0",
            {},
            {"bond1": {"nics": ["eth0", "eth1"]}},
        ),
    ],
    of_linux_bridge: [
        refused("the tunnel's NIC", "eth0", "would take eth0 as the port", {"x": {"nic": "eth0"}}),
        refused("the VLANs' NIC", "eth1", "would take eth1 as the port", {"x": {"nic": "eth1"}}),
        passes("another VLAN", {"x": {"nic": "eth1", "vlan": 13}}),
        refused(
            "the same VLAN", "eth1.12", "as the port of its", {"x": {"nic": "eth1", "vlan": 12}}
        ),
        refused("the agent's bridge", "brq0a1b2c3d-00", "would be made", {"brq0a1b2c3d-00": {}}),
        refused("the mapped bridge", "br-flat", "'br-flat' would be removed", {"br-flat": REMOVE}),
        refused("its NIC", "eth2", "would take eth2 as the port", {"x": {"nic": "eth2"}}),
        passes("none of its", {"x": {"nic": "eth3"}}),
    ],
}


@pytest.mark.parametrize(
    ("made", "asked", "bondings", "expected"),
    [
        pytest.param(made, asked, bondings, expected, id=f"{made.__name__}: {what}")
        for made, rows in ROWS.items()
        for what, asked, bondings, expected in rows
    ],
)
def test_what_is_refused(
    made: Callable[[], PaperHost],
    asked: dict[str, Any],
    bondings: dict[str, Any],
    expected: Expected,
) -> None:
    refusals = made().asked(asked, bondings)

    if expected is None:
        assert [str(refusal) for refusal in refusals] == []
    else:
        assert refusals, "it passes"
        assert (refusals[0].device, expected[1] in refusals[0].change) == (expected[0], True), [
            str(refusal) for refusal in refusals
        ]


def test_a_restoration_passes_whatever_it_does() -> None:
    host = on_vlan()
    request = SetupRequest(networks({"tun": REMOVE}), restores=True)

    assert judge(request, host.notes(), host.foundation()) == []


def test_the_line_says_which_device_what_it_carries_what_would_happen_and_what_to_do() -> None:
    refusals = on_vlan().asked({"tun": REMOVE})

    assert message(refusals) == (
        "setupNetworks refused: network 'tun' would be removed, but bond0.100 carries this host's "
        "OVN tunnels (ovn-encap-ip 192.0.2.1); to do it deliberately: vifctl protect "
        "--allow bond0.100 --for 10m"
    )


def test_several_reasons_are_counted_and_all_their_devices_named() -> None:
    refusals = on_vlan().asked({"tun": {**TUN, "mtu": 1500}, "x": {"nic": "eth3"}})

    line = message(refusals)

    assert line.endswith(
        ", and 2 more; to do it deliberately: vifctl protect "
        "--allow eth3 --allow bond0.100 --allow bond0 --for 10m"
    )


def test_a_device_that_carries_several_things_says_so() -> None:
    host = wide()
    host.address("eth3", "192.0.2.1/24")

    (refusal,) = host.asked({"x": {"nic": "eth3"}})

    assert refusal.protected == (
        "carries this host's OVN tunnels (ovn-encap-ip 192.0.2.1) and is an uplink of br-ex "
        "(ovn-bridge-mappings physnet1:br-ex)"
    )


# ---- while the host cannot be looked at ----------------------------------------------------------


SEEN = Protected({"bond0": "carries tunnels", "br-int": "is a bridge"}, {"tun": "bond0.100"})


@pytest.mark.parametrize(
    ("asked", "bondings", "devices"),
    [
        pytest.param({"tun": REMOVE}, {}, ["bond0.100"], id="its network"),
        pytest.param({"tun": TUN}, {}, [], id="the same again"),
        pytest.param({"x": {"bonding": "bond0", "vlan": 6}}, {}, ["bond0"], id="on its device"),
        pytest.param({}, {"bond0": {"nics": ["eth0", "eth1", "eth2"]}}, ["bond0"], id="its bond"),
        pytest.param({}, {"bond0": {"nics": ["eth0", "eth1"]}}, [], id="the same bond again"),
        pytest.param({"br-int": {}}, {}, ["br-int"], id="its name"),
        pytest.param({"x": {"nic": "eth3"}}, {"bond1": {"nics": ["eth4"]}}, [], id="the rest"),
    ],
)
def test_what_names_a_device_that_was_protected_is_refused(
    asked: dict[str, Any], bondings: dict[str, Any], devices: list[str]
) -> None:
    host = on_vlan()

    refusals = judge_blindly(SetupRequest(networks(asked), bonds(bondings)), host.notes(), SEEN)

    assert [refusal.device for refusal in refusals] == devices
