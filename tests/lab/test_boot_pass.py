# SPDX-License-Identifier: GPL-2.0-or-later
"""After a power cut: no row of a VM of the earlier boot is left when Open vSwitch starts.

What that is for is shown with a VM that libvirt alone has plugged, as where nobody names the tap:
libvirt calls them vnet0, vnet1 and so on, counting from 0 whenever it is started and passing over
the names of devices that there are (virNetDevGenerateName of libvirt 9.0).  So a VM after a reboot
is given the name that another had before, whatever its network is, and Open vSwitch takes its tap
for the port in that row.  With the kernel's datapath a Linux bridge and Open vSwitch can't both
have a tap: of libvirt and Open vSwitch the later one fails.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from tests.lab.conftest import CONFIGURATION, PortMaker, VmMaker, new_mac, plain_interface
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.guest import Guest, GuestSpec
from tests.lab.harness.lab import Lab
from tests.lab.harness.leftovers import add_port, add_stale_ports, count_stale_ports
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import LogicalPort, Network
from tests.lab.harness.product import BOOT_PASS, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit
from tests.lab.harness.vdsm import Vdsm, Vm
from vif_driver.marks import BOOT_KEY, GROUP

NAME = "vif-driver-boot"
DROP_IN = f"/etc/systemd/system/{BOOT_PASS}.d/test.conf"
ERROR = "3"
MANY = 5000
# libvirt's first tap after a boot.
TAP = "vnet0"
NEWCOMERS = {
    "on a Linux bridge": '<interface type="bridge"><source bridge="br0"/></interface>',
    "on no bridge": '<interface type="ethernet"/>',
}
newcomers = pytest.mark.parametrize("interface", NEWCOMERS.values(), ids=NEWCOMERS.keys())
# Runs something beside the boot, which goes on.
AT_ONCE = "/usr/bin/systemd-run --no-block --property=DefaultDependencies=no"


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
    # The database may be just restarting.
    listed = ["ovs-vsctl", "--timeout=5", "list-ports", "br-int"]
    wait_until(lambda: host.run(listed, check=False).returncode == 0, 20, "Open vSwitch")
    wait_until(lambda: host.exists("/run/vif-driver/agent.sock"), 20, "the agent's socket")


def vm_ports(host: SystemdHypervisor) -> set[str]:
    return {name for name in host.ovs.ports() if name.startswith(("tap", "qvo"))}


@dataclass(frozen=True)
class PowerCut:
    """What became of ten running VMs.

    Attributes:
        before: their ports before the power cut.
        left: those that were there after the boot.
        ids: of their vNICs, with the address that OVN has for each.
        leases: the address that each had by DHCP when it had been started again.
        paused: the names of those that don't run then.
    """

    before: set[str]
    left: set[str]
    ids: dict[str, str]
    leases: dict[str, str]
    paused: list[str]


@pytest.fixture(scope="module")
def ten(lab: Lab, host: SystemdHypervisor, network: Network) -> PowerCut:
    """Ten running VMs, a power cut, and the same VMs started again."""
    vdsm = Vdsm(host)
    ports = [lab.central.add_port(network, str(uuid.uuid4()), new_mac()) for _ in range(10)]
    vms = [Vm(f"ten-{n}", [Nic.ovn(port.name, port.mac)]) for n, port in enumerate(ports)]
    for vm in vms:
        vdsm.create_vm(vm)
    before = vm_ports(host)
    cut_and_boot(host)
    left = vm_ports(host)
    for vm in vms:
        vdsm.create_vm(vm)
    cut = PowerCut(
        before,
        left,
        ids={port.name: port.address for port in ports},
        leases={vm.nics[0].vnic_id: vm.running.wait_lease(timeout=240).address for vm in vms},
        paused=[vm.name for vm in vms if vm.running.paused],
    )
    for vm in vms:
        vdsm.destroy_vm(vm)
    for port in ports:
        lab.central.remove_port(port.name)
    return cut


def test_no_row_of_ten_vms_is_left(ten: PowerCut) -> None:
    assert ten.before == {f"tap{vnic_id[:11]}" for vnic_id in ten.ids}
    assert ten.left == set()


def test_the_same_vms_start_again(ten: PowerCut) -> None:
    assert ten.paused == []


def test_they_get_their_addresses(ten: PowerCut) -> None:
    assert ten.leases == ten.ids


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


# ---- a VM that has nothing to do with OVN, and is given the name of an old tap -------------------


@pytest.fixture
def no_live_pass(host: SystemdHypervisor) -> Iterator[None]:
    """The agent, which would remove a row that is left after some seconds, lets it be."""
    before = host.read(CONFIGURATION)
    host.write(CONFIGURATION, "[reconcile]\ngrace = 600\n")
    yield
    host.write(CONFIGURATION, before)
    SystemdProduct(host).agent.restart()


@pytest.fixture
def no_boot_pass(host: SystemdHypervisor) -> Iterator[None]:
    """The boot pass is not made; after the test nothing is left that it would have removed."""
    host.run(["systemctl", "disable", BOOT_PASS])
    yield
    host.run(["systemctl", "enable", BOOT_PASS])
    host.vsctl("--if-exists", "del-port", "br-int", TAP)


def lose(lab: Lab, host: SystemdHypervisor, port: LogicalPort) -> None:
    """Cut the power while a VM runs that libvirt has given its first tap, and boot."""
    host.libvirt.restart()
    Guest.boot(host, GuestSpec("old", [plain_interface(port, named=False)]))
    lab.central.wait_bound(port.name, host.name)
    cut_and_boot(host)
    lab.central.wait_unbound(port.name)


def owner_beside(
    lab: Lab, host: SystemdHypervisor, port: LogicalPort, interface: str, seconds: float = 5
) -> str:
    """Start a VM with a NIC that is not OVN's, and tell which host has the port soon after."""
    host.ip("link add br0 type bridge", "link set br0 up")
    Guest.boot(host, GuestSpec("newcomer", [interface]))
    assert TAP in host.devices()
    with suppress(TimeoutError):
        wait_until(lambda: lab.central.bound_to(port.name), seconds, "an owner")
    return lab.central.bound_to(port.name)


