# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VM's peers feel of its live migration, for three ways to have the port follow it."""

from __future__ import annotations

import datetime
import re
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import libvirt

from tests.bench import plot
from tests.bench.bench import Bench, hook, spawn
from tests.bench.figure import Measured
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import LogicalPort, Network
from tests.lab.harness.pings import INTERVAL, LATE, Probe, add_probe
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm, ended

MIGRATIONS = 10
PLOT = "migration.svg"
EVENTS_PID = "/run/bench-events.pid"
#: Seconds before and after a migration in which all is quiet again.
PAUSE = 1.0

# What `virsh event --timestamp` prints, and ovn-controller logs; the first in local time.
_RESUMED = re.compile(r"^(\S+ \S+?)\+0000: event 'lifecycle'.*: Resumed ", re.MULTILINE)
_CLAIMED = re.compile(
    r"^(\S+)Z\|.*(?:Changing chassis for|Claiming) lport (\S+?)[ .]", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """One migration.

    Attributes:
        outage: seconds without an answer in time, the worse of both peers.
        blackout: seconds in which the guest itself stood still.
        duplicates: answers that came twice.
        bound_after: seconds from the moment that the guest ran on until its port was bound there;
            None if it was bound before.
    """

    outage: float
    blackout: float
    duplicates: int
    bound_after: float | None

    @property
    def ratio(self) -> float:
        """The outage, as a multiple of the guest's own."""
        return self.outage / self.blackout


@dataclass(frozen=True)
class Stage:
    """Two hypervisors, a VM, and a peer on each."""

    lab: Lab
    products: list[Product]
    vdsms: list[Vdsm]
    probes: list[Probe]
    port: LogicalPort
    vm: Vm
    address: str


def _uncoordinated(stage: Stage, source: Vdsm, target: Vdsm) -> None:
    """libvirt alone."""
    _move(stage.vm, source, target)


def _by_engine(stage: Stage, source: Vdsm, target: Vdsm) -> None:
    """The provider names one host, the new one only after success."""
    central, name = stage.lab.central, stage.port.name
    central.nbctl("--wait=hv", "lsp-set-options", name, f"requested-chassis={source.host.name}")
    _move(stage.vm, source, target)
    central.nbctl("lsp-set-options", name, f"requested-chassis={target.host.name}")


def _ours(stage: Stage, source: Vdsm, target: Vdsm) -> None:
    source.migrate(stage.vm, target)


def _move(vm: Vm, source: Vdsm, target: Vdsm) -> None:
    address = target.host.management_address
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    options = {"migrate_uri": f"tcp://{address}"}
    vm.running.domain.migrateToURI3(f"qemu+tcp://{address}/system", options, flags)
    vm.running.host = target.host


WAYS: dict[str, Callable[[Stage, Vdsm, Vdsm], None]] = {
    "nobody": _uncoordinated,
    "engine": _by_engine,
    "ours": _ours,
}


def _runs(bench: Bench) -> dict[str, list[Run]]:
    """Migrate a VM there and back, the three ways by turns."""
    known: dict[str, list[Run]] | None = bench.shared.get("migration")
    if known is not None:
        return known
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    with _stage() as stage:
        for _ in range(MIGRATIONS):
            for way, migrate in WAYS.items():
                here = next(v for v in stage.vdsms if v.host is stage.vm.running.host)
                there = next(v for v in stage.vdsms if v is not here)
                runs[way].append(_measure(stage, here, there, migrate))
                stage.lab.central.nbctl("clear", "Logical_Switch_Port", stage.port.name, "options")
    bench.shared["migration"] = runs
    plot.gaps({way: [(r.outage, r.blackout) for r in of_one] for way, of_one in runs.items()}, PLOT)
    return runs


@contextmanager
def _stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(hypervisors=2))
        products = [Product(host) for host in lab.hosts]
        for product in products:
            product.install()
            product.start()
        network = lab.central.add_network("net1", "10.0.0.0/24")
        probes = [_peer(lab, network, host, number) for number, host in enumerate(lab.hosts)]
        port = lab.central.add_port(network, str(uuid.uuid4()), "fa:16:3e:00:05:10")
        vm = Vm("migrant", [Nic.ovn(port.name, port.mac)])
        vdsms = [Vdsm(host) for host in lab.hosts]
        stack.callback(ended, vm, *vdsms)
        vdsms[0].create_vm(vm)
        address = vm.running.wait_lease().address
        yield Stage(lab, products, vdsms, probes, port, vm, address)


def _peer(lab: Lab, network: Network, host: Hypervisor, number: int) -> Probe:
    port = lab.central.add_port(network, str(uuid.uuid4()), f"fa:16:3e:00:05:{number:02x}")
    address = f"{port.address}/{network.subnet.prefixlen}"
    row = f"external_ids:iface-id={port.name}"
    probe = add_probe(host, f"peer{number}", port.mac, address, mtu=network.mtu, Interface=row)
    host.ovs.wait_ready(probe.name)
    return probe


