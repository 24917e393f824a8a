# SPDX-License-Identifier: GPL-2.0-or-later
"""Each attachment once on a hypervisor with EL9's Python and libraries.

The interfaces of the OVSDB client and of the netlink library have changed since those versions.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.lab.conftest import new_mac
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.interpreter import Interpreter
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vdsm_hooks import HookError
from tests.lab.neutron_vnics import a_vm, settings  # noqa: F401

CONFIG = "/etc/vif-driver/vif-driver.conf"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with OVN, whose Python and libraries are those of EL9."""
    with Lab(hypervisors=1, interpreter=Interpreter.of_environment()) as started:
        yield started


@pytest.fixture
def vdsm(host: Hypervisor, product: Product) -> Vdsm:
    """VDSM on that hypervisor."""
    return Vdsm(host)


def plugged_and_gone(host: Hypervisor, vdsm: Vdsm, vm: Vm) -> tuple[set[str], set[str]]:
    """The devices and ports that a VM brings, and those that are left when it has ended."""
    before = host.devices() | host.ovs.ports()
    vdsm.create_vm(vm)
    during = host.devices() | host.ovs.ports()
    vdsm.destroy_vm(vm)
    return during - before, (host.devices() | host.ovs.ports()) - before


def test_the_host_has_el9s_libraries(host: Hypervisor, product: Product) -> None:
    question = (
        "import sys, lxml.etree, ovs.version; print(sys.version_info[:2], ovs.version.VERSION)"
    )

    versions = host.output(["/usr/bin/python3", "-I", "-c", question])

    assert versions.split("\n")[0] == "(3, 9) 2.17.11"


def test_an_ovn_vnic_gets_its_address(lab: Lab, vdsm: Vdsm) -> None:
    network = lab.central.add_network("el9", "10.0.9.0/24")
    port = lab.central.add_port(network, str(uuid.uuid4()), new_mac())
    vm = Vm("vm-el9", [Nic.ovn(port.name, port.mac)])

    vdsm.create_vm(vm)
    lease = vm.running.wait_lease()
    vdsm.destroy_vm(vm)

    assert lease.address == port.address
    assert all(run.status == 0 and not run.stderr for run in vdsm.runs)


def test_a_direct_vnic_is_plugged_and_unplugged(host: Hypervisor, vdsm: Vdsm) -> None:
    vm = a_vm("OPEN_VSWITCH", security_groups="")

    plugged, left = plugged_and_gone(host, vdsm, vm)

    assert (plugged, left) == ({vm.nics[0].tap}, set())


def test_a_hybrid_vnic_is_plugged_and_unplugged(host: Hypervisor, vdsm: Vdsm) -> None:
    vm = a_vm("OPEN_VSWITCH")

    plugged, left = plugged_and_gone(host, vdsm, vm)

    names = {prefix + vm.nics[0].vnic_id[:11] for prefix in ("tap", "qbr", "qvb", "qvo")}
    assert (plugged, left) == (names, set())


def test_a_linux_bridge_vnic_is_plugged_and_unplugged(host: Hypervisor, vdsm: Vdsm) -> None:
    vm = a_vm("LINUX_BRIDGE")

    plugged, left = plugged_and_gone(host, vdsm, vm)

    names = {prefix + vm.nics[0].vnic_id[:11] for prefix in ("tap", "qbr", "qvb", "qtp")}
    assert (plugged, left) == (names, set())


def test_a_link_goes_down_and_up_on_a_direct_vnic(host: Hypervisor, vdsm: Vdsm) -> None:
    vm = a_vm("OPEN_VSWITCH", security_groups="")
    vdsm.create_vm(vm)
    host.vsctl("set", "Port", vm.nics[0].tap, "tag=5")

    vdsm.update_nic(vm, vm.nics[0], link_up=False)

    tag = host.ovs.port(vm.nics[0].tap)["tag"]
    vdsm.destroy_vm(vm)
    assert tag == 5


@pytest.mark.parametrize("with_agent", [True, False])
def test_the_tunnels_nic_is_protected(
    host: Hypervisor, product: Product, vdsm: Vdsm, with_agent: bool
) -> None:
    if not with_agent:
        product.stop()

    vdsm.setup_networks({"x": {"nic": "eth0", "vlan": 5, "mtu": 1700}})
    with pytest.raises(HookError, match=r"'x' would take eth0 .* but eth0 carries this host's OVN"):
        vdsm.setup_networks({"x": {"nic": "eth0"}})

    if not with_agent:
        product.start()
