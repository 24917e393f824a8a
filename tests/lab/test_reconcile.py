# SPDX-License-Identifier: GPL-2.0-or-later
"""While a host runs: what VMs have left goes, and what they have lost comes back.

The VMs here are OVN's, and the agent is systemd's.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.conftest import CONFIGURATION, PortMaker, VmMaker
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.leftovers import (
    add_port,
    add_stale_ports,
    count_stale_ports,
    libvirts_ids,
    written,
)
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.pings import SELDOM, Probe
from tests.lab.harness.product import SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vm_start import agent_status

#: Seconds, the shortest that can be set; and what the agent lets pass after an event.
GRACE, SETTLE = 1.0, 1.0

#: Seconds after which something would have been done, if anything were to be.
LONG = 2 * (GRACE + SETTLE)

#: Seconds, more than the agent lets pass after a failure of its own.
RETRIED = 90

MANY = 1000


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with systemd, and OVN."""
    with Lab(hypervisors=1, systemd=True) as started:
        yield started


@pytest.fixture(scope="module")
def product(host: SystemdHypervisor) -> SystemdProduct:
    """The product on it, with the shortest grace; its agent runs."""
    product = SystemdProduct(host)
    product.install()
    host.write(CONFIGURATION, f"[reconcile]\ngrace = {GRACE:g}\n")
    product.start()
    return product


@pytest.fixture(scope="module")
def vdsm(host: SystemdHypervisor, product: SystemdProduct) -> Vdsm:
    """VDSM of the hypervisor."""
    return Vdsm(host)


@pytest.fixture(scope="module")
def pair(lab: Lab, vdsm: Vdsm, network: Network) -> list[Vm]:
    """Two VMs that run on the hypervisor for as long as there are tests, with addresses."""
    vms = []
    for number in (1, 2):
        port_id = f"{number:08x}-0000-4000-8000-00000000000a"
        port = lab.central.add_port(network, port_id, f"fa:16:3e:00:00:{number:02x}")
        vms.append(Vm(f"vm-{number}", [Nic.ovn(port.name, port.mac)]))
    vdsm.create_vms(vms)
    for vm in vms:
        vm.running.wait_lease()
    return vms


@pytest.fixture
def started(vdsm: Vdsm, new_vm: VmMaker) -> Iterator[Callable[[], Vm]]:
    """Start another VM, which does not outlive the test: ``started()``."""
    made: list[Vm] = []

    def start() -> Vm:
        made.append(new_vm(dhcp=False))
        vdsm.create_vm(made[-1])
        return made[-1]

    yield start
    for vm in made:
        vdsm.destroy_vm(vm)


@pytest.fixture
def brief_journal(host: SystemdHypervisor) -> Iterator[None]:
    """The journal takes but some hundred lines at once of any service, unless that says more."""
    settings = "/etc/systemd/journald.conf.d/test.conf"
    host.write(settings, "[Journal]\nRateLimitIntervalSec=1min\nRateLimitBurst=20\n")
    host.run(["systemctl", "restart", "systemd-journald.service"])
    yield
    host.path(settings).unlink()
    host.run(["systemctl", "restart", "systemd-journald.service"])


def removals(product: SystemdProduct) -> list[dict[str, Any]]:
    """The entries of the journal with what the agent has removed."""
    return [entry for entry in product.journal(VIF_EVENT="reconcile") if "VIF_ROW" in entry]


def tap(vm: Vm) -> str:
    return vm.nics[0].tap


def address(vm: Vm) -> str:
    return vm.running.wait_lease().address


def done(host: SystemdHypervisor) -> tuple[int, int]:
    """How much the agent has removed since it started, and how much it has plugged again."""
    status = agent_status(host)
    return status["stale_removed"], status["plugged_again"]


def row_ids(host: SystemdHypervisor, *vms: Vm) -> list[Any]:
    return [host.ovs.interface(tap(vm))["_uuid"] for vm in vms]


