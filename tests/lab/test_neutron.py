# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""vNICs of Neutron networks, from VDSM's hooks to the ping, with Neutron's own server and agents.

Agents are changed between the sections of this file only, as that takes a while; each test gets
the one that it asks for, in any order.
"""

from __future__ import annotations

import os
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.lab.conftest import CONFIGURATION, PATIENT
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.neutron import Neutron, NeutronNetwork, NeutronPort
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vm_start import state
from tests.lab.neutron_vnics import ours, vdsm  # noqa: F401
from tests.lab.with_neutron import lab, network, neutron  # noqa: F401

HUNDRED = 100


@dataclass(frozen=True)
class Server:
    """A VM with one vNIC, and the port behind that.

    Attributes:
        vm: the VM.
        port: Neutron's port.
    """

    vm: Vm
    port: NeutronPort

    @property
    def nic(self) -> Nic:
        return self.vm.nics[0]

    def name(self, prefix: str) -> str:
        return prefix + self.port.id[:11]

    def set_address(self) -> None:
        guest = self.vm.running
        mtu = self.port.network.mtu
        guest.set_address(guest.device(self.port.mac), self.port.interface, mtu=mtu)

    def reaches(self, other: Server, timeout: float = 20) -> bool:
        return self.vm.running.reaches(other.port.address, timeout=timeout)

    def wait_unreached_by(self, other: Server) -> bool:
        wait_until(lambda: not other.reaches(self, timeout=1), 20, "loss of the connection")
        return True


@contextmanager
def configured(product: Product, text: str) -> Iterator[None]:
    """The product, configured in another way."""
    before = product.host.read(CONFIGURATION)

    def configure(text: str) -> None:
        product.host.write(CONFIGURATION, text)
        product.stop()
        product.start()

    configure(text)
    yield
    configure(before)


@pytest.fixture
def impatient(product: Product) -> Iterator[None]:
    """VMs do not wait for their vNICs."""
    with configured(product, "[start]\ndeadline = 0\n"):
        yield


@pytest.fixture
def patient(product: Product) -> Iterator[None]:
    """VMs wait for their vNICs as long as it takes."""
    with configured(product, PATIENT):
        yield


@pytest.fixture
def hybrid(neutron: Neutron) -> None:
    neutron.use_agent("hybrid")


@pytest.fixture
def direct(neutron: Neutron) -> None:
    neutron.use_agent("direct")


@pytest.fixture
def linux_bridge(neutron: Neutron) -> None:
    neutron.use_agent("linux_bridge")


@pytest.fixture
def closed(neutron: Neutron) -> str:
    """A security group that lets nothing in."""
    return neutron.create_security_group("closed")


@pytest.fixture
def open_(neutron: Neutron) -> str:
    """A security group that lets pings in."""
    group = neutron.create_security_group("open")
    neutron.add_rule(group, "icmp")
    return group


def server(plugin: str, port: NeutronPort) -> Server:
    # Debian 12's ebtables is not safe to be run twice at the same time, whatever --concurrent says:
    # now and then libvirt, which VDSM's filter makes use it on every Linux bridge, would fail a
    # start while it starts another VM, or while Neutron's agent uses it too.
    nic = Nic.openstack(plugin, port.id, port.mac, mtu=port.network.mtu, filter=None)
    return Server(Vm(f"vm-{uuid.uuid4().hex[:6]}", [nic], dhcp=False), port)


def servers(
    neutron: Neutron, network: NeutronNetwork, group: str, plugin: str = "OPEN_VSWITCH"
) -> tuple[Server, Server]:
    """Two VMs in one network and one security group, not started."""
    first, second = neutron.create_ports(2, network, [group])
    return server(plugin, first), server(plugin, second)


@contextmanager
def running(vdsm: Vdsm, *these: Server) -> Iterator[None]:
    """VMs that run and have set their addresses."""
    try:
        vdsm.create_vms([each.vm for each in these])
        for each in these:
            each.set_address()
        yield
    finally:
        for each in these:
            vdsm.destroy_vm(each.vm)


def planned_bridge(vdsm: Vdsm, of: Server) -> str:
    """The bridge that the product would have libvirt plug the vNIC into."""
    data, custom = of.nic.xml().encode(), of.nic.custom
    xml = vdsm.hooks.run("before_nic_hotplug", data, vm_id=of.vm.id, device_custom=custom)
    vdsm.hooks.run("after_nic_hotplug_fail", xml, vm_id=of.vm.id, device_custom=custom)
    source = ElementTree.fromstring(xml).find("source")
    return "" if source is None else source.get("bridge", "")


# ---- Linux bridge agent --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hundred_ports(neutron: Neutron, network: NeutronNetwork) -> Iterator[Future[list[NeutronPort]]]:
    """Ports for the Linux bridge agent; Neutron makes them while other tests run."""
    neutron.use_agent("linux_bridge")
    group = neutron.create_security_group("hundred")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(neutron.create_ports, HUNDRED, network, [group])


@pytest.mark.usefixtures("hundred_ports", "linux_bridge")
def test_guests_on_linux_bridges_reach_each_other(
    vdsm: Vdsm, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    first, second = servers(neutron, network, open_, "LINUX_BRIDGE")
    with running(vdsm, first, second):
        neutron.wait_status("ACTIVE", first.port, second.port)

        assert first.reaches(second)


@pytest.mark.usefixtures("linux_bridge", "patient")
def test_a_vm_on_a_linux_bridge_runs_once_its_device_is_on_the_networks_bridge(
    vdsm: Vdsm, host: Hypervisor, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    one = server("LINUX_BRIDGE", neutron.create_port(network, [open_]))

    vdsm.create_vm(one.vm)

    connected = host.exists(f"/sys/class/net/{network.bridge}/brif/{one.name('tap')}")
    said, does = vdsm.hooks.runs_of("after_vm_start")[-1].stderr, state(host, one.vm)
    vdsm.destroy_vm(one.vm)
    assert connected
    assert (said, does) == ("", "running")


@pytest.mark.usefixtures("linux_bridge")
def test_security_groups_hold_on_linux_bridges(
    vdsm: Vdsm, neutron: Neutron, network: NeutronNetwork, closed: str
) -> None:
    first, second = servers(neutron, network, closed, "LINUX_BRIDGE")
    with running(vdsm, first, second):
        neutron.wait_status("ACTIVE", first.port, second.port)
        blocked = not first.reaches(second, timeout=3)
        rule = neutron.add_rule(closed, "icmp")
        passed = first.reaches(second)
        neutron.delete_rule(rule)

        assert blocked and passed
        assert second.wait_unreached_by(first)


@pytest.mark.usefixtures("linux_bridge")
def test_a_nic_is_hot_plugged_for_the_linux_bridge_agent_and_taken_out(
    vdsm: Vdsm, host: Hypervisor, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    first, second = servers(neutron, network, open_, "LINUX_BRIDGE")
    late = second.vm.nics.pop()
    with running(vdsm, first):
        vdsm.create_vm(second.vm)
        second.vm.running.wait_up()
        before = ours(host)

        vdsm.hotplug(second.vm, late)
        second.set_address()
        reached = first.reaches(second)
        vdsm.hotunplug(second.vm, late)
        neutron.wait_status("DOWN", second.port)
        left = ours(host)
        vdsm.destroy_vm(second.vm)

        assert reached
        assert left == before


@pytest.mark.usefixtures("linux_bridge")
def test_a_restart_of_the_linux_bridge_agent_leaves_guests_connected_and_filtered(
    vdsm: Vdsm, neutron: Neutron, network: NeutronNetwork, closed: str
) -> None:
    first, second = servers(neutron, network, closed, "LINUX_BRIDGE")
    with running(vdsm, first, second):
        neutron.wait_status("ACTIVE", first.port, second.port)
        neutron.stop_agent()
        neutron.start_agent("linux_bridge")
        blocked = not first.reaches(second, timeout=3)
        neutron.add_rule(closed, "icmp")

        assert blocked
        assert first.reaches(second)


@pytest.mark.usefixtures("linux_bridge")
def test_of_a_hundred_starts_none_is_left_without_its_network(
    vdsm: Vdsm,
    host: Hypervisor,
    neutron: Neutron,
    network: NeutronNetwork,
    hundred_ports: Future[list[NeutronPort]],
) -> None:
    all_ = [server("LINUX_BRIDGE", port) for port in hundred_ports.result()]
    taps = {each.name("tap") for each in all_}
    bridge_ports = host.path(f"/sys/class/net/{network.bridge}/brif")

    def connected() -> set[str]:
        return taps & set(os.listdir(bridge_ports))

    with ThreadPoolExecutor(4) as pool:
        # Paused: libvirt and QEMU make and plug the tap, and nobody waits for a guest to boot.
        list(pool.map(lambda each: vdsm.create_vm(each.vm, paused=True), all_))
        wait_until(lambda: connected() == taps, 120, "all taps on the network's bridge", 0.2)
        neutron.wait_status("ACTIVE", *(each.port for each in all_), timeout=120)
        list(pool.map(lambda each: vdsm.destroy_vm(each.vm), all_))

    assert len(taps) == HUNDRED
    assert not ours(host)


# ---- Open vSwitch, filtered in Open vSwitch ------------------------------------------------------


@pytest.mark.usefixtures("direct")
def test_where_open_vswitch_filters_a_vnic_is_plugged_into_the_integration_bridge(
    vdsm: Vdsm, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    port = neutron.create_port(network, [open_])

    bridge = planned_bridge(vdsm, server("OPEN_VSWITCH", port))

    assert port.vif_details["ovs_hybrid_plug"] is False
    assert bridge == "br-int"


@pytest.mark.usefixtures("direct", "patient")
def test_a_vm_on_a_direct_port_runs_once_the_agent_has_wired_it(
    vdsm: Vdsm, host: Hypervisor, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    one = server("OPEN_VSWITCH", neutron.create_port(network, [open_]))

    vdsm.create_vm(one.vm)

    vlan = host.ovs.port(one.name("tap"))["tag"]
    said, does = vdsm.hooks.runs_of("after_vm_start")[-1].stderr, state(host, one.vm)
    vdsm.destroy_vm(one.vm)
    assert vlan not in ([], 4095)
    assert (said, does) == ("", "running")


@pytest.mark.usefixtures("direct", "impatient")
def test_a_direct_port_carries_nothing_until_the_agent_has_wired_it(
    vdsm: Vdsm, host: Hypervisor, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    first, second = servers(neutron, network, open_)
    neutron.stop_agent()
    with running(vdsm, first, second):
        dead = not first.reaches(second, timeout=3)
        unwired = host.ovs.port(second.name("tap"))
        neutron.start_agent("direct")
        neutron.wait_status("ACTIVE", first.port, second.port)

        assert dead
        assert (unwired["tag"], unwired["trunks"]) == ([], 4095)
        assert first.reaches(second)


@pytest.mark.usefixtures("direct")
def test_security_groups_hold_on_direct_ports(
    vdsm: Vdsm, neutron: Neutron, network: NeutronNetwork, closed: str
) -> None:
    first, second = servers(neutron, network, closed)
    with running(vdsm, first, second):
        neutron.wait_status("ACTIVE", first.port, second.port)
        blocked = not first.reaches(second, timeout=3)
        neutron.add_rule(closed, "icmp")

        assert blocked
        assert first.reaches(second)


@pytest.mark.usefixtures("direct")
def test_a_direct_port_stays_wired_when_its_link_goes_down_and_up(
    vdsm: Vdsm, host: Hypervisor, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    first, second = servers(neutron, network, open_)
    with running(vdsm, first, second):
        neutron.wait_status("ACTIVE", first.port, second.port)
        wired = host.ovs.port(second.name("tap"))["tag"]
        down = vdsm.update_nic(second.vm, second.nic, link_up=False)
        silent = second.wait_unreached_by(first)
        vdsm.update_nic(second.vm, down, link_up=True)

        assert silent
        assert host.ovs.port(second.name("tap"))["tag"] == wired
        assert first.reaches(second)


# ---- Open vSwitch, filtered on a Linux bridge ----------------------------------------------------


@pytest.mark.usefixtures("hybrid")
def test_where_iptables_filters_a_vnic_is_plugged_into_a_linux_bridge(
    vdsm: Vdsm, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    port = neutron.create_port(network, [open_])

    bridge = planned_bridge(vdsm, server("OPEN_VSWITCH", port))

    assert port.vif_details["ovs_hybrid_plug"] is True
    assert bridge == f"qbr{port.id[:11]}"


@pytest.mark.usefixtures("hybrid")
def test_guests_on_hybrid_ports_reach_each_other(
    vdsm: Vdsm, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    first, second = servers(neutron, network, open_)
    with running(vdsm, first, second):
        neutron.wait_status("ACTIVE", first.port, second.port)

        assert first.reaches(second)


@pytest.mark.usefixtures("hybrid")
def test_a_hybrid_port_that_somebody_deleted_is_plugged_again_and_wired_again(
    vdsm: Vdsm, host: Hypervisor, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    first, second = servers(neutron, network, open_)
    with running(vdsm, first, second):
        neutron.wait_status("ACTIVE", first.port, second.port)
        wired = host.ovs.port(second.name("qvo"))["tag"]

        host.vsctl("del-port", second.name("qvo"))
        again = lambda: host.ovs.port(second.name("qvo")).get("tag") == wired  # noqa: E731
        wait_until(again, 90, "the port in its VLAN", interval=0.1)

        assert first.reaches(second)


@pytest.mark.usefixtures("hybrid")
def test_security_groups_hold_on_hybrid_ports(
    vdsm: Vdsm, neutron: Neutron, network: NeutronNetwork, closed: str
) -> None:
    first, second = servers(neutron, network, closed)
    with running(vdsm, first, second):
        neutron.wait_status("ACTIVE", first.port, second.port)
        blocked = not first.reaches(second, timeout=3)
        rule = neutron.add_rule(closed, "icmp")
        passed = first.reaches(second)
        neutron.delete_rule(rule)

        assert blocked and passed
        assert second.wait_unreached_by(first)


@pytest.mark.usefixtures("hybrid", "impatient")
def test_a_hybrid_port_carries_nothing_until_the_agent_has_wired_it(
    vdsm: Vdsm, host: Hypervisor, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    first, second = servers(neutron, network, open_)
    neutron.stop_agent()
    with running(vdsm, first, second):
        dead = not first.reaches(second, timeout=3)
        unwired = host.ovs.port(second.name("qvo"))
        neutron.start_agent("hybrid")
        neutron.wait_status("ACTIVE", first.port, second.port)

        assert dead
        assert (unwired["tag"], unwired["trunks"]) == ([], 4095)
        assert first.reaches(second)


@pytest.mark.usefixtures("hybrid")
def test_of_a_destroyed_vm_nothing_is_left_and_neutron_knows(
    vdsm: Vdsm, host: Hypervisor, neutron: Neutron, network: NeutronNetwork, open_: str
) -> None:
    one = server("OPEN_VSWITCH", neutron.create_port(network, [open_]))
    vdsm.create_vm(one.vm)
    neutron.wait_status("ACTIVE", one.port)

    vdsm.destroy_vm(one.vm)

    neutron.wait_status("DOWN", one.port)
    assert not ours(host)
    assert not host.ovs.interface_of(one.port.id)
