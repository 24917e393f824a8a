# SPDX-License-Identifier: GPL-2.0-or-later
"""What external networks stand on, on hosts on paper."""

from __future__ import annotations

import pytest

from vif_driver import marks
from vif_driver.host.neutron_agent import Underlay

from .underlay import VNIC, PaperHost


def devices(host: PaperHost) -> set[str]:
    return set(host.foundation().devices)


def test_a_host_without_tunnels_protects_nothing_but_what_is_its_own() -> None:
    host = PaperHost()
    host.address(host.nic("eth0"), "192.0.2.1/24")

    assert devices(host) == set()
    assert host.foundation().own("br-int") == "is the integration bridge of the external networks"


def test_the_chain_goes_from_the_address_to_the_nics_in_any_nesting() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.nic("eth0", "eth1", "eth2", "vnet0")
    host.change("vnet0", kind="tun")
    host.bond("bond0", "eth0", "eth1")
    host.vlan("bond0", 5, name="storage")
    host.bridge("br0", "storage", "vnet0")
    host.vlan("br0", 7)
    host.nic("mac0", kind="macvlan", parent="br0.7")
    host.address("mac0", "192.0.2.1/24")

    assert devices(host) == {"mac0", "br0.7", "br0", "storage", "bond0", "eth0", "eth1"}


def test_the_vlan_on_the_wire_is_known_through_bridges_and_bonds() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.bond("bond0", host.nic("eth0"))
    host.address(host.vlan(host.bridge("br0", "bond0"), 7), "192.0.2.1/24")

    assert host.foundation().tags("eth0") == {7}


def test_every_variant_of_the_setting_counts() -> None:
    host = PaperHost(**{"ovn-encap-ip": "192.0.2.1", "ovn-encap-ip-hv2": "192.0.2.2,2001:db8::2"})
    host.nic("eth0", "eth1", "eth2", "eth3")
    for nic, address in [
        ("eth0", "192.0.2.1/24"),
        ("eth1", "192.0.2.2/24"),
        ("eth2", "2001:db8::2/64"),
    ]:
        host.address(nic, address)

    assert devices(host) == {"eth0", "eth1", "eth2"}


@pytest.mark.parametrize(
    "text", ["", "flow", "engine", "127.0.0.1", "::", "192.0.2.99", "192.0.2.1/24"]
)
def test_what_is_no_address_of_this_host_protects_nothing(text: str) -> None:
    host = PaperHost(ovn_encap_ip=text)
    host.address(host.nic("eth0"), "192.0.2.1/24")
    host.address(host.nic("lo"), "127.0.0.1/8")

    assert devices(host) == set()


def test_tunnels_of_open_vswitch_begin_where_they_say() -> None:
    host = PaperHost()
    host.address(host.nic("eth0"), "192.0.2.1/24")
    host.ovs_port("br-tun", "vxlan-1", type="vxlan", options={"local_ip": "192.0.2.1"})

    foundation = host.foundation()

    assert foundation.describe("eth0") == "carries tunnels of Open vSwitch (local_ip 192.0.2.1)"
    assert foundation.own("vxlan-1") == "is a port of Open vSwitch (type vxlan)"


def test_an_internal_port_leads_through_its_bridge_and_patches_to_the_uplinks() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.nic("eth0", "eth1", "eth2")
    host.ovs_bridge("br-a")
    host.ovs_bridge("br-b", "eth0")
    host.patch("br-a", "br-b")
    host.ovs_port("br-a", "tunnels", type="internal", tag=9)
    host.address("tunnels", "192.0.2.1/24")

    foundation = host.foundation()

    assert set(foundation.devices) == {"tunnels", "br-a", "br-b", "eth0"}
    assert foundation.tags("eth0") == {9}


def test_the_integration_bridge_is_not_the_way_out() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.ovs_bridge("br-ex", host.nic("eth0"))
    host.patch("br-ex", "br-int")
    host.ovs_port("br-int", host.nic("probe"))
    host.address("br-ex", "192.0.2.1/24")

    assert devices(host) == {"br-ex", "eth0"}


def test_patches_in_a_ring_have_an_end() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.nic("eth0")
    for bridge in ("br-a", "br-b", "br-c"):
        host.ovs_bridge(bridge)
    host.ovs_port("br-c", "eth0")
    for one, other in [("br-a", "br-b"), ("br-b", "br-c"), ("br-c", "br-a")]:
        host.patch(one, other)
    host.address("br-a", "192.0.2.1/24")

    assert devices(host) == {"br-a", "br-b", "br-c", "eth0"}
    assert [refusal.device for refusal in host.asked({"x": {"nic": "eth0"}})] == ["eth0"]


def test_a_thousand_bridges_one_behind_the_other_are_followed() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    names = [f"br{number}" for number in range(1000)]
    for name in names:
        host.ovs_bridge(name)
    for one, other in zip(names, names[1:]):
        host.patch(one, other)
    host.ovs_port(names[-1], host.nic("eth0"))
    host.address("br0", "192.0.2.1/24")

    assert "eth0" in devices(host)
    assert [refusal.device for refusal in host.asked({"x": {"nic": "eth0"}})] == ["eth0"]


def test_a_veth_pair_is_followed_to_the_bridge_behind_it() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.nic("eth0")
    host.ovs_bridge("br-ex", "eth0")
    host.nic("veth0", kind="veth", peer="veth1")
    host.nic("veth1", kind="veth", peer="veth0")
    host.ovs_port("br-ex", "veth1")
    host.address(host.bridge("br0", "veth0"), "192.0.2.1/24")

    assert "eth0" in devices(host)