def wait_gone(host: SystemdHypervisor, *names: str) -> None:
    wait_until(lambda: not host.ovs.ports() & set(names), RETRIED, f"the end of {names}")


def wait_first_look(product: SystemdProduct, vm_id: str) -> None:
    """Wait until the agent has seen that a VM has left something."""
    wait_until(lambda: product.journal(VIF_VM=vm_id), 30, "the first look", interval=0.05)


def wait_for_a_pass(host: SystemdHypervisor) -> None:
    """Wait until all that is to be removed now has been.

    A row that is sure to go is added: what is as old as it goes with it.
    """
    add_port(host, "sentinel", external_ids=libvirts_ids())
    wait_gone(host, "sentinel")
    time.sleep(0.2)  # the same look plugs, too


# ---- what VMs have left --------------------------------------------------------------------------


def test_a_row_of_a_vm_that_is_gone_goes_after_the_grace_and_not_before(
    host: SystemdHypervisor, product: SystemdProduct
) -> None:
    begun = time.monotonic()
    add_port(host, "stale", external_ids=libvirts_ids())

    wait_gone(host, "stale")

    # The first look may follow an event that was before.
    assert time.monotonic() - begun >= GRACE


def test_what_goes_is_one_line_of_the_journal_with_the_whole_row(
    host: SystemdHypervisor, product: SystemdProduct
) -> None:
    ids = {**libvirts_ids(), "port-profile": "theirs"}
    # At once, or it might go before it is whole.
    host.vsctl(
        *("--no-wait", "add-port", "br-int", "stale", "trunks=[7,8]"),
        *("other_config:priority-tags=1", "--", "set", "Interface", "stale", "mtu_request=1300"),
        *(f"external_ids:{key}={json.dumps(value)}" for key, value in ids.items()),
    )

    wait_gone(host, "stale")

    entries = product.journal(VIF_VM=ids["vm-id"])
    (entry,) = [entry for entry in entries if "VIF_ROW" in entry]
    row = json.loads(entry["VIF_ROW"])
    assert entry["MESSAGE"].startswith("removing port stale of br-int")
    assert entry["VIF_VNIC"] == ids["iface-id"]
    assert row["bridge"] == "br-int"
    assert (row["Port"]["trunks"], row["Port"]["other_config"]) == ([7, 8], {"priority-tags": "1"})
    assert (row["Interface"]["external_ids"], row["Interface"]["mtu_request"]) == (ids, 1300)


def test_the_journal_drops_none_of_the_lines_however_many_rows_go(
    host: SystemdHypervisor, product: SystemdProduct, brief_journal: None
) -> None:
    before = len(removals(product))

    add_stale_ports(host, MANY)
    wait_until(lambda: not count_stale_ports(host), 60, "the end of all stale rows", interval=0.1)

    assert len(removals(product)) == before + MANY


def test_a_row_that_libvirt_could_not_remove_goes(
    host: SystemdHypervisor, product: SystemdProduct, started: Callable[[], Vm]
) -> None:
    vm = started()
    pid = int(host.read(f"/run/libvirt/qemu/{vm.name}.pid"))
    # libvirt's ovs-vsctl gives up after five seconds.
    host.ovs.database.suspend()
    try:
        host.signal_process(pid, signal.SIGKILL)
        wait_until(lambda: vm.name not in host.libvirt.domains(), 20, "libvirt's knowledge of it")
    finally:
        host.ovs.database.resume()

    wait_gone(host, tap(vm))

    # Nobody but the agent has removed it.
    assert [entry for entry in product.journal(VIF_VM=vm.id) if "VIF_ROW" in entry]


