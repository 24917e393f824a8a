# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent is killed, at every step between a VM's first hook and its run: the VM runs.

What comes after the kill is either nothing, and hooks help themselves; or the next agent, as
systemd would start it, with the socket open all the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import (
    AGENT_WAS_KILLED,
    PATIENT,
    Configure,
    DoomedMaker,
    Point,
    PortMaker,
    StartMaker,
    VmMaker,
)
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.product import Product
from tests.lab.harness.service import Daemon
from tests.lab.harness.vdsm import Vdsm
from tests.lab.harness.vm_start import agent_status, pending, state, stays_paused

PUT = "vif_driver.host.starts:Starts.put"
FORGET = "vif_driver.host.starts:Starts.forget"
SEND = "vif_driver.agent.server:_send"
STARTED = "vif_driver.agent.readiness:Readiness.started"
WAIT = "vif_driver.agent.readiness:Readiness._wait_all"
WATCH = "vif_driver.agent.readiness:Readiness.watch"
RESUME = "vif_driver.host.domains:Domains.resume"

# The VM has two vNICs, and VDSM runs the hook for one after the other.
PLUG = {
    "before the start is remembered": (PUT, "before", 1),
    "once the start is remembered": (PUT, "after", 1),
    "before the first answer": (SEND, "before", 1),
    "after the first answer": (SEND, "after", 1),
    "before the second vNIC is remembered": (PUT, "before", 2),
    "once the second vNIC is remembered": (PUT, "after", 2),
    "after the second answer": (SEND, "after", 2),
    "when VDSM has started it": (STARTED, "before", 1),
}
RUN = {
    "once that is remembered": (PUT, "after", 3),
    "while it waits": (WAIT, "before", 1),
    "when all is ready": (WAIT, "after", 1),
    "before the VM is resumed": (RESUME, "before", 1),
    "once the VM is resumed": (RESUME, "after", 1),
}
END = {
    "before the start is forgotten": (FORGET, "before", 1),
    "once the start is forgotten": (FORGET, "after", 1),
    "before the third answer": (SEND, "before", 3),
    "when the vNIC is said to be plugged": (WATCH, "before", 1),
}

# Where it is known, or has to be, that somebody else wants the VM paused.
PAUSED = {
    "once the start is remembered": (PUT, "after", 1),
    "after the second answer": (SEND, "after", 2),
    "when VDSM has started it": (STARTED, "before", 1),
    "before the start is forgotten": (FORGET, "before", 1),
}


def at(*steps: dict[str, Point]) -> pytest.MarkDecorator:
    """Run a test for every point of these."""
    named = {name: point for each in steps for name, point in each.items()}
    return pytest.mark.parametrize("point", named.values(), ids=named.keys())


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with OVN."""
    with Lab(hypervisors=1) as started:
        yield started


@pytest.fixture(scope="module")
def settings() -> str:
    """As long as it takes is waited for vNICs."""
    return PATIENT


@pytest.fixture(scope="module", autouse=True)
def product(installed: list[Product]) -> Product:
    """The product on it; which agent runs is for the tests to say."""
    return installed[0]


def wait_nothing_pending(host: Hypervisor) -> None:
    wait_until(lambda: not pending(host), 10, "no start left")


@at(PLUG, RUN, END)
def test_without_another_agent_the_hooks_let_the_vm_run(
    host: Hypervisor,
    vdsm: Vdsm,
    product: Product,
    doomed: DoomedMaker,
    new_port: PortMaker,
    new_vm: VmMaker,
    point: Point,
) -> None:
    vm = new_vm(new_port(), new_port(), dhcp=False)
    doomed(point)

    vdsm.create_vm(vm)

    killed = host.exists(AGENT_WAS_KILLED)
    assert killed
    assert state(host, vm) == "running"
    assert {run.status for run in vdsm.runs} == {0}
    product.start()
    wait_nothing_pending(host)


@at(PLUG, RUN, END)
def test_the_next_agent_lets_the_vm_run_and_not_before_it_can(
    host: Hypervisor,
    doomed: DoomedMaker,
    new_port: PortMaker,
    new_vm: VmMaker,
    deaf_ovn: Daemon,
    begin: StartMaker,
    point: Point,
) -> None:
    vm = new_vm(new_port(), new_port(), dhcp=False)
    doomed(point, supervised=True)

    start = begin(vm)
    start.wait_held()
    held = start.stays_held(0.3)
    deaf_ovn.resume()
    start.finish()

    assert host.exists(AGENT_WAS_KILLED)
    assert held
    assert state(host, vm) == "running"
    assert {run.status for run in start.vdsm.runs} == {0}
    wait_nothing_pending(host)


@at(PAUSED)
@pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"])
def test_a_vm_that_the_engine_wants_paused_stays_paused(
    host: Hypervisor,
    vdsm: Vdsm,
    product: Product,
    doomed: DoomedMaker,
    new_port: PortMaker,
    new_vm: VmMaker,
    configure: Configure,
    point: Point,
    supervised: bool,
) -> None:
    configure("[start]\ndeadline = 0.3\n")
    vm = new_vm(new_port(), new_port(), dhcp=False)
    doomed(point, supervised=supervised)

    vdsm.create_vm(vm, paused=True)
    if not supervised:
        product.start()
    wait_until(lambda: agent_status(host)["libvirt_connected"], 10, "an agent with libvirt")

    assert host.exists(AGENT_WAS_KILLED)
    assert stays_paused(host, vm, 0.6)
    wait_nothing_pending(host)
