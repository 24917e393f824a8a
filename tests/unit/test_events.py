# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import asyncio
import logging

import pytest

from vif_driver import wire
from vif_driver.attachments.ovs import OvsAttachment
from vif_driver.config import Config, FirewallDriver
from vif_driver.errors import BadRequest, Unavailable
from vif_driver.events import Events
from vif_driver.host import Host, domains, ovsdb_socket
from vif_driver.interface_xml import Connection, Interface
from vif_driver.vnic import VnicIdentity
from vif_driver.wire import Reply, Request

from .conftest import MAC, VDSM_INTERFACE, VM_ID, VNIC_ID

OVN = Connection("br-int", "tap3c1ad1e9-4d", VNIC_ID)
DIRECT = Config(firewall_driver=FirewallDriver.OPENVSWITCH)
HYBRID = Config(firewall_driver=FirewallDriver.IPTABLES_HYBRID)


def handle(
    event: str, properties: dict[str, str], data: bytes = VDSM_INTERFACE, config: Config = DIRECT
) -> Reply:
    """Answer an event without any privilege, as a hook without an agent does."""
    request = wire.Request(event, properties, data)
    return asyncio.run(Events(config, Host()).handle(request))


def connection(reply: Reply) -> Connection | None:
    assert reply.data is not None, reply.message
    return Interface(reply.data).connection


def running(monkeypatch: pytest.MonkeyPatch, interface: bytes | Exception | None) -> None:
    async def interface_xml(_self: object, vm_id: str, mac: str) -> bytes | None:
        assert (vm_id, mac) == (VM_ID, MAC)
        if isinstance(interface, Exception):
            raise interface
        return interface

    monkeypatch.setattr(domains.Domains, "interface_xml", interface_xml)


@pytest.fixture(params=["before_device_create", "before_nic_hotplug"])
def plug_event(request: pytest.FixtureRequest) -> str:
    """Each of the events that plug a vNIC."""
    return str(request.param)


@pytest.mark.usefixtures("devices")
def test_a_vnic_is_connected_at_start_and_at_hot_plug(
    plug_event: str, ovn_properties: dict[str, str]
) -> None:
    reply = handle(plug_event, ovn_properties)

    assert (reply.status, reply.message) == (0, "")
    assert connection(reply) == OVN


@pytest.mark.usefixtures("devices")
def test_what_is_dropped_is_logged(
    ovn_properties: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    handle("before_device_create", ovn_properties)

    assert f"vNIC {VNIC_ID} of VM {VM_ID}: before_device_create: dropped filterref" in caplog.text


def test_without_an_integration_bridge_the_start_fails_with_what_to_do(
    plug_event: str, devices: set[str], ovn_properties: dict[str, str]
) -> None:
    devices.discard("br-int")

    reply = handle(plug_event, ovn_properties)

    assert (reply.status, reply.data) == (2, None)
    assert "br-int does not exist; start ovn-controller" in reply.message
    assert VNIC_ID in reply.message


@pytest.mark.usefixtures("devices")
def test_without_open_vswitch_the_start_fails_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, plug_event: str, ovn_properties: dict[str, str]
) -> None:
    monkeypatch.setattr(ovsdb_socket, "is_down", lambda: True)

    reply = handle(plug_event, ovn_properties)

    assert reply.status == 2 and "systemctl start openvswitch" in reply.message


