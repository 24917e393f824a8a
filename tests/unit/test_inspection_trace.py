# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""The hops of an OVN vNIC's path: the first bad one names what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from vif_driver.errors import Unavailable
from vif_driver.host.southbound import Binding
from vif_driver.inspection.finding import Finding
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import first_bad
from vif_driver.inspection.vnics import ExternalVnic
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import MAC, VNIC_ID, OvsdbServer
from .inspected_host import Devices, Vms, a_vm, inspected
from .traced_vnic import (  # noqa: F401
    REMOTE,
    TAP,
    Fakes,
    a_binding,
    a_running_vm,
    diagnosis,
    fakes,
    links,
    ovn_host,
)


def test_of_a_vnic_that_works_only_the_tunnel_of_this_test_is_bad(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    name, text = diagnosis(ovn_host, links, a_running_vm())

    assert name == "tunnel" and "127.0.0.2 is no address that others can reach" in text


def test_a_vm_that_is_gone(ovn_host: OvsdbServer, links: Devices, fakes: Fakes) -> None:
    name, text = diagnosis(ovn_host, links, Vms([]))

    assert name == "vm" and f"ovs-vsctl del-port {TAP}" in text


def test_an_interface_that_is_gone(ovn_host: OvsdbServer, links: Devices, fakes: Fakes) -> None:
    name, text = diagnosis(ovn_host, links, Vms([a_vm()]))

    assert name == "vm" and f"has no interface {TAP}" in text


def test_a_link_that_is_set_down(ovn_host: OvsdbServer, links: Devices, fakes: Fakes) -> None:
    name, _ = diagnosis(ovn_host, links, a_running_vm(more="<link state='down'/>"))

    assert name == "link"


def test_a_tap_that_is_gone(ovn_host: OvsdbServer, fakes: Fakes) -> None:
    name, text = diagnosis(ovn_host, Devices(), a_running_vm())

    assert name == "tap" and f"there is no device {TAP}" in text


def test_a_tap_that_is_down(ovn_host: OvsdbServer, links: Devices, fakes: Fakes) -> None:
    links.change(TAP, up=False)

    assert diagnosis(ovn_host, links, a_running_vm())[0] == "tap"


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        (["del-br br-int"], "br-int does not exist"),
        (["del-fail-mode br-int"], "standalone"),
    ],
)
def test_a_bad_integration_bridge(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes, commands: list[str], words: str
) -> None:
    for command in commands:
        ovn_host.vsctl(*command.split())

    name, text = diagnosis(ovn_host, links, a_running_vm())

    assert name == "integration bridge" and words in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"del-port {TAP}", f"Open vSwitch has no port {TAP}"),
        (f"set Interface {TAP} external_ids:iface-id=other", "has the iface-id other"),
        (f"clear Interface {TAP} ofport", "has not taken the port"),
        (f"set Interface {TAP} ofport=-1 error=broken", f"cannot open {TAP} (broken)"),
        (f"set Interface {TAP} ifindex=999999", "has an earlier device"),
        (f"set Interface {TAP} external_ids:attached-mac=aa", "has the MAC address aa"),
        (f"add-br br-ex -- del-port {TAP} -- add-port br-ex {TAP}", "is on br-ex, not on br-int"),
    ],
)
def test_a_bad_port(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes, command: str, words: str
) -> None:
    ovn_host.vsctl(*command.split())

    async def look(sight: Sight) -> Finding | None:
        identity = VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, None)
        running: Any = {"mac": MAC, "vm_name": "x", "vm_state": "running", "has_interface": True}
        return await first_bad(ExternalVnic(identity, "ovn", TAP, **running), sight)

    found = inspected(look, ovn_host, links)

    assert found is not None and found.name == "port" and words in found.detail


def test_an_ovn_controller_that_does_not_run(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    fakes.running.discard("ovn-controller")

    name, text = diagnosis(ovn_host, links, a_running_vm())

    assert (name, text) == (
        "ovn-controller",
        "ovn-controller does not run on this host; systemctl start ovn-controller",
    )


def test_an_ovn_controller_that_is_not_connected(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    fakes.connected = False

    name, text = diagnosis(ovn_host, links, a_running_vm())

    assert name == "ovn-controller" and f"is not connected to {REMOTE}; check" in text


def test_a_logical_port_that_is_gone(ovn_host: OvsdbServer, links: Devices, fakes: Fakes) -> None:
    fakes.binding = None

    name, text = diagnosis(ovn_host, links, a_running_vm())

    assert name == "logical port"
    assert f"the southbound database has no logical port {VNIC_ID}; check the port at" in text


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        (a_binding(requested=("hv9",)), "requested-chassis of the logical port is hv9, this"),
        (a_binding(requested=("hv8", "hv9")), "is hv8,hv9, this host is hv1"),
        (a_binding(chassis=None), "no host has claimed"),
        (a_binding(chassis="hv2"), "is bound to hv2, this host is hv1"),
        (a_binding(chassis="hv2", requested=("hv1", "hv2")), "is bound to hv2"),
    ],
)
def test_a_logical_port_of_another_host(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes, binding: Binding, words: str
) -> None:
    fakes.binding = binding

    name, text = diagnosis(ovn_host, links, a_running_vm())

    assert name == "chassis" and words in text


@pytest.mark.parametrize(
    "binding",
    [
        a_binding(requested=("hv1",)),
        a_binding(requested=("hv1.example.com",)),
        a_binding(requested=("hv2", "hv1")),
        a_binding(chassis="hv2", requested=("hv2", "hv1")),
    ],
)
def test_a_logical_port_that_may_be_here(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes, binding: Binding
) -> None:
    fakes.binding = binding

    assert diagnosis(ovn_host, links, a_running_vm())[0] == "tunnel"


def test_flows_that_are_not_installed(ovn_host: OvsdbServer, links: Devices, fakes: Fakes) -> None:
    ovn_host.vsctl("remove", "Interface", TAP, "external_ids", "ovn-installed")

    assert diagnosis(ovn_host, links, a_running_vm())[0] == "flows"


@pytest.mark.parametrize(
    ("mappings", "words"), [("", "has no bridge"), ("net1:br-ex", "br-ex, which does not exist")]
)
def test_a_physical_network_without_its_bridge(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes, mappings: str, words: str
) -> None:
    fakes.binding = a_binding(localnets=("net1",))
    ovn_host.vsctl("set", "Open_vSwitch", ".", f'external_ids:ovn-bridge-mappings="{mappings}"')

    name, text = diagnosis(ovn_host, links, a_running_vm())

    assert name == "localnet" and words in text


def test_a_setting_for_this_chassis_goes_first(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    ovn_host.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-encap-ip-hv1=127.0.0.3")

    assert "127.0.0.3" in diagnosis(ovn_host, links, a_running_vm())[1]


def test_an_ordinary_user_is_given_no_wrong_diagnosis(links: Devices, fakes: Fakes) -> None:
    fakes.connected = Unavailable("only root may ask", "run vifctl as root")

    assert diagnosis(None, links, a_running_vm()) == ("", "")
