# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from vif_driver import attachments
from vif_driver.attachments.base import Undo
from vif_driver.config import Config, FirewallDriver, LinuxBridgePlug
from vif_driver.errors import HostError
from vif_driver.host import Host, neutron_agent
from vif_driver.interface_xml import Connection
from vif_driver.vnic import Plugin, SecurityGroups, Vnic

from .conftest import MAC, VM_ID, VNIC_ID

HYBRID_FIREWALL = Config(firewall_driver=FirewallDriver.IPTABLES_HYBRID)
OVS_FIREWALL = Config(firewall_driver=FirewallDriver.OPENVSWITCH)


def a_vnic(plugin: Plugin, groups: SecurityGroups = SecurityGroups.DEFAULT) -> Vnic:
    return Vnic(VNIC_ID, plugin, VM_ID, MAC, groups)


def chosen(subject: Vnic, config: Config) -> str:
    return attachments.choose(subject, config, Host()).name


@pytest.mark.parametrize("plugin", [Plugin.OVIRT_PROVIDER_OVN, Plugin.OPENSTACK_OVN])
def test_ovns_vnics_are_plugged_for_ovn(plugin: Plugin) -> None:
    assert chosen(a_vnic(plugin), Config()) == "ovn"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (SecurityGroups.DEFAULT, "ovs_hybrid"),
        (SecurityGroups.LISTED, "ovs_hybrid"),
        (SecurityGroups.NONE, "ovs"),
    ],
)
def test_with_iptables_a_vnic_with_security_groups_gets_a_linux_bridge(
    groups: SecurityGroups, expected: str
) -> None:
    assert chosen(a_vnic(Plugin.OPEN_VSWITCH, groups), HYBRID_FIREWALL) == expected


@pytest.mark.parametrize("groups", list(SecurityGroups))
def test_with_the_openvswitch_firewall_no_vnic_gets_a_linux_bridge(groups: SecurityGroups) -> None:
    assert chosen(a_vnic(Plugin.OPEN_VSWITCH, groups), OVS_FIREWALL) == "ovs"


def test_which_security_groups_need_a_linux_bridge_can_be_set() -> None:
    config = dataclasses.replace(
        HYBRID_FIREWALL, hybrid_security_groups=frozenset([SecurityGroups.LISTED])
    )

    assert chosen(a_vnic(Plugin.OPEN_VSWITCH, SecurityGroups.DEFAULT), config) == "ovs"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, "ovs_hybrid"),
        ("", "ovs_hybrid"),
        ("firewall_driver = iptables_hybrid", "ovs_hybrid"),
        ("firewall_driver = neutron.agent.firewall.NoopFirewallDriver", "ovs"),
        ("firewall_driver = openvswitch", "ovs"),
        ("#firewall_driver = openvswitch", "ovs_hybrid"),
        ("firewall_driver = some.OtherDriver", "ovs_hybrid"),
    ],
)
def test_by_default_neutrons_agent_decides_and_in_doubt_the_vnic_is_filtered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, expected: str
) -> None:
    file = tmp_path / "plugins/ml2/openvswitch_agent.ini"
    file.parent.mkdir(parents=True)
    if written is not None:
        file.write_text(f"[DEFAULT]\ndebug = 50%\n[securitygroup]\n{written}\n")
    read = neutron_agent.firewall_driver
    monkeypatch.setattr(neutron_agent, "firewall_driver", lambda: read(tmp_path))

    assert chosen(a_vnic(Plugin.OPEN_VSWITCH), Config()) == expected


def test_a_later_file_of_neutrons_wins_over_an_earlier_one(tmp_path: Path) -> None:
    for name, driver in [
        ("plugins/ml2/openvswitch_agent.ini", "openvswitch"),
        ("conf.d/neutron-openvswitch-agent/site.conf", "iptables_hybrid"),
    ]:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"[securitygroup]\nfirewall_driver = {driver}\n")

    assert neutron_agent.firewall_driver(tmp_path) == "iptables_hybrid"


