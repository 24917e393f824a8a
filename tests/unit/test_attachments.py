# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from vif_driver import attachments
from vif_driver.attachments.base import Attachment, Undo
from vif_driver.attachments.ovs import OvsAttachment
from vif_driver.attachments.ovs_hybrid import OvsHybridAttachment
from vif_driver.config import Config, FirewallDriver, LinuxBridgePlug
from vif_driver.errors import HostError
from vif_driver.host import Host, neutron_agent
from vif_driver.host.links import Links
from vif_driver.host.ovsdb import Ovsdb, Port
from vif_driver.interface_xml import Connection
from vif_driver.vnic import Plugin, SecurityGroups, Vnic, VnicIdentity

from .conftest import MAC, VM_ID, VNIC_ID

HYBRID_FIREWALL = Config(firewall_driver=FirewallDriver.IPTABLES_HYBRID)
OVS_FIREWALL = Config(firewall_driver=FirewallDriver.OPENVSWITCH)


def a_vnic(plugin: Plugin, groups: SecurityGroups = SecurityGroups.DEFAULT) -> Vnic:
    return Vnic(VNIC_ID, plugin, VM_ID, MAC, groups)


def attachment_of(subject: Vnic, config: Config) -> Attachment:
    return attachments.choose(subject, subject.security_groups, config, Host())


def chosen(subject: Vnic, config: Config) -> str:
    return attachment_of(subject, config).name


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

    connection = attachments.choose(
        subject, subject.security_groups, OVS_FIREWALL, Host()
    ).connection(subject)

    assert connection == Connection("br-int", "tap3c1ad1e9-4d", VNIC_ID, dead_vlan=True)


def test_an_ovn_port_has_no_vlan() -> None:
    subject = a_vnic(Plugin.OVIRT_PROVIDER_OVN)

    connection = attachments.choose(subject, subject.security_groups, Config(), Host()).connection(
        subject
    )

    assert connection == Connection("br-int", "tap3c1ad1e9-4d", VNIC_ID)


def test_a_hybrid_vnic_is_on_its_own_bridge_by_the_name_that_the_rules_match() -> None:
    subject = a_vnic(Plugin.OPEN_VSWITCH)

    connection = attachments.choose(
        subject, subject.security_groups, HYBRID_FIREWALL, Host()
    ).connection(subject)

    assert connection == Connection("qbr3c1ad1e9-4d", "tap3c1ad1e9-4d")


def test_a_linux_bridge_guest_leaves_the_taps_name_to_the_device_that_the_agent_finds() -> None:
    subject = a_vnic(Plugin.LINUX_BRIDGE)

    connection = attachments.choose(subject, subject.security_groups, Config(), Host()).connection(
        subject
    )

    assert connection == Connection("qbr3c1ad1e9-4d", "qtp3c1ad1e9-4d")


def test_the_dummy_bridge_is_used_only_where_it_is_asked_for() -> None:
    subject = a_vnic(Plugin.LINUX_BRIDGE)
    config = Config(linux_bridge_plug=LinuxBridgePlug.DUMMY_BRIDGE)

    connection = attachments.choose(subject, subject.security_groups, config, Host()).connection(
        subject
    )

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


# ---- a vNIC that arrives by migration --------------------------------------------------------


class Steps(OvsAttachment):
    """Keeps the steps that are taken."""

    def __init__(self) -> None:
        super().__init__(Config(), Host())
        self.taken: list[str] = []
        self.refusal: HostError | None = None

    async def expect(self, vnic: VnicIdentity, undo: Undo) -> None:
        async def take_back() -> None:
            self.taken.append("taken back")

        self.taken.append("expect")
        undo.on_failure("it", take_back)

    async def connect(self, vnic: Vnic, undo: Undo) -> None:
        self.taken.append("connect")
        if self.refusal is not None:
            raise self.refusal


def test_a_vnic_of_which_all_is_known_is_prepared_in_one_go() -> None:
    way = Steps()

    asyncio.run(way.prepare(a_vnic(Plugin.OPEN_VSWITCH)))

    assert way.taken == ["expect", "connect"]


def test_what_was_made_is_taken_back_if_the_rest_fails() -> None:
    way = Steps()
    way.refusal = HostError("no", "see")

    with pytest.raises(HostError):
        asyncio.run(way.prepare(a_vnic(Plugin.OPEN_VSWITCH)))

    assert way.taken == ["expect", "connect", "taken back"]


@pytest.mark.parametrize(
    ("plugin", "config", "early"),
    [
        (Plugin.LINUX_BRIDGE, Config(linux_bridge_plug=LinuxBridgePlug.DUMMY_BRIDGE), True),
        (Plugin.LINUX_BRIDGE, Config(), False),
        (Plugin.OPEN_VSWITCH, HYBRID_FIREWALL, False),
        (Plugin.OVIRT_PROVIDER_OVN, Config(), False),
    ],
)
def test_a_tap_that_is_where_anybody_may_look_at_it_is_finished_early(
    plugin: Plugin, config: Config, early: bool
) -> None:
    assert attachment_of(a_vnic(plugin), config).finishes_early is early


class HybridHost:
    """Open vSwitch's database and the devices of a hybrid vNIC."""

    def __init__(self, external_ids: dict[str, str] | None) -> None:
        self.external_ids = external_ids
        self.added: list[str] = []
        self.changed: list[tuple[str, Any, Any]] = []

    async def wait_connected(self) -> None:
        pass

    def port(self, name: str) -> Port | None:
        ids = self.external_ids
        return None if ids is None else Port(name, "br-int", None, ids, 1, None)

    async def add_port(self, _bridge: str, name: str, **_columns: Any) -> None:
        self.added.append(name)

    async def delete_port(self, _name: str, _external_ids: dict[str, str]) -> bool:
        return False

    async def wait_ofport(self, _name: str, _timeout: float) -> None:
        pass

    async def change(self, name: str, *, mtu: int, address: str | None) -> None:
        self.changed.append((name, mtu, address))

    @property
    def way(self) -> OvsHybridAttachment:
        return OvsHybridAttachment(Config(), Host(links=cast(Links, self), ovsdb=cast(Ovsdb, self)))


def connect(way: Attachment) -> None:
    async def main() -> None:
        async with Undo() as undo:
            await way.connect(a_vnic(Plugin.OPEN_VSWITCH), undo)

    asyncio.run(main())


def test_the_port_of_a_hybrid_that_an_agent_made_before_it_died_is_taken_as_it_is() -> None:
    host = HybridHost(
        {"vif-driver": "ovs_hybrid", "iface-id": VNIC_ID, "vm-id": VM_ID, "attached-mac": MAC}
    )

    connect(host.way)

    assert host.added == []


@pytest.mark.parametrize("there", [None, {"iface-id": VNIC_ID}], ids=["none", "somebody else's"])
def test_without_a_port_of_ours_a_hybrid_is_given_one(there: dict[str, str] | None) -> None:
    host = HybridHost(there)

    connect(host.way)

    assert host.added == ["qvo3c1ad1e9-4d"]


def test_the_devices_of_a_hybrid_get_what_was_not_known_of_it_the_bridge_last() -> None:
    host = HybridHost(None)

    asyncio.run(host.way.adapt(dataclasses.replace(a_vnic(Plugin.OPEN_VSWITCH), mtu=1442)))

    assert host.changed == [
        ("qvo3c1ad1e9-4d", 1442, f"fe{MAC[2:]}"),
        ("qvb3c1ad1e9-4d", 1442, None),
        ("qbr3c1ad1e9-4d", 1442, None),
    ]
