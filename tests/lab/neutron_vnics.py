# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs with vNICs of Neutron, and what there is of them on a host."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.conftest import new_mac
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm

FILTERED_BY_IPTABLES = "[neutron]\nfirewall_driver = iptables_hybrid\n"

#: What names of devices and ports begin with.
PREFIXES = ("qbr", "qvb", "qvo", "tap", "qtp")


def a_vm(plugin: str = "OPEN_VSWITCH", **more: Any) -> Vm:
    """A VM with one vNIC of which no provider knows; ``more`` are attributes of that."""
    nic = Nic.openstack(plugin, str(uuid.uuid4()), new_mac(), **more)
    return Vm(f"vm-{uuid.uuid4().hex[:6]}", [nic], dhcp=False)


def name(vm: Vm, prefix: str) -> str:
    """What a device or port of a VM's first vNIC is called."""
    return prefix + vm.nics[0].vnic_id[:11]


def ours(host: Hypervisor) -> set[str]:
    """Devices and ports of vNICs."""
    names = host.devices() | host.ovs.ports()
    return {name for name in names if name.startswith(PREFIXES)}


@pytest.fixture(scope="module")
def settings() -> str:
    """For a Neutron that filters with iptables."""
    return FILTERED_BY_IPTABLES


@pytest.fixture
def vdsm(host: Hypervisor, product: Product) -> Iterator[Vdsm]:
    """VDSM on the hypervisor; after the test no VM runs and nothing of one is left."""
    vdsm = Vdsm(host)
    yield vdsm
    for domain in host.libvirt.connection.listAllDomains():
        domain.destroy()
    wait_until(lambda: not ours(host), 30, "nothing left")