def _measure(
    stage: Stage, source: Vdsm, target: Vdsm, migrate: Callable[[Stage, Vdsm, Vdsm], None]
) -> Run:
    for probe in stage.probes:
        wait_until(lambda probe=probe: probe.reaches(stage.address), 30, "an answer")  # type: ignore[misc]
    time.sleep(PAUSE)
    watch = ["virsh", "-q", "-c", "qemu:///system", "event", "--event", "lifecycle"]
    begun = datetime.datetime.now(datetime.timezone.utc)
    watch += ["--loop", "--timestamp"]
    noted = f"echo $$ >{EVENTS_PID}; exec timeout 120 {' '.join(watch)}"
    events = target.host.popen(["sh", "-c", noted], stdout=subprocess.PIPE)
    with events, ExitStack() as pinging:
        time.sleep(PAUSE / 2)
        pings = [pinging.enter_context(probe.ping(stage.address)) for probe in stage.probes]
        time.sleep(PAUSE / 2)
        migrate(stage, source, target)
        time.sleep(PAUSE * 3)
        pinging.close()
        target.host.run(["sh", "-c", f"kill $(cat {EVENTS_PID})"])
        told, _ = events.communicate(timeout=10)
    statistics_of_job = stage.vm.running.domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    return Run(
        outage=max(each.outage for each in pings),
        blackout=statistics_of_job["downtime"] / 1000,
        duplicates=sum(each.duplicates for each in pings),
        bound_after=_bound_after(stage, target, str(told), begun),
    )


def _bound_after(stage: Stage, target: Vdsm, events: str, begun: datetime.datetime) -> float | None:
    resumed = [_moment(text) for text in _RESUMED.findall(events)]
    log = target.host.read("/var/log/ovn/ovn-controller.log")
    claims = [_moment(text) for text, name in _CLAIMED.findall(log) if name == stage.port.name]
    last = [moment for moment in claims if moment > begun]
    if not resumed or not last:
        return None
    return (last[-1] - resumed[-1]).total_seconds()


def _moment(text: str) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(text.replace("T", " "))
    return moment.replace(tzinfo=datetime.timezone.utc)


# ---- the figures -----------------------------------------------------------------------------


def _ratio(way: str, worst: bool) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        runs = _runs(bench)[way]
        ratios = [run.ratio for run in runs]
        value = max(ratios) if worst else statistics.median(ratios)
        outages = sorted(run.outage * 1000 for run in runs)
        blackouts = sorted(run.blackout * 1000 for run in runs)
        how = (
            f"{'worst' if worst else 'median'} of {len(runs)} migrations ({way}) of the longest "
            f"time without an answer within {LATE * 1000:.0f} ms to a ping every "
            f"{INTERVAL * 1000:.0f} ms from a peer on each host, divided by the guest's own "
            f"blackout; {outages[0]:.0f} to {outages[-1]:.0f} ms (median "
            f"{statistics.median(outages):.0f}) of {blackouts[0]:.0f} to {blackouts[-1]:.0f} ms; "
            f"{sum(run.duplicates for run in runs)} duplicates; the plot is build/{PLOT}"
        )
        return Measured(value, how)

    return measure


def bound_after(bench: Bench) -> Measured:
    """How long after the guest runs on the destination its port is bound there."""
    moments = [run.bound_after for run in _runs(bench)["ours"] if run.bound_after is not None]
    if not moments:
        raise RuntimeError("no migration of ours was seen to be bound")
    how = (
        f"worst of {len(moments)} migrations from libvirt's event of the guest that runs on until "
        f"ovn-controller of that host claims the port; median "
        f"{statistics.median(moments) * 1000:.0f} ms"
    )
    return Measured(max(moments) * 1000, how)


nobody_median, nobody_worst = _ratio("nobody", worst=False), _ratio("nobody", worst=True)
engine_median, engine_worst = _ratio("engine", worst=False), _ratio("engine", worst=True)
ours_median, ours_worst = _ratio("ours", worst=False), _ratio("ours", worst=True)


# ---- the agent's own share -------------------------------------------------------------------


AT_ONCE = (1, 10, 50)
EVENT = "before_device_migrate_destination"


def _announcements(bench: Bench) -> dict[int, list[float]]:
    """Have so many VMs about to arrive at once, and time the hook of each."""
    known: dict[int, list[float]] | None = bench.shared.get("announcements")
    if known is not None:
        return known
    seconds: dict[int, list[float]] = {}
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(hypervisors=2))
        source, target = lab.hosts
        product = Product(target)
        product.install()
        product.start()
        network = lab.central.add_network("net1", "10.0.0.0/22", dhcp=False)
        for number in (1, *AT_ONCE):  # the first time the agent loads what it needs
            commands = []
            for _ in range(number):
                nic = Nic.ovn(str(uuid.uuid4()), "fa:16:3e:" + ":".join(_tail()))
                lab.central.add_port(network, nic.vnic_id, nic.mac)
                row = f"external_ids:iface-id={nic.vnic_id}"
                settings = ["--", "set", "Interface", nic.tap, "type=internal", row]
                source.vsctl("add-port", "br-int", nic.tap, *settings)
                commands.append(hook(EVENT, nic, data=""))
            for command in commands:
                lab.central.wait_bound(command.env["vnic_id"], source.name)
            runs = [run for (run,) in spawn(target, commands, rounds=1, together=True)]
            wrong = [run.stderr for run in runs if run.status != 0 or run.stderr]
            if wrong:
                raise RuntimeError(f"{len(wrong)} hooks failed, the first: {wrong[0].strip()}")
            seconds[number] = sorted(run.seconds for run in runs)
    bench.shared["announcements"] = seconds
    return seconds


def _tail() -> list[str]:
    return [f"{byte:02x}" for byte in uuid.uuid4().bytes[:3]]


def _announcing(number: int) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        seconds = _announcements(bench)[number]
        how = (
            f"median of {number} hook processes {EVENT} at once, each of a VM of its own whose "
            f"port another host has, with the interpreter's start, the southbound database's "
            f"answer, a connection to the northbound database and a transaction there; slowest "
            f"{seconds[-1] * 1000:.0f} ms"
        )
        return Measured(statistics.median(seconds) * 1000, how)

    return measure


announce_1, announce_10, announce_50 = map(_announcing, AT_ONCE)
