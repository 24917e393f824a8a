# SPDX-License-Identifier: GPL-2.0-or-later
"""Which ports VMs have lost, and what those were like."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vif_driver.attachments import ovs_hybrid
from vif_driver.config import Config
from vif_driver.errors import Unavailable
from vif_driver.host import kernel
from vif_driver.host.domains import Domain
from vif_driver.reconciliation import in_use, lost
from vif_driver.reconciliation.lost import LostPort

from . import paper_host
from .conftest import MAC, VM_ID, VNIC_ID
from .inspected_host import a_vm, an_interface, virtualport
from .paper_host import LIBVIRTS, OTHER_VM, QBR, QVB, QVO, SHORT, TAP, OnPaper, PaperHost, a_port

Arrange = Callable[[PaperHost], object]


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnPaper:
    """Look at a host with VMs that run, after it was made so."""

    def run(vm: Domain, arrange: Arrange, config: Config | None = None, **instead: Any) -> Any:
        async def scenario(paper: PaperHost) -> list[LostPort]:
            paper.libvirt.vms = [vm]
            arrange(paper)
            host = dataclasses.replace(paper.host, **instead)
            return await lost.find(paper.config, host, await in_use.ask(paper.host))

        return paper_host.play(scenario, folder=tmp_path, patch=monkeypatch, config=config)

    return run


# ---- ports that libvirt makes --------------------------------------------------------------------


def direct(more: str = "", *, bridge: str = "br-int", port: str | None = None) -> Domain:
    """A VM whose tap libvirt puts on the integration bridge."""
    return a_vm(an_interface(bridge, TAP, more=(port or virtualport(VNIC_ID)) + more))


def tap_is_there(paper: PaperHost) -> None:
    paper.kernel.add(TAP)


def test_a_port_that_is_missing_while_its_tap_is_there_is_lost(find: OnPaper) -> None:
    (port,) = find(direct(), tap_is_there)

    assert port == LostPort(TAP, TAP, VM_ID, VNIC_ID, port={}, interface={"external_ids": LIBVIRTS})
    assert str(port) == f"port {TAP} (VM {VM_ID}, vNIC {VNIC_ID})"


def vlan(content: str, attributes: str = "") -> str:
    return f"<vlan{attributes}>{content}</vlan>"


# What libvirt gives ovs-vsctl (virNetDevOpenvswitchConstructVlans, virnetdevopenvswitch.c).
@pytest.mark.parametrize(
    ("xml", "columns"),
    [
        ("", {}),
        (vlan("<tag id='42'/>"), {"tag": 42}),
        (vlan("<tag id='4095'/>"), {"tag": 4095}),
        (vlan("<tag id='42'/>", " trunk='yes'"), {"trunks": [42]}),
        (vlan("<tag id='42'/><tag id='43'/>", " trunk='yes'"), {"trunks": [42, 43]}),
        (
            vlan("<tag id='42'/><tag id='43' nativeMode='tagged'/>", " trunk='yes'"),
            {"vlan_mode": "native-tagged", "tag": 43, "trunks": [42, 43]},
        ),
        (
            vlan("<tag id='42' nativeMode='untagged'/><tag id='43'/>", " trunk='yes'"),
            {"vlan_mode": "native-untagged", "tag": 42, "trunks": [42, 43]},
        ),
        (vlan(""), {}),
    ],
    ids=[
        "none",
        "tag",
        "dead VLAN",
        "trunk of one",
        "trunk",
        "native tagged",
        "native untagged",
        "empty",
    ],
)
def test_its_vlans_are_those_that_libvirt_sets(
    find: OnPaper, xml: str, columns: dict[str, Any]
) -> None:
    (port,) = find(direct(xml), tap_is_there)

    assert port.port == columns


def test_its_profile_is_the_one_that_libvirt_sets(find: OnPaper) -> None:
    profile = virtualport(VNIC_ID).replace("<parameters ", "<parameters profileid='gold' ")

    (port,) = find(direct(port=profile), tap_is_there)

    assert port.interface["external_ids"] == {**LIBVIRTS, "port-profile": "gold"}


@pytest.mark.parametrize(
    ("xml", "limited"), [("<bandwidth><inbound average='1000'/></bandwidth>", True), ("", False)]
)
def test_whether_libvirt_had_limited_it_is_known(find: OnPaper, xml: str, limited: bool) -> None:
    (port,) = find(direct(xml), tap_is_there)

    assert port.has_limits is limited


def test_a_tap_that_libvirt_named_is_as_good_as_ours(find: OnPaper) -> None:
    vm = a_vm(an_interface("br-int", "vnet3", more=virtualport(VNIC_ID)))

    (port,) = find(vm, lambda paper: paper.kernel.add("vnet3"))

    assert (port.name, port.tap, port.vnic_id) == ("vnet3", "vnet3", VNIC_ID)


def test_a_port_of_a_network_of_libvirts_is_lost_too(find: OnPaper) -> None:
    xml = an_interface("br-int", TAP, more=virtualport(VNIC_ID))
    of_network = xml.replace("type='bridge'", "type='network'").replace(
        "<source ", "<source network='ovn' portid='1b4e28ba-2fa1-11d2-883f-0016d3cca427' "
    )

    (port,) = find(a_vm(of_network), tap_is_there)

    assert port.name == TAP


def test_every_vnic_of_a_vm_is_looked_at(find: OnPaper) -> None:
    second = "4d2be2fa" + VNIC_ID[8:]
    vm = a_vm(
        an_interface("ovirtmgmt", "vnet0"),
        an_interface("br-int", TAP, more=virtualport(VNIC_ID)),
        an_interface("br-int", "tap2", more=virtualport(second)),
    )

    ports = find(vm, lambda paper: [paper.kernel.add(name) for name in ("vnet0", TAP, "tap2")])

    assert [port.vnic_id for port in ports] == [VNIC_ID, second]


def a_port_is_there(paper: PaperHost) -> None:
    tap_is_there(paper)
    paper.database.add(a_port())


def a_port_is_elsewhere(paper: PaperHost) -> None:
    tap_is_there(paper)
    paper.database.add(a_port(bridge="br-ex"))


def no_bridge_is_there(paper: PaperHost) -> None:
    tap_is_there(paper)
    paper.database.bridges.clear()


def without(tag: str) -> str:
    """Give an interface without one of its elements."""
    xml = an_interface("br-int", TAP, more=virtualport(VNIC_ID))
    return re.sub(f"<{tag} [^>]*/>", "", xml)


def nothing_is_there(_paper: PaperHost) -> None:
    pass


@pytest.mark.parametrize(
    ("vm", "arrange"),
    [
        (direct(), a_port_is_there),
        (direct(), a_port_is_elsewhere),
        (direct(), no_bridge_is_there),
        (direct(), nothing_is_there),
        (direct(bridge="ovirtmgmt"), tap_is_there),
        (direct(port="<virtualport type='midonet'/>"), tap_is_there),
        (direct(port="<virtualport type='openvswitch'/>"), tap_is_there),
        (direct(port="<virtualport type='openvswitch'><parameters/></virtualport>"), tap_is_there),
        (direct(port="<mtu size='1442'/>"), tap_is_there),
        (a_vm(without("mac")), tap_is_there),
        (a_vm(without("source")), tap_is_there),
        (a_vm(without("target")), tap_is_there),
        (a_vm(an_interface("br-int", "", more=virtualport(VNIC_ID))), tap_is_there),
        (a_vm("<interface type='user'/>"), tap_is_there),
        (a_vm(), tap_is_there),
    ],
    ids=[
        "port there",
        "port on another bridge",
        "no integration bridge",
        "no tap",
        "another bridge",
        "another switch",
        "port without parameters",
        "port without an id",
        "no virtual port",
        "no MAC address",
        "no bridge",
        "no target",
        "no name of a target",
        "no tap at all",
        "no vNIC",
    ],
)
def test_nothing_else_is_lost(find: OnPaper, vm: Domain, arrange: Arrange) -> None:
    assert find(vm, arrange) == []


def test_a_host_without_open_vswitch_has_lost_nothing(find: OnPaper) -> None:
    assert find(direct(), tap_is_there, ovsdb=None) == []


def test_the_bridge_is_the_one_that_is_set(find: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        tap_is_there(paper)
        paper.database.bridges.add("br-ovn")

    config = Config(integration_bridge="br-ovn")

    assert find(direct(), arrange, config=config) == []
    assert [port.name for port in find(direct(bridge="br-ovn"), arrange, config=config)] == [TAP]


def test_a_database_that_does_not_answer_is_told(find: OnPaper) -> None:
    with pytest.raises(Unavailable):
        find(direct(), lambda paper: paper.database.connect(False))


# ---- ports that we make --------------------------------------------------------------------------


def hybrid(bridge: str = QBR, target: str = TAP) -> Domain:
    """A VM whose tap is on a bridge of its own."""
    return a_vm(an_interface(bridge, target))


def devices_are_there(paper: PaperHost, owner: str = f"{VNIC_ID} {VM_ID}") -> None:
    paper.kernel.add_ours(QBR, QVB, QVO, owner=owner)
    paper.kernel.add(TAP, on=QBR)


def test_our_port_is_lost_with_the_columns_that_we_give_it(find: OnPaper) -> None:
    (port,) = find(hybrid(), devices_are_there)

    assert (port.name, port.tap, port.vm_id, port.vnic_id) == (QVO, TAP, VM_ID, VNIC_ID)
    assert port.port == ovs_hybrid.PORT_COLUMNS
    assert port.interface == {
        "external_ids": {
            "attached-mac": MAC,
            "iface-id": VNIC_ID,
            "iface-status": "active",
            "vif-driver": "ovs_hybrid",
            "vm-id": VM_ID,
        }
    }


def test_our_port_that_is_there_is_not_lost(find: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        devices_are_there(paper)
        paper.database.add(a_port(QVO))

    assert find(hybrid(), arrange) == []


@pytest.mark.parametrize("device", [QVO, QBR, TAP])
def test_our_port_is_not_lost_where_a_device_is_gone(find: OnPaper, device: str) -> None:
    def arrange(paper: PaperHost) -> None:
        devices_are_there(paper)
        paper.kernel.remove(device)

    assert find(hybrid(), arrange) == []


def test_our_port_is_not_lost_while_the_tap_is_elsewhere(find: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.kernel.add_ours(QBR, QVB, QVO)
        paper.kernel.add(TAP)

    assert find(hybrid(), arrange) == []


@pytest.mark.parametrize(
    "owner",
    ["", f"{VNIC_ID} -", f"{VNIC_ID} {OTHER_VM}"],
    ids=["nobody's", "some VM's", "another VM's"],
)
def test_devices_that_do_not_say_that_they_are_this_vms_get_no_port(
    find: OnPaper, owner: str
) -> None:
    assert find(hybrid(), lambda paper: devices_are_there(paper, owner)) == []


def test_devices_of_other_software_get_no_port(find: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.kernel.add_ours(QBR, QVB, QVO, group=0)
        paper.kernel.add(TAP, on=QBR)

    assert find(hybrid(), arrange) == []


@pytest.mark.parametrize(
    ("bridge", "target"),
    [(QBR, "vnet0"), ("brq" + SHORT, TAP), ("qbr", "tap"), ("qbr-short", "tap-short")],
)
def test_names_that_are_not_those_of_a_hybrid_vnic_are_not_looked_at(
    find: OnPaper, monkeypatch: pytest.MonkeyPatch, bridge: str, target: str
) -> None:
    def arrange(paper: PaperHost) -> None:
        devices_are_there(paper)
        monkeypatch.setattr(kernel, "master", lambda _name: bridge)
        monkeypatch.setattr(kernel, "has_device", lambda _name: True)

    assert find(hybrid(bridge, target), arrange) == []


def test_a_process_that_may_not_see_devices_looks_at_libvirts_ports_alone(find: OnPaper) -> None:
    vm = a_vm(an_interface(QBR, TAP), an_interface("br-int", "tap2", more=virtualport(VNIC_ID)))

    def arrange(paper: PaperHost) -> None:
        devices_are_there(paper)
        paper.kernel.add("tap2")

    assert [port.name for port in find(vm, arrange, links=None)] == ["tap2"]
