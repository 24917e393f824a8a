# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""Live migration on OVN while something dies: the guest is reached, and nothing of ours is left.

VMs are started on hv2 and move to hv1, where the probe is and where agents may be doomed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import libvirt
import pytest

from tests.lab.conftest import AGENT_WAS_KILLED, Configure, DoomedMaker, Point, PortMaker
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.ovn_central import LogicalPort
from tests.lab.harness.pings import Probe
from tests.lab.harness.product import Product
from tests.lab.harness.service import Service
from tests.lab.harness.vdsm import Vdsm, Vm, ended
from tests.lab.migrations import (  # noqa: F401
    EDIT,
    NORTHD,
    SOON,
    SWITCHED,
    fail_to_migrate,
    is_untouched,
    last_arrival,
    port,
    row,
    running,
    source,
    target,
    vm,
    wait_announced,
    wait_bound,
    wait_well,
)

# In a migration the destination's agent edits the row three times.
GOES = {
    "before the announcement": (EDIT, "before", 1),
    "once it is announced": (EDIT, "after", 1),
    "before the switch": (EDIT, "before", 2),
    "once it is switched": (EDIT, "after", 2),
    "before the finish": (EDIT, "before", 3),
}
# In one that fails, twice.
STAYS = {
    "before it is undone": (EDIT, "before", 2),
    "once it is undone": (EDIT, "after", 2),
}


def at(points: dict[str, Point]) -> pytest.MarkDecorator:
    """Run a test for every point of these."""
    return pytest.mark.parametrize("point", points.values(), ids=points.keys())


@pytest.fixture
def northbound(lab: Lab, port: LogicalPort) -> Iterator[Service]:
    """The server of the northbound database, which runs again at the end of the test."""
    server = lab.central.database("nb")
    yield server
    if not server.running:
        server.start()


@pytest.fixture
def northd(lab: Lab, port: LogicalPort) -> Iterator[Service]:
    """What tells the southbound database; it goes on at the end of the test."""
    northd = lab.central.northd
    yield northd
    northd.resume()


# ---- the destination's QEMU ----------------------------------------------------------------------


