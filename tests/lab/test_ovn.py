# SPDX-License-Identifier: GPL-2.0-or-later
"""vNICs of OVN networks, from VDSM's hooks to the ping between two hypervisors."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from tests.lab.conftest import PortMaker, VmMaker, new_mac
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vdsm_hooks import HookError

PORT_A = "aaaaaaaa-0000-4000-8000-00000000000a"
PORT_B = "bbbbbbbb-0000-4000-8000-00000000000b"
PORT_C = "cccccccc-0000-4000-8000-00000000000c"


@pytest.fixture(scope="module")
def networks(lab: Lab) -> tuple[Network, Network]:
    """Two logical switches, joined by a logical router."""
    first = lab.central.add_network("net1", "10.0.0.0/24")
    second = lab.central.add_network("net2", "10.0.2.0/24")
    lab.central.add_router("r1", [first, second])
    return first, second


@pytest.fixture(scope="module")
def network(networks: tuple[Network, Network]) -> Network:
    """The first logical switch, on which new ports are made."""
    return networks[0]


@pytest.fixture(scope="module")
def other_network(networks: tuple[Network, Network]) -> Network:
    """The second one."""
    return networks[1]


@pytest.fixture(scope="module")
def running(installed: list[Product]) -> Iterator[list[Product]]:
    """The agent, running on both hypervisors for the whole module."""
    for product in installed:
        product.start()
    yield installed
    for product in installed:
        product.stop()


@pytest.fixture(scope="module")
def vms(
    lab: Lab, running: list[Product], network: Network, other_network: Network
) -> Iterator[dict[str, Vm]]:
    """VM a on hv1 and b on hv2 on one logical switch, c on hv2 on the other one."""
    where = {"a": (0, network, PORT_A), "b": (1, network, PORT_B), "c": (1, other_network, PORT_C)}
    made: dict[str, Vm] = {}
    for name, (host, switch, port_id) in where.items():
        port = lab.central.add_port(switch, port_id, new_mac())
        made[name] = Vm(f"vm-{name}", [Nic.ovn(port.name, port.mac)])
        Vdsm(lab.hosts[host]).create_vm(made[name])
    yield made
    for name, (host, _, port_id) in where.items():
        Vdsm(lab.hosts[host]).destroy_vm(made[name])
        lab.central.remove_port(port_id)


def address(vm: Vm) -> str:
    return vm.running.wait_lease().address


def test_a_guest_gets_an_address_of_its_subnet_by_dhcp(
    vms: dict[str, Vm], network: Network
) -> None:
    lease = vms["a"].running.wait_lease()

    assert ipaddress.ip_address(lease.address) in network.subnet
    assert lease.mtu == "1442"


def test_guests_on_two_hypervisors_reach_each_other(vms: dict[str, Vm]) -> None:
    target = address(vms["b"])

    assert vms["a"].running.reaches(target)


def test_guests_on_two_logical_switches_reach_each_other_through_the_router(
    vms: dict[str, Vm], other_network: Network
) -> None:
    target = address(vms["c"])

    assert ipaddress.ip_address(target) in other_network.subnet
    assert vms["a"].running.reaches(target)


def test_open_vswitch_knows_the_vnic_by_its_id(lab: Lab, vms: dict[str, Vm]) -> None:
    interface = lab.hosts[0].ovs.interface(f"tap{PORT_A[:11]}")

    assert interface["external_ids"]["iface-id"] == PORT_A
    assert interface["external_ids"]["vm-id"] == vms["a"].id
    assert interface["external_ids"]["attached-mac"] == vms["a"].nics[0].mac


def test_a_link_can_be_taken_down_and_up_again(lab: Lab, vms: dict[str, Vm]) -> None:
    vm, vdsm = vms["a"], Vdsm(lab.hosts[0])
    target = address(vms["b"])
    tap = f"tap{PORT_A[:11]}"
    row = lab.hosts[0].ovs.interface(tap)["_uuid"]

    vdsm.update_nic(vm, vm.nics[0], link_up=False)
    unreachable = not vm.running.reaches(target, timeout=2)
    vdsm.update_nic(vm, vm.nics[0], link_up=True)

    assert unreachable
    assert vm.running.reaches(target)
    assert lab.hosts[0].ovs.interface(tap)["_uuid"] == row


def test_a_nic_is_plugged_into_a_running_vm_and_taken_out(
    lab: Lab, vms: dict[str, Vm], new_port: PortMaker
) -> None:
    vm, vdsm, port = vms["a"], Vdsm(lab.hosts[0]), new_port()
    nic = Nic.ovn(port.name, port.mac)

    vdsm.hotplug(vm, nic)
    lease = vm.running.wait_lease(port.mac)
    vdsm.hotunplug(vm, nic)

    assert lease.address == port.address
    assert nic.tap not in lab.hosts[0].devices()
    assert not lab.hosts[0].ovs.interface_of(port.name)
    assert all(run.status == 0 and not run.stderr for run in vdsm.runs)


def test_nothing_of_a_vm_is_left_when_it_ends(
    lab: Lab, vms: dict[str, Vm], new_vm: VmMaker
) -> None:
    host, vm = lab.hosts[0], new_vm()
    vdsm = Vdsm(host)
    devices, ports = host.devices(), host.ovs.ports()

    vdsm.create_vm(vm)
    plugged = host.ovs.ports() - ports
    vdsm.destroy_vm(vm)

    assert plugged == {vm.nics[0].tap}
    assert (host.devices(), host.ovs.ports()) == (devices, ports)


def test_two_nics_of_one_vm_are_plugged(
    lab: Lab, vms: dict[str, Vm], new_vm: VmMaker, new_port: PortMaker
) -> None:
    ports = (new_port(), new_port())
    vm = new_vm(*ports)
    vdsm = Vdsm(lab.hosts[1])

    vdsm.create_vm(vm)
    leases = {vm.running.wait_lease(port.mac).address for port in ports}
    vdsm.destroy_vm(vm)

    assert leases == {port.address for port in ports}


def test_without_the_agent_a_vm_starts_all_the_same(
    lab: Lab, running: list[Product], new_vm: VmMaker
) -> None:
    vm, vdsm = new_vm(), Vdsm(lab.hosts[1])
    running[1].stop()
    try:
        vdsm.create_vm(vm)
        lease = vm.running.wait_lease()
        vdsm.destroy_vm(vm)
    finally:
        running[1].start()

    assert lease.mac == vm.nics[0].mac
    assert all(run.status == 0 for run in vdsm.runs)
    assert "dropped filterref 'vdsm-no-mac-spoofing'" in vdsm.runs[0].stderr


def test_a_tap_that_somebody_else_has_is_left_to_him(
    lab: Lab, running: list[Product], new_vm: VmMaker
) -> None:
    host, vm = lab.hosts[0], new_vm()
    tap = vm.nics[0].tap
    host.run(["ip", "tuntap", "add", tap, "mode", "tap"])
    try:
        with pytest.raises(HookError) as refused:
            Vdsm(host).create_vm(vm)
        kept = tap in host.devices()
    finally:
        host.run(["ip", "link", "del", tap])

    assert f"a device {tap} exists already" in refused.value.stderr
    assert vm.nics[0].vnic_id in refused.value.stderr
    assert kept and not host.ovs.interface(tap)


def test_a_stale_row_does_not_hand_its_identity_to_the_next_vm(
    lab: Lab, running: list[Product], new_vm: VmMaker
) -> None:
    host, vm = lab.hosts[0], new_vm()
    tap = vm.nics[0].tap
    host.vsctl(
        *f"--no-wait add-port br-int {tap} tag=7 -- set Interface {tap}".split(),
        "external_ids:vm-id=gone",
        "external_ids:attached-mac=fa:16:3e:ff:ff:ff",
        "external_ids:iface-id=somebody-else",
        "external_ids:left-over=true",
    )
    vdsm = Vdsm(host)

    vdsm.create_vm(vm)
    port, interface = host.ovs.port(tap), host.ovs.interface(tap)
    lease = vm.running.wait_lease()
    vdsm.destroy_vm(vm)

    assert port["tag"] == []
    assert interface["external_ids"]["iface-id"] == vm.nics[0].vnic_id
    assert "left-over" not in interface["external_ids"]
    assert lease.mac == vm.nics[0].mac


def test_a_row_that_libvirt_did_not_make_is_left_to_its_owner(
    lab: Lab, running: list[Product], new_vm: VmMaker
) -> None:
    host, vm = lab.hosts[0], new_vm()
    tap = vm.nics[0].tap
    host.vsctl("--no-wait", "add-port", "br-int", tap)
    try:
        with pytest.raises(HookError) as refused:
            Vdsm(host).create_vm(vm)
        kept = tap in host.ovs.ports()
    finally:
        host.vsctl("del-port", tap)

    assert f"ovs-vsctl del-port {tap}" in refused.value.stderr
    assert kept
