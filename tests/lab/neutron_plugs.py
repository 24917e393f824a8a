# SPDX-License-Identifier: GPL-2.0-or-later
"""A hypervisor on which vNICs of Neutron are plugged, without Neutron's agents.

What the agents do to a port once they have found it (a VLAN tag, a bridge) is done by the tests, at
the moment that suits them; test_neutron.py has the agents themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from tests.lab.conftest import CONFIGURATION
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.neutron_vnics import FILTERED_BY_IPTABLES

# There is no agent to wait for.
AT_ONCE = "[start]\ndeadline = 0\n"

_addresses = count(10)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor without OVN."""
    with Lab(hypervisors=1, ovn=False) as started:
        yield started


@pytest.fixture(scope="module")
def host(lab: Lab) -> Hypervisor:
    """The hypervisor; its integration bridge switches by MAC address and VLAN."""
    host = lab.hosts[0]
    # As Neutron's agent has it once its first flows are there, and a fresh add-br from the start.
    host.vsctl("set", "Bridge", "br-int", "fail_mode=standalone")
    return host


@pytest.fixture(scope="module")
def settings() -> str:
    """Not what some configuration of Neutron that lies about on this machine says."""
    return AT_ONCE + FILTERED_BY_IPTABLES


@pytest.fixture
def configured(host: Hypervisor, product: Product) -> Iterator[Callable[[str], None]]:
    """Configure the agent, until the end of the test: ``configured("[neutron]…")``."""
    before = host.read(CONFIGURATION)

    def configure(text: str) -> None:
        host.write(CONFIGURATION, text)
        product.stop()
        product.start()

    yield lambda text: configure(AT_ONCE + text)
    configure(before)


@pytest.fixture
def filtered_in_openvswitch(configured: Callable[[str], None]) -> None:
    """A host whose Neutron agent filters in Open vSwitch."""
    configured("[neutron]\nfirewall_driver = openvswitch\n")


def give_address(vm: Vm) -> str:
    address = f"10.9.0.{next(_addresses)}"
    nic = vm.nics[0]
    vm.running.set_address(vm.running.device(nic.mac), f"{address}/24", mtu=nic.mtu or 1500)
    return address


@contextmanager
def running(vdsm: Vdsm, *vms: Vm) -> Iterator[list[str]]:
    """VMs that run; gives their addresses."""
    for vm in vms:
        vdsm.create_vm(vm)
    try:
        yield [give_address(vm) for vm in vms]
    finally:
        for vm in vms:
            vdsm.destroy_vm(vm)


def wire(host: Hypervisor, port: str) -> None:
    """Do to a port what Neutron's Open vSwitch agent does."""
    host.vsctl("set", "Port", port, "tag=5")


def attribute(host: Hypervisor, path: str) -> str:
    return host.read(f"/sys/class/net/{path}").strip()
