# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""The hops of a Neutron vNIC's path: the first bad one names what is wrong."""

from __future__ import annotations

import pytest

from vif_driver.host import kernel, neutron_agent
from vif_driver.inspection.finding import Finding
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import trace
from vif_driver.inspection.trace.neutron import _joined
from vif_driver.inspection.vnics import find

from .conftest import VNIC_ID, OvsdbServer
from .inspected_host import Devices, Vms, a_vm, add_plugged, an_interface, inspected
from .traced_vnic import SHORT, TAP, Fakes, a_running_vm, diagnosis, fakes, links, neutron_host  # noqa: F401

# ---- Open vSwitch, direct ------------------------------------------------------------------------


def test_a_wired_port_of_neutrons_is_good(
    neutron_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    assert diagnosis(neutron_host, links, a_running_vm()) == ("", "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"clear Port {TAP} tag", "has not wired the port"),
        (f"set Port {TAP} tag=4095", "into the dead VLAN"),
    ],
)
def test_a_port_that_neutrons_agent_has_not_wired(
    neutron_host: OvsdbServer, links: Devices, fakes: Fakes, command: str, words: str
) -> None:
    neutron_host.vsctl(*command.split())

    name, text = diagnosis(neutron_host, links, a_running_vm())

    assert name == "vlan" and words in text


