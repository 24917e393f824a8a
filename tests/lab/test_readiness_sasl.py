# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM is resumed where libvirt asks for VDSM's password, as it does on oVirt's hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import PATIENT, StartMaker, VmMaker
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import VDSM_USER, Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.product import Product
from tests.lab.harness.service import Daemon
from tests.lab.harness.vdsm import Vdsm
from tests.lab.harness.vm_start import agent_status, pending, state

PASSWORD = "only-the-lab-knows"
PASSWORD_FILE = "/etc/pki/vdsm/keys/libvirt_password"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with OVN."""
    with Lab(hypervisors=1) as started:
        yield started


@pytest.fixture(scope="module")
def settings() -> str:
    """As long as it takes is waited for vNICs."""
    return PATIENT


@pytest.fixture(scope="module")
def host(lab: Lab) -> Hypervisor:
    """The hypervisor, whose libvirt asks for a password."""
    host = lab.hosts[0]
    host.libvirt.require_password(PASSWORD)
    host.libvirt.restart()
    return host


@pytest.fixture(autouse=True)
def password(host: Hypervisor) -> None:
    """The right password, where VDSM keeps it."""
    keep(host, PASSWORD)


def keep(host: Hypervisor, password: str) -> None:
    host.write(PASSWORD_FILE, password, mode=0o400, owner=VDSM_USER)


def wait_logged(product: Product, line: str) -> None:
    wait_until(lambda: line in product.log(), 15, f"{line!r} in the log")


def test_the_agent_resumes_a_vm(
    host: Hypervisor, agent: Product, vdsm: Vdsm, new_vm: VmMaker
) -> None:
    vm = new_vm()

    vdsm.create_vm(vm)

    assert state(host, vm) == "running"
    assert not pending(host)
    # It could not have done so without.
    assert "authentication" in host.run(["virsh", "list"], check=False).stderr


def test_a_hook_without_the_agent_resumes_a_vm(
    host: Hypervisor, agent: Product, deaf_ovn: Daemon, begin: StartMaker, new_vm: VmMaker
) -> None:
    start = begin(new_vm())
    start.wait_held()

    agent.kill()
    start.finish()

    assert state(host, start.vm) == "running"
    assert start.last_hook.status == 0


def test_with_a_wrong_password_the_log_says_what_to_do_and_the_vm_runs_once_it_is_done(
    host: Hypervisor, agent: Product, begin: StartMaker, new_vm: VmMaker
) -> None:
    agent.stop()
    keep(host, "wrong")
    agent.start()

    start = begin(new_vm())
    wait_logged(agent, "libvirt refuses the password of vdsm@ovirt")
    start.wait_held()
    connected = agent_status(host)["libvirt_connected"]
    keep(host, PASSWORD)
    start.finish()

    assert PASSWORD_FILE in agent.log() and "vdsm-tool configure" in agent.log()
    assert not connected
    assert state(host, start.vm) == "running"


def test_with_a_wrong_password_a_hook_without_the_agent_says_what_to_do(
    host: Hypervisor, agent: Product, deaf_ovn: Daemon, begin: StartMaker, new_vm: VmMaker
) -> None:
    start = begin(new_vm())
    start.wait_held()
    keep(host, "wrong")

    agent.kill()
    start.finish()

    said = start.last_hook.stderr
    assert start.last_hook.status == 1
    assert "libvirt refuses the password of vdsm@ovirt" in said and PASSWORD_FILE in said
    assert start.vm.id in said and said.count("\n") == 1
