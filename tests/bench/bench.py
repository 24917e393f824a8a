# SPDX-License-Identifier: GPL-2.0-or-later
"""What measurements share: a host with the product, and processes spawned on it as VDSM does."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.harness.hypervisor import VDSM_USER, Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm
from tests.lab.harness.vdsm_hooks import ENVIRONMENT, HOOKS

PYTHON = "/usr/bin/python3"
SPAWN = Path(__file__).resolve().parent / "inside" / "spawn.py"
CONFIG = "/etc/vif-driver/vif-driver.conf"


@dataclass(frozen=True)
class Command:
    """A process to spawn.

    Attributes:
        argv: the executable and its arguments.
        env: the whole environment but the variable that names the file.
        data: what the file holds, anew for each run.
        variable: which names it.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    data: str
    variable: str = "_hook_domxml"

    def instead(self, *argv: str) -> Command:
        """Give another program with the same environment and file."""
        return replace(self, argv=argv)


@dataclass(frozen=True)
class Run:
    """How a process went.

    Attributes:
        seconds: from its spawn until it was waited for.
        status: exit status; negative for a signal.
        stderr: what it wrote there.
        result: content of the file afterwards.
    """

    seconds: float
    status: int
    stderr: str
    result: str


class Bench:
    """One run of the bench; a context manager.

    Hosts are made when the first figure asks for them.  :attr:`host` has Open vSwitch alone:
    libvirt and ovn-controller, which no hook waits for, are left out for the sake of a quiet
    computer.  :attr:`ovn_lab` has everything.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._lab: Lab | None = None
        self._product: Product | None = None
        self._arguments: tuple[str, ...] | None = None
        self._ovn: tuple[Lab, Product, Network, Vdsm] | None = None
        #: For figures that come from one measurement: what that gave, by a name of its own.
        self.shared: dict[str, Any] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def product(self) -> Product:
        """The product, installed on the host; its agent is as :meth:`agent` left it."""
        if self._product is None:
            lab = Lab(hypervisors=1, ovn=False, start=False)
            self._stack.enter_context(lab)
            self._lab = lab
            host = lab.hosts[0]
            host.boot()
            host.start_ovs()
            product = Product(host)
            product.install()
            # Not what some configuration of Neutron on this computer says.
            host.write(CONFIG, "[neutron]\nfirewall_driver = iptables_hybrid\n")
            self._product = product
        return self._product

    @property
    def host(self) -> Hypervisor:
        """The host."""
        return self.product.host

    def _ovn_host(self) -> tuple[Lab, Product, Network, Vdsm]:
        if self._ovn is None:
            lab = self._stack.enter_context(Lab(hypervisors=1))
            product = Product(lab.hosts[0])
            product.install()
            product.start()
            network = lab.central.add_network("net1", "10.0.0.0/24")
            self._ovn = lab, product, network, Vdsm(lab.hosts[0])
        return self._ovn

    @property
    def ovn_lab(self) -> Lab:
        """A lab of one hypervisor with OVN, libvirt and the agent running."""
        return self._ovn_host()[0]

    @property
    def ovn_product(self) -> Product:
        """The product on that hypervisor."""
        return self._ovn_host()[1]

    @property
    def network(self) -> Network:
        """A logical switch of that lab."""
        return self._ovn_host()[2]

    @property
    def vdsm(self) -> Vdsm:
        """VDSM of that hypervisor."""
        return self._ovn_host()[3]

    def agent(self, *arguments: str) -> Product:
        """Have the agent running with just these arguments."""
        product = self.product
        if self._arguments != arguments:
            product.stop()
            product.agent.argv[1:] = arguments
            product.start()
            self._arguments = arguments
        return product

    def no_agent(self) -> Product:
        """Have no agent running, and no socket."""
        product = self.product
        product.stop()
        self._arguments = None
        return product

    def spawn(self, commands: Sequence[Command], *, rounds: int, together: bool) -> list[list[Run]]:
        """Spawn processes on the host as user vdsm; tests/bench/inside/spawn.py does it.

        Args:
            commands: what to run in each round.
            rounds: how many.
            together: all of a round at once; otherwise one after the other has ended.

        Returns:
            For each command its runs.
        """
        return spawn(self.host, commands, rounds=rounds, together=together)

    def save_logs(self) -> Path | None:
        """Keep the logs of the host, if there is one; returns where."""
        if self._lab is None or not self._lab.anchor.alive:
            return None
        return self._lab.save_logs("bench")


def spawn(
    host: Hypervisor, commands: Sequence[Command], *, rounds: int, together: bool
) -> list[list[Run]]:
    """Spawn processes on a host as user vdsm; see :meth:`Bench.spawn`."""
    order = {
        "rounds": rounds,
        "together": together,
        "commands": [
            {
                "argv": command.argv,
                "env": command.env,
                "data": command.data,
                "variable": command.variable,
            }
            for command in commands
        ],
    }
    done = host.run(
        [PYTHON, "-I", "-S", str(SPAWN)], user=VDSM_USER, input=json.dumps(order), timeout=120
    )
    return [[Run(*run) for run in runs] for runs in json.loads(done.stdout)]


def hook(event: str, nic: Nic, *, vm_id: str = "", data: str | None = None) -> Command:
    """Give the installed hook's process as VDSM would start it.

    Args:
        event: VDSM's name of it.
        nic: which the event is about.
        vm_id: whose that is; '' for some VM.
        data: the XML; None for what VDSM makes of the NIC.
    """
    env = {
        **ENVIRONMENT,
        "HOME": VDSM_USER.home,
        "USER": VDSM_USER.name,
        "LOGNAME": VDSM_USER.name,
        **nic.custom,
        "vmId": vm_id or str(uuid.uuid4()),
    }
    path = str(HOOKS / event / "50_vif_driver")
    return Command((path,), env, nic.xml() if data is None else data)


def failures(command: Command, runs: Iterable[Run], *, rewrites: bool, logs: str = "") -> list[str]:
    """Say what went wrong in runs of a hook.

    Args:
        command: the hook.
        runs: of it.
        rewrites: whether it has to change its file, or must leave it alone.
        logs: what it has to write to stderr; nothing at all if empty.
    """
    found = []
    for run in runs:
        if run.status != 0 or logs not in run.stderr or bool(run.stderr) != bool(logs):
            found.append(f"{command.argv}: exit status {run.status}: {run.stderr.strip()}")
        elif rewrites != (run.result != command.data):
            found.append(f"{command.argv}: the file was {'not ' if rewrites else ''}changed")
    return found
