# SPDX-License-Identifier: GPL-2.0-or-later
"""The destination of a live migration loses its power in the middle: the source puts all right.

libvirt takes half a minute to give the destination up (keepalive_interval and keepalive_count in
qemu.conf); from then on the time counts that the source's agent takes.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from dataclasses import dataclass

import libvirt
import pytest

from tests.lab.conftest import new_mac
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.ovn_central import LogicalPort, Network
from tests.lab.harness.pings import Pings, Probe, add_probe
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.migrations import (
    NOTE,
    is_untouched,
    last_arrival,
    places,
    row,
    running,
    wait_announced,
    wait_well,
)

# Seconds after the end of a migration within which the source has taken it back: LEAVING_LOOKS of
# its agent, LEAVING_LOOK seconds apart, and the first one that there is time until.
UNDONE = 75.0
# Seconds within which the agent removes the port that Open vSwitch has of the boot before.
RECONCILED = 45.0

Row = tuple[dict[str, str], dict[str, str]]


@dataclass(frozen=True)
class Outage:
    """What became of a VM whose migration's destination lost its power.

    Attributes:
        vm: on hv1, where it was.
        port: of the VM.
        probe: what reaches it.
        pings: those from before the migration until its end was taken back.
        before: the port's row in the northbound database, before the migration.
        announced: it during the migration.
        after: it in the end.
        seconds: from the end of the migration until everything was taken back.
    """

    vm: Vm
    port: LogicalPort
    probe: Probe
    pings: Pings
    before: Row
    announced: Row
    after: Row
    seconds: float


@pytest.fixture(scope="module")
def vdsms(lab: Lab, installed: list[Product]) -> list[Vdsm]:
    """VDSM of every hypervisor; the agents run."""
    for product in installed:
        product.start()
    return [Vdsm(host) for host in lab.hosts]


@pytest.fixture(scope="module")
def outage(lab: Lab, vdsms: list[Vdsm], network: Network, probe_port: LogicalPort) -> Outage:
    """A VM on hv1 whose migration to hv2 came to nothing; hv2 has no power."""
    source, target = vdsms
    address = f"{probe_port.address}/{network.subnet.prefixlen}"
    ids = f"external_ids:iface-id={probe_port.name}"
    probe = add_probe(source.host, "probe", probe_port.mac, address, Interface=ids)
    port = lab.central.add_port(network, str(uuid.uuid4()), new_mac())
    vm = running(source, "migrant", port)
    before = row(lab, port)
    seen: list[Row] = []

    def cut() -> None:
        wait_announced(lab, port, "hv1")
        seen.append(row(lab, port))
        # A kernel that ends processes says goodbye to their peers; one without power doesn't.
        for cable in target.host.cables:
            target.host.unplug_cable(cable.device)
        target.host.power_cut()

    with probe.ping(port.address) as pings:
        with pytest.raises(libvirt.libvirtError):
            source.migrate(vm, target, meanwhile=cut)
        begun = time.monotonic()
        wait_until(lambda: is_untouched(lab, port), 2 * UNDONE, "an untouched row")
        seconds = time.monotonic() - begun
    return Outage(vm, port, probe, pings, before, seen[0], row(lab, port), seconds)


@pytest.fixture(scope="module")
def back(installed: list[Product], outage: Outage) -> Outage:
    """The destination has power again, and its agent runs."""
    installed[1].host.start()
    installed[1].start()
    return outage


def test_the_vm_stays_and_answers_all_the_time(outage: Outage) -> None:
    assert outage.pings.lost == 0
    assert not outage.vm.running.paused


def test_the_sources_agent_takes_back_what_the_destination_wrote(outage: Outage) -> None:
    assert NOTE in outage.announced[1]
    assert outage.after == outage.before
    assert outage.seconds < UNDONE + 20  # one answer that libvirt took too long for


def test_when_the_destination_is_back_nothing_is_left_there(lab: Lab, back: Outage) -> None:
    wait_until(lambda: not places(lab, back.port)["hv2"], RECONCILED, "no port on hv2")

    wait_well(lab, back.probe, back.port, "hv1")


def test_when_the_destination_is_back_the_next_migration_succeeds(
    lab: Lab, vdsms: list[Vdsm], back: Outage
) -> None:
    source, target = vdsms

    source.migrate(back.vm, target, meanwhile=lambda: wait_announced(lab, back.port, "hv1"))

    wait_well(lab, back.probe, back.port, "hv2")
    assert last_arrival(target).stderr == ""


def test_when_both_hosts_are_back_the_vm_has_its_network_wherever_it_is_started(
    lab: Lab, installed: list[Product], vdsms: list[Vdsm], back: Outage
) -> None:
    vm, port = back.vm, back.port
    here, there = sorted(vdsms, key=lambda vdsm: vdsm.host is not vm.running.host)

    def cut() -> None:
        for vdsm in vdsms:
            for cable in vdsm.host.cables:
                vdsm.host.unplug_cable(cable.device)
            vdsm.host.power_cut()

    with pytest.raises(libvirt.libvirtError):
        here.migrate(vm, there, meanwhile=cut)
    for product in installed:
        product.host.start()
        product.start()
    assert NOTE in row(lab, port)[1]
    again = dataclasses.replace(vm, guest=None)

    # Its former destination would wait for the guest's first word, which none says at its start.
    there.create_vm(again)

    again.running.wait_lease(port.mac)
    wait_until(lambda: row(lab, port) == back.before, 40, "the row as it was")
