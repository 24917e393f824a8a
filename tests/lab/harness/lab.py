# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab as a whole: an anchor, two segments, OVN's central machine and the hypervisors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from .anchor import Anchor, namespaces_of, processes_in
from .deadline import wait_until
from .hypervisor import MANAGEMENT, UNDERLAY, UNDERLAY_MTU, Hypervisor
from .kernel_host import KernelHost
from .machine import PROJECT, Cable, Machine
from .ovn_central import Central
from .ovn_cluster import ClusteredCentral, SouthboundCluster
from .systemd_hypervisor import SystemdHypervisor

CENTRAL_ADDRESS = "192.0.2.1"
CENTRAL_MANAGEMENT = "198.51.100.1"
LOGS = PROJECT / "build" / "lab-logs"


class LeftBehind(Exception):
    """A lab was taken down and something of it is still there."""


class Lab:
    """N hypervisors and an OVN central.

    ::

        with Lab(hypervisors=2) as lab:
            lab.central.add_network("net1", "10.0.0.0/24")
            lab.hosts[0].run(["ovs-vsctl", "show"])

    Args:
        hypervisors: how many; they are called ``hv1``, ``hv2`` and so on.
        ovn: with a central machine, and hosts that run ovn-controller.
        start: start everything; otherwise the machines are only there to be started.
        systemd: hypervisors on which systemd is pid 1, and starts the daemons.
        clustered: which of OVN's databases has three members, ``nb`` or ``sb``; none by default.
        own_kernel: hypervisors that have a kernel of their own, and no libvirt.
        more: of every hypervisor, as for :class:`Hypervisor`.

    Attributes:
        anchor: what everything hangs from.
        central: OVN's machine; made but not started when ``ovn`` is false.
        hosts: the hypervisors.
    """

    def __init__(
        self,
        hypervisors: int = 2,
        *,
        ovn: bool = True,
        start: bool = True,
        systemd: bool = False,
        clustered: str = "",
        own_kernel: bool = False,
        **more: Any,
    ) -> None:
        self.anchor = Anchor()
        self.names = {"central": CENTRAL_MANAGEMENT}
        self.ovn = ovn
        self._start = start
        cables = (
            Cable("eth0", UNDERLAY, f"{CENTRAL_ADDRESS}/24", UNDERLAY_MTU),
            Cable("eth1", MANAGEMENT, f"{CENTRAL_MANAGEMENT}/24"),
        )
        center = {"": Central, "nb": ClusteredCentral, "sb": SouthboundCluster}[clustered]
        self.central = center(self.anchor, "central", cables=cables, hosts=self.names)
        self.hosts: list[Hypervisor] = []
        for number in range(1, hypervisors + 1):
            kind = KernelHost if own_kernel else SystemdHypervisor if systemd else Hypervisor
            self.add_hypervisor(f"hv{number}", kind, ovn=ovn, **more)
        self._namespaces: set[str] = set()

    def add_hypervisor(
        self, name: str, kind: type[Hypervisor] = Hypervisor, *, ovn: bool = True, **more: Any
    ) -> Hypervisor:
        """Add a hypervisor, without starting it; ``more`` as for :class:`Hypervisor`."""
        number = len(self.hosts) + 1
        central = CENTRAL_ADDRESS if ovn else None
        host = kind(self.anchor, name, number, central=central, hosts=self.names, **more)
        self.names[name] = host.management_address
        self.hosts.append(host)
        return host

    @property
    def machines(self) -> list[Machine]:
        """All machines."""
        return [self.central, *self.hosts]

    def __enter__(self) -> Lab:
        self.anchor.start()
        try:
            self.anchor.add_bridge(UNDERLAY, UNDERLAY_MTU)
            self.anchor.add_bridge(MANAGEMENT)
            self._namespaces = namespaces_of(self.anchor.pid)
            if self._start:
                self.start()
        except BaseException:
            self.save_logs("start")
            self.anchor.stop()
            raise
        return self

    def start(self) -> None:
        """Start every machine that has no power, all at once."""
        idle: list[Callable[[], None]] = []
        if self.ovn and not self.central.powered:
            idle.append(self.central.start)
        idle += [host.start for host in self.hosts if not host.powered]
        self.at_once(*idle)
        if self.ovn:
            for host in self.hosts:
                if host.central is not None:
                    self.central.wait_chassis(host.name, 20 * host.patience)

    def at_once(self, *actions: Callable[[], object]) -> None:
        """Run actions at the same time, wait for all, and raise the first error."""
        if not actions:
            return
        with ThreadPoolExecutor(len(actions)) as pool:
            futures = [pool.submit(action) for action in actions]
        for future in futures:
            future.result()

    def save_logs(self, test: str) -> Path:
        """Copy all logs to ``build/lab-logs/<test>`` and return that directory."""
        target = LOGS / test
        shutil.rmtree(target, ignore_errors=True)
        for machine in (self.central, *self.hosts):
            try:
                machine.save_logs(target / machine.name)
            except Exception as error:  # a broken machine must not hide the others
                (target / machine.name).mkdir(parents=True, exist_ok=True)
                (target / machine.name / "not-collected").write_text(f"{error}\n")
        return target

    def namespaces(self) -> set[str]:
        """The namespaces that the lab has made so far."""
        return self._namespaces.union(*(machine.namespaces for machine in self.machines))

    def leftovers(self) -> list[str]:
        """What is still there of the lab: processes, control groups, mounts of its namespaces."""
        spaces = self.namespaces()
        found = [f"process {pid}: {line}" for pid, line in processes_in(spaces).items()]
        found += [f"control group {path}" for path in self.anchor.cgroups.leftovers()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return found + [f"mount: {line}" for line in mounts if any(ns in line for ns in spaces)]

    def stop(self) -> None:
        """Take the lab down.

        Raises:
            LeftBehind: something is still there.
        """
        for host in self.hosts:
            if host.powered:
                host.libvirt.keep_capabilities()
            host.libvirt.disconnect()
        self.anchor.stop()
        try:
            wait_until(lambda: not self.leftovers(), 60, "end of the lab")
        except TimeoutError:
            raise LeftBehind("\n".join(self.leftovers())) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
