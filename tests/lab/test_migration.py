# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration on OVN: the port goes where the guest goes, and nothing of ours is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest

from tests.lab.conftest import Configure, PortMaker
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import LogicalPort
from tests.lab.harness.pings import SELDOM, Probe
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm, ended
from tests.lab.harness.vdsm_hooks import HookError
from tests.lab.migrations import (
    NORTHD,
    NOTE,
    SETTLED,
    SOON,
    SWITCHED,
    frozen_qemu,
    is_untouched,
    row,
    signal_qemu,
)

# Seconds that a guest stands still; without what the agents do, all that it is sent then is lost.
STANDSTILL = 5.0
# Milliseconds that a guest may stand still, so many that it may do so at once.
MINUTES = 600_000


@pytest.fixture
def source(lab: Lab, agents: list[Product], no_guests_left: None) -> Vdsm:
    """VDSM of the host where VMs are started."""
    return Vdsm(lab.hosts[0])


@pytest.fixture
def target(lab: Lab, agents: list[Product]) -> Vdsm:
    """VDSM of the other host."""
    return Vdsm(lab.hosts[1])


@pytest.fixture
def port(new_port: PortMaker) -> LogicalPort:
    """A logical switch port."""
    return new_port()


@pytest.fixture
def vm(source: Vdsm, target: Vdsm, port: LogicalPort) -> Iterator[Vm]:
    """A VM with that port, running, with its address."""
    vm = Vm("migrant", [Nic.ovn(port.name, port.mac)])
    source.create_vm(vm)
    vm.running.wait_lease(port.mac)
    yield vm
    ended(vm, source, target)


def bound_to(lab: Lab, port: LogicalPort) -> str:
    """Give the name of the chassis that a port is bound to."""
    return lab.central.bound_to(port.name)


def settled(lab: Lab, port: LogicalPort) -> None:
    """Wait until nothing of ours is left in the port's row."""
    wait_until(lambda: is_untouched(lab, port), SETTLED, "an untouched row")


def claims(lab: Lab, port: LogicalPort) -> int:
    """Count how often a host has taken the port from another one."""
    logs = (host.read("/var/log/ovn/ovn-controller.log") for host in lab.hosts)
    return sum(log.count(f"Changing chassis for lport {port.name}") for log in logs)