@newcomers
def test_without_it_a_new_vm_answers_for_the_old_port(
    lab: Lab,
    host: SystemdHypervisor,
    no_guests_left: None,
    no_live_pass: None,
    no_boot_pass: None,
    new_port: PortMaker,
    interface: str,
) -> None:
    port = new_port()
    lose(lab, host, port)

    assert owner_beside(lab, host, port, interface, seconds=30) == host.name
    assert host.ovs.interface_of(port.name)["name"] == TAP


@newcomers
def test_with_it_the_old_port_is_nobodys(
    lab: Lab,
    host: SystemdHypervisor,
    no_guests_left: None,
    no_live_pass: None,
    new_port: PortMaker,
    interface: str,
) -> None:
    port = new_port()
    lose(lab, host, port)

    assert owner_beside(lab, host, port, interface) == ""
    assert TAP not in host.ovs.ports()


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3])
def test_the_pass_is_made_whole_though_the_database_dies_in_the_middle(
    host: SystemdHypervisor, seconds: float
) -> None:
    stale = add_stale_ports(host, MANY)
    kill = f"sleep {seconds}; kill -KILL $(cat /run/openvswitch/ovsdb-server.pid)"
    host.write(DROP_IN, f"[Service]\nExecStartPre=+{AT_ONCE} sh -c '{kill}'\n")

    try:
        cut_and_boot(host)
    finally:
        host.path(DROP_IN).unlink()
        host.run(["systemctl", "daemon-reload"])

    assert count_stale_ports(host) == 0
    told = host.journal(SYSLOG_IDENTIFIER=NAME)
    assert stale <= {
        json.loads(line["VIF_ROW"])["Port"]["name"] for line in told if "VIF_ROW" in line
    }
    assert not [line["MESSAGE"] for line in told if line["PRIORITY"] == ERROR]


def test_devices_that_an_agent_left_go_with_their_row(host: SystemdHypervisor) -> None:
    stem, group = "0b8d1f2e-00", GROUP
    qbr, qvb, qvo = (f"{prefix}{stem}" for prefix in ("qbr", "qvb", "qvo"))
    host.ip(
        f"link add {qbr} group {group} type bridge",
        f"link add {qvb} group {group} type veth peer name {qvo} group {group}",
        f"link set {qvb} master {qbr}",
    )
    add_port(host, qvo, external_ids={"vif-driver": "ovs_hybrid", "iface-id": stem})
    host.vsctl("remove", "Open_vSwitch", ".", "external_ids", BOOT_KEY)

    Unit(host, BOOT_PASS).restart()

    assert not {qbr, qvb, qvo} & host.devices()
    assert qvo not in host.ovs.ports()
    told = [line["MESSAGE"] for line in host.journal(SYSLOG_IDENTIFIER=NAME)]
    assert sum(line.startswith("removing device") for line in told) == 3


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
