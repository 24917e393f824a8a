# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vNICs are found on a host, by what each of the sources tells."""

from __future__ import annotations

import pytest

from vif_driver.inspection.vnics import ExternalVnic, find
from vif_driver.marks import GROUP

from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer
from .inspected_host import (
    Devices,
    Vms,
    a_vm,
    add_plugged,
    add_port,
    an_interface,
    inspected,
    virtualport,
)

SHORT = VNIC_ID[:11]
TAP = f"tap{SHORT}"
DEAD = "<vlan trunk='yes'><tag id='4095'/></vlan>"


def found(
    server: OvsdbServer | None = None, devices: Devices | None = None, vms: Vms | None = None
) -> list[ExternalVnic]:
    vnics, _ = inspected(find, server, devices, vms)
    return vnics


def private_devices(far_end: str) -> Devices:
    devices = Devices()
    alias = f"vif-driver {VNIC_ID} {VM_ID}"
    for name in (f"qbr{SHORT}", f"qvb{SHORT}", far_end):
        devices.add(name, alias=alias, group=GROUP)
    return devices


# ---- Open vSwitch's database ---------------------------------------------------------------------


def test_a_port_of_ovn(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    devices.add(TAP)
    add_plugged(ovsdb_server, TAP, VNIC_ID, ovn_installed="true")

    (vnic,) = found(ovsdb_server, vms=Vms(None))

    assert (vnic.id, vnic.attachment, vnic.guest_tap, vnic.ready) == (VNIC_ID, "ovn", TAP, True)
    assert (vnic.mac, vnic.identity.vm_id, vnic.vm_state) == (MAC, VM_ID, None)


@pytest.mark.parametrize(
    ("column", "ready"),
    [
        ("tag=7", True),
        ("tag=4095", False),
        ("trunks=4095", False),
        ("other_config:net_uuid=x", False),
    ],
)
def test_a_port_of_neutrons(
    ovsdb_server: OvsdbServer, devices: set[str], column: str, ready: bool
) -> None:
    devices.add(TAP)
    ovsdb_server.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-remote=tcp:x:1")
    add_plugged(ovsdb_server, TAP, VNIC_ID, column)

    (vnic,) = found(ovsdb_server)

    assert (vnic.attachment, vnic.ready) == ("ovs", ready)


@pytest.mark.parametrize(("remote", "attachment"), [("tcp:x:1", "ovn"), ("", "ovs")])
def test_a_port_that_says_nothing_is_of_whom_the_host_is(
    ovsdb_server: OvsdbServer, devices: set[str], remote: str, attachment: str
) -> None:
    if remote:
        ovsdb_server.vsctl("set", "Open_vSwitch", ".", f"external_ids:ovn-remote={remote}")
    add_plugged(ovsdb_server, TAP, VNIC_ID)

    assert [vnic.attachment for vnic in found(ovsdb_server)] == [attachment]


def test_a_port_that_an_older_driver_named_otherwise(
    ovsdb_server: OvsdbServer, devices: set[str]
) -> None:
    devices.add("vnet3")
    add_plugged(ovsdb_server, "vnet3", VNIC_ID, ovn_installed="true")

    (vnic,) = found(ovsdb_server)

    assert (vnic.guest_tap, vnic.devices, vnic.ready) == ("vnet3", ("vnet3",), True)


def test_a_hybrid_port(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    add_plugged(ovsdb_server, f"qvo{SHORT}", VNIC_ID, "tag=7", vif_driver="ovs_hybrid")

    (vnic,) = found(ovsdb_server)

    assert (vnic.id, vnic.attachment, vnic.guest_tap) == (VNIC_ID, "ovs_hybrid", TAP)
    assert vnic.devices == tuple(prefix + SHORT for prefix in ("tap", "qbr", "qvb", "qvo"))
    assert vnic.port == f"qvo{SHORT}"


def test_ports_of_others_are_left_out(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    add_port(ovsdb_server, "patch-x")
    add_port(ovsdb_server, "tapnova", iface_id=VNIC_ID, vm_uuid=VM_ID, attached_mac=MAC)
    ovsdb_server.vsctl("add-br", "br-ex")
    ovsdb_server.vsctl(
        *["add-port", "br-ex", "vnet1", "--", "set", "Interface", "vnet1"],
        *["external_ids:vm-id=x", "external_ids:attached-mac=x", "external_ids:iface-id=x"],
    )

    assert found(ovsdb_server) == []


def test_a_port_whose_vm_is_gone(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    add_plugged(ovsdb_server, TAP, VNIC_ID)

    (vnic,) = found(ovsdb_server, vms=Vms([]))

    assert (vnic.vm_state, vnic.vm_name, vnic.has_interface) == ("gone", None, False)


def test_a_port_whose_interface_is_gone_from_its_vm(
    ovsdb_server: OvsdbServer, devices: set[str]
) -> None:
    add_plugged(ovsdb_server, TAP, VNIC_ID)

    (vnic,) = found(ovsdb_server, vms=Vms([a_vm()]))

    assert (vnic.vm_state, vnic.vm_name, vnic.has_interface) == ("running", "vm1", False)


# ---- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("far_end", "attachment", "guest_tap"),
    [(f"qvo{SHORT}", "ovs_hybrid", TAP), (f"tap{SHORT}", "linux_bridge", f"qtp{SHORT}")],
)
def test_devices_with_our_mark(
    devices: set[str], far_end: str, attachment: str, guest_tap: str
) -> None:
    (vnic,) = found(devices=private_devices(far_end))

    assert (vnic.id, vnic.identity.vm_id) == (VNIC_ID, VM_ID)
    assert (vnic.attachment, vnic.guest_tap) == (attachment, guest_tap)


def test_devices_without_our_mark_are_left_out() -> None:
    others = Devices()
    others.add("qbr1", alias=f"vif-driver {VNIC_ID} {VM_ID}")
    others.add("qbr2", group=GROUP)
    others.add("qbr3", alias="something else", group=GROUP)

    assert found(devices=others) == []


# ---- libvirt -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "attachment"),
    [
        (an_interface("br-int", TAP, more=virtualport(VNIC_ID)), "ovn"),
        (an_interface("br-int", "vnet0", more=virtualport(VNIC_ID)), "ovn"),
        (an_interface("br-int", TAP, more=virtualport(VNIC_ID) + DEAD), "ovs"),
        (an_interface(f"qbr{SHORT}", TAP), "ovs_hybrid"),
        (an_interface(f"qbr{SHORT}", f"qtp{SHORT}"), "linux_bridge"),
        (an_interface(";vdsmdummy;", TAP), "linux_bridge_dummy"),
    ],
)
def test_an_interface_of_a_vm(devices: set[str], interface: str, attachment: str) -> None:
    (vnic,) = found(vms=Vms([a_vm(interface)]))

    assert (vnic.attachment, vnic.mac, vnic.vm_name) == (attachment, MAC, "vm1")
    assert VNIC_ID.startswith(vnic.id)
    assert vnic.has_interface is True


@pytest.mark.parametrize(
    "interface",
    [
        an_interface("ovirtmgmt", "vnet0"),
        an_interface(";vdsmdummy;", "vnet0"),
        an_interface("br-int", "vnet0"),
        an_interface(f"qbr{SHORT}", "vnet0"),
        an_interface("qbrffffffff-ff", TAP),
        "<interface type='hostdev'/>",
    ],
)
def test_interfaces_of_the_hosts_own_networks_are_left_out(interface: str) -> None:
    assert found(vms=Vms([a_vm(interface)])) == []


def test_what_vdsm_noted_gives_the_whole_id(devices: set[str]) -> None:
    noted = (
        '<ovirt-vm:vm xmlns:ovirt-vm="http://ovirt.org/vm/1.0">'
        f'<ovirt-vm:device mac_address="{MAC.upper()}"><ovirt-vm:custom>'
        f"<ovirt-vm:vnic_id>{VNIC_ID}</ovirt-vm:vnic_id>"
        "</ovirt-vm:custom></ovirt-vm:device></ovirt-vm:vm>"
    )

    (vnic,) = found(vms=Vms([a_vm(an_interface(f"qbr{SHORT}", TAP), metadata=noted)]))

    assert vnic.id == VNIC_ID


@pytest.mark.parametrize(("state", "up"), [("up", True), ("down", False)])
def test_the_link_state_is_the_vms(devices: set[str], state: str, up: bool) -> None:
    more = virtualport(VNIC_ID) + f"<link state='{state}'/>"

    (vnic,) = found(vms=Vms([a_vm(an_interface("br-int", TAP, more=more))]))

    assert vnic.link_up is up


# ---- all of them ---------------------------------------------------------------------------------


def test_the_sources_speak_of_one_vnic(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    add_plugged(ovsdb_server, f"qvo{SHORT}", VNIC_ID, vif_driver="ovs_hybrid")
    interface = an_interface(f"qbr{SHORT}", TAP, mac="fa:16:3e:00:00:01")

    vnics = found(ovsdb_server, private_devices(f"qvo{SHORT}"), Vms([a_vm(interface)]))

    assert [(vnic.id, vnic.attachment, vnic.vm_name) for vnic in vnics] == [
        (VNIC_ID, "ovs_hybrid", "vm1")
    ]
    assert vnics[0].mac == "fa:16:3e:00:00:01"


def test_two_vnics_with_one_id_are_two(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    add_plugged(ovsdb_server, TAP, VNIC_ID)
    add_plugged(ovsdb_server, "vnet9", VNIC_ID)

    assert [vnic.guest_tap for vnic in found(ovsdb_server)] == [TAP, "vnet9"]


def test_what_a_source_cannot_tell_is_said() -> None:
    _, missed = inspected(find, vms=Vms(None))

    assert [error.what for error in missed] == [
        "Open vSwitch's database was not asked",
        "libvirt does not answer",
    ]


def test_without_the_database_readiness_is_not_known(devices: set[str]) -> None:
    interface = an_interface("br-int", TAP, more=virtualport(VNIC_ID))

    (vnic,) = found(vms=Vms([a_vm(interface)]))

    assert vnic.ready is None