def test_a_file_of_neutrons_that_cannot_be_read_leaves_the_driver_unknown(tmp_path: Path) -> None:
    file = tmp_path / "plugins/ml2/openvswitch_agent.ini"
    file.parent.mkdir(parents=True)
    file.write_text("[securitygroup]\nfirewall_driver = openvswitch\n")
    (tmp_path / "conf.d/neutron-openvswitch-agent/site.conf").mkdir(parents=True)

    assert neutron_agent.firewall_driver(tmp_path) is None


def test_an_open_vswitch_port_begins_in_the_dead_vlan() -> None:
    subject = a_vnic(Plugin.OPEN_VSWITCH)

    connection = attachments.choose(subject, OVS_FIREWALL, Host()).connection(subject)

    assert connection == Connection("br-int", "tap3c1ad1e9-4d", VNIC_ID, dead_vlan=True)


def test_an_ovn_port_has_no_vlan() -> None:
    subject = a_vnic(Plugin.OVIRT_PROVIDER_OVN)

    connection = attachments.choose(subject, Config(), Host()).connection(subject)

    assert connection == Connection("br-int", "tap3c1ad1e9-4d", VNIC_ID)


def test_a_hybrid_vnic_is_on_its_own_bridge_by_the_name_that_the_rules_match() -> None:
    subject = a_vnic(Plugin.OPEN_VSWITCH)

    connection = attachments.choose(subject, HYBRID_FIREWALL, Host()).connection(subject)

    assert connection == Connection("qbr3c1ad1e9-4d", "tap3c1ad1e9-4d")


def test_a_linux_bridge_guest_leaves_the_taps_name_to_the_device_that_the_agent_finds() -> None:
    subject = a_vnic(Plugin.LINUX_BRIDGE)

    connection = attachments.choose(subject, Config(), Host()).connection(subject)

    assert connection == Connection("qbr3c1ad1e9-4d", "qtp3c1ad1e9-4d")


def test_the_dummy_bridge_is_used_only_where_it_is_asked_for() -> None:
    subject = a_vnic(Plugin.LINUX_BRIDGE)
    config = Config(linux_bridge_plug=LinuxBridgePlug.DUMMY_BRIDGE)

    connection = attachments.choose(subject, config, Host()).connection(subject)

    assert connection == Connection(";vdsmdummy;", "tap3c1ad1e9-4d")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (set(), []),
        ({"tap"}, ["ovs"]),
        ({"tap", "qbr", "qvb", "qvo"}, ["ovs_hybrid", "ovs"]),
        ({"qvb", "qvo"}, ["ovs_hybrid"]),
    ],
)
def test_what_a_vnic_was_plugged_with_is_told_by_what_is_there(
    devices: set[str], there: set[str], expected: list[str]
) -> None:
    devices |= {prefix + VNIC_ID[:11] for prefix in there}

    found = attachments.found(a_vnic(Plugin.OPEN_VSWITCH), OVS_FIREWALL, Host())

    assert [way.name for way in found] == expected


def test_undo_takes_back_last_first_and_goes_on_when_a_step_fails() -> None:
    taken_back: list[str] = []

    async def step(name: str) -> None:
        taken_back.append(name)
        if name == "second":
            raise HostError("gone", "nothing")

    async def scenario() -> None:
        async with Undo() as undo:
            for name in ("first", "second", "third"):
                undo.on_failure(name, lambda name=name: step(name))  # type: ignore[misc]
            raise KeyError("the reason")

    with pytest.raises(KeyError, match="the reason"):
        asyncio.run(scenario())

    assert taken_back == ["third", "second", "first"]


def test_undo_takes_nothing_back_when_all_went_well() -> None:
    async def never() -> None:
        raise AssertionError

    async def scenario() -> None:
        async with Undo() as undo:
            undo.on_failure("first", never)

    asyncio.run(scenario())
