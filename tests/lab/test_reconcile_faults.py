# SPDX-License-Identifier: GPL-2.0-or-later
"""What VMs have left goes, and nothing else, whoever dies, hangs or begins anew meanwhile."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab.conftest import (
    CONFIGURATION,
    DoomedMaker,
    Point,
    VmMaker,
    new_mac,
)
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.leftovers import (
    add_port,
    add_stale_ports,
    count_stale_ports,
    libvirts_ids,
    written,
)
from tests.lab.harness.libvirt_daemon import libvirt
from tests.lab.harness.nic import Nic
from tests.lab.harness.open_vswitch import DATABASE
from tests.lab.harness.ovn_central import LogicalPort, Network
from tests.lab.harness.pings import SELDOM, Probe
from tests.lab.harness.product import LOG, Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vm_start import state

#: Seconds, the shortest that can be set; and what the agent lets pass after an event.
GRACE, SETTLE = 1.0, 1.0

#: Seconds that the agent waits for libvirt.
LIBVIRT_TIMEOUT = 5.0

#: Seconds, more than the agent lets pass after a failure of its own.
RETRIED = 90

#: More than the agent removes at once.
MANY = 2000

REMOVE = "vif_driver.host.ovsdb:Ovsdb.remove"


@pytest.fixture(scope="module")
def installed(lab: Lab) -> list[Product]:
    """The product on both hypervisors, with the shortest grace."""
    products = [Product(host) for host in lab.hosts]
    for product in products:
        product.install()
        product.host.write(CONFIGURATION, f"[reconcile]\ngrace = {GRACE:g}\n")
    return products


@pytest.fixture(scope="module")
def live_port(lab: Lab, network: Network) -> LogicalPort:
    """The logical switch port of a VM."""
    return lab.central.add_port(network, "11111111-0000-4000-8000-00000000000a", new_mac())


@pytest.fixture(scope="module")
def live(host: Hypervisor, installed: list[Product], live_port: LogicalPort) -> Vm:
    """A VM that runs on the first hypervisor for as long as there are tests, with an address."""
    vm = Vm("live", [Nic.ovn(live_port.name, live_port.mac)])
    # No agent runs: it may as well be plugged without.
    Vdsm(host).create_vm(vm)
    vm.running.wait_lease()
    return vm


@pytest.fixture
def agent(installed: list[Product]) -> Iterator[Product]:
    """The product on the first hypervisor with its agent running, anew for each test."""
    installed[0].start()
    yield installed[0]
    installed[0].stop()


@pytest.fixture
def incoming(installed: list[Product], vdsms: list[Vdsm], new_vm: VmMaker) -> Iterator[Vm]:
    """A VM whose migration to the second hypervisor, where an agent runs, takes for ever."""
    source, target = vdsms
    vm = new_vm()
    source.create_vm(vm)
    vm.running.wait_up()  # or there would be nothing to copy
    domain = vm.running.domain
    installed[1].start()

    def migrate() -> None:
        with contextlib.suppress(libvirt.libvirtError):  # it is aborted
            source.migrate(vm, target, parameters={"bandwidth": 1})

    def on_its_way() -> bool:
        with contextlib.suppress(libvirt.libvirtError):  # it hasn't begun
            return bool(domain.jobStats().get("memory_processed"))
        return False

    migrating = threading.Thread(target=migrate)
    migrating.start()
    try:
        wait_until(on_its_way, 60, "the first byte")
        yield vm
    finally:
        while migrating.is_alive():
            with contextlib.suppress(libvirt.libvirtError):  # it hasn't begun, or has just ended
                domain.abortJob()
            migrating.join(0.2)
    source.destroy_vm(vm)
    installed[1].stop()


def tap(vm: Vm) -> str:
    return vm.nics[0].tap


def wait_none_stale(host: Hypervisor) -> None:
    wait_until(lambda: not count_stale_ports(host), 60, "the end of all stale rows", interval=0.1)


def wait_gone(host: Hypervisor, name: str) -> None:
    wait_until(lambda: name not in host.ovs.ports(), RETRIED, f"the end of {name}")


# ---- whoever dies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", [(REMOVE, "before", 2), (REMOVE, "after", 2)], ids=["before the deed", "after it"]
)
def test_an_agent_that_is_killed_while_it_removes_leaves_the_rest_to_the_next(
    host: Hypervisor,
    live: Vm,
    live_port: LogicalPort,
    probe: Probe,
    doomed: DoomedMaker,
    point: Point,
) -> None:
    before = host.ovs.interface(tap(live))["_uuid"]
    agent = doomed(point)

    with probe.ping(live_port.address, interval=SELDOM) as pings:
        names = add_stale_ports(host, MANY)
        wait_until(lambda: not agent.running, 30, "the agent's end", interval=0.1)
        left = count_stale_ports(host)
        agent.start()
        wait_none_stale(host)

    assert 0 < left < MANY
    assert names <= set(re.findall(r"\bremoving port (\S+) of br-int", host.read(LOG)))
    assert host.ovs.interface(tap(live))["_uuid"] == before
    assert pings.lost == 0


def test_a_database_that_is_restarted_meanwhile_loses_what_was_to_go_and_nothing_else(
    host: Hypervisor, live: Vm, live_port: LogicalPort, probe: Probe, agent: Product
) -> None:
    before = host.ovs.interface(tap(live))["_uuid"]

    with probe.ping(live_port.address, interval=SELDOM) as pings:
        add_stale_ports(host, MANY)
        wait_until(lambda: count_stale_ports(host) < MANY, 30, "the first removal", interval=0.0)
        host.ovs.database.kill()
        host.ovs.database.start()
        left = count_stale_ports(host)
        wait_none_stale(host)

    assert left > 0
    assert host.ovs.interface(tap(live))["_uuid"] == before
    assert pings.lost == 0


def test_vms_are_plugged_again_when_the_database_was_lost(
    host: Hypervisor, live: Vm, network: Network, agent: Product
) -> None:
    before = written(host, tap(live))

    host.ovs.stop()
    host.path(DATABASE).unlink()
    host.start_ovs()

    wait_until(lambda: host.ovs.port(tap(live)), RETRIED, "the VM's port", interval=0.1)
    assert written(host, tap(live)) == before
    host.ovs.wait_ready(tap(live), 60)
    assert live.running.reaches(network.gateway, timeout=30)


# ---- whoever hangs -------------------------------------------------------------------------------


def test_a_second_look_while_libvirt_hangs_is_none(
    host: Hypervisor, live: Vm, agent: Product
) -> None:
    ids = libvirts_ids()
    add_port(host, "stale", external_ids=ids)
    first = f"port stale of br-int (VM {ids['vm-id']}, vNIC {ids['iface-id']}) is left over"
    wait_until(lambda: first in host.read(LOG), 10, "the first look", interval=0.0)
    host.libvirt.service.suspend()
    try:
        time.sleep(LIBVIRT_TIMEOUT + GRACE + SETTLE)
        kept = host.ovs.ports()
    finally:
        host.libvirt.service.resume()

    # Once it answers, anything that happens is a reason to look.
    add_port(host, "another", external_ids=libvirts_ids())
    wait_gone(host, "stale")

    assert {"stale", tap(live)} <= kept


# ---- whoever is on his way -----------------------------------------------------------------------


def test_the_row_of_a_vm_that_just_arrives_stays(lab: Lab, incoming: Vm) -> None:
    target = lab.hosts[1]
    target.ip(f"link del {tap(incoming)}")

    add_port(target, "stale", external_ids=libvirts_ids())
    wait_gone(target, "stale")

    assert state(target, incoming) == "paused"
    assert tap(incoming) in target.ovs.ports()