def test_a_plug_is_taken_back_for_its_own_caller_only(
    devices: set[str], ovs_properties: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []

    async def release(self: OvsAttachment, vnic: VnicIdentity) -> None:
        released.append(vnic.id)

    async def scenario() -> None:
        events = Events(DIRECT, Host())
        first = Request("before_nic_hotplug", ovs_properties, VDSM_INTERFACE)
        second = Request("before_nic_hotplug", dict(ovs_properties), VDSM_INTERFACE)
        await events.handle(first)
        await events.handle(second)
        devices.add("tap3c1ad1e9-4d")
        await events.withdraw(first)
        assert released == []
        await events.withdraw(second)

    monkeypatch.setattr(OvsAttachment, "release", release)

    asyncio.run(scenario())

    assert released == [VNIC_ID]


def test_a_name_that_somebody_else_has_fails_the_start(
    plug_event: str, devices: set[str], ovn_properties: dict[str, str]
) -> None:
    devices.add("tap3c1ad1e9-4d")

    reply = handle(plug_event, ovn_properties)

    assert reply.status == 2 and "tap3c1ad1e9-4d exists already" in reply.message


@pytest.mark.usefixtures("devices")
def test_without_the_agent_a_hybrid_vnic_fails_with_what_to_do(
    plug_event: str, ovs_properties: dict[str, str]
) -> None:
    reply = handle(plug_event, ovs_properties, config=HYBRID)

    assert reply.status == 2 and "systemctl restart vif-agent" in reply.message


@pytest.mark.usefixtures("devices")
def test_without_the_agent_a_linux_bridge_vnic_fails_with_what_to_do(
    plug_event: str, linux_bridge_properties: dict[str, str]
) -> None:
    reply = handle(plug_event, linux_bridge_properties)

    assert reply.status == 2 and "systemctl restart vif-agent" in reply.message


@pytest.mark.usefixtures("devices")
def test_without_the_agent_a_direct_vnic_is_connected_in_the_dead_vlan(
    plug_event: str, ovs_properties: dict[str, str]
) -> None:
    reply = handle(plug_event, ovs_properties)

    assert connection(reply) == Connection("br-int", "tap3c1ad1e9-4d", VNIC_ID, dead_vlan=True)


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("event", ["after_device_destroy", "after_nic_hotunplug"])
@pytest.mark.parametrize("plugin", ["OPEN_VSWITCH", "LINUX_BRIDGE", "OPENSTACK_OVN"])
@pytest.mark.parametrize("data", [VDSM_INTERFACE, b""], ids=["interface", "nothing"])
def test_without_the_agent_a_vnic_that_left_nothing_is_released(
    event: str, plugin: str, data: bytes, ovs_properties: dict[str, str]
) -> None:
    reply = handle(event, {**ovs_properties, "plugin_type": plugin}, data)

    assert reply == Reply()


def test_a_release_asks_for_nothing_but_the_identity(
    devices: set[str], ovs_properties: dict[str, str]
) -> None:
    ovs_properties["security_groups"] = "no such thing"

    assert handle("after_device_destroy", ovs_properties, b"") == Reply()


@pytest.mark.usefixtures("devices")
def test_a_disk_of_a_vm_with_our_properties_is_left_alone_when_it_goes(
    ovs_properties: dict[str, str],
) -> None:
    assert "left alone" in handle("after_device_destroy", ovs_properties, b"<disk/>").message


@pytest.mark.usefixtures("devices")
def test_a_vnic_of_which_nothing_is_there_after_the_plug_is_told(
    ovn_properties: dict[str, str],
) -> None:
    reply = handle("after_device_create", ovn_properties, b"")

    assert reply.status == 1 and "nothing of the vNIC is there" in reply.message


def test_without_the_agent_a_plugged_ovn_vnic_is_fine(
    devices: set[str], ovn_properties: dict[str, str]
) -> None:
    devices.add("tap3c1ad1e9-4d")

    assert handle("after_device_create", ovn_properties, b"") == Reply()


@pytest.mark.parametrize(
    ("plugin", "device"),
    [("OPEN_VSWITCH", "qvo3c1ad1e9-4d"), ("LINUX_BRIDGE", "qbr3c1ad1e9-4d")],
)
def test_without_the_agent_what_stays_behind_is_told(
    devices: set[str], ovs_properties: dict[str, str], plugin: str, device: str
) -> None:
    devices.add(device)

    reply = handle("after_device_destroy", {**ovs_properties, "plugin_type": plugin})

    assert reply.status == 1 and "systemctl restart vif-agent" in reply.message


@pytest.mark.usefixtures("devices")
def test_an_update_keeps_the_connection_that_vdsm_does_not_know(
    monkeypatch: pytest.MonkeyPatch, ovn_properties: dict[str, str]
) -> None:
    plugged = handle("before_device_create", ovn_properties)
    running(monkeypatch, plugged.data)
    link_down = VDSM_INTERFACE.replace(b'state="up"', b'state="down"')

    reply = handle("before_update_device", ovn_properties, link_down)

    assert connection(reply) == OVN
    assert reply.data is not None and b'<link state="down"/>' in reply.data


def test_an_update_keeps_the_tap_that_an_older_driver_left_to_libvirt(
    monkeypatch: pytest.MonkeyPatch, ovn_properties: dict[str, str]
) -> None:
    older = Interface(VDSM_INTERFACE)
    older.connect(Connection("br-int", "vnet3", VNIC_ID))
    running(monkeypatch, older.to_bytes())

    reply = handle("before_update_device", ovn_properties)

    assert connection(reply) == Connection("br-int", "vnet3", VNIC_ID)


@pytest.mark.parametrize("dead_vlan", [True, False])
def test_an_update_has_the_dead_vlan_exactly_if_the_domain_has(
    monkeypatch: pytest.MonkeyPatch, ovs_properties: dict[str, str], dead_vlan: bool
) -> None:
    live = Connection("br-int", "tap3c1ad1e9-4d", VNIC_ID, dead_vlan)
    interface = Interface(VDSM_INTERFACE)
    interface.connect(live)
    running(monkeypatch, interface.to_bytes())

    reply = handle("before_update_device", ovs_properties)

    assert connection(reply) == live


def test_an_update_keeps_a_hybrid_vnic_hybrid_whatever_the_settings_say_now(
    monkeypatch: pytest.MonkeyPatch, ovs_properties: dict[str, str]
) -> None:
    live = Connection("qbr3c1ad1e9-4d", "tap3c1ad1e9-4d")
    interface = Interface(VDSM_INTERFACE)
    interface.connect(live)
    running(monkeypatch, interface.to_bytes())

    reply = handle("before_update_device", ovs_properties, config=DIRECT)

    assert connection(reply) == live


def test_an_update_of_an_ovn_vnic_needs_no_libvirt(
    monkeypatch: pytest.MonkeyPatch, ovn_properties: dict[str, str]
) -> None:
    running(monkeypatch, Unavailable("libvirt is away", "start it"))

    assert connection(handle("before_update_device", ovn_properties)) == OVN


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ("tap", Connection("br-int", "tap3c1ad1e9-4d", VNIC_ID, dead_vlan=True)),
        ("qvo", Connection("qbr3c1ad1e9-4d", "tap3c1ad1e9-4d")),
    ],
)
def test_an_update_without_libvirt_goes_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
    devices: set[str],
    ovs_properties: dict[str, str],
    there: str,
    expected: Connection,
) -> None:
    running(monkeypatch, Unavailable("libvirt is away", "start it"))
    devices.add(there + VNIC_ID[:11])

    assert connection(handle("before_update_device", ovs_properties)) == expected


