# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the tests that run on real hypervisors."""

from __future__ import annotations

import faulthandler
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress

import pytest

from tests.lab.harness.guest import Guest, GuestSpec
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.libvirt_daemon import libvirt
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import LogicalPort, Network
from tests.lab.harness.pings import Probe, add_probe
from tests.lab.harness.product import LOG, SOCKET, Product
from tests.lab.harness.service import Daemon, Service
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vm_start import VmStart
from tests.lab.harness.watchdog import Watchdog

CONFIGURATION = "/etc/vif-driver/vif-driver.conf"

#: Settings for tests that are about no deadline: the default one may pass on a busy computer.  A
#: hook that waits for this one still ends before VDSM would kill it.
PATIENT = "[start]\ndeadline = 100\n"

PortMaker = Callable[..., LogicalPort]
GuestMaker = Callable[..., Guest]
VmMaker = Callable[..., Vm]
StartMaker = Callable[..., VmStart]
Configure = Callable[[str], None]
#: Of the agent's code: a function, ``before`` or ``after``, and which call of it.
Point = tuple[str, str, int]
DoomedMaker = Callable[..., Service]
Reporting = Generator[None, pytest.TestReport, pytest.TestReport]

#: Seconds; the slowest of the tests takes two minutes on a quiet machine.
LIMIT = 600.0
OVERDUE = pytest.StashKey[list[tuple[str, str]]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root there is no lab."""
    if os.geteuid() != 0:
        for item in items:
            if "/tests/lab/" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="the lab needs root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """No test, with what it needs, takes longer than :data:`LIMIT`."""
    with Watchdog(LIMIT, lambda: keep_overdue(item)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Reporting:
    """Keep the logs of the labs that a failed test used."""
    report = yield
    if report.failed:
        overdue = item.stash.get(OVERDUE, [])
        report.sections.extend(overdue + keep_logs(item, report.when))
    return report


def keep_overdue(item: pytest.Item) -> None:
    """Keep what there is to be seen of a test that took too long."""
    with tempfile.TemporaryFile("w+") as threads:
        faulthandler.dump_traceback(threads)
        threads.seek(0)
        item.stash[OVERDUE] = [(f"after {LIMIT:g} s", threads.read())]
    item.stash[OVERDUE].extend(keep_logs(item, "overdue"))


def keep_logs(item: pytest.Item, when: str) -> list[tuple[str, str]]:
    """Keep the logs of the labs that a test uses, and tell where."""
    test = re.sub(r"[^\w.-]+", "_", item.nodeid.rpartition("/")[2])
    return [
        (f"logs of {name}", str(value.save_logs(f"{test}-{when}")))
        for name, value in getattr(item, "funcargs", {}).items()
        if isinstance(value, Lab) and value.anchor.alive
    ]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hypervisors, ``hv1`` and ``hv2``, with OVN, started once per module."""
    with Lab(hypervisors=2) as started:
        yield started


@pytest.fixture(scope="module")
def host(lab: Lab) -> Hypervisor:
    """The first hypervisor."""
    return lab.hosts[0]


@pytest.fixture(scope="module")
def network(lab: Lab) -> Network:
    """A logical switch with DHCP and a router."""
    made = lab.central.add_network("net1", "10.0.0.0/24")
    lab.central.add_router("r1", [made])
    return made


@pytest.fixture(scope="module")
def settings() -> str | None:
    """How the product is configured; by default not at all, as it is installed."""
    return None


@pytest.fixture(scope="module")
def installed(lab: Lab, settings: str | None) -> list[Product]:
    """The product on every hypervisor, configured with ``settings``; its daemon isn't started."""
    products = [Product(host) for host in lab.hosts]
    for product in products:
        product.install()
        if settings is not None:
            product.host.write(CONFIGURATION, settings)
    return products


@pytest.fixture(scope="module")
def product(host: Hypervisor, settings: str | None) -> Iterator[Product]:
    """The product on the first hypervisor alone, configured with ``settings``; its agent runs."""
    product = Product(host)
    product.install()
    if settings is not None:
        host.write(CONFIGURATION, settings)
    product.start()
    yield product
    product.stop()


@pytest.fixture
def agents(installed: list[Product]) -> Iterator[list[Product]]:
    """The product on every hypervisor with its daemon running, anew for each test."""
    for product in installed:
        product.start()
    yield installed
    for product in installed:
        if product.host.powered:
            product.stop()


def new_mac() -> str:
    """A MAC that no other vNIC has."""
    tail = uuid.uuid4().bytes[:3]
    return "fa:16:3e:" + ":".join(f"{byte:02x}" for byte in tail)


@pytest.fixture
def new_port(lab: Lab, network: Network) -> Iterator[PortMaker]:
    """Make logical switch ports on ``network``: ``new_port(address="dynamic", **more)``."""
    made: list[str] = []

    def make(**more: object) -> LogicalPort:
        name = str(uuid.uuid4())
        made.append(name)
        return lab.central.add_port(network, name, new_mac(), **more)  # type: ignore[arg-type]

    yield make
    for name in made:
        lab.central.remove_port(name)


@pytest.fixture(scope="module")
def probe_port(lab: Lab, network: Network) -> LogicalPort:
    """The port of ``probe``; always the same, since guests remember MAC addresses."""
    return lab.central.add_port(network, str(uuid.uuid4()), new_mac())


@pytest.fixture
def probe(host: Hypervisor, network: Network, probe_port: LogicalPort) -> Iterator[Probe]:
    """Something on ``network`` that can ping and is no VM, on the first hypervisor."""
    address = f"{probe_port.address}/{network.subnet.prefixlen}"
    row = f"external_ids:iface-id={probe_port.name}"
    probe = add_probe(host, "probe", probe_port.mac, address, Interface=row)
    try:
        host.ovs.wait_ready(probe.name)
        yield probe
    finally:
        probe.remove()


@pytest.fixture
def no_guests_left(lab: Lab) -> Iterator[None]:
    """After the test, end all guests of the lab."""
    yield
    for host in lab.hosts:
        if host.powered and host.libvirt.service.running:
            for domain in host.libvirt.connection.listAllDomains():
                with suppress(libvirt.libvirtError):  # it has just ended
                    domain.destroy()


@pytest.fixture
def plain_guest(no_guests_left: None) -> GuestMaker:
    """Boot a guest plugged by libvirt alone: ``plain_guest(host, port, **spec)``."""

    def make(host: Hypervisor, *ports: LogicalPort, **more: object) -> Guest:
        name = f"guest-{uuid.uuid4().hex[:6]}"
        interfaces = [plain_interface(port) for port in ports]
        return Guest.boot(host, GuestSpec(name, interfaces, **more))  # type: ignore[arg-type]

    return make


def plain_interface(port: LogicalPort, *, named: bool = True) -> str:
    """An ``<interface>`` with which libvirt itself plugs an OVN port.

    Args:
        port: which.
        named: its tap is called as ours are; otherwise libvirt chooses.
    """
    target = f'<target dev="tap{port.name[:11]}"/>' if named else ""
    return (
        '<interface type="bridge"><source bridge="br-int"/>'
        f'<mac address="{port.mac}"/><model type="virtio"/><mtu size="1442"/>'
        f'<virtualport type="openvswitch"><parameters interfaceid="{port.name}"/></virtualport>'
        f"{target}</interface>"
    )


@pytest.fixture
def vdsms(lab: Lab, no_guests_left: None) -> list[Vdsm]:
    """VDSM of every hypervisor."""
    return [Vdsm(host) for host in lab.hosts]


@pytest.fixture
def new_vm(new_port: PortMaker) -> VmMaker:
    """Make a VM with one OVN vNIC per port: ``new_vm(*ports, **more)``; a new port if none."""

    def make(*ports: LogicalPort, **more: object) -> Vm:
        nics = [Nic.ovn(port.name, port.mac) for port in ports or (new_port(),)]
        return Vm(f"vm-{uuid.uuid4().hex[:6]}", nics, **more)  # type: ignore[arg-type]

    return make


@pytest.fixture
def vdsm(vdsms: list[Vdsm]) -> Vdsm:
    """VDSM of the first hypervisor."""
    return vdsms[0]


@pytest.fixture
def agent(agents: list[Product]) -> Product:
    """The product on the first hypervisor with its daemon running, anew for each test."""
    return agents[0]


@pytest.fixture
def configure(lab: Lab, installed: list[Product]) -> Iterator[Configure]:
    """Configure the first hypervisor until the end of the test: ``configure("[start]\\n...")``.

    A running agent is restarted.
    """
    host, product = lab.hosts[0], installed[0]
    before = host.read(CONFIGURATION)

    def write(text: str) -> None:
        host.write(CONFIGURATION, text)
        if product.agent.running:
            product.stop()
            product.start()

    yield write
    write(before)


@pytest.fixture
def deaf_ovn(lab: Lab) -> Iterator[Daemon]:
    """ovn-controller of the first hypervisor, frozen until ``resume()`` or the test's end."""
    controller = lab.hosts[0].ovn_controller
    controller.suspend()
    yield controller
    controller.resume()


@pytest.fixture
def begin(vdsm: Vdsm) -> Iterator[StartMaker]:
    """Begin to start a VM on the first hypervisor: ``begin(vm, paused=False)``.

    After the test every such VM is destroyed.
    """
    begun: list[VmStart] = []

    def make(vm: Vm, *, paused: bool = False) -> VmStart:
        begun.append(VmStart(vdsm, vm, paused=paused))
        return begun[-1]

    yield make
    for start in begun:
        domain = vdsm.host.libvirt.domain(start.vm.id)
        if domain is not None:
            domain.destroy()
    for start in begun:
        start.join()


DOOMED_AGENT = str(PROJECT / "tests/lab/harness/inside/doomed_agent.py")
AGENT_WAS_KILLED = "/run/agent-was-killed"


@pytest.fixture
def doomed(host: Hypervisor, installed: list[Product]) -> Iterator[DoomedMaker]:
    """Start an agent that kills itself once: ``doomed(point, supervised=False, frozen=False)``.

    One that is frozen stops instead until its ``resume()``.
    After the test no agent runs on the first hypervisor.
    """
    started: list[Service] = []

    def start(point: Point, *, supervised: bool = False, frozen: bool = False) -> Service:
        options = ["--supervised"] * supervised + ["--frozen"] * frozen
        words = [str(word) for word in point]
        argv = ["python3", "-I", DOOMED_AGENT, *options, *words, AGENT_WAS_KILLED]
        ready = lambda: host.exists(SOCKET)  # noqa: E731
        service = Service(host, "doomed-agent", argv, log=LOG, ready=ready)
        host.path(AGENT_WAS_KILLED).unlink(missing_ok=True)
        host.path(SOCKET).unlink(missing_ok=True)
        service.start()
        started.append(service)
        return service

    yield start
    for service in [*started, installed[0].agent]:
        if service.running:
            service.resume()
            service.stop()