def test_the_port_is_bound_where_the_guest_runs(
    lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    source.migrate(vm, target)

    wait_until(lambda: bound_to(lab, port) == "hv2", SWITCHED, "the port on hv2")
    target.host.ovs.wait_ready(vm.nics[0].tap)


def test_the_hosts_do_not_take_it_from_each_other(
    lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    before = claims(lab, port)

    source.migrate(vm, target, meanwhile=lambda: time.sleep(2))  # for some five that are too many

    wait_until(lambda: bound_to(lab, port) == "hv2", SWITCHED, "the port on hv2")
    # None, if the source has let go of it first.
    assert claims(lab, port) <= before + 1


def test_nothing_of_ours_is_left_in_the_row(
    lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    before = row(lab, port)

    source.migrate(vm, target)

    settled(lab, port)
    assert row(lab, port) == before
    assert bound_to(lab, port) == "hv2"


def test_a_provider_that_assigns_hosts_finds_the_new_one(
    lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    lab.central.nbctl("lsp-set-options", port.name, "requested-chassis=hv1")

    source.migrate(vm, target)

    wait_until(lambda: NOTE not in row(lab, port)[1], SETTLED, "no note")
    assert row(lab, port)[0] == {"requested-chassis": "hv2"}


def test_there_and_back(lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort) -> None:
    before = claims(lab, port)

    for _ in range(2):
        source.migrate(vm, target)
        target.migrate(vm, source)

    wait_until(lambda: bound_to(lab, port) == "hv1", SWITCHED, "the port on hv1")
    settled(lab, port)
    assert claims(lab, port) <= before + 4


def test_post_copy(lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort) -> None:
    domain: Any = source.host.libvirt.domain(vm.id)

    source.migrate(
        vm, target, flags=libvirt.VIR_MIGRATE_POSTCOPY, meanwhile=domain.migrateStartPostCopy
    )

    wait_until(lambda: bound_to(lab, port) == "hv2", SWITCHED, "the port on hv2")


def stand_still(domain: Any) -> None:
    """Have a VM that is on its way stand still now, with most of its memory still to come."""
    domain.migrateSetMaxDowntime(MINUTES)
    paused = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION]
    wait_until(lambda: domain.state() == paused, 60, "a VM that stands still", 0.001)


def test_what_is_sent_to_a_vm_that_stands_still_waits_for_it(
    probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    domain = vm.running.domain

    def stand_still_for_long() -> None:
        with frozen_qemu(target, vm):
            stand_still(domain)
            time.sleep(STANDSTILL)

    with probe.ping(port.address, interval=SELDOM) as pings:
        source.migrate(vm, target, meanwhile=stand_still_for_long)
        wait_until(lambda: probe.reaches(port.address), SOON, "an answer")

    assert pings.lost * SELDOM < STANDSTILL / 2


# It isn't cancelled: one that is just about to stand still keeps libvirt 9 waiting for ever.
def test_a_vm_that_fails_to_move_while_it_stands_still_goes_on_where_it_was(
    lab: Lab, probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    before = row(lab, port)
    domain = vm.running.domain

    def fail() -> None:
        signal_qemu(target, vm, signal.SIGSTOP)
        try:
            stand_still(domain)
            time.sleep(0.5)  # until its memory is on its way to nowhere
        finally:
            signal_qemu(target, vm, signal.SIGKILL)

    with pytest.raises(libvirt.libvirtError):
        source.migrate(vm, target, meanwhile=fail)

    wait_until(lambda: probe.reaches(port.address), SOON, "an answer")
    wait_until(lambda: row(lab, port) == before, SOON, "the row as it was")
    assert bound_to(lab, port) == "hv1"


def cancelled(source: Vdsm, target: Vdsm, vm: Vm) -> None:
    """Begin a migration, and cancel it while the guest's memory is on its way."""
    with pytest.raises(libvirt.libvirtError):
        source.migrate(vm, target, meanwhile=vm.running.domain.abortJob)


def test_a_migration_that_is_cancelled_leaves_nothing(
    lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    before = row(lab, port)

    cancelled(source, target, vm)

    wait_until(lambda: row(lab, port) == before, SOON, "the row as it was")
    assert bound_to(lab, port) == "hv1"
    note = f"/run/vif-driver/starting/{vm.id}"
    wait_until(lambda: not target.host.exists(note), SOON, "no note of an arrival")


def test_after_one_that_was_cancelled_the_next_succeeds(
    lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    cancelled(source, target, vm)

    source.migrate(vm, target)

    wait_until(lambda: bound_to(lab, port) == "hv2", SWITCHED, "the port on hv2")


def test_an_agent_that_is_killed_before_the_switch_is_no_matter(
    lab: Lab, agents: list[Product], source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    def replace() -> None:
        wait_until(lambda: NOTE in row(lab, port)[1], 20, "a migration that is announced")
        agents[1].kill()
        agents[1].start()

    source.migrate(vm, target, meanwhile=replace)

    wait_until(lambda: bound_to(lab, port) == "hv2", SOON, "the port on hv2")
    settled(lab, port)


def test_an_agent_that_is_killed_after_the_switch_is_no_matter(
    lab: Lab, agents: list[Product], source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    source.migrate(vm, target, after_on_target=False)
    agents[1].kill()
    agents[1].start()

    settled(lab, port)
    assert bound_to(lab, port) == "hv2"


def test_a_northbound_server_that_restarts_in_the_middle_is_no_matter(
    lab: Lab, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    def restart() -> None:
        wait_until(lambda: NOTE in row(lab, port)[1], 20, "a migration that is announced")
        lab.central.database("nb").restart()

    source.migrate(vm, target, meanwhile=restart)

    wait_until(lambda: bound_to(lab, port) == "hv2", NORTHD, "the port on hv2")
    settled(lab, port)


@pytest.fixture
def unregistered(lab: Lab, target: Vdsm) -> Iterator[None]:
    """The target is unknown at OVN."""
    target.host.ovn_controller.stop()
    lab.central.sbctl("--if-exists", "chassis-del", "hv2")
    yield
    target.host.ovn_controller.start()
    lab.central.wait_chassis("hv2")


def test_a_host_that_ovn_does_not_know_is_refused_before_the_guest_moves(
    unregistered: None, source: Vdsm, target: Vdsm, vm: Vm
) -> None:
    with pytest.raises(HookError, match="is not registered at OVN"):
        source.migrate(vm, target)

    assert target.runs[-1].status == 2
    assert not vm.running.paused


def test_without_the_northbound_database_the_port_follows_all_the_same(
    lab: Lab,
    agents: list[Product],
    configured_target: Configure,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    configured_target("[migration]\nnorthbound = off\n")

    source.migrate(vm, target)

    wait_until(lambda: bound_to(lab, port) == "hv2", SOON, "the port on hv2")
    assert "is not coordinated" in agents[1].log()
    assert target.host.ovs.interface(vm.nics[0].tap)["external_ids"]["iface-id"] == port.name


@pytest.fixture
def configured_target(lab: Lab, agents: list[Product]) -> Iterator[Configure]:
    """Configure the target's agent, until the end of the test."""
    path, host = "/etc/vif-driver/vif-driver.conf", lab.hosts[1]
    before = host.read(path)

    def configure(text: str) -> None:
        host.write(path, text)
        agents[1].stop()
        agents[1].start()

    yield configure
    host.write(path, before)