GONE = libvirts_ids()
OTHERS: dict[str, Callable[[SystemdHypervisor], None]] = {
    "of-a-container": lambda host: add_port(host, "o1", external_ids={"iface-id": "container"}),
    "of-os-vif": lambda host: add_port(
        host, "o2", external_ids={"vm-uuid": GONE["vm-id"], "iface-id": GONE["iface-id"]}
    ),
    "kept-by-its-owner": lambda host: add_port(
        host, "o3", external_ids={**GONE, "skip_cleanup": "true"}
    ),
    "internal": lambda host: add_port(host, "o4", external_ids=GONE, type="internal"),
    "patch": lambda host: add_port(
        host, "o5", external_ids=GONE, type="patch", options={"peer": "o6"}
    ),
    "tunnel": lambda host: add_port(
        host, "o6", external_ids=GONE, type="geneve", options={"remote_ip": "192.0.2.99"}
    ),
    "on-another-bridge": lambda host: add_port(host, "o7", bridge="br-phy", external_ids=GONE),
    "bond": lambda host: add_bond(host, "o8", external_ids=GONE),
}


def add_bond(host: SystemdHypervisor, name: str, external_ids: dict[str, str]) -> None:
    command = ["--no-wait", "add-bond", "br-int", name, f"{name}a", f"{name}b"]
    for key, value in external_ids.items():
        command += ["--", "set", "Interface", f"{name}a", f"external_ids:{key}={value}"]
    host.vsctl(*command)


@pytest.fixture(scope="module")
def others(host: SystemdHypervisor, product: SystemdProduct) -> Iterator[list[str]]:
    """Ports that are there after a pass, of those that were none of a VM's, by their kinds."""
    names = {kind: f"o{number + 1}" for number, kind in enumerate(OTHERS)}
    for add in OTHERS.values():
        add(host)
    wait_for_a_pass(host)
    present = host.ovs.ports() | host.ovs.ports("br-phy")
    yield [kind for kind, name in names.items() if name in present]
    for name in names.values():
        host.vsctl("--if-exists", "del-port", name)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_port_that_is_none_of_a_vms_stays(others: list[str], kind: str) -> None:
    assert kind in others


def test_the_row_of_a_vm_whose_tap_is_gone_stays_while_the_vm_is_there(
    host: SystemdHypervisor, started: Callable[[], Vm]
) -> None:
    vm = started()
    paused = started()
    paused.running.domain.suspend()
    host.ip(f"link del {tap(vm)}", f"link del {tap(paused)}")

    wait_for_a_pass(host)

    assert {tap(vm), tap(paused)} <= host.ovs.ports()


def test_a_device_that_is_back_before_the_second_look_keeps_its_row(
    host: SystemdHypervisor, product: SystemdProduct
) -> None:
    for _ in range(5):
        ids = libvirts_ids()
        add_port(host, "blinking", external_ids=ids)
        wait_first_look(product, ids["vm-id"])
        host.ip("tuntap add blinking mode tap")
        if "blinking" in host.ovs.ports():
            break
        host.ip("link del blinking")  # it is back too late: the second look came first

    wait_for_a_pass(host)

    assert "blinking" in host.ovs.ports()
    host.vsctl("del-port", "blinking")
    host.ip("link del blinking")


def test_a_vm_that_starts_again_before_the_second_look_wins(
    host: SystemdHypervisor,
    product: SystemdProduct,
    vdsm: Vdsm,
    probe: Probe,
    new_port: PortMaker,
    new_vm: VmMaker,
) -> None:
    port = new_port()
    vm = new_vm(port)
    add_port(host, tap(vm), external_ids=libvirts_ids(vm.id, port.name))
    wait_first_look(product, vm.id)
    time.sleep(0.8 * GRACE)

    vdsm.create_vm(vm)
    reached = wait_until(lambda: probe.reaches(port.address), 30, "an answer of the VM")
    wait_for_a_pass(host)

    assert reached
    assert host.ovs.interface(tap(vm))["external_ids"]["vm-id"] == vm.id
    vdsm.destroy_vm(vm)


