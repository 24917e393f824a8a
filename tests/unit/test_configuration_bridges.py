# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges that agents expect are made, and taken back if nobody uses them."""

from __future__ import annotations

import dataclasses
import ipaddress
import subprocess

import pytest

from vif_driver.configuration.bridges import MADE_FOR, BridgeThere, UplinkThere
from vif_driver.host import ovs_bridges, snapshot, switch
from vif_driver.host.ovs_bridges import Bridge
from vif_driver.host.snapshot import Address, Snapshot
from vif_driver.host.switch import Switch, SwitchInterface

OURS = Bridge(fail_mode="secure", external_ids={MADE_FOR: "neutron"})
THEIRS = Bridge(ports=("eth0",))


class OpenVSwitch:
    """Of paper.

    Attributes:
        bridges: those it has.
        vnics: ports of VMs, by their bridges.
        addresses: the host's.
    """

    def __init__(self) -> None:
        self.bridges: dict[str, Bridge] = {}
        self.vnics: dict[str, str] = {}
        self.addresses: tuple[Address, ...] = ()

    def look(self) -> dict[str, Bridge]:
        return dict(self.bridges)

    def add(self, name: str, bridge: Bridge) -> None:
        self.bridges.setdefault(name, bridge)

    def remove(self, name: str) -> None:
        self.bridges.pop(name, None)

    def add_uplink(self, bridge: str, device: str) -> None:
        ports = (*self.bridges[bridge].ports, device)
        self.bridges[bridge] = dataclasses.replace(self.bridges[bridge], ports=ports)

    def remove_uplink(self, bridge: str, device: str) -> None:
        ports = tuple(port for port in self.bridges[bridge].ports if port != device)
        self.bridges[bridge] = dataclasses.replace(self.bridges[bridge], ports=ports)

    def read_once(self, _timeout: float) -> Switch:
        ports = [
            SwitchInterface(port, "", port, name)
            for name, bridge in self.bridges.items()
            for port in bridge.ports
        ]
        vnics = [
            SwitchInterface("tap", "", "tap", bridge, vnic_id=vnic)
            for bridge, vnic in self.vnics.items()
        ]
        return Switch(interfaces=[*ports, *vnics])

    def take(self) -> Snapshot:
        return Snapshot(addresses=self.addresses)


@pytest.fixture
def ovs(monkeypatch: pytest.MonkeyPatch) -> OpenVSwitch:
    ovs = OpenVSwitch()
    for name in ("look", "add", "remove", "add_uplink", "remove_uplink"):
        monkeypatch.setattr(ovs_bridges, name, getattr(ovs, name))
    monkeypatch.setattr(switch, "read_once", ovs.read_once)
    monkeypatch.setattr(snapshot, "take", ovs.take)
    return ovs


def test_a_bridge_is_made_and_taken_back(ovs: OpenVSwitch) -> None:
    change = BridgeThere("br-int", OURS)
    before = change.before()

    change.make()

    assert ovs.bridges == {"br-int": OURS}
    assert change.facts()[0].is_so
    assert BridgeThere.take_back(before) is None
    assert not ovs.bridges


def test_a_bridge_that_is_there_stays_as_it_is(ovs: OpenVSwitch) -> None:
    ovs.bridges["br-ex"] = THEIRS
    change = BridgeThere("br-ex", OURS)

    assert [fact.is_so for fact in change.facts()] == [True]
    assert BridgeThere.take_back(change.before()) is None
    assert ovs.bridges == {"br-ex": THEIRS}


def test_a_bridge_that_somebody_else_made_meanwhile_is_not_taken_back(ovs: OpenVSwitch) -> None:
    before = BridgeThere("br-ex", OURS).before()
    ovs.bridges["br-ex"] = THEIRS

    assert BridgeThere.take_back(before) == "bridge br-ex stays: somebody else made it"
    assert ovs.bridges == {"br-ex": THEIRS}


def test_a_bridge_that_a_vm_uses_is_not_taken_back(ovs: OpenVSwitch) -> None:
    change = BridgeThere("br-int", OURS)
    before = change.before()
    change.make()
    ovs.vnics["br-int"] = "3c1ad1e9"

    assert BridgeThere.take_back(before) == "bridge br-int stays: vNIC 3c1ad1e9 is on it"
    assert "br-int" in ovs.bridges


def test_a_bridge_that_somebody_else_uses_is_not_taken_back(ovs: OpenVSwitch) -> None:
    change = BridgeThere("br-ex", OURS)
    before = change.before()
    change.make()
    ovs.add_uplink("br-ex", "eth1")

    assert BridgeThere.take_back(before) == "bridge br-ex stays: eth1 is on it"
    assert "br-ex" in ovs.bridges


def test_nor_are_a_bridge_and_an_uplink_that_the_host_is_reached_by(ovs: OpenVSwitch) -> None:
    bridge = BridgeThere("br-ex", OURS)
    of_bridge = bridge.before()
    bridge.make()
    uplink = UplinkThere("br-ex", "eth1")
    of_uplink = uplink.before()
    uplink.make()
    ovs.addresses = (Address(ipaddress.ip_address("192.0.2.1"), 24, "br-ex", lasting=True),)

    told = [UplinkThere.take_back(of_uplink), BridgeThere.take_back(of_bridge)]

    assert told == [
        "eth1 stays on bridge br-ex: 192.0.2.1 of this host is on it",
        "bridge br-ex stays: eth1 is on it",
    ]
    assert ovs.bridges["br-ex"].ports == ("eth1",)


def test_a_removed_bridge_comes_back_as_it_was(ovs: OpenVSwitch) -> None:
    ovs.bridges["br-int"] = OURS
    change = BridgeThere("br-int", None)
    before = change.before()

    change.make()

    assert not ovs.bridges
    BridgeThere.take_back(before)
    assert ovs.bridges == {"br-int": OURS}


@pytest.mark.parametrize("is_wanted", [True, False])
def test_an_uplink_is_changed_and_taken_back(ovs: OpenVSwitch, is_wanted: bool) -> None:
    ports = () if is_wanted else ("eth1",)
    ovs.bridges["br-ex"] = Bridge(ports=ports)
    change = UplinkThere("br-ex", "eth1", is_wanted=is_wanted)
    before = change.before()

    change.make()

    assert ("eth1" in ovs.bridges["br-ex"].ports) == is_wanted
    assert change.facts()[0].is_so
    UplinkThere.take_back(before)
    assert ovs.bridges["br-ex"].ports == ports


def test_an_uplink_whose_bridge_is_gone_needs_no_taking_back(ovs: OpenVSwitch) -> None:
    ovs.bridges["br-ex"] = Bridge()
    change = UplinkThere("br-ex", "eth1")
    before = change.before()
    change.make()
    del ovs.bridges["br-ex"]

    assert UplinkThere.take_back(before) is None


def test_what_others_have_written_into_a_bridge_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []

    def run(command: list[str], **_more: object) -> subprocess.CompletedProcess[str]:
        told.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)

    ovs_bridges.add("br-ex", Bridge(datapath_type="netdev", external_ids={"a:b": 'c, "d"=[]'}))

    assert told[0][-3:] == ["br-ex", 'datapath_type="netdev"', r'external_ids:"a:b"="c, \"d\"=[]"']
