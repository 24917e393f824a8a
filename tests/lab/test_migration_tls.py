# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""Live migration where OVN's northbound database speaks TLS, and what a bad certificate costs.

The agents are services, which are handed the host's certificate when they start.  VMs are started
on hv2 and move to hv1, where the probe is.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.lab.conftest import CONFIGURATION
from tests.lab.harness.certificates import give
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import CENTRAL_ADDRESS, Lab
from tests.lab.harness.ovn_central import LogicalPort
from tests.lab.harness.pings import Probe
from tests.lab.harness.product import AGENT, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.migrations import (  # noqa: F401
    SWITCHED,
    last_arrival,
    port,
    running,
    source,
    target,
    vm,
    wait_announced,
    wait_bound,
    wait_well,
)
from tests.unit.southbound_server import Authority
from vif_driver.host.certificates import Credentials

SETTINGS = f"[migration]\nnorthbound = ssl:{CENTRAL_ADDRESS}:6641\n"
ENROLL = "enroll the host's certificates anew in the engine"
RESTART = "then on this host: systemctl restart vif-agent"
# Seconds within which a port works that is plugged anew, on a busy computer.
PLUG = 8.0


@dataclasses.dataclass(frozen=True)
class Authorities:
    """The CA of the deployment, and one that nobody here knows."""

    ours: Authority
    theirs: Authority

    def sign(self, name: str) -> Credentials:
        """Make a certificate that everybody here accepts."""
        return self.ours.sign(name)

    def sign_strange(self, name: str) -> Credentials:
        """Make one of the foreign CA, for somebody who knows ours."""
        return dataclasses.replace(self.theirs.sign(name), ca=self.ours.certificate)

    def sign_expired(self, name: str) -> Credentials:
        """Make one that has expired."""
        return self.ours.sign(f"late-{name}", days=-1)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A certificate that is not accepted.

    Attributes:
        make: gives it.
        on_host: it is that of the destination, not the server's.
        told: what is wrong, and what to do about it; a pattern.
    """

    make: Callable[[Authorities, str], Credentials]
    on_host: bool
    told: str


REFUSED = rf".* refuses this host's certificate \(%s\); {ENROLL} .*, {RESTART}"
FAULTS = {
    "the host's is of a foreign CA": Fault(Authorities.sign_strange, True, REFUSED % "unknown ca"),
    "the host's has expired": Fault(
        Authorities.sign_expired, True, REFUSED % "certificate expired"
    ),
    "the server's is of a foreign CA": Fault(
        Authorities.sign_strange,
        False,
        r"the certificate of OVN's northbound database on .* is not accepted \(.*issuer.*\); "
        rf"see that both sides have certificates of one CA .*, {RESTART}",
    ),
}
wrong = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys(), indirect=True)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """Two CAs."""
    folder = tmp_path_factory.mktemp("ca")
    return Authorities(Authority.make(folder / "ours"), Authority.make(folder / "theirs"))


@pytest.fixture(scope="module")
def lab(authorities: Authorities) -> Iterator[Lab]:
    """Two hypervisors with systemd, and an OVN that takes changes by TLS alone."""
    with Lab(hypervisors=2, systemd=True) as started:
        started.central.listen("nb", authorities.sign("server"))
        yield started


@pytest.fixture(scope="module")
def agents(lab: Lab, authorities: Authorities) -> list[SystemdProduct]:
    """The product on every hypervisor, which runs, and has a certificate."""
    products = []
    for host in lab.hosts:
        assert isinstance(host, SystemdHypervisor)
        products.append(SystemdProduct(host))
        products[-1].install()
        host.write(CONFIGURATION, SETTINGS)
        give(host, authorities.sign(host.name))
        debug = f"[Service]\nExecStart=\nExecStart={AGENT} --debug\n"
        products[-1].agent.configure("debug", debug)
        products[-1].start()
    return products


def put_right(lab: Lab, agents: list[SystemdProduct], authorities: Authorities) -> None:
    """Do what is told to be done about a bad certificate."""
    lab.central.listen("nb", authorities.sign("server"))
    give(lab.hosts[0], authorities.sign("hv1"))
    agents[0].agent.restart()


@pytest.fixture
def fault(
    request: pytest.FixtureRequest,
    lab: Lab,
    agents: list[SystemdProduct],
    authorities: Authorities,
) -> Iterator[Fault]:
    """A certificate that is not accepted, until the end of the test."""
    fault: Fault = request.param
    if fault.on_host:
        give(lab.hosts[0], fault.make(authorities, "hv1"))
        agents[0].agent.restart()
    else:
        lab.central.listen("nb", fault.make(authorities, "server"))
    yield fault
    put_right(lab, agents, authorities)


def test_by_tls_the_move_is_coordinated(
    lab: Lab, probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    source.migrate(vm, target, meanwhile=lambda: wait_announced(lab, port, "hv2"))

    wait_bound(lab, port, "hv1", SWITCHED)
    wait_well(lab, probe, port, "hv1")
    assert last_arrival(target).stderr == ""


def test_by_tls_the_guest_goes_on_answering(
    probe: Probe, source: Vdsm, target: Vdsm, vm: Vm, port: LogicalPort
) -> None:
    with probe.ping(port.address, late=1.0) as pings:
        source.migrate(vm, target)
        wait_until(lambda: probe.reaches(port.address), PLUG, "an answer of the guest")

    assert pings.outage < PLUG


@wrong
def test_with_a_bad_certificate_the_port_follows_and_it_is_told(
    lab: Lab,
    agents: list[SystemdProduct],
    fault: Fault,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    with probe.ping(port.address, late=1.0) as pings:
        source.migrate(vm, target)
        wait_until(lambda: probe.reaches(port.address), PLUG, "an answer of the guest")

    wait_well(lab, probe, port, "hv1")
    assert pings.outage < PLUG
    hook = last_arrival(target)
    assert hook.status == 0
    assert hook.seconds < 5  # nobody was waited for
    assert re.search(f"is not coordinated: {fault.told}", hook.stderr)
    assert re.search(f"is not coordinated, .*: {fault.told}", agents[0].log())


@wrong
def test_with_the_right_certificate_in_its_place_the_next_move_is_coordinated(
    lab: Lab,
    agents: list[SystemdProduct],
    authorities: Authorities,
    fault: Fault,
    probe: Probe,
    source: Vdsm,
    target: Vdsm,
    vm: Vm,
    port: LogicalPort,
) -> None:
    source.migrate(vm, target)
    target.migrate(vm, source)
    put_right(lab, agents, authorities)

    source.migrate(vm, target, meanwhile=lambda: wait_announced(lab, port, "hv2"))

    wait_well(lab, probe, port, "hv1")
    assert last_arrival(target).stderr == ""


# Last, when everything has happened that may be told of.
def test_no_key_is_told(
    agents: list[SystemdProduct], authorities: Authorities, source: Vdsm, target: Vdsm
) -> None:
    files = [*authorities.ours.folder.glob("*"), *authorities.theirs.folder.glob("*")]
    pairs = [text for text in (file.read_text() for file in files) if "PRIVATE KEY" in text]
    lines = {line for text in pairs for line in text.splitlines() if "-----" not in line}
    told = "".join(json.dumps(each.host.journal()) for each in agents)
    told += "".join(run.stderr for vdsm in (source, target) for run in vdsm.runs)

    assert "answered in" in told
    assert len(lines) > 2
    assert [line for line in lines if line in told] == []
