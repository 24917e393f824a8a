# SPDX-License-Identifier: GPL-2.0-or-later
"""A host with a kernel of its own: real bonds, VLANs, and the kernel's Open vSwitch datapath."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import CONFIGURATION, PortMaker
from tests.lab.harness import topology
from tests.lab.harness.anchor import INSIDE, processes_in
from tests.lab.harness.command import CommandError
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.kernel_host import KernelHost
from tests.lab.harness.lab import Lab
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import KNOWN, Product
from tests.lab.harness.vdsm import Vdsm

#: Seconds for what takes one on this computer.
LONG = 60

VM = "11111111-0000-4000-8000-00000000000a"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One host with a kernel of its own, and OVN."""
    with Lab(hypervisors=1, own_kernel=True) as started:
        yield started


@pytest.fixture(scope="module")
def host(lab: Lab) -> KernelHost:
    """The host."""
    host = lab.hosts[0]
    assert isinstance(host, KernelHost)
    return host


@pytest.fixture(scope="module")
def built(host: KernelHost) -> Iterator[KernelHost]:
    """The host with everything that tunnels may stand on."""
    topology.build(host)
    yield host
    topology.remove(host)


@pytest.fixture(scope="module")
def product(host: KernelHost) -> Product:
    """The product on it; its agent runs, and filters some vNICs on a Linux bridge."""
    product = Product(host)
    product.install()
    host.write(CONFIGURATION, "[neutron]\nfirewall_driver = iptables_hybrid\n")
    # As systemd does it, by the product's own list.
    host.run("modprobe -a $(grep -v '#' /usr/lib/modules-load.d/vif-driver.conf)")
    product.start()
    wait_until(lambda: host.exists(KNOWN), 60, "the agent with Open vSwitch")
    return product


@pytest.fixture(scope="module")
def vdsm(host: KernelHost, product: Product) -> Vdsm:
    """VDSM's side of it, which here is hooks only."""
    return Vdsm(host)


# ---- the host ------------------------------------------------------------------------------------


def test_the_kernel_is_its_own(host: KernelHost) -> None:
    assert host.output("uname -r").endswith("-cloud-amd64")
    assert host.output("uname -r") != os.uname().release
    assert host.output("hostname") == "hv1"
    assert host.boot_id != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    host.run("echo 1 > /proc/sys/kernel/panic_on_oops")
    assert {"lo", "eth0", "eth1", "br-int", "br-phy"} <= host.devices()


def test_its_files_are_the_machines(host: KernelHost) -> None:
    host.write("/etc/only-here", "from outside")
    assert host.output("cat /etc/only-here") == "from outside"
    host.run("echo from inside > /run/only-here; mv /etc/only-here /etc/moved")
    assert host.read("/run/only-here") == "from inside\n"
    assert not host.exists("/etc/only-here")
    for text in ("one", "two"):
        host.write("/usr/share/only-here", text)
        assert host.output("cat /usr/share/only-here") == text
    assert not Path("/usr/share/only-here").exists()
    assert host.output(["cat", __file__]) == Path(__file__).read_text().strip()


def test_the_kernels_files_are_only_seen_from_inside(host: KernelHost) -> None:
    assert host.read("/proc/version").startswith("Linux version 6.1")
    assert host.exists("/sys/class/net/br-int")
    assert not host.exists("/sys/class/net/no-such-device")
    with pytest.raises(ValueError, match="/sys/class/net"):
        host.path("/sys/class/net")


