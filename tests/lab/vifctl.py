# SPDX-License-Identifier: GPL-2.0-or-later
"""Running vifctl on a host of the lab, and a VM that it tells of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.conftest import new_mac
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm

_DOOMED = str(PROJECT / "tests/lab/harness/inside/doomed_vifctl.py")

#: The vNIC of :func:`vm`.
PORT = "6ce2b2ac-3f07-4f0b-8a7d-2c8f0a2c6a3e"
TAP = f"tap{PORT[:11]}"


@dataclass(frozen=True)
class Answer:
    """What it said.

    Attributes:
        status: its exit status.
        json: its output.
    """

    status: int
    json: dict[str, Any]

    def text(self, name: str) -> str:
        """The details of the findings of that name."""
        findings = [*self.json.get("checks", ()), *self.json.get("hops", ())]
        return " | ".join(found["detail"] for found in findings if found["name"] == name)


def vifctl(host: Hypervisor, *arguments: str, user: str | None = None) -> Answer:
    """Run it with ``--json``."""
    done = host.run(["vifctl", *arguments, "--json"], user=user, check=False)
    assert done.stdout, done.stderr
    return Answer(done.returncode, json.loads(done.stdout))


def killed(
    host: Hypervisor, point: tuple[str, str, str], *arguments: str, told: str | None = None
) -> bool:
    """Run it, and kill it at a point of its code.

    Args:
        host: where.
        point: a function, ``before`` or ``after``, and at which call of it; see the program.
        arguments: of vifctl.
        told: what it reads from standard input.

    Returns:
        Whether it came to that.
    """
    flag = "/run/vifctl-was-killed"
    host.path(flag).unlink(missing_ok=True)
    command = ["/usr/bin/python3", "-I", _DOOMED, *point, flag, *arguments]
    done = host.run(command, input=told, check=False)
    return host.exists(flag) and done.returncode != 0


def bad(answer: Answer) -> dict[str, str]:
    """The details of the findings of ``vifctl doctor`` that are bad, by name."""
    checks = answer.json["checks"]
    return {check["name"]: check["detail"] for check in checks if check["state"] == "bad"}


@contextmanager
def broken(heal: Callable[[], object]) -> Iterator[None]:
    """Something is broken here, and healed in the end."""
    try:
        yield
    finally:
        heal()


@pytest.fixture(scope="module")
def product(installed: list[Product]) -> Iterator[Product]:
    """The product on the first hypervisor, its agent running."""
    installed[0].start()
    yield installed[0]
    installed[0].stop()


@pytest.fixture(scope="module")
def vm(lab: Lab, host: Hypervisor, product: Product, network: Network) -> Iterator[Vm]:
    """A VM with a vNIC that works, on the first hypervisor."""
    port = lab.central.add_port(network, PORT, new_mac())
    vm = Vm("vm1", [Nic.ovn(port.name, port.mac)], dhcp=False)
    Vdsm(host).create_vm(vm)
    host.ovs.wait_ready(TAP)
    yield vm
    Vdsm(host).destroy_vm(vm)
    lab.central.remove_port(PORT)