@pytest.mark.usefixtures("devices")
def test_an_update_is_not_refused_for_what_is_not_needed_to_find_the_vnic(
    monkeypatch: pytest.MonkeyPatch, ovs_properties: dict[str, str]
) -> None:
    running(monkeypatch, None)
    ovs_properties["security_groups"] = "no such thing"

    reply = handle("before_update_device", ovs_properties, VDSM_INTERFACE.replace(b"1442", b"none"))

    assert reply.status == 0


def test_an_update_keeps_a_bridge_that_the_settings_no_longer_name(
    monkeypatch: pytest.MonkeyPatch, ovn_properties: dict[str, str]
) -> None:
    live = Connection("br-former", "tap3c1ad1e9-4d", VNIC_ID)
    interface = Interface(VDSM_INTERFACE)
    interface.connect(live)
    running(monkeypatch, interface.to_bytes())

    assert connection(handle("before_update_device", ovn_properties)) == live


def test_a_device_that_is_no_interface_is_left_alone(ovn_properties: dict[str, str]) -> None:
    reply = handle("before_device_create", ovn_properties, b"<hostdev mode='subsystem'/>")

    assert (reply.status, reply.data) == (0, None)
    assert "<hostdev>, not an <interface>; left alone" in reply.message


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<interface xmlns='urn:x' type='bridge'/>",
        b"<interface",
        VDSM_INTERFACE.replace(MAC.encode(), b"xx"),
        VDSM_INTERFACE.replace(b"1442", b"-1"),
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><interface>&b;</interface>",
    ],
)
def test_a_bad_interface_is_refused_in_one_line_that_names_the_vnic(
    plug_event: str, ovn_properties: dict[str, str], data: bytes
) -> None:
    reply = handle(plug_event, ovn_properties, data)

    assert (reply.status, reply.data) == (2, None)
    assert reply.message.startswith(f"vif-driver: {plug_event}: vNIC {VNIC_ID} of VM {VM_ID}: ")
    assert "\n" not in reply.message and ";" in reply.message


def test_an_unknown_event_is_refused(ovn_properties: dict[str, str]) -> None:
    assert handle("before_vm_dance", ovn_properties).status == 2


@pytest.mark.usefixtures("devices")
def test_a_fault_of_ours_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, ovn_properties: dict[str, str]
) -> None:
    def broken(self: Interface) -> bytes:
        raise ZeroDivisionError("a\nfault")

    monkeypatch.setattr(Interface, "to_bytes", broken)

    reply = handle("before_device_create", ovn_properties)

    assert reply.status == 2 and "internal error (ZeroDivisionError: a fault)" in reply.message


@pytest.mark.parametrize("event", wire.HOST_EVENTS)
def test_without_the_agent_what_vdsm_says_of_the_host_passes(event: str) -> None:
    assert handle(event, {}, b"{}") == Reply()


def test_a_report_that_cannot_be_added_to_is_a_failure_that_stops_no_other_hook() -> None:
    class Failing:
        async def capabilities(self, _report: bytes) -> bytes | None:
            raise BadRequest("it is no JSON", "see vdsm.log")

        statistics = capabilities

    async def main() -> Reply:
        events = Events(DIRECT, Host(), reporter=Failing())
        return await events.handle(Request("after_get_caps", {}, b"{"))

    assert asyncio.run(main()) == Reply(
        status=1, message="vif-driver: after_get_caps: it is no JSON; see vdsm.log"
    )
