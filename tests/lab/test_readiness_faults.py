# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong between a VM's start and its run; test_readiness_kills.py has the agent's end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.conftest import PATIENT, Configure, PortMaker, StartMaker, VmMaker
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.libvirt_daemon import libvirt
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import Product
from tests.lab.harness.service import Daemon
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vdsm_hooks import HOOKS, HookError
from tests.lab.harness.vm_start import (
    agent_status,
    pending,
    state,
    stays_paused,
    wait_running,
)

STAND_IN = "/usr/libexec/vif-driver/without-agent"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with OVN."""
    with Lab(hypervisors=1) as started:
        yield started


@pytest.fixture(scope="module")
def settings() -> str:
    """As long as it takes is waited for vNICs."""
    return PATIENT


@contextmanager
def without(host: Hypervisor, path: str) -> Iterator[None]:
    """A host where a file of the product's isn't there."""
    file, away = host.path(path), host.path("/var/lib/not-there")
    file.rename(away)
    try:
        yield
    finally:
        away.rename(file)


def wait_agent(host: Hypervisor) -> None:
    """Wait until the agent has spoken to libvirt, and so has seen every VM."""
    wait_until(lambda: agent_status(host)["libvirt_connected"], 10, "the agent with libvirt")


# ---- the agent -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("deaf_ovn")
def test_the_agents_end_is_not_held_up_by_a_vm_that_waits_and_that_vm_runs(
    host: Hypervisor, agent: Product, begin: StartMaker, new_vm: VmMaker
) -> None:
    start = begin(new_vm())
    start.wait_held()

    asked = time.monotonic()
    agent.stop()
    seconds = time.monotonic() - asked
    start.finish()

    assert seconds < 15
    assert state(host, start.vm) == "running"
    assert "whether its vNICs work is not known" in start.last_hook.stderr
    assert start.last_hook.status == 0


@pytest.mark.usefixtures("deaf_ovn")
def test_a_vm_that_runs_without_the_agents_help_and_is_paused_later_stays_paused(
    host: Hypervisor, agent: Product, begin: StartMaker, new_vm: VmMaker, configure: Configure
) -> None:
    configure("[start]\ndeadline = 3\n")
    start = begin(new_vm())
    start.wait_held()
    agent.kill()
    start.finish()
    start.vm.running.domain.suspend()
    configure("[start]\ndeadline = 0.3\n")

    agent.start()
    wait_agent(host)

    assert stays_paused(host, start.vm, 1)
    wait_until(lambda: not pending(host), 20, "nothing left")


def test_a_vm_whose_hook_could_do_nothing_is_resumed_by_the_next_agent(
    host: Hypervisor, agent: Product, deaf_ovn: Daemon, begin: StartMaker, new_vm: VmMaker
) -> None:
    start = begin(new_vm())
    start.wait_held()
    with without(host, STAND_IN):
        agent.kill()
        start.finish()
    left = state(host, start.vm)

    agent.start()
    wait_agent(host)
    held = stays_paused(host, start.vm, 0.5)
    deaf_ovn.resume()
    wait_running(host, start.vm)

    assert start.last_hook.status == 1 and start.vm.id in start.last_hook.stderr
    assert left == "paused" and held
    wait_until(lambda: not pending(host), 30, "nothing left")


def test_a_mistake_in_the_configuration_keeps_no_vm_from_running(
    host: Hypervisor,
    agent: Product,
    deaf_ovn: Daemon,
    begin: StartMaker,
    new_vm: VmMaker,
    vdsm: Vdsm,
    configure: Configure,
) -> None:
    start = begin(new_vm())
    start.wait_held()

    configure("[start]\ndeadlin = 5\n")
    deaf_ovn.resume()
    wait_running(host, start.vm)
    other = new_vm()
    with pytest.raises(HookError) as refused:
        vdsm.create_vm(other)
    vdsm.destroy_vm(other)

    assert "vif-driver.conf: [start] deadlin is not a setting" in refused.value.stderr
    assert "deadlin" in host.run(["vifctl", "status"], check=False).stderr


@pytest.mark.parametrize("restarted", [False, True], ids=["same agent", "next agent"])
def test_a_vm_for_which_no_hook_comes_runs_after_the_deadline(
    host: Hypervisor,
    agent: Product,
    vdsm: Vdsm,
    new_vm: VmMaker,
    configure: Configure,
    restarted: bool,
) -> None:
    configure("[start]\ndeadline = 5\n")
    vm = new_vm()
    with without(host, str(HOOKS / "after_vm_start/50_vif_driver")):
        vdsm.create_vm(vm)
    left = state(host, vm)
    if restarted:
        agent.kill()
        agent.start()

    wait_running(host, vm, timeout=40)

    assert left == "paused"
    assert "hook after_vm_start did not come" in agent.log()
    wait_until(lambda: not pending(host), 30, "nothing left")


# ---- Open vSwitch and libvirt --------------------------------------------------------------------


def test_ten_vms_that_wait_all_run_after_a_restart_of_open_vswitchs_database(
    host: Hypervisor, agent: Product, deaf_ovn: Daemon, begin: StartMaker, new_vm: VmMaker
) -> None:
    starts = [begin(new_vm(dhcp=False)) for _ in range(10)]
    for start in starts:
        start.wait_held()

    host.ovs.database.restart()
    deaf_ovn.resume()
    for start in starts:
        start.finish()

    said = [start.last_hook.stderr for start in starts]
    states = {state(host, start.vm) for start in starts}
    for start in starts:
        start.vm.running.destroy()
    assert states == {"running"}
    assert said == [""] * 10
    assert not pending(host)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_vms_that_wait_run_after_a_restart_of_libvirt(
    host: Hypervisor,
    agent: Product,
    deaf_ovn: Daemon,
    begin: StartMaker,
    new_vm: VmMaker,
    end: str,
) -> None:
    starts = [begin(new_vm(dhcp=False)) for _ in range(3)]
    for start in starts:
        start.wait_held()

    getattr(host.libvirt, end)()
    # All is ready while nobody can resume a VM.
    deaf_ovn.resume()
    for start in starts:
        host.ovs.wait_ready(start.vm.nics[0].tap)
    waiting = [not start.over for start in starts]
    host.libvirt.start()
    for start in starts:
        start.finish()

    assert all(waiting)
    assert {state(host, start.vm) for start in starts} == {"running"}
    assert not pending(host)


@pytest.mark.usefixtures("deaf_ovn")
def test_libvirt_restarted_while_a_vm_waits_changes_nothing_for_it(
    host: Hypervisor, agent: Product, deaf_ovn: Daemon, begin: StartMaker, new_vm: VmMaker
) -> None:
    start = begin(new_vm())
    start.wait_held()

    host.libvirt.restart()
    held = start.stays_held(0.5)
    deaf_ovn.resume()
    start.finish()

    assert held
    assert state(host, start.vm) == "running"
    assert start.last_hook.stderr == ""


# ---- the VM --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("deaf_ovn")
def test_the_hook_of_a_vm_that_is_destroyed_while_it_waits_returns_at_once(
    host: Hypervisor, agent: Product, vdsm: Vdsm, begin: StartMaker, new_vm: VmMaker
) -> None:
    start = begin(new_vm())
    start.wait_held()

    destroyed = time.monotonic()
    start.vm.running.destroy()
    start.join()
    seconds = time.monotonic() - destroyed
    vdsm.destroy_vm(start.vm)

    assert seconds < 15
    assert (start.last_hook.status, start.last_hook.stderr) == (0, "")
    assert not pending(host)
    assert not agent_status(host)["waiting"]


def test_of_a_start_that_libvirt_refuses_nothing_is_remembered(
    host: Hypervisor, agent: Product, vdsm: Vdsm, new_port: PortMaker
) -> None:
    port = new_port()
    wrong = Vm("vm-wrong", [Nic.ovn(port.name, port.mac, model="no such model")], dhcp=False)

    with pytest.raises(libvirt.libvirtError, match="Model name"):
        vdsm.create_vm(wrong)
    remembered = pending(host)
    vdsm.destroy_vm(wrong)

    assert remembered == {wrong.id}
    assert not pending(host)


def test_of_two_vms_with_one_vnic_the_second_is_refused_while_the_first_waits_or_runs(
    host: Hypervisor,
    agent: Product,
    vdsm: Vdsm,
    deaf_ovn: Daemon,
    begin: StartMaker,
    new_vm: VmMaker,
) -> None:
    first = new_vm()
    second = Vm("vm-second", [Nic.ovn(first.nics[0].vnic_id, first.nics[0].mac)], dhcp=False)

    start = begin(first)
    start.wait_held()
    while_waiting = refused(vdsm, second)
    row = host.ovs.interface(first.nics[0].tap)
    held = start.stays_held(0.3)
    deaf_ovn.resume()
    start.finish()
    while_running = refused(vdsm, second)

    for said in (while_waiting, while_running):
        assert first.id in said and first.nics[0].vnic_id in said
        assert said.count("\n") == 1
    assert held
    assert state(host, first) == "running"
    assert host.ovs.interface(first.nics[0].tap)["_uuid"] == row["_uuid"]


def refused(vdsm: Vdsm, vm: Vm) -> str:
    """Start a VM in vain, and clean up as VDSM does; gives what the user is told."""
    with pytest.raises(HookError) as error:
        vdsm.create_vm(vm)
    vdsm.destroy_vm(vm)
    return error.value.stderr


def test_of_two_vms_with_one_vnic_the_second_is_refused_before_the_first_has_a_tap(
    host: Hypervisor, agent: Product, vdsm: Vdsm, new_vm: VmMaker
) -> None:
    first = new_vm()
    nic = first.nics[0]
    second = Vm("vm-second", [Nic.ovn(nic.vnic_id, nic.mac)], dhcp=False)

    xml = nic.xml().encode()
    vdsm.hooks.run("before_device_create", xml, vm_id=first.id, device_custom=nic.custom)
    said = refused(vdsm, second)
    vdsm.create_vm(first)

    assert f"VM {first.id}" in said and "is being started" in said
    assert state(host, first) == "running"


def test_of_two_vms_with_one_vnic_that_start_at_once_one_runs(
    host: Hypervisor, agent: Product, begin: StartMaker, new_vm: VmMaker
) -> None:
    first = new_vm()
    nic = first.nics[0]
    second = Vm(f"vm-{uuid.uuid4().hex[:6]}", [Nic.ovn(nic.vnic_id, nic.mac)], dhcp=False)

    starts = [begin(first), begin(second)]
    for start in starts:
        start.join()

    assert sorted(state(host, start.vm) for start in starts) == ["gone", "running"]
