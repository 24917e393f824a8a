# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""What filtered vNICs of Neutron leave goes, and what they have lost comes back.

There is no agent of Neutron's here; what it does to a port is done by the tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.lab.conftest import AGENT_WAS_KILLED, CONFIGURATION, DoomedMaker, Point
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.leftovers import written
from tests.lab.harness.pings import Probe, add_probe
from tests.lab.harness.product import LOG, Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vdsm_hooks import HookError
from tests.lab.harness.vm_start import STARTING
from tests.lab.neutron_plugs import host, lab  # noqa: F401
from tests.lab.neutron_vnics import PREFIXES, a_vm, name

# Nobody makes a vNIC ready here.
SETTINGS = """\
[neutron]
firewall_driver = {}
[start]
deadline = 0
[reconcile]
grace = 1
"""

VLAN = 5

#: Seconds, more than VDSM takes to have libvirt start a VM.
LONG_AGO = 130

#: Seconds, more than two looks and the grace take.
LONG = 3.5

#: Seconds, more than the agent lets pass after a failure of its own.
RETRIED = 90

ADD_VETH = "vif_driver.host.links:Links.add_veth"
ADD_PORT = "vif_driver.host.ovsdb:Ovsdb.add_port"
POINTS = {
    "with a bridge": (ADD_VETH, "before", 1),
    "with devices": (ADD_VETH, "after", 1),
    "with devices and port": (ADD_PORT, "after", 1),
}

_addresses = count(10)


@pytest.fixture(scope="module")
def installed(host: Hypervisor) -> list[Product]:
    """The product on it, with the shortest grace; which agent runs is for the tests to say."""
    product = Product(host)
    product.install()
    host.write(CONFIGURATION, SETTINGS.format("iptables_hybrid"))
    return [product]


@pytest.fixture
def unfiltered(host: Hypervisor, agent: Product) -> Iterator[None]:
    """The host's agent of Neutron filters in Open vSwitch."""
    host.write(CONFIGURATION, SETTINGS.format("openvswitch"))
    agent.stop()
    agent.start()
    yield
    host.write(CONFIGURATION, SETTINGS.format("iptables_hybrid"))


@pytest.fixture
def vdsm(host: Hypervisor, installed: list[Product]) -> Iterator[Vdsm]:
    """VDSM of the hypervisor; after the test no VM runs and nothing of one is left."""
    yield Vdsm(host)
    for domain in host.libvirt.connection.listAllDomains():
        domain.destroy()


@pytest.fixture
def probe(host: Hypervisor) -> Iterator[Probe]:
    """Something in the VMs' VLAN that can ping."""
    probe = add_probe(host, "probe", "fa:16:3e:00:00:01", "10.9.0.1/24", Port=f"tag={VLAN}")
    yield probe
    probe.remove()


@pytest.fixture
def running(vdsm: Vdsm, agent: Product) -> Iterator[Callable[[], Vm]]:
    """Start a VM with a filtered vNIC: ``running()``."""
    made: list[Vm] = []

    def start() -> Vm:
        made.append(a_vm())
        vdsm.create_vm(made[-1])
        return made[-1]

    yield start
    for vm in made:
        vdsm.destroy_vm(vm)


def ours(host: Hypervisor) -> set[str]:
    names = host.devices() | {f"port {port}" for port in host.ovs.ports()}
    return {name for name in names if name.replace("port ", "").startswith(PREFIXES)}


def wait_nothing_left(host: Hypervisor) -> None:
    wait_until(lambda: not ours(host), RETRIED, "an end of all that was left", interval=0.1)


def give_address(vm: Vm) -> str:
    address = f"10.9.0.{next(_addresses)}"
    vm.running.set_address(vm.running.device(vm.nics[0].mac), f"{address}/24")
    return address


def wait_reached(probe: Probe, vm: Vm) -> None:
    """Give a VM an address, and wait for its answer."""
    address = give_address(vm)
    wait_until(lambda: probe.reaches(address), 30, "an answer of the VM")


def wire(host: Hypervisor, port: str) -> None:
    """Do to a port what Neutron's Open vSwitch agent does."""
    host.vsctl("set", "Port", port, f"tag={VLAN}")


def plug(vdsm: Vdsm, vm: Vm, event: str = "before_device_create") -> None:
    """Run the hook that plugs the VM's vNIC."""
    nic = vm.nics[0]
    vdsm.hooks.run(event, nic.xml().encode(), vm_id=vm.id, device_custom=nic.custom)


