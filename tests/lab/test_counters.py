# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""Whether the counters of vNICs that we plug are right: VDSM has them from libvirt.

libvirt reads those of the tap and tells them as the guest sees them.  So they are compared with the
guest's own, for each way in which a vNIC is connected; docs/capabilities.md has what was found.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.lab.conftest import new_mac
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.libvirt_daemon import libvirt
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.neutron_plugs import host, lab, settings  # noqa: F401
from tests.lab.reports import own_statistics

PINGS = 40
# What may come to a guest between two readings: neighbours that look for each other.
NOISE = 8

_addresses = count(10)


@dataclasses.dataclass(frozen=True)
class Counters:
    """Of a vNIC, as the guest sees it."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int

    def since(self, before: Counters) -> Counters:
        fields = (field.name for field in dataclasses.fields(self))
        return Counters(*(getattr(self, name) - getattr(before, name) for name in fields))


@pytest.fixture
def vdsm(host: Hypervisor, product: Product) -> Iterator[Vdsm]:
    """VDSM on that hypervisor; after the test no VM runs."""
    yield Vdsm(host)
    for domain in host.libvirt.connection.listAllDomains():
        domain.destroy()


def a_vm(attachment: str) -> Vm:
    vnic_id, mac = str(uuid.uuid4()), new_mac()
    nics = {
        "ovn": lambda: Nic.ovn(vnic_id, mac),
        # No group, so no Linux bridge.
        "ovs": lambda: Nic.openstack("OPEN_VSWITCH", vnic_id, mac, security_groups=""),
        "ovs_hybrid": lambda: Nic.openstack("OPEN_VSWITCH", vnic_id, mac),
        "linux_bridge": lambda: Nic.openstack("LINUX_BRIDGE", vnic_id, mac),
    }
    return Vm(f"vm-{vnic_id[:6]}", [nics[attachment]()], dhcp=False)


def device(vm: Vm, prefix: str) -> str:
    return prefix + vm.nics[0].vnic_id[:11]


def run(vdsm: Vdsm, attachment: str) -> tuple[Vm, str]:
    """Start a VM that is on the network; give it with its address."""
    vm, host = a_vm(attachment), vdsm.host
    vdsm.create_vm(vm)
    # What the provider's agent does.
    if attachment == "linux_bridge":
        if "brq-test" not in host.devices():
            host.ip("link add brq-test type bridge", "link set brq-test up")
        host.ip(f"link set {device(vm, 'tap')} master brq-test up")
    elif attachment != "ovn":
        host.vsctl("set", "Port", device(vm, "qvo" if "hybrid" in attachment else "tap"), "tag=5")
    address = f"10.9.0.{next(_addresses)}"
    vm.running.set_address(vm.running.device(vm.nics[0].mac), f"{address}/24")
    return vm, address


def of_guest(vm: Vm) -> Counters:
    """What the guest's own kernel has counted."""
    name = vm.running.device(vm.nics[0].mac)
    files = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")
    told = vm.running.run(f"cd /sys/class/net/{name}/statistics && cat {' '.join(files)}")
    return Counters(*map(int, told.stdout.split()))


def of_libvirt(vm: Vm, host: Hypervisor) -> Counters:
    """What VDSM is told."""
    found, keys = domain_stats(vm, host), ("rx.pkts", "rx.bytes", "tx.pkts", "tx.bytes")
    return Counters(*(found[f"net.0.{key}"] for key in keys))


def domain_stats(vm: Vm, host: Hypervisor) -> dict[str, Any]:
    domain = host.libvirt.domain(vm.id)
    wanted = libvirt.VIR_DOMAIN_STATS_INTERFACE
    ((_, found),) = host.libvirt.connection.domainListGetStats([domain], wanted)
    stats: dict[str, Any] = found
    return stats


def of_open_vswitch(port: str, host: Hypervisor) -> Counters:
    """What Open vSwitch has counted; what a port has received the guest has sent."""
    told = host.output(["ovs-ofctl", "dump-ports", "br-int", port])
    received, sent = re.findall(r"pkts=(\d+), bytes=(\d+)", told)
    return Counters(*map(int, (*sent, *received)))