def test_an_agent_that_does_not_run(
    neutron_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    fakes.running.clear()

    assert diagnosis(neutron_host, links, a_running_vm()) == (
        "neutron agent",
        "Neutron's Open vSwitch agent does not run on this host; "
        "systemctl start neutron-openvswitch-agent",
    )


def test_an_integration_bridge_that_is_joined_to_nothing(
    neutron_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    neutron_host.vsctl("set", "Port", TAP, "other_config:network_type=vxlan")

    name, text = diagnosis(neutron_host, links, a_running_vm())

    assert name == "uplink" and "br-int is joined to no other bridge" in text


def join(server: OvsdbServer, bridge: str) -> None:
    server.vsctl("add-br", bridge)
    for on, name, peer in (("br-int", "patch-a", "patch-b"), (bridge, "patch-b", "patch-a")):
        server.vsctl("add-port", on, name, "--", "set", "Interface", name, "type=patch")
        server.vsctl("set", "Interface", name, f"options:peer={peer}")


def test_the_joined_bridges_are_found(neutron_host: OvsdbServer, devices: set[str]) -> None:
    join(neutron_host, "br-tun")
    neutron_host.vsctl("add-br", "br-ex", "--", "add-port", "br-ex", "phy-br-ex")
    neutron_host.vsctl("add-port", "br-int", "int-br-ex")

    async def look(sight: Sight) -> list[str]:
        return _joined(sight.ovsdb.ports(), "br-int")

    assert inspected(look, neutron_host) == ["br-ex", "br-tun"]


def test_a_tunnel_network_whose_tunnel_begins_elsewhere(
    neutron_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    neutron_host.vsctl("set", "Port", TAP, "other_config:network_type=vxlan")
    join(neutron_host, "br-tun")
    neutron_host.vsctl(
        *["add-port", "br-tun", "vxlan-1", "--", "set", "Interface", "vxlan-1", "type=vxlan"],
        *["options:local_ip=127.0.0.2", "options:remote_ip=127.0.0.3"],
    )

    name, text = diagnosis(neutron_host, links, a_running_vm())

    assert name == "tunnel" and "local_ip 127.0.0.2" in text


def test_a_physical_network_that_leads_nowhere(
    neutron_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    neutron_host.vsctl("set", "Port", TAP, "other_config:network_type=vlan")
    neutron_host.vsctl("set", "Port", TAP, "other_config:physical_network=physnet1")
    join(neutron_host, "br-ex")

    name, text = diagnosis(neutron_host, links, a_running_vm())

    assert name == "uplink" and "no device leads out of br-ex (physical network physnet1)" in text


# ---- Open vSwitch, hybrid ------------------------------------------------------------------------


@pytest.fixture
def hybrid_host(ovsdb_server: OvsdbServer) -> OvsdbServer:
    """A hybrid vNIC that works."""
    columns = ("tag=7", "other_config:network_type=local")
    add_plugged(ovsdb_server, f"qvo{SHORT}", VNIC_ID, *columns, vif_driver="ovs_hybrid")
    return ovsdb_server


@pytest.fixture
def hybrid_links() -> Devices:
    """The devices of a hybrid vNIC."""
    links = Devices()
    links.add(f"qbr{SHORT}", kind="bridge")
    links.add(TAP, on=f"qbr{SHORT}")
    links.add(f"qvb{SHORT}", on=f"qbr{SHORT}")
    links.add(f"qvo{SHORT}")
    return links


def hybrid_vm() -> Vms:
    return Vms([a_vm(an_interface(f"qbr{SHORT}", TAP))])


def test_a_hybrid_vnic_that_works(
    hybrid_host: OvsdbServer, hybrid_links: Devices, fakes: Fakes
) -> None:
    assert diagnosis(hybrid_host, hybrid_links, hybrid_vm()) == ("", "")


@pytest.mark.parametrize(
    ("device", "changes", "hop"),
    [
        (f"qbr{SHORT}", {"up": False}, "private bridge"),
        (TAP, {"master": None}, "tap"),
        (TAP, {"up": False}, "tap"),
        (f"qvb{SHORT}", {"master": None}, "bridge end"),
        (f"qvb{SHORT}", {"up": False}, "bridge end"),
        (f"qvo{SHORT}", {"up": False}, "switch end"),
    ],
)
def test_a_bad_device_of_a_hybrid_vnic(
    hybrid_host: OvsdbServer,
    hybrid_links: Devices,
    fakes: Fakes,
    device: str,
    changes: dict[str, object],
    hop: str,
) -> None:
    hybrid_links.change(device, **changes)

    assert diagnosis(hybrid_host, hybrid_links, hybrid_vm())[0] == hop


@pytest.mark.parametrize("switch", ["has_bridge_netfilter", "filters_bridge"])
def test_security_groups_that_are_silently_off(
    hybrid_host: OvsdbServer,
    hybrid_links: Devices,
    fakes: Fakes,
    monkeypatch: pytest.MonkeyPatch,
    switch: str,
) -> None:
    monkeypatch.setattr(kernel, switch, lambda *name: False)

    name, text = diagnosis(hybrid_host, hybrid_links, hybrid_vm())

    assert name == "bridge netfilter" and "security groups are off" in text


# ---- Linux bridge --------------------------------------------------------------------------------


@pytest.fixture
def bridged_links(monkeypatch: pytest.MonkeyPatch) -> Devices:
    """The devices of a Linux bridge vNIC that works."""
    monkeypatch.setattr(neutron_agent, "linux_bridges", lambda: frozenset({"br-mapped"}))
    links = Devices()
    links.add(f"qbr{SHORT}", kind="bridge")
    links.add("brq1", kind="bridge")
    links.add(f"qtp{SHORT}", on=f"qbr{SHORT}", kind="tun")
    links.add(f"qvb{SHORT}", on=f"qbr{SHORT}", kind="veth")
    links.add(TAP, on="brq1", kind="veth")
    links.add("tapother", on="brq1", kind="veth")
    links.add("vxlan-7", on="brq1", kind="vxlan")
    return links


def bridged_vm() -> Vms:
    return Vms([a_vm(an_interface(f"qbr{SHORT}", f"qtp{SHORT}"))])


def test_a_linux_bridge_vnic_that_works(bridged_links: Devices, fakes: Fakes) -> None:
    assert diagnosis(None, bridged_links, bridged_vm()) == ("", "")


@pytest.mark.parametrize(
    ("device", "changes", "hop"),
    [
        (f"qtp{SHORT}", {"master": None}, "tap"),
        (f"qvb{SHORT}", {"up": False}, "bridge end"),
        (TAP, {"name": "gone"}, "agent's device"),
        (TAP, {"master": None}, "network bridge"),
        (TAP, {"up": False}, "network bridge"),
        ("brq1", {"up": False}, "network bridge"),
        ("brq1", {"name": "virbr0"}, "network bridge"),
        ("vxlan-7", {"up": False}, "uplink"),
    ],
)
def test_a_bad_device_of_a_linux_bridge_vnic(
    bridged_links: Devices, fakes: Fakes, device: str, changes: dict[str, object], hop: str
) -> None:
    bridged_links.change(device, **changes)

    assert diagnosis(None, bridged_links, bridged_vm())[0] == hop


def test_a_bridge_of_a_mapping_is_the_agents(bridged_links: Devices, fakes: Fakes) -> None:
    bridged_links.change("brq1", name="br-mapped")

    assert diagnosis(None, bridged_links, bridged_vm()) == ("", "")


def test_a_bridge_that_leads_nowhere_is_a_warning(bridged_links: Devices, fakes: Fakes) -> None:
    bridged_links.change("vxlan-7", master=None)

    async def look(sight: Sight) -> list[Finding]:
        (vnic,), _ = await find(sight)
        return [hop async for hop in trace(vnic, sight)]

    last = inspected(look, None, bridged_links, bridged_vm())[-1]

    assert (last.name, last.state.value) == ("uplink", "warning")
