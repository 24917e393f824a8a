# SPDX-License-Identifier: GPL-2.0-or-later
"""After a power cut: no row of a VM of the earlier boot is left when Open vSwitch starts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.conftest import PortMaker, VmMaker
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import BOOT_PASS, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit
from tests.lab.harness.vdsm import Vdsm, Vm

NAME = "vif-driver-boot"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with systemd, and OVN."""
    with Lab(hypervisors=1, systemd=True) as started:
        yield started


@pytest.fixture(scope="module")
def host(lab: Lab) -> SystemdHypervisor:
    """The hypervisor, with the product on it."""
    host = lab.hosts[0]
    assert isinstance(host, SystemdHypervisor)
    product = SystemdProduct(host)
    product.install()
    product.start()
    return host


@pytest.fixture
def vdsm(host: SystemdHypervisor, no_guests_left: None) -> Vdsm:
    """VDSM of the hypervisor."""
    return Vdsm(host)


def cut_and_boot(host: SystemdHypervisor) -> None:
    """A power cut, and a boot until everything runs."""
    host.power_cut()
    host.boot()
    wait_until(lambda: host.libvirt.service.running, 20, "libvirtd")
    wait_until(lambda: host.vsctl("list-ports", "br-int") is not None, 20, "Open vSwitch")
    wait_until(lambda: host.exists("/run/vif-driver/agent.sock"), 20, "the agent's socket")


def vm_ports(host: SystemdHypervisor) -> set[str]:
    return {name for name in host.ovs.ports() if name.startswith(("tap", "qvo"))}


def test_no_row_is_left_and_the_same_vms_start_again(
    host: SystemdHypervisor, vdsm: Vdsm, new_vm: VmMaker
) -> None:
    vms = [new_vm() for _ in range(3)]
    for vm in vms:
        vdsm.create_vm(vm)
    before = vm_ports(host)

    cut_and_boot(host)
    left = vm_ports(host)
    for vm in vms:
        vdsm.create_vm(vm)

    assert len(before) == 3 and left == set()
    assert not any(vm.running.paused for vm in vms)
    for vm in vms:
        host.ovs.wait_ready(vm.nics[0].tap)


def test_each_row_is_in_the_journal(host: SystemdHypervisor, vdsm: Vdsm, new_vm: VmMaker) -> None:
    vm = new_vm()
    vdsm.create_vm(vm)

    cut_and_boot(host)

    (entry,) = host.journal(SYSLOG_IDENTIFIER=NAME, VIF_VM=vm.id)
    row = json.loads(entry["VIF_ROW"])
    assert row["Interface"]["external_ids"]["iface-id"] == vm.nics[0].vnic_id


def test_it_is_over_before_open_vswitch_starts(host: SystemdHypervisor) -> None:
    cut_and_boot(host)

    done = Unit(host, BOOT_PASS).property("ExecMainExitTimestampMonotonic")
    begun = Unit(host, "ovs-vswitchd.service").property("ExecMainStartTimestampMonotonic")
    assert 0 < int(done) < int(begun)
    assert host.system_state == "running"
    assert "ordering cycle" not in json.dumps(host.journal("--boot"))


def test_rows_of_others_are_there_after_the_boot(host: SystemdHypervisor) -> None:
    host.vsctl("add-port", "br-int", "theirs", "--", "set", "Interface", "theirs", "type=internal")
    host.vsctl(
        "add-port",
        "br-int",
        "gone",
        "--",
        "set",
        "Interface",
        "gone",
        "external_ids:iface-id=container",
    )

    cut_and_boot(host)

    assert {"theirs", "gone"} <= host.ovs.ports()
    host.vsctl("del-port", "theirs", "--", "del-port", "gone")


def taken_over(host: SystemdHypervisor, lab: Lab, new_port: PortMaker) -> tuple[str, str]:
    """Have a VM, cut the power, and make a tap of its tap's name; whose port is that now?"""
    old = new_port()
    vm = Vm("before", [Nic.ovn(old.name, old.mac)])
    Vdsm(host).create_vm(vm)
    tap = vm.nics[0].tap
    cut_and_boot(host)
    host.run(["ip", "tuntap", "add", tap, "mode", "tap"])
    host.run(["ip", "link", "set", tap, "up"])
    try:
        wait_until(lambda: host.ovs.interface(tap).get("ofport") not in (-1, []), 5, "a taker")
    except TimeoutError:
        return tap, ""
    finally:
        host.run(["ip", "link", "del", tap])
    ids = host.ovs.interface(tap).get("external_ids", {})
    return tap, str(ids.get("iface-id", ""))


def test_without_it_a_new_tap_would_answer_for_the_old_port(
    lab: Lab, host: SystemdHypervisor, new_port: PortMaker
) -> None:
    host.run(["systemctl", "disable", BOOT_PASS])
    try:
        tap, iface_id = taken_over(host, lab, new_port)
    finally:
        host.run(["systemctl", "enable", BOOT_PASS])
        host.run(["ovs-vsctl", "--if-exists", "del-port", "br-int", tap])

    assert iface_id != ""


def test_with_it_a_new_tap_is_nobodys(
    lab: Lab, host: SystemdHypervisor, new_port: PortMaker
) -> None:
    tap, iface_id = taken_over(host, lab, new_port)

    assert iface_id == ""
    assert tap not in host.ovs.ports()


def test_a_missing_database_keeps_no_host_from_booting(host: SystemdHypervisor) -> None:
    host.run(["systemctl", "mask", "ovsdb-server.service"])
    host.power_cut()

    host.boot()

    assert Unit(host, BOOT_PASS).property("Result") == "success"
    host.run(["systemctl", "unmask", "ovsdb-server.service"])
    cut_and_boot(host)


def test_its_unit_is_sound(host: SystemdHypervisor) -> None:
    done = host.run(["systemd-analyze", "verify", "--man=no", BOOT_PASS], check=False)

    assert [line for line in done.stderr.splitlines() if "vif-driver" in line] == []