@pytest.mark.parametrize("attachment", ["ovn", "ovs", "ovs_hybrid", "linux_bridge"])
def test_libvirt_tells_what_the_guest_has_counted(
    vdsm: Vdsm, host: Hypervisor, attachment: str
) -> None:
    vm, _ = run(vdsm, attachment)
    _, other = run(vdsm, attachment)
    assert vm.running.reaches(other)
    port = {"ovs_hybrid": "qvo", "linux_bridge": None}.get(attachment, "tap")

    switch_before = None if port is None else of_open_vswitch(device(vm, port), host)
    outer_before, inner_before = of_libvirt(vm, host), of_guest(vm)
    vm.running.run(f"ping -q -c {PINGS} -i 0.05 -s 600 {other}", timeout=60)
    inner, outer = of_guest(vm).since(inner_before), of_libvirt(vm, host).since(outer_before)

    assert inner.tx_packets >= PINGS and inner.rx_packets >= PINGS
    assert_alike(outer, inner)
    if port is not None and switch_before is not None:
        assert_alike(of_open_vswitch(device(vm, port), host).since(switch_before), inner)


def assert_alike(outer: Counters, inner: Counters) -> None:
    """Outside it was read a little earlier and a little later."""
    difference = outer.since(inner)
    assert 0 <= difference.rx_packets <= NOISE and 0 <= difference.tx_packets <= NOISE
    assert 0 <= difference.rx_bytes <= NOISE * 120 and 0 <= difference.tx_bytes <= NOISE * 120


def send(host: Hypervisor, device: str, *, frames: int, length: int) -> None:
    """Send frames for everybody, of a protocol that no filter looks into."""
    program = (
        "import contextlib, socket\n"
        "raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
        f"raw.bind(('{device}', 0))\n"
        f"for _ in range({frames}):\n"
        "    with contextlib.suppress(OSError):\n"
        f"        raw.send(b'\\xff' * 6 + b'\\x02sende\\x88\\xb5' + bytes({length}))\n"
    )
    host.run(["/usr/bin/python3", "-I", "-c", program])


def test_drops_on_the_way_of_a_hybrid_vnic_are_in_the_statistics(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm, _ = run(vdsm, "ovs_hybrid")
    before = drops(vdsm)["tap"]["tx"]
    vm.running.domain.suspend()

    send(host, device(vm, "qvo"), frames=3000, length=100)  # more than the tap's queue takes

    shown = int(host.read(f"/sys/class/net/{device(vm, 'tap')}/statistics/tx_dropped"))
    after = drops(vdsm)
    assert shown >= 1000
    assert after["tap"]["tx"] - before == shown
    assert set(after) == {"tap", "qbr", "qvb", "qvo"}
    # VDSM has those of the tap from libvirt as well, as the guest sees them.
    assert domain_stats(vm, host)["net.0.rx.drop"] == shown


def test_drops_before_the_tap_are_seen_nowhere_else(vdsm: Vdsm, host: Hypervisor) -> None:
    vm, _ = run(vdsm, "ovs_hybrid")
    before = drops(vdsm)
    host.ip(f"link set {device(vm, 'qvb')} mtu 600")

    send(host, device(vm, "qvo"), frames=50, length=1000)

    def lost() -> int:
        after = drops(vdsm)
        ways = (("qvo", "tx"), ("qvb", "rx"))
        return sum(after[kind][way] - before[kind][way] for kind, way in ways)

    wait_until(lambda: lost() >= 50, 10, "drops of the pair")
    assert domain_stats(vm, host)["net.0.rx.drop"] == 0


def drops(vdsm: Vdsm) -> dict[str, dict[str, int]]:
    """What hybrid vNICs have dropped, each way; not there if the kernel was too slow to tell."""

    def told() -> dict[str, dict[str, int]] | None:
        found: dict[str, dict[str, int]] = own_statistics(vdsm)["hybrid_drops"]
        return found

    return wait_until(told, 20, "drops", interval=0.2)