def test_commands_run_as_on_any_machine(host: KernelHost) -> None:
    done = host.run("cat; echo \"$WORD\"; echo err >&2; exit 7", env={"WORD": "two words"},
                    input="in\n", check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\ntwo words\n", "err\n")
    assert host.run("kill -9 $$", check=False).returncode == -9
    assert host.run(["no-such-program"], check=False).returncode == 127
    assert host.run(["id", "-un"], user="vdsm").stdout == "vdsm\n"
    much = "x" * 3_000_000
    assert host.run(["cat"], input=much).stdout == much


def test_commands_run_side_by_side(host: KernelHost) -> None:
    waiting = [host.popen(["sh", "-c", f"read word; echo $word {n}"], stdin=-1) for n in range(8)]
    for process in reversed(waiting):
        process.communicate("word\n", timeout=LONG)
    assert [process.returncode for process in waiting] == [0] * 8


def test_a_command_that_takes_too_long_is_killed(host: KernelHost) -> None:
    with pytest.raises(CommandError, match="took too long"):
        host.run("sleep 4711; true", timeout=2)
    wait_until(lambda: "sleep 4711" not in host.output("ps ax -o args"), LONG, "end of sleep")


# ---- what the computer's kernel may not have -----------------------------------------------------


def facts(host: KernelHost) -> dict[str, Any]:
    """What the kernel says of its devices."""
    answer: dict[str, Any] = json.loads(host.python(str(INSIDE / "device_facts.py")))
    return answer


def test_bonds_vlans_and_bridges_are_the_kernels(built: KernelHost) -> None:
    devices = facts(built)
    for bond, members in topology.BONDS.items():
        assert devices[bond]["kind"] == "bond"
        assert {devices[member]["master"] for member in members} == {bond}
    for vlan, (base, tag) in topology.VLANS.items():
        device = devices[vlan]
        assert (device["kind"], device["parent"], device["tag"]) == ("vlan", base, tag)
    for bridge, port in topology.BRIDGES.items():
        assert devices[bridge]["kind"] == "bridge"
        assert devices[port]["master"] == bridge
    assert devices[topology.UPLINK]["master"] == "ovs-system"
    assert devices[topology.INTERNAL_PORT]["kind"] == "openvswitch"
    for device, address in topology.ADDRESSES.items():
        assert address in devices[device]["addresses"]
    assert all(":" in address for address in devices[topology.INTERNAL_PORT]["addresses"])


def test_sysfs_tells_what_stands_on_what(built: KernelHost) -> None:
    listing = built.output("cd /sys/class/net && ls -d */lower_*").split()
    lowers = {(path.split("/lower_")[0], path.split("/lower_")[1]) for path in listing}
    expected = {(bond, nic) for bond, nics in topology.BONDS.items() for nic in nics}
    expected |= {(vlan, base) for vlan, (base, _) in topology.VLANS.items()}
    expected |= set(topology.BRIDGES.items())
    assert expected <= lowers
    assert built.read("/proc/net/bonding/bond0").count("MII Status: up") == 3


@pytest.mark.parametrize("tag", topology.FAR_SIDE)
def test_packets_cross_what_was_built(built: KernelHost, tag: int) -> None:
    address = topology.FAR_SIDE[tag].partition("/")[0]
    done = built.run(["ping", "-c", "1", "-w", str(LONG), address], timeout=2 * LONG)
    assert "1 received" in done.stdout


def test_a_bond_does_without_one_of_its_nics(built: KernelHost) -> None:
    built.ip("link set nic0 down")
    active = "/sys/class/net/bond0/bonding/active_slave"
    wait_until(lambda: built.read(active) == "nic1\n", LONG, "the other NIC")
    assert "1 received" in built.output(["ping", "-c", "1", "-w", str(LONG), "203.0.113.1"])
    built.ip("link set nic0 up")


# ---- Open vSwitch and the product ----------------------------------------------------------------


def test_the_datapath_is_the_kernels(built: KernelHost) -> None:
    for bridge in built.ovs.rows("Bridge", columns=["datapath_type"]):
        assert bridge["datapath_type"] in ("", "system")
    ports = built.output(["ovs-dpctl", "show"])
    assert ports.startswith("system@ovs-system:")
    assert f"{topology.INTERNAL_PORT} (internal)" in ports
    assert f": {topology.UPLINK}\n" in ports + "\n"


def plug_as_libvirt_does(host: KernelHost, xml: bytes) -> str:
    """Make the tap and the port that an ``<interface>`` asks for, and return the tap's name."""
    interface = ElementTree.fromstring(xml)
    value = {
        element.tag: element.attrib
        for element in interface.iter()
        if element.tag in ("source", "target", "parameters", "mac")
    }
    tap, bridge = value["target"]["dev"], value["source"]["bridge"]
    host.ip(f"tuntap add {tap} mode tap", f"link set {tap} up")
    host.vsctl(
        *("add-port", bridge, tap, "--", "set", "Interface", tap),
        f'external_ids:attached-mac="{value["mac"]["address"]}"',
        f'external_ids:iface-id="{value["parameters"]["interfaceid"]}"',
        f'external_ids:vm-id="{VM}"',
        "external_ids:iface-status=active",
    )
    return tap


def test_a_vnic_is_plugged_and_its_lost_tap_is_noticed(
    lab: Lab, host: KernelHost, vdsm: Vdsm, new_port: PortMaker
) -> None:
    port = new_port()
    nic = Nic.ovn(port.name, port.mac)
    xml = vdsm.hooks.run(
        "before_device_create", nic.xml().encode(), vm_id=VM, device_custom=nic.custom
    )
    tap = plug_as_libvirt_does(host, xml)
    assert tap == nic.tap
    host.ovs.wait_ready(tap, LONG)
    lab.central.wait_bound(port.name, "hv1", LONG)
    assert f": {tap}\n" in host.run(["ovs-dpctl", "show"]).stdout

    def is_listed() -> bool:
        listed = host.run(["vifctl", "list"], check=False).stdout  # no libvirt: not all is well
        return [tap, "yes"] in [line.split()[-2:] for line in listed.splitlines()]

    wait_until(is_listed, LONG, "the vNIC among those that work")

    host.ip(f"link del {tap}")
    host.ovs.wait("Interface", tap, "ofport=-1", timeout=LONG)
    assert "No such device" in host.ovs.interface(tap)["error"]
    lab.central.wait_unbound(port.name, LONG)
    assert f": {tap}\n" not in host.run(["ovs-dpctl", "show"]).stdout

    host.ip(f"tuntap add {tap} mode tap", f"link set {tap} up")
    host.ovs.wait("Interface", tap, "ofport>0", timeout=LONG)
    host.ovs.wait_ready(tap, LONG)
    host.vsctl("del-port", tap)
    host.ip(f"link del {tap}")


def test_the_agent_makes_and_removes_the_devices_of_a_hybrid_vnic(
    host: KernelHost, vdsm: Vdsm
) -> None:
    name = "bbbbbbbb-0000-4000-8000-00000000000a"
    nic = Nic.openstack("OPEN_VSWITCH", name, "fa:16:3e:00:00:02", security_groups=VM)
    given = nic.xml().encode()
    vdsm.hooks.run("before_device_create", given, vm_id=VM, device_custom=nic.custom)
    made = {f"{kind}{name[:11]}" for kind in ("qbr", "qvb", "qvo")}
    assert made <= host.devices()
    host.ovs.wait("Interface", f"qvo{name[:11]}", "ofport>0", timeout=LONG)
    assert f": qvo{name[:11]}\n" in host.run(["ovs-dpctl", "show"]).stdout
    vdsm.hooks.run("after_device_destroy", b"", vm_id=VM, device_custom=nic.custom)
    assert not made & host.devices()
    assert host.ovs.interface(f"qvo{name[:11]}") == {}


# ---- power ---------------------------------------------------------------------------------------


def test_a_power_cut_keeps_the_disk() -> None:
    with Lab(hypervisors=1, ovn=False, own_kernel=True, start=False) as lab:
        (host,) = lab.hosts
        host.boot()
        first = host.boot_id
        host.run("echo x > /var/lib/kept; echo x > /run/lost; echo x > /tmp/lost")
        host.power_cut()
        host.boot()
        assert host.boot_id != first
        assert host.read("/var/lib/kept") == "x\n"
        assert not host.exists("/run/lost")
        assert not host.exists("/tmp/lost")


def test_a_kernel_that_panics_takes_the_host_with_it() -> None:
    with Lab(hypervisors=1, ovn=False, own_kernel=True, start=False) as lab:
        (host,) = lab.hosts
        host.boot()
        with pytest.raises(CommandError, match="kernel is gone"):
            host.run("echo c > /proc/sysrq-trigger; sleep 60")
        wait_until(lambda: not host.powered, LONG, "end of the host")


OWNER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from tests.lab.harness.lab import Lab
lab = Lab(hypervisors=1, ovn=False, own_kernel=True, start=False)
lab.__enter__()
lab.hosts[0].boot()
print(json.dumps(sorted(lab.namespaces())), flush=True)
time.sleep(600)
"""


def test_nothing_outlives_an_owner_that_is_killed() -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    devices = os.listdir("/sys/class/net")
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(PROJECT)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    spaces = set(json.loads(owner.stdout.readline()))
    running = " ".join(processes_in(spaces).values())
    assert "qemu-system" in running
    assert "virtiofsd" in running
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    wait_until(lambda: not processes_in(spaces), 10, "end of the lab's processes")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert os.listdir("/sys/class/net") == devices