def test_live_vms_lose_no_packet_while_much_is_removed(
    host: SystemdHypervisor, pair: list[Vm], probe: Probe
) -> None:
    target = address(pair[0])

    with probe.ping(target, interval=SELDOM) as pings:
        add_stale_ports(host, MANY)
        wait_until(lambda: not count_stale_ports(host), 60, "the end of all stale rows")

    assert pings.sent > 20
    assert pings.lost == 0


# ---- when somebody is away -----------------------------------------------------------------------


def test_a_restart_of_ovs_vswitchd_costs_vms_nothing(
    host: SystemdHypervisor, pair: list[Vm]
) -> None:
    before, rows = done(host), row_ids(host, *pair)

    host.restart_vswitchd()
    wait_for_a_pass(host)

    assert done(host) == (before[0] + 1, before[1])
    assert row_ids(host, *pair) == rows
    assert pair[0].running.reaches(address(pair[1]))


def test_a_restart_of_the_agent_costs_vms_nothing(
    host: SystemdHypervisor, product: SystemdProduct, pair: list[Vm]
) -> None:
    rows = row_ids(host, *pair)

    product.agent.restart()
    wait_for_a_pass(host)

    assert done(host) == (1, 0)
    assert row_ids(host, *pair) == rows


def test_while_libvirt_is_away_nothing_goes(host: SystemdHypervisor, pair: list[Vm]) -> None:
    host.libvirt.stop()
    try:
        add_port(host, "stale", external_ids=libvirts_ids())
        time.sleep(LONG)
        kept = host.ovs.ports()
    finally:
        host.libvirt.start()

    wait_gone(host, "stale")

    assert {"stale", *map(tap, pair)} <= kept
    assert set(map(tap, pair)) <= host.ovs.ports()


# ---- what VMs have lost --------------------------------------------------------------------------


@contextmanager
def comes_back(host: SystemdHypervisor, *vms: Vm) -> Iterator[None]:
    """What the block takes from the rows of VMs is there again some time after it."""
    before = [written(host, tap(vm)) for vm in vms]
    yield
    wait_until(lambda: set(map(tap, vms)) <= host.ovs.ports(), RETRIED, "the ports", interval=0.1)
    assert [written(host, tap(vm)) for vm in vms] == before


def test_a_port_that_somebody_deleted_is_plugged_again(
    host: SystemdHypervisor, pair: list[Vm]
) -> None:
    first, second = pair

    with comes_back(host, first):
        host.vsctl("del-port", tap(first))

    host.ovs.wait_ready(tap(first), 60)
    assert second.running.reaches(address(first), timeout=30)


def test_a_port_that_is_deleted_as_soon_as_it_is_back_comes_back_again(
    host: SystemdHypervisor, pair: list[Vm]
) -> None:
    for _ in range(2):
        with comes_back(host, pair[0]):
            host.vsctl("del-port", tap(pair[0]))


def test_a_port_that_was_deleted_without_the_agent_is_plugged_again_when_it_starts(
    host: SystemdHypervisor, product: SystemdProduct, pair: list[Vm]
) -> None:
    product.stop()

    with comes_back(host, pair[0]):
        host.vsctl("del-port", tap(pair[0]))
        product.start()

    assert done(host)[1] == 1


@pytest.mark.parametrize("seconds", [0.0, 3.0], ids=["at once", "late"])
def test_a_bridge_that_somebody_deleted_has_its_vms_again_once_it_is_back(
    host: SystemdHypervisor, pair: list[Vm], seconds: float
) -> None:
    first, second = pair

    with comes_back(host, *pair):
        host.ovn_controller.suspend()
        host.vsctl("--no-wait", "del-br", "br-int")
        time.sleep(seconds)
        host.ovn_controller.resume()  # it makes the bridge
        wait_until(lambda: "br-int" in host.vsctl("list-br"), 20, "the bridge")

    for vm in pair:
        host.ovs.wait_ready(tap(vm), 60)
    assert second.running.reaches(address(first), timeout=30)
