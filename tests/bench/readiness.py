# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon a VM runs: after its last port works, and against one on a plain bridge."""

from __future__ import annotations

import datetime
import re
import statistics
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.bench import Bench
from tests.bench.figure import Measured
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.nic import Nic
from tests.lab.harness.vdsm import Vdsm, Vm

WARM_UP = 2
LATE_STARTS = 12
PAIRS = 12
PLAIN_BRIDGE = "plain"
RESUMED = re.compile(r"^(\S+ \S+): event 'lifecycle' for domain '?([^':]+)'?: Resumed", re.M)
#: What ovsdb-client prints: a time, and the changes that it belongs to.
CHANGED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+)$", re.M)


def after_ready(bench: Bench) -> Measured:
    """From ovn-installed in the database to libvirt's RESUMED, for VMs whose port comes late."""
    lab, vdsm = bench.ovn_lab, bench.vdsm
    times = []
    with _resumed(vdsm.host) as events:
        for number in range(WARM_UP + LATE_STARTS):
            vm = _vm(Nic.ovn(str(uuid.uuid4()), f"fa:16:3e:00:01:{number:02x}"))
            creating = threading.Thread(target=vdsm.create_vm, args=(vm,))
            creating.start()
            _wait_held(vdsm, vm)
            port = vm.nics[0].vnic_id
            lab.central.add_port(bench.network, port, vm.nics[0].mac)
            creating.join()
            installed = _installed(vdsm.host, port)
            times.append(_resumed_at(events, vm) - installed)
            vdsm.destroy_vm(vm)
            lab.central.remove_port(port)
    times = times[WARM_UP:]
    milliseconds = sorted(seconds * 1000 for seconds in times)
    how = (
        f"median over {LATE_STARTS} VMs (after {WARM_UP}) whose logical switch port was made when "
        f"they stood still and waited: from ovn-controller's own time stamp of ovn-installed "
        f"(ovn-installed-ts) to virsh's of libvirt's RESUMED event; fastest "
        f"{milliseconds[0]:.0f} ms, slowest {milliseconds[-1]:.0f} ms"
    )
    return Measured(statistics.median(milliseconds), how)


def start_to_running(bench: Bench) -> Measured:
    """The start of a VM with an OVN vNIC, less OVN's own time, against one on a plain bridge."""
    lab, vdsm = bench.ovn_lab, bench.vdsm
    host = vdsm.host
    host.ip(f"link add {PLAIN_BRIDGE} type bridge", f"link set {PLAIN_BRIDGE} up")
    samples = []
    with _resumed(host) as events, _database_changes(host) as changes:
        for number in range(WARM_UP + PAIRS):
            plain = Vm(f"plain-{number}", [Nic(f"fa:16:3e:00:02:{number:02x}")])
            plain.nics[0] = Nic(plain.nics[0].mac, network=PLAIN_BRIDGE, filter=None)
            begun = time.time()
            vdsm.create_vm(plain)
            plain_time = time.time() - begun
            vdsm.destroy_vm(plain)
            vm = _vm(Nic.ovn(str(uuid.uuid4()), f"fa:16:3e:00:03:{number:02x}"))
            port = vm.nics[0].vnic_id
            lab.central.add_port(bench.network, port, vm.nics[0].mac)
            begun = time.time()
            vdsm.create_vm(vm)
            ours_time = _resumed_at(events, vm) - begun
            ovn_time = _installed(host, port) - _plugged_at(changes, port)
            vdsm.destroy_vm(vm)
            lab.central.remove_port(port)
            samples.append(_Sample(plain_time, ours_time, ovn_time))
    samples = samples[WARM_UP:]
    plain_median = statistics.median(sample.plain for sample in samples)
    ours_median = statistics.median(sample.ours for sample in samples)
    ovn_median = statistics.median(sample.ovn for sample in samples)
    how = (
        f"medians over {PAIRS} VMs of each kind in turns (after {WARM_UP}), by VDSM's steps with "
        f"all hooks: {ours_median * 1000:.0f} ms from before_device_create to libvirt's RESUMED "
        f"with an OVN vNIC, less {ovn_median * 1000:.0f} ms from libvirt's port in the database "
        f"to ovn-installed, by {plain_median * 1000:.0f} ms until a VM on a plain Linux bridge runs"
    )
    return Measured((ours_median - ovn_median) / plain_median, how)


@dataclass(frozen=True)
class _Sample:
    plain: float
    ours: float
    ovn: float


def _vm(nic: Nic) -> Vm:
    return Vm(f"vm-{uuid.uuid4().hex[:6]}", [nic])


def _wait_held(vdsm: Vdsm, vm: Vm) -> None:
    """Wait until VDSM's hook has asked the agent to wait for the VM."""
    record = f"/run/vif-driver/starting/{vm.id}"
    what = f"{vm.name} to wait"
    wait_until(lambda: '"started": true' in vdsm.host.read(record), 20, what, interval=0.01)


def _installed(host: Hypervisor, port: str) -> float:
    """When ovn-controller says that it was done with a port, in seconds since the epoch."""
    stamp = host.ovs.interface_of(port)["external_ids"]["ovn-installed-ts"]
    return int(stamp) / 1000


@contextmanager
def _resumed(host: Hypervisor) -> Iterator[_Output]:
    """Listen to libvirt's events, as a process of their own to whom nobody is in the way."""
    command = ["virsh", "-c", "qemu:///system", "event", "--all", "--loop", "--timestamp"]
    with _following(host, ["stdbuf", "-oL", *command]) as output:
        yield output


@contextmanager
def _database_changes(host: Hypervisor) -> Iterator[_Output]:
    command = ["ovsdb-client", "monitor", "--timestamp", "unix:/run/openvswitch/db.sock"]
    columns = ["Open_vSwitch", "Interface", "name,external_ids"]
    with _following(host, ["stdbuf", "-oL", *command, *columns]) as output:
        yield output


class _Output:
    """What a program on a host has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.text = ""
        self._process = process
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()


@contextmanager
def _following(host: Hypervisor, command: list[str]) -> Iterator[_Output]:
    output = _Output(host.popen(command, stderr=subprocess.DEVNULL))
    try:
        yield output
    finally:
        output.stop()


def _resumed_at(events: _Output, vm: Vm) -> float:
    def found() -> list[str]:
        return [when for when, name in RESUMED.findall(events.text) if name == vm.name]

    wait_until(found, 10, f"libvirt's RESUMED of {vm.name}", interval=0.01)
    return _seconds(found()[0])


def _plugged_at(changes: _Output, port: str) -> float:
    """When the database first had a row with that iface-id."""
    stamps = CHANGED.split(changes.text)
    for when, content in zip(stamps[1::2], stamps[2::2]):
        if port in content:
            return _seconds(when)
    raise RuntimeError(f"ovsdb-client saw no port {port}")


def _seconds(text: str) -> float:
    """Read a time in UTC, as virsh and ovsdb-client print it."""
    moment = datetime.datetime.fromisoformat(text.split("+")[0])
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()