def test_the_vnics_of_vms_are_no_way_out() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.nic("eth0")
    host.ovs_bridge("br-ex", "eth0")
    host.tap(1500, bridge="br-ex")
    host.nic("vnet7", kind="tun")
    host.ovs_port("br-ex", "vnet7")
    host.address("br-ex", "192.0.2.1/24")

    assert devices(host) == {"br-ex", "eth0"}


def test_an_internal_port_of_the_userspace_datapath_is_a_tap_and_a_way_out() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.ovs_bridge("br-ex", host.nic("eth0"))
    host.ovs_port("br-ex", "inner", type="internal")
    host.change("inner", kind="tun")
    host.address(host.bridge("br0", "inner"), "192.0.2.1/24")

    assert devices(host) == {"br0", "inner", "br-ex", "eth0"}


@pytest.mark.parametrize(
    ("underlay", "settings"),
    [
        pytest.param(Underlay(), {"ovn-bridge-mappings": "physnet1:br-ex"}, id="OVN"),
        pytest.param(Underlay(), {"ovn-bridge-mappings-hv1": "p:br-x,q:br-ex"}, id="this host's"),
        pytest.param(Underlay(switches={"physnet1": "br-ex"}), {}, id="Neutron"),
    ],
)
def test_a_mapped_bridge_and_its_uplinks_are_protected(
    underlay: Underlay, settings: dict[str, str]
) -> None:
    host = PaperHost(**settings)
    host.underlay = underlay
    host.ovs_bridge("br-ex", host.nic("eth0"))

    assert devices(host) == {"br-ex", "eth0"}
    assert host.foundation().describe("eth0").startswith("is an uplink of br-ex (")


def test_a_bridge_behind_the_integration_bridge_is_mapped_wherever_that_is_written() -> None:
    host = PaperHost()
    host.ovs_bridge("br-ex", host.nic("eth0"))
    host.patch("br-int", "br-ex")

    assert devices(host) == {"br-ex", "eth0"}


def test_a_mapped_bridge_that_does_not_exist_protects_nothing() -> None:
    assert devices(PaperHost(ovn_bridge_mappings="physnet1:br-ex,broken,:")) == set()


def test_the_integration_bridge_may_have_another_name() -> None:
    host = PaperHost(ovn_bridge="br-ovn", ovn_bridge_datapath_type="netdev")
    host.ovs_bridge("br-ovn")

    assert host.foundation().integration_bridges == {"br-int", "br-ovn"}


@pytest.mark.parametrize(
    ("kinds", "address", "expected"),
    [
        ("geneve", "192.0.2.1/24", 1500 + 58),
        ("geneve", "2001:db8::1/64", 1500 + 78),
        ("vxlan", "192.0.2.1/24", 1500 + 50),
        ("vxlan,geneve", "192.0.2.1/24", 1500 + 58),
        ("", "192.0.2.1/24", 1500 + 58),
    ],
)
def test_the_largest_vnic_and_the_tunnels_overhead_make_the_needed_mtu(
    kinds: str, address: str, expected: int
) -> None:
    host = PaperHost(ovn_encap_ip=address.partition("/")[0], ovn_encap_type=kinds)
    host.address(host.vlan(host.nic("eth0"), 3, mtu=9000), address)
    host.tap(1400)
    host.tap(1500, vnic_id=VNIC.replace("3c1ad1e9", "4c1ad1e9"))
    host.nic("vnet9", kind="tun", mtu=9000)

    assert host.foundation().needed_mtu("eth0") == expected


def test_below_a_tunnels_end_no_more_is_needed_than_it_has() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.address(host.vlan(host.nic("eth0", mtu=9000), 3, mtu=1500), "192.0.2.1/24")
    host.tap(1500)

    assert host.foundation().needed_mtu("eth0") == 1500


def test_without_a_vnic_no_mtu_is_needed() -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.address(host.nic("eth0"), "192.0.2.1/24")

    assert host.foundation().needed_mtu("eth0") == 0


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("qbr3c1ad1e9-4d", "bridge", "belongs to vNIC 3c1ad1e9-4d"),
        ("qtp3c1ad1e9-4d", "tun", "belongs to vNIC"),
        ("genev_sys_6081", "geneve", "carries tunnels"),
        ("ovs-system", "openvswitch", "carries tunnels"),
        ("vxlan-12", "vxlan", "carries tunnels"),
        ("brq0a1b2c3d-00", "bridge", "is a bridge of Neutron's Linux bridge agent"),
    ],
)
def test_what_belongs_to_somebody_is_known_by_its_name(name: str, kind: str, words: str) -> None:
    host = PaperHost()
    host.nic(name, kind=kind)

    assert words in (host.foundation().own(name) or "")


def test_what_carries_our_mark_is_known_whatever_its_name() -> None:
    host = PaperHost()
    host.nic("odd", group=marks.GROUP)

    assert host.foundation().own("odd") is not None


@pytest.mark.parametrize("name", ["qbr3c1ad1e9-4d", "eth0", "tap0", "brq", "vnet0"])
def test_what_is_not_there_or_nobodys_is_not(name: str) -> None:
    host = PaperHost()
    host.nic("eth0", "tap0", "brq", "vnet0")

    assert host.foundation().own(name) is None