# ---- what VMs have left --------------------------------------------------------------------------


def test_what_a_vm_has_left_goes_even_if_no_hook_is_run(
    host: Hypervisor, vdsm: Vdsm, agent: Product
) -> None:
    vm = a_vm()
    vdsm.create_vm(vm)
    vm.running.destroy()
    left = ours(host)

    wait_nothing_left(host)

    devices = {name(vm, prefix) for prefix in ("qbr", "qvb", "qvo")}
    assert left == devices | {f"port {name(vm, 'qvo')}"}


def test_a_row_whose_devices_are_gone_goes(host: Hypervisor, vdsm: Vdsm, agent: Product) -> None:
    vm = a_vm()
    vdsm.create_vm(vm)
    vm.running.destroy()
    host.ip(f"link del {name(vm, 'qvb')}", f"link del {name(vm, 'qbr')}")
    left = ours(host)

    wait_nothing_left(host)

    assert left == {f"port {name(vm, 'qvo')}"}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_what_an_agent_that_was_killed_has_half_made_goes(
    host: Hypervisor, vdsm: Vdsm, installed: list[Product], doomed: DoomedMaker, point: Point
) -> None:
    vm = a_vm()
    doomed(point)
    with pytest.raises(HookError):
        plug(vdsm, vm)
    left = ours(host)
    # Of a start that has only begun VDSM may still make something.
    start = f"{STARTING}/{vm.id}"
    host.write(start, json.dumps({**json.loads(host.read(start)), "since": -LONG_AGO}))

    installed[0].start()
    wait_nothing_left(host)

    assert host.exists(AGENT_WAS_KILLED)
    assert name(vm, "qbr") in left


def test_a_half_made_plug_goes_with_the_vm_that_it_was_made_for(
    host: Hypervisor,
    vdsm: Vdsm,
    installed: list[Product],
    running: Callable[[], Vm],
    doomed: DoomedMaker,
) -> None:
    vm = running()
    extra = Vm(vm.name, [a_vm().nics[0]], id=vm.id)
    installed[0].stop()
    doomed((ADD_PORT, "after", 1))
    with pytest.raises(HookError):
        plug(vdsm, extra, "before_nic_hotplug")
    installed[0].start()
    left = ours(host)

    vdsm.destroy_vm(vm)
    wait_nothing_left(host)

    assert f"port {name(extra, 'qvo')}" in left


def test_a_plug_that_libvirt_has_still_to_finish_stays(
    host: Hypervisor, vdsm: Vdsm, agent: Product
) -> None:
    vm = a_vm()
    plug(vdsm, vm)
    plugged = ours(host)

    time.sleep(LONG)

    assert ours(host) == plugged and plugged
    vdsm.destroy_vm(vm)


def test_a_vm_that_starts_again_before_the_second_look_wins(
    host: Hypervisor, vdsm: Vdsm, running: Callable[[], Vm], probe: Probe
) -> None:
    vm = running()
    begin = len(host.read(LOG))
    vm.running.destroy()
    told = f"(VM {vm.id}, vNIC {vm.nics[0].vnic_id}) is left over"
    wait_until(lambda: told in host.read(LOG)[begin:], 10, "the first look")
    time.sleep(0.8)

    vdsm.create_vm(vm)
    plugged = ours(host)
    wire(host, name(vm, "qvo"))

    wait_reached(probe, vm)
    assert ours(host) == plugged


# ---- what VMs have lost --------------------------------------------------------------------------


def comes_back(host: Hypervisor, port: str) -> None:
    """Delete a port, and see that it is as it was before it was wired."""
    before = written(host, port)
    wire(host, port)
    host.vsctl("del-port", port)
    wait_until(lambda: host.ovs.port(port), RETRIED, f"the port {port}", interval=0.1)
    assert written(host, port) == before


def test_a_hybrid_port_that_somebody_deleted_is_plugged_again(
    host: Hypervisor, running: Callable[[], Vm], probe: Probe
) -> None:
    vm = running()

    comes_back(host, name(vm, "qvo"))
    wire(host, name(vm, "qvo"))

    wait_reached(probe, vm)


@pytest.mark.usefixtures("unfiltered")
def test_a_direct_port_that_somebody_deleted_is_plugged_again_and_is_dead_at_first(
    host: Hypervisor, running: Callable[[], Vm]
) -> None:
    vm = running()

    comes_back(host, name(vm, "tap"))

    assert host.ovs.port(name(vm, "tap"))["trunks"] == 4095
