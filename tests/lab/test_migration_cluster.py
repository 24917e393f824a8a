# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""Live migration while OVN's northbound database, of three members, loses the one that leads.

VMs are started on hv2 and move to hv1, where the probe is and where agents may be stopped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import AGENT_WAS_KILLED, CONFIGURATION, DoomedMaker
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.ovn_central import LogicalPort
from tests.lab.harness.ovn_cluster import ClusteredCentral
from tests.lab.harness.pings import Probe
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.migrations import (  # noqa: F401
    EDIT,
    NORTHD,
    SWITCHED,
    fail_to_migrate,
    last_arrival,
    meanwhile,
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

# All members are there again when a VM is gone.
pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hypervisors, and an OVN whose northbound database has three members."""
    with Lab(hypervisors=2, clustered="nb") as started:
        yield started


@pytest.fixture(scope="module")
def central(lab: Lab) -> ClusteredCentral:
    """OVN's machine."""
    assert isinstance(lab.central, ClusteredCentral)
    return lab.central


@pytest.fixture(scope="module")
def installed(installed: list[Product], central: ClusteredCentral) -> list[Product]:
    """The product, which knows all members."""
    for product in installed:
        product.host.write(CONFIGURATION, f"[migration]\nnorthbound = {central.remotes}\n")
    return installed


@pytest.fixture
def cluster(central: ClusteredCentral) -> Iterator[ClusteredCentral]:
    """OVN's machine, with all members before the test and after it."""
    yield central
    central.restore()


def test_with_all_members_the_move_is_coordinated(
    lab: Lab, probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    source.migrate(vm, target, meanwhile=lambda: wait_announced(lab, port, "hv2"))

    wait_bound(lab, port, "hv1", SWITCHED)
    wait_well(lab, probe, port, "hv1")


def test_a_leader_that_is_lost_before_the_migration_is_no_matter(
    lab: Lab,
    cluster: ClusteredCentral,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    cluster.leader.kill()

    source.migrate(vm, target)

    wait_well(lab, probe, port, "hv1", NORTHD)


def test_a_leader_that_is_lost_right_before_the_announcement_is_no_matter(
    lab: Lab,
    cluster: ClusteredCentral,
    agents: list[Product],
    doomed: DoomedMaker,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    agents[0].stop()
    agent = doomed((EDIT, "before", 1), frozen=True)

    def lose() -> None:
        wait_until(lambda: target.host.exists(AGENT_WAS_KILLED), 20, "an agent about to announce")
        stat = f"/proc/{agent.pid}/stat"
        wait_until(lambda: ") T " in target.host.read(stat), 20, "an agent that stands still")
        cluster.leader.kill()
        agent.resume()

    with meanwhile(lose):
        source.migrate(vm, target)

    wait_well(lab, probe, port, "hv1", NORTHD)


def test_a_leader_that_is_lost_before_the_guest_runs_is_no_matter(
    lab: Lab,
    cluster: ClusteredCentral,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    def lose() -> None:
        wait_announced(lab, port, "hv2")
        cluster.leader.kill()

    source.migrate(vm, target, meanwhile=lose)

    wait_well(lab, probe, port, "hv1", NORTHD)


def test_if_the_guest_stays_without_the_leader_the_row_is_as_it_was(
    lab: Lab,
    cluster: ClusteredCentral,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    before = row(lab, port)

    fail_to_migrate(source, target, vm, lambda: cluster.leader.kill())

    wait_well(lab, probe, port, "hv2", NORTHD)
    assert row(lab, port) == before


@pytest.mark.parametrize("whole", [False, True], ids=["with two members", "with all again"])
def test_after_a_leader_was_lost_the_next_move_is_coordinated(
    lab: Lab,
    cluster: ClusteredCentral,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
    whole: bool,
) -> None:
    def lose() -> None:
        wait_announced(lab, port, "hv2")
        cluster.leader.kill()

    source.migrate(vm, target, meanwhile=lose)
    if whole:
        cluster.restore()
    cluster.wait_leader()

    target.migrate(vm, source, meanwhile=lambda: wait_announced(lab, port, "hv1"))

    wait_well(lab, probe, port, "hv2", NORTHD)
    assert last_arrival(source).stderr == ""
