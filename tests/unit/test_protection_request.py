# SPDX-License-Identifier: GPL-2.0-or-later
"""What a setupNetworks request says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vif_driver.errors import BadRequest
from vif_driver.protection.request import (
    Bond,
    Network,
    SetupRequest,
    parse,
    parse_network,
    quoted,
    to_bool,
)


def asked(**parts: Any) -> bytes:
    return json.dumps({"request": parts}).encode()


def test_a_network_that_says_nothing_has_vdsms_defaults() -> None:
    request = parse(asked(networks={"net1": {"nic": "eth0"}}))

    assert request.networks == {
        "net1": Network("net1", base="eth0", vlan=None, bridged=True, mtu=1500, switch="legacy")
    }


def test_everything_about_a_network_is_read() -> None:
    attributes = {
        "bonding": "bond0",
        "vlan": "12",
        "bridged": "false",
        "mtu": "9000",
        "switch": "ovs",
        "ipaddr": "192.0.2.1",
        "netmask": "255.255.255.0",
        "ipv6addr": "2001:DB8:0::1/64",
    }

    network = parse_network("net1", attributes)

    assert network == Network(
        "net1",
        base="bond0",
        vlan=12,
        bridged=False,
        mtu=9000,
        switch="ovs",
        ipv4="192.0.2.1/24",
        ipv6="2001:db8::1/64",
    )


def test_a_bond_has_all_its_members() -> None:
    request = parse(asked(bondings={"bond0": {"nics": ["eth1", "eth0"], "options": "mode=4"}}))

    assert request.bonds == {"bond0": Bond("bond0", members=frozenset(("eth0", "eth1")))}


def test_what_is_to_be_removed_says_nothing_else() -> None:
    request = parse(asked(networks={"a": {"remove": True}}, bondings={"b": {"remove": "1"}}))

    assert request.networks == {"a": Network("a", remove=True)}
    assert request.bonds == {"b": Bond("b", remove=True)}


def test_what_says_that_it_is_not_to_be_removed_is_not() -> None:
    assert not parse_network("a", {"nic": "eth0", "remove": False}).remove


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param({"bootproto": "dhcp"}, ("dhcp", ""), id="DHCP"),
        pytest.param({"bootproto": "none"}, ("", ""), id="nothing"),
        pytest.param({"ipaddr": "192.0.2.1", "prefix": "24"}, ("192.0.2.1/24", ""), id="prefix"),
        pytest.param({"dhcpv6": "1"}, ("", "dhcp"), id="DHCPv6"),
        pytest.param({"dhcpv6": True, "ipv6autoconf": True}, ("", "dhcp autoconf"), id="both"),
        pytest.param({"ipv6addr": "::1", "ipv6autoconf": 1}, ("", "::1/128"), id="static first"),
        pytest.param({"ipaddr": "engine", "netmask": "?"}, ("engine/?", ""), id="no address"),
        pytest.param({"ipaddr": "", "ipv6addr": ""}, ("", ""), id="empty"),
    ],
)
def test_addresses_have_one_form(attributes: dict[str, Any], expected: tuple[str, str]) -> None:
    network = parse_network("net1", {"nic": "eth0", **attributes})

    assert (network.ipv4, network.ipv6) == expected


def test_the_older_word_for_open_vswitch_is_understood() -> None:
    assert parse_network("net1", {"nic": "eth0", "custom": {"ovs": "True"}}).switch == "ovs"


@pytest.mark.parametrize(
    ("attributes", "vlan_device", "top"),
    [
        pytest.param({"nic": "eth0"}, None, "net1", id="a bridge"),
        pytest.param({"nic": "eth0", "bridged": False}, None, "eth0", id="the NIC"),
        pytest.param({"nic": "eth0", "vlan": 5}, "eth0.5", "net1", id="a bridge on a VLAN"),
        pytest.param({"nic": "eth0", "vlan": 0, "bridged": 0}, "eth0.0", "eth0.0", id="VLAN 0"),
        pytest.param({"nic": "eth0", "vlan": 5, "switch": "ovs"}, None, "net1", id="in OVS"),
        pytest.param({"bridged": False}, None, None, id="nothing at all"),
    ],
)
def test_the_devices_of_a_network_are_known(
    attributes: dict[str, Any], vlan_device: str | None, top: str | None
) -> None:
    network = parse_network("net1", attributes)

    assert (network.vlan_device, network.top) == (vlan_device, top)


# ---- restoration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, 1, "true", "True", "1"])
def test_a_restoration_is_known_by_its_option(value: object) -> None:
    assert parse(asked(networks={}, options={"_inRollback": value})).restores


@pytest.mark.parametrize("value", [False, 0, "false", "", None, [], {}])
def test_any_other_value_is_none(value: object) -> None:
    assert not parse(asked(networks={}, options={"_inRollback": value})).restores


def test_it_is_one_whatever_else_is_wrong() -> None:
    request = parse(asked(networks=[1, 2], bondings="?", options={"_inRollback": True}))

    assert request == SetupRequest(restores=True)


def test_the_option_is_none_among_the_networks() -> None:
    networks = {"_inRollback": {"nic": "eth0", "_inRollback": True}}

    assert not parse(asked(networks=networks, options={})).restores


# ---- what VDSM could make nothing of -------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "is not what VDSM sends", id="empty"),
        pytest.param(b"{", "is not what VDSM sends", id="half"),
        pytest.param(b"\xff", "is not what VDSM sends", id="no UTF-8"),
        pytest.param(b"[]", "is not what VDSM sends", id="a list"),
        pytest.param(b"[" * 100_000, "is not what VDSM sends", id="absurdly deep"),
        pytest.param(b'{"request": 7}', "the request is no JSON object", id="a number"),
        pytest.param(asked(networks=[]), "networks is no JSON object", id="networks"),
        pytest.param(asked(bondings="?"), "bondings is no JSON object", id="bondings"),
        pytest.param(asked(networks={"a": []}), "network 'a' is no JSON object", id="a network"),
        pytest.param(asked(networks={"a": {"nic": 1}}), "the nic of network 'a'", id="a nic"),
        pytest.param(asked(networks={"a": {"vlan": "x"}}), "the vlan of network 'a'", id="a VLAN"),
        pytest.param(asked(networks={"a": {"mtu": 1.5}}), "the mtu of network 'a'", id="an MTU"),
        pytest.param(asked(bondings={"b": {"nics": "eth0"}}), "the nics of bond 'b'", id="nics"),
        pytest.param(asked(bondings={"b": {"nics": [1]}}), "the nics of bond 'b'", id="no names"),
    ],
)
def test_what_has_no_meaning_is_said(data: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        parse(data)


def test_what_is_missing_is_not_asked_for() -> None:
    assert parse(b'{"request": {"networks": null}}') == SetupRequest()


def test_a_name_in_a_message_is_short_and_quoted() -> None:
    assert quoted("x" * 100) == f"'{'x' * 31}…'"
    assert quoted("a'b\n") == '"a\'b\\n"'


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), "9" * 5000, object()])
def test_odd_truth_values_do_no_harm(value: object) -> None:
    assert to_bool(value) in (True, False)
