# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of live migration on OVN do and see."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import libvirt
import pytest

from tests.lab.conftest import PortMaker
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import LogicalPort
from tests.lab.harness.pings import Probe
from tests.lab.harness.vdsm import Vdsm, Vm, ended
from tests.lab.harness.vdsm_hooks import HookRun
from tests.lab.harness.vm_start import pending

NOTE = "vif-driver-migration"
# Seconds after which a migration is dealt with to the end; see SETTLE of the agent.
SETTLED = 60.0
# Seconds within which a port is bound where its guest runs: fewer than after which OVN would bind
# it there although nobody told it to (SETTLE). By how much it is faster, the bench says.
SWITCHED = 4.0
# Seconds within which a guest is reached, and a port bound, after something has died.
SOON = 10.0
# The same after OVN's northbound database was away: ovn-northd pauses for up to 8 s in between.
NORTHD = 40.0
ARRIVING = "before_device_migrate_destination"
#: Where an agent may be doomed: what changes the row of a port.
EDIT = "vif_driver.host.northbound:Northbound.edit"


# ---- who takes part ------------------------------------------------------------------------------


@pytest.fixture
def source(lab: Lab, agents: list[Any], no_guests_left: None) -> Vdsm:
    """VDSM of the host where VMs are started."""
    return Vdsm(lab.hosts[1])


@pytest.fixture
def target(lab: Lab, agents: list[Any]) -> Vdsm:
    """VDSM of the host where they go, and where the probe is."""
    return Vdsm(lab.hosts[0])


@pytest.fixture
def port(new_port: PortMaker) -> LogicalPort:
    """A logical switch port."""
    return new_port()


@pytest.fixture
def vm(source: Vdsm, target: Vdsm, port: LogicalPort) -> Iterator[Vm]:
    """A VM with that port, running, with its address."""
    vm = running(source, "migrant", port)
    yield vm
    ended(vm, source, target)


# ---- what is seen --------------------------------------------------------------------------------


def row(lab: Lab, port: LogicalPort) -> tuple[dict[str, str], dict[str, str]]:
    """Give options and external_ids of a logical switch port."""
    columns = "--columns=options,external_ids"
    found = lab.central.nbctl(
        "--format=json", columns, "find", "Logical_Switch_Port", f"name={port.name}"
    )
    ((options, ids),) = json.loads(found)["data"]
    return dict(options[1]), dict(ids[1])


def is_untouched(lab: Lab, port: LogicalPort) -> bool:
    """Whether nothing of ours is in a port's row."""
    options, ids = row(lab, port)
    return not {"requested-chassis", "activation-strategy"} & options.keys() and NOTE not in ids


def places(lab: Lab, port: LogicalPort) -> dict[str, set[str]]:
    """Tell what each host has of a port: its tap, and the port of its tap."""
    tap = f"tap{port.name[:11]}"
    return {
        host.name: {
            *({"device"} if tap in host.devices() else ()),
            *({"port"} if tap in host.ovs.ports() else ()),
        }
        for host in lab.hosts
    }


def wait_well(lab: Lab, probe: Probe, port: LogicalPort, host: str, timeout: float = SOON) -> None:
    """Wait until a guest is reached on a host, and nothing of a migration is left anywhere.

    Args:
        lab: which.
        probe: what reaches it.
        port: of the guest.
        host: where the guest is.
        timeout: seconds for OVN to have the port there.
    """
    wait_bound(lab, port, host, timeout)
    wait_until(lambda: probe.reaches(port.address), SOON, f"{host}: an answer of the guest")
    wait_until(lambda: is_untouched(lab, port), SETTLED, "an untouched row")
    wait_until(lambda: not any(map(pending, lab.hosts)), SETTLED, "no arrival left")
    assert places(lab, port) == {
        each.name: {"device", "port"} if each.name == host else set() for each in lab.hosts
    }
    assert lab.central.bound_to(port.name) == host


def wait_bound(lab: Lab, port: LogicalPort, host: str, timeout: float = SOON) -> None:
    """Wait until a port is bound to a host."""
    wait_until(lambda: lab.central.bound_to(port.name) == host, timeout, f"the port on {host}")


def wait_announced(lab: Lab, port: LogicalPort, source: str) -> None:
    """Wait until OVN is told that a port moves away from a host."""

    def announced() -> bool:
        note = json.loads(row(lab, port)[1].get(NOTE, "{}"))
        return bool(note) and note["source"] == source

    wait_until(announced, 20, f"an announcement that the port moves away from {source}")


def last_arrival(vdsm: Vdsm) -> HookRun:
    """Give the last run of the destination's hook."""
    return vdsm.hooks.runs_of(ARRIVING)[-1]


# ---- what is done --------------------------------------------------------------------------------


def running(vdsm: Vdsm, name: str, *ports: LogicalPort) -> Vm:
    """Start a VM with these ports, and wait for its addresses."""
    vm = Vm(name, [Nic.ovn(port.name, port.mac) for port in ports])
    vdsm.create_vm(vm)
    for port in ports:
        vm.running.wait_lease(port.mac)
    return vm


@contextmanager
def meanwhile(*actions: Callable[[], object]) -> Iterator[None]:
    """Do something beside the block, one after the other; its error counts."""

    def act() -> None:
        for action in actions:
            action()

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act)
        yield
    acting.result()


def signal_qemu(vdsm: Vdsm, vm: Vm, number: int) -> None:
    """Send a signal to the process of a VM on a host."""
    pid = int(vdsm.host.read(f"/run/libvirt/qemu/{vm.name}.pid"))
    vdsm.host.signal_process(pid, number)


@contextmanager
def frozen_qemu(vdsm: Vdsm, vm: Vm) -> Iterator[None]:
    """Freeze the process of a VM on a host: a guest can't arrive there."""
    signal_qemu(vdsm, vm, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_qemu(vdsm, vm, signal.SIGCONT)


def fail_to_migrate(source: Vdsm, target: Vdsm, vm: Vm, *before: Callable[[], object]) -> None:
    """Migrate a VM whose process on the target is killed in the middle, after something else."""

    def kill() -> None:
        for action in before:
            action()
        signal_qemu(target, vm, signal.SIGKILL)

    with pytest.raises(libvirt.libvirtError):
        source.migrate(vm, target, meanwhile=kill)
