# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's last chapter: what a power cut leaves of a VM, and what becomes of that."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab.demo_teller import Failed, Teller
from tests.lab.harness.command import run_command
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.open_vswitch import DATABASE
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.product import BOOT_PASS, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit
from tests.lab.harness.vdsm import Vdsm, Vm

PORT = "dddddddd-0000-4000-8000-00000000000d"
MAC = "fa:16:3e:00:00:04"
PINGS = 3
SYSTEMD_STARTED = "UserspaceTimestampMonotonic"


def reboot(teller: Teller, lab: Lab) -> None:
    """Reboot a host and see: nothing answers in the name of the VMs that it had."""
    host = lab.hosts[0]
    assert isinstance(host, SystemdHypervisor)
    network, vm = begin(teller, lab, host)
    tap = vm.nics[0].tap
    with teller.step(f"start {vm.name} with all hooks"):
        Vdsm(host).create_vm(vm)
    with teller.step(f"cut the power of {host.name}; on its disk Open vSwitch still has"):
        database = host.output(["readlink", "-f", DATABASE])
        host.power_cut()
        row = row_in(host.on_disk(database), tap)
        if not row:
            raise Failed(f"the power cut left no row of {tap}, so there is nothing to show")
        facts = [(key, row[key]) for key in ("iface-id", "vm-id", "ovn-installed")]
        teller.table([("interface", tap), *facts])
    with teller.step(f"boot {host.name}"):
        host.boot()
        tell_of_the_pass(teller, host, vm)
    if tap in host.ovs.ports():
        raise Failed(f"the row of {tap} is still there after the boot")
    start_and_ping(teller, host, network, vm)


def begin(teller: Teller, lab: Lab, host: SystemdHypervisor) -> tuple[Network, Vm]:
    """Make the hypervisor with the product on it, the network, and a VM that does not run yet."""
    with teller.step(f"another {host.name}, booted by systemd; make install; vif-agent's units"):
        lab.start()
        product = SystemdProduct(host)
        product.install()
        product.start()
        network = lab.central.add_network("net1", "10.0.0.0/24")
        lab.central.add_router("r1", [network])
        port = lab.central.add_port(network, PORT, MAC)
    return network, Vm("vm1", [Nic.ovn(port.name, port.mac)])


def start_and_ping(teller: Teller, host: SystemdHypervisor, network: Network, vm: Vm) -> None:
    """Start the VM again, and ping the router from inside."""
    with teller.step(f"start {vm.name} again, and wait for its DHCP lease"):
        Vdsm(host).create_vm(vm)
        vm.running.wait_lease()
    with teller.step(f"ping the router from inside {vm.name}"):
        ping = f"ping -c {PINGS} -i 0.2 -W 2 {network.gateway}"
        done = vm.running.run(ping, check=False)
        teller.show(done.stdout.strip().splitlines()[-2])
    if done.returncode != 0:
        raise Failed(f"no answer to the ping from {vm.name} to {network.gateway}")


def row_in(database: Path, tap: str) -> dict[str, str]:
    """The ``external_ids`` of an interface, read from the database's file while nothing runs."""
    select = {"op": "select", "table": "Interface", "where": [["name", "==", tap]]}
    query = ["ovsdb-tool", "query", str(database), json.dumps(["Open_vSwitch", select])]
    rows = json.loads(run_command("here", query).stdout)[0]["rows"]
    return dict(rows[0]["external_ids"][1]) if rows else {}


def tell_of_the_pass(teller: Teller, host: SystemdHypervisor, vm: Vm) -> None:
    """Show what the boot pass logged, and that it was over before Open vSwitch began."""
    entries = host.journal(SYSLOG_IDENTIFIER="vif-driver-boot", VIF_VM=vm.id)
    if not entries:
        raise Failed("the boot pass removed no row")
    for entry in entries:
        teller.show(f"journal: {entry['MESSAGE']}")
    wait_until(lambda: host.libvirt.service.running, 20, "libvirtd")
    first = int(host.output(["systemctl", "show", "--value", "-p", SYSTEMD_STARTED]))
    times = {
        "the row is gone": Unit(host, BOOT_PASS).property("ExecMainExitTimestampMonotonic"),
        "ovs-vswitchd starts": began(host, "ovs-vswitchd.service"),
        "ovn-controller starts": began(host, "ovn-controller.service"),
        "libvirtd starts": began(host, "libvirtd.service"),
    }
    after = {what: (int(time) - first) / 1e6 for what, time in times.items()}
    teller.table([(what, f"{seconds:.2f} s after systemd") for what, seconds in after.items()])
    if min(after, key=lambda what: after[what]) != "the row is gone":
        raise Failed("the row was still there when the others started")


def began(host: SystemdHypervisor, unit: str) -> str:
    """When a unit's process was started, by the kernel's clock."""
    return Unit(host, unit).property("ExecMainStartTimestampMonotonic")