def test_when_the_targets_qemu_is_killed_the_guest_stays_as_it_was(
    lab: Lab, probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    before = row(lab, port)

    fail_to_migrate(source, target, vm)

    wait_well(lab, probe, port, "hv2")
    assert row(lab, port) == before


def test_after_the_targets_qemu_was_killed_the_next_migration_succeeds(
    lab: Lab, probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    fail_to_migrate(source, target, vm)

    source.migrate(vm, target)

    wait_well(lab, probe, port, "hv1")


# ---- the agents ----------------------------------------------------------------------------------


@at(GOES)
def test_the_next_agent_of_the_target_ends_what_a_killed_one_began(
    lab: Lab,
    agents: list[Product],
    doomed: DoomedMaker,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
    point: Point,
) -> None:
    agents[0].stop()
    doomed(point, supervised=True)

    source.migrate(vm, target)

    wait_well(lab, probe, port, "hv1")
    wait_until(lambda: target.host.exists(AGENT_WAS_KILLED), SOON, "an agent that was killed")
    assert last_arrival(target).status == 0


@at(STAYS)
def test_the_next_agent_of_the_target_undoes_what_a_killed_one_began(
    lab: Lab,
    agents: list[Product],
    doomed: DoomedMaker,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
    point: Point,
) -> None:
    agents[0].stop()
    doomed(point, supervised=True)

    fail_to_migrate(source, target, vm)

    wait_well(lab, probe, port, "hv2")
    assert target.host.exists(AGENT_WAS_KILLED)


def test_after_the_targets_agent_was_killed_the_next_migration_succeeds(
    lab: Lab,
    agents: list[Product],
    doomed: DoomedMaker,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    agents[0].stop()
    doomed(GOES["once it is switched"], supervised=True)
    source.migrate(vm, target)
    wait_until(lambda: target.host.exists(AGENT_WAS_KILLED), SOON, "an agent that was killed")

    target.migrate(vm, source)

    wait_well(lab, probe, port, "hv2")


def test_when_the_sources_agent_is_killed_the_port_follows(
    lab: Lab,
    agents: list[Product],
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    source.migrate(vm, target, meanwhile=agents[1].kill)

    wait_well(lab, probe, port, "hv1")


def test_after_the_sources_agent_was_killed_the_next_migration_succeeds(
    lab: Lab,
    agents: list[Product],
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    source.migrate(vm, target, meanwhile=agents[1].kill)
    agents[1].start()

    target.migrate(vm, source)

    wait_well(lab, probe, port, "hv2")


# ---- the northbound database ---------------------------------------------------------------------


def test_without_a_northbound_server_the_port_follows_and_it_is_told(
    lab: Lab,
    agents: list[Product],
    northbound: Service,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    said = len(agents[0].log())
    northbound.kill()

    source.migrate(vm, target)

    wait_bound(lab, port, "hv1")
    wait_until(lambda: probe.reaches(port.address), SOON, "an answer of the guest")
    hook = last_arrival(target)
    assert hook.status == 0
    assert "is not coordinated" in hook.stderr
    assert "Connection refused" in hook.stderr
    assert "is not coordinated" in agents[0].log()[said:]


def test_when_the_northbound_server_is_back_the_next_migration_is_coordinated(
    lab: Lab,
    agents: list[Product],
    northbound: Service,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    northbound.kill()
    source.migrate(vm, target)
    northbound.start()

    target.migrate(vm, source)

    wait_well(lab, probe, port, "hv2", NORTHD)
    assert last_arrival(source).stderr == ""


def test_a_northbound_server_that_is_back_after_the_guest_has_the_port_follow_then(
    lab: Lab,
    northbound: Service,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    source.migrate(vm, target, meanwhile=northbound.kill)
    northbound.start()

    wait_well(lab, probe, port, "hv1", NORTHD)


def test_a_northbound_server_that_is_away_keeps_nobody_from_the_guest(
    lab: Lab,
    northbound: Service,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    source.migrate(vm, target, meanwhile=northbound.kill)

    wait_until(lambda: probe.reaches(port.address), SOON, "an answer of the guest")
    assert not northbound.running


def test_a_northbound_server_that_is_back_after_a_failure_has_the_row_as_it_was(
    lab: Lab,
    northbound: Service,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    fail_to_migrate(source, target, vm, northbound.kill)
    northbound.start()

    wait_well(lab, probe, port, "hv2", NORTHD)


def test_a_vm_that_comes_back_while_northd_hangs_is_announced(
    lab: Lab,
    northd: Service,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    source.migrate(vm, target, meanwhile=northd.suspend)

    target.migrate(vm, source, meanwhile=lambda: wait_announced(lab, port, "hv1"))
    northd.resume()

    wait_well(lab, probe, port, "hv2")


def test_without_a_certificate_the_port_follows_and_it_is_told(
    lab: Lab,
    agents: list[Product],
    configure: Configure,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    configure("[migration]\nnorthbound = ssl:192.0.2.1:6641\n")

    source.migrate(vm, target)

    hook = last_arrival(target)
    wait_well(lab, probe, port, "hv1")
    assert hook.status == 0
    assert "is not coordinated: this host has no certificate" in hook.stderr
    assert hook.seconds < 5  # nobody was waited for


# ---- more than one -------------------------------------------------------------------------------


def test_two_vms_that_change_places_are_both_where_they_run(
    lab: Lab,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
    new_port: PortMaker,
) -> None:
    others = new_port()
    other = running(target, "emigrant", others)

    both = threading.Barrier(2, timeout=60)

    lab.at_once(
        lambda: source.migrate(vm, target, meanwhile=both.wait),
        lambda: target.migrate(other, source, meanwhile=both.wait),
    )

    wait_well(lab, probe, port, "hv1")
    wait_well(lab, probe, others, "hv2")
    ended(other, source, target)


def test_a_vm_that_goes_there_and_back_often_is_bound_where_it_runs_each_time(
    lab: Lab, probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    for _ in range(5):
        source.migrate(vm, target)
        wait_bound(lab, port, "hv1", SWITCHED)
        target.migrate(vm, source)
        wait_bound(lab, port, "hv2", SWITCHED)

    wait_well(lab, probe, port, "hv2")


def test_a_tunnelled_migration_is_like_any_other(
    lab: Lab, probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    source.migrate(vm, target, flags=libvirt.VIR_MIGRATE_TUNNELLED)

    wait_bound(lab, port, "hv1", SWITCHED)
    wait_well(lab, probe, port, "hv1")


def test_all_ports_of_a_vm_follow_over_one_connection(
    lab: Lab,
    agents: list[Product],
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    new_port: PortMaker,
) -> None:
    ports = [new_port(), new_port()]
    vm = running(source, "migrant", *ports)
    said = len(agents[0].log())

    source.migrate(vm, target)

    for each in ports:
        wait_bound(lab, each, "hv1", SWITCHED)
    for each in ports:
        wait_well(lab, probe, each, "hv1")
    log = agents[0].log()[said:]
    assert len([line for line in log.splitlines() if "northbound" in line]) == 1, log
    ended(vm, source, target)


# ---- the destination, for good -------------------------------------------------------------------


def test_the_source_finishes_what_a_target_that_died_has_left(
    lab: Lab,
    agents: list[Product],
    doomed: DoomedMaker,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    agents[0].stop()
    doomed(GOES["once it is switched"])

    source.migrate(vm, target)

    wait_until(lambda: target.host.exists(AGENT_WAS_KILLED), SOON, "an agent that was killed")
    assert row(lab, port)[0]["requested-chassis"] == "hv1"
    wait_until(lambda: is_untouched(lab, port), 75, "an untouched row")
    assert lab.central.bound_to(port.name) == "hv1"
    wait_until(lambda: probe.reaches(port.address), SOON, "an answer of the guest")
