# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM runs once its vNICs work, and not before.

OVN is real here.  What Neutron's agents do to a port (a VLAN tag, a bridge) the tests do at the
moment that suits them; test_neutron.py has the agents themselves.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from tests.lab.conftest import PATIENT, Configure, PortMaker, StartMaker, VmMaker, new_mac
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import VDSM_USER, Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.nic import DUMMY_BRIDGE, Nic
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.product import Product
from tests.lab.harness.service import Daemon, Service
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vm_start import agent_status, pending, state, stays_paused

RESUME_TIMES = str(PROJECT / "tests/lab/harness/inside/resume_times.py")

# Where a security group is asked for, the vNIC is a hybrid one.
HYBRID = f"[neutron]\nfirewall_driver = iptables_hybrid\n{PATIENT}"
NO_GROUP = ""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with OVN."""
    with Lab(hypervisors=1) as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def product(host: Hypervisor, installed: list[Product]) -> Iterator[Product]:
    """The product on it, its agent running."""
    host.write("/etc/vif-driver/vif-driver.conf", HYBRID)
    installed[0].start()
    yield installed[0]
    installed[0].stop()


@pytest.fixture
def resume_times(host: Hypervisor) -> Iterator[Service]:
    """Who writes down when QEMU lets a guest run."""
    log = "/var/log/resume_times.log"
    listening = lambda: "listening" in host.read(log)  # noqa: E731
    service = Service(host, "resume_times", ["python3", RESUME_TIMES], log=log, ready=listening)
    service.start()
    yield service
    service.stop()


def a_neutron_vm(plugin: str, **more: object) -> Vm:
    nic = Nic.openstack(plugin, str(uuid.uuid4()), new_mac(), **more)
    return Vm(f"vm-{uuid.uuid4().hex[:6]}", [nic], dhcp=False)


def waits(product: Product, vnic_id: str) -> bool:
    """Whether the agent says that it waits for a vNIC."""
    return any(each["vnic_id"] == vnic_id for each in agent_status(product.host)["waiting"])


# ---- OVN -----------------------------------------------------------------------------------------


def test_a_vm_stands_still_until_both_of_its_vnics_work(
    lab: Lab,
    host: Hypervisor,
    network: Network,
    new_port: PortMaker,
    new_vm: VmMaker,
    begin: StartMaker,
) -> None:
    vm = new_vm(new_port(), new_port())
    late = vm.nics[1]
    lab.central.remove_port(late.vnic_id)

    start = begin(vm)
    start.wait_held()
    host.ovs.wait_ready(vm.nics[0].tap)
    held = start.stays_held()
    lab.central.add_port(network, late.vnic_id, late.mac)
    start.finish()

    assert held
    assert state(host, vm) == "running"
    assert host.ovs.interface(late.tap)["external_ids"]["ovn-installed"] == "true"
    assert not pending(host)


def test_a_vm_runs_only_after_ovn_has_said_that_its_port_works(
    host: Hypervisor, vdsm: Vdsm, resume_times: Service, new_vm: VmMaker
) -> None:
    vm = new_vm()

    vdsm.create_vm(vm)

    wait_until(lambda: vm.name in host.read(resume_times.log), 10, "the event")
    found = re.findall(rf"{vm.name} (\S+)", host.read(resume_times.log))
    assert len(found) == 1
    assert float(found[0]) >= installed_at(host, vm.nics[0])


def installed_at(host: Hypervisor, nic: Nic) -> float:
    """When the transaction was made in which ovn-controller said that a vNIC works."""
    row = host.ovs.interface(nic.tap)["_uuid"][:8]
    log = host.output(["ovsdb-tool", "show-log", "-mm", "/etc/openvswitch/conf.db"])
    record = next(
        record
        for record in re.split(r"^record \d+: ", log, flags=re.M)
        if "ovn-installed" in record and row in record
    )
    text = " ".join(record.split()[:2])
    moment = datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    return moment.timestamp()


@pytest.mark.usefixtures("deaf_ovn")
def test_a_vm_that_the_engine_wants_paused_stays_paused(
    host: Hypervisor, vdsm: Vdsm, deaf_ovn: Daemon, new_vm: VmMaker
) -> None:
    vm = new_vm()

    vdsm.create_vm(vm, paused=True)
    remembered = pending(host)
    deaf_ovn.resume()
    host.ovs.wait_ready(vm.nics[0].tap)

    assert stays_paused(host, vm, 0.5)
    assert not remembered
    assert vdsm.hooks.runs_of("after_vm_start", vm.id)[0].seconds < 15


def test_a_row_left_over_from_another_vm_does_not_let_a_vm_run_early(
    host: Hypervisor, deaf_ovn: Daemon, new_vm: VmMaker, begin: StartMaker
) -> None:
    vm = new_vm()
    nic = vm.nics[0]
    host.vsctl(
        *f"--no-wait add-port br-int {nic.tap} -- set Interface {nic.tap}".split(),
        "external_ids:vm-id=gone",
        f"external_ids:attached-mac={nic.mac.replace(':', chr(92) + ':')}",
        f"external_ids:iface-id={nic.vnic_id}",
        "external_ids:ovn-installed=true",
    )

    start = begin(vm)
    start.wait_held()
    held = start.stays_held()
    deaf_ovn.resume()
    start.finish()

    assert held
    assert state(host, vm) == "running"


def test_a_vm_without_external_nics_costs_the_agent_nothing(host: Hypervisor, vdsm: Vdsm) -> None:
    vm = Vm("vm-plain", [], dhcp=False)
    before = agent_status(host)["events_answered"]

    vdsm.create_vm(vm)

    run = vdsm.hooks.runs_of("after_vm_start", vm.id)[0]
    assert (run.status, run.stderr) == (0, "")
    assert agent_status(host)["events_answered"] == before
    assert state(host, vm) == "running"


# ---- a NIC plugged into a running VM -------------------------------------------------------------


def test_a_nic_that_was_hot_plugged_is_logged_when_it_works(
    product: Product, vdsm: Vdsm, new_port: PortMaker, deaf_ovn: Daemon
) -> None:
    vm, port = Vm("vm-hotplug", [], dhcp=False), new_port()
    vdsm.create_vm(vm)

    vdsm.hotplug(vm, Nic.ovn(port.name, port.mac))
    waited_for = waits(product, port.name)
    deaf_ovn.resume()

    line = f"vNIC {port.name} of VM {vm.id}: ready after"
    wait_until(lambda: line in product.log(), 30, "the line in the log")
    assert waited_for
    assert not waits(product, port.name)


def test_a_nic_that_was_hot_plugged_and_does_not_work_is_logged_with_a_reason(
    lab: Lab, product: Product, vdsm: Vdsm, new_port: PortMaker, configure: Configure
) -> None:
    configure("[start]\ndeadline = 1\n")
    vm, port = Vm("vm-hotplug", [], dhcp=False), new_port()
    lab.central.remove_port(port.name)
    vdsm.create_vm(vm)

    vdsm.hotplug(vm, Nic.ovn(port.name, port.mac))

    line = re.compile(rf"WARNING vNIC {port.name} of VM {vm.id} is not ready after \d s: (.+)")
    reason = wait_until(lambda: line.search(product.log()), 30, "the line in the log")[1]
    assert "internal error" not in reason
    assert state(vdsm.host, vm) == "running"


# ---- Neutron -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "more"), [("tap", {"security_groups": NO_GROUP}), ("qvo", {})], ids=["ovs", "hybrid"]
)
def test_a_vm_on_neutrons_open_vswitch_stands_still_until_its_port_is_in_a_vlan(
    host: Hypervisor, begin: StartMaker, port: str, more: dict[str, str]
) -> None:
    vm = a_neutron_vm("OPEN_VSWITCH", **more)
    name = port + vm.nics[0].vnic_id[:11]

    start = begin(vm)
    start.wait_held()
    without_vlan = start.stays_held(0.5)
    host.vsctl("set", "Port", name, "tag=4095")
    in_dead_vlan = start.stays_held(0.5)
    host.vsctl("set", "Port", name, "tag=7")
    start.finish()

    assert without_vlan and in_dead_vlan
    assert state(host, vm) == "running"
    assert not pending(host)


def test_a_vm_on_a_linux_bridge_stands_still_until_neutrons_bridge_has_its_device(
    host: Hypervisor, begin: StartMaker
) -> None:
    vm = a_neutron_vm("LINUX_BRIDGE")
    tap = vm.nics[0].tap
    host.ip("link add br-other type bridge", "link add brq-test type bridge")
    try:
        start = begin(vm)
        start.wait_held()
        alone = start.stays_held(0.5)
        host.ip(f"link set {tap} master br-other")
        elsewhere = start.stays_held(0.5)
        host.ip(f"link set {tap} master brq-test")
        start.finish()
    finally:
        host.ip("link del br-other", "link del brq-test")

    assert alone and elsewhere
    assert state(host, vm) == "running"


def test_a_tap_on_the_dummy_bridge_is_free_for_the_agent_while_its_vm_waits(
    host: Hypervisor, begin: StartMaker, configure: Configure
) -> None:
    configure("[neutron]\nlinux_bridge_plug = dummy_bridge\n")
    vm = a_neutron_vm("LINUX_BRIDGE")
    tap = vm.nics[0].tap
    host.ip(f"link add {DUMMY_BRIDGE} type bridge", "link add brq-test type bridge")
    try:
        start = begin(vm)
        start.wait_held()
        free = lambda: not host.exists(f"/sys/class/net/{tap}/master")  # noqa: E731
        wait_until(free, 5, "the tap on no bridge")
        held = start.stays_held(0.5)
        host.ip(f"link set {tap} master brq-test")
        start.finish()
    finally:
        host.ip(f"link del {DUMMY_BRIDGE}", "link del brq-test")

    assert held
    assert state(host, vm) == "running"


# ---- the deadline --------------------------------------------------------------------------------


@pytest.mark.usefixtures("deaf_ovn")
def test_after_the_deadline_a_vm_runs_all_the_same_and_logs_say_why(
    host: Hypervisor, product: Product, begin: StartMaker, new_vm: VmMaker, configure: Configure
) -> None:
    configure("[start]\ndeadline = 1.5\n")
    vm = new_vm()

    start = begin(vm)
    start.finish()

    said = start.last_hook.stderr
    late = f"vNIC {vm.nics[0].vnic_id} of VM {vm.id} is not ready after "
    assert state(host, vm) == "running"
    assert late in said and f"VM {vm.id} was resumed" in said
    assert late in product.log()
    assert "internal error" not in said
    assert said.count("\n") == 1 and start.last_hook.status == 0
    assert not pending(host)


@pytest.mark.usefixtures("deaf_ovn")
def test_a_vm_is_kept_paused_after_the_deadline_where_that_is_asked_for(
    host: Hypervisor, begin: StartMaker, new_vm: VmMaker, configure: Configure
) -> None:
    configure("[start]\ndeadline = 0.5\nafter_deadline = keep_paused\n")
    vm = new_vm()

    start = begin(vm)
    start.finish()

    assert stays_paused(host, vm, 1)
    assert f"VM {vm.id} stays paused" in start.last_hook.stderr
    assert vm.nics[0].vnic_id in start.last_hook.stderr
    assert not pending(host)


@pytest.mark.usefixtures("deaf_ovn")
def test_with_no_deadline_no_vm_is_started_paused(
    host: Hypervisor, vdsm: Vdsm, new_vm: VmMaker, configure: Configure
) -> None:
    configure("[start]\ndeadline = 0\n")
    vm = new_vm()
    nic = vm.nics[0]
    host.write(vm.launch_flags_path, "0", owner=VDSM_USER)

    xml = nic.xml().encode()
    vdsm.hooks.run("before_device_create", xml, vm_id=vm.id, device_custom=nic.custom)
    flags = host.read(vm.launch_flags_path)
    vdsm.create_vm(vm)

    assert flags == "0"
    assert state(host, vm) == "running"
    assert vdsm.hooks.runs_of("after_vm_start", vm.id)[0].stderr == ""
    assert not pending(host)
