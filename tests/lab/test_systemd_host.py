# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypervisors that systemd boots: what the tests of the product's units rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import GuestMaker, PortMaker
from tests.lab.harness.anchor import processes_in
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with systemd, and OVN."""
    with Lab(hypervisors=1, systemd=True) as started:
        yield started


@pytest.fixture
def host(lab: Lab) -> SystemdHypervisor:
    """The hypervisor."""
    host = lab.hosts[0]
    assert isinstance(host, SystemdHypervisor)
    return host


# ---- the machine ---------------------------------------------------------------------------------


def test_pid_1_is_systemd_and_everything_it_started_runs(host: SystemdHypervisor) -> None:
    assert host.read("/proc/1/comm") == "systemd\n"
    assert host.system_state == "running"
    assert host.output("systemctl --failed --no-legend --plain") == ""


def test_the_daemons_are_the_distributions_units(host: SystemdHypervisor) -> None:
    for name in ("ovsdb-server", "ovs-vswitchd", "ovn-controller", "libvirtd"):
        unit = Unit(host, f"{name}.service")

        assert unit.running
        assert unit.property("FragmentPath") == f"/lib/systemd/system/{name}.service"
        assert host.read(f"/proc/{unit.pid}/cgroup").endswith(f"/{name}.service\n")


def test_the_host_serves_as_any_other(
    lab: Lab, host: SystemdHypervisor, new_port: PortMaker, plain_guest: GuestMaker
) -> None:
    port = new_port()

    guest = plain_guest(host, port)

    assert guest.wait_lease(port.mac).address == port.address
    assert lab.central.bound_to(port.name) == host.name


def test_guests_survive_a_restart_of_libvirtd(
    host: SystemdHypervisor, new_port: PortMaker, plain_guest: GuestMaker
) -> None:
    guest = plain_guest(host, new_port())
    qemu = host.output("pidof qemu-system-x86_64")

    host.libvirt.restart()

    assert host.output("pidof qemu-system-x86_64") == qemu
    state = host.virsh("qemu-monitor-command", guest.name, "--hmp", "info status")
    assert state == "VM status: running"


def test_a_machine_sees_no_control_group_but_its_own(host: SystemdHypervisor) -> None:
    shown = set(os.listdir(host.path("/sys/fs/cgroup")))
    own = host.output("cat /proc/1/cgroup").splitlines()

    assert {"init.scope", "system.slice"} <= shown
    assert not {name for name in shown if name.startswith("lab-")}
    assert "0::/init.scope" in own


# ---- the journal ---------------------------------------------------------------------------------


def test_the_journal_keeps_the_fields_of_an_entry(host: SystemdHypervisor) -> None:
    script = "from systemd import journal; journal.send('hello', PRIORITY='4', LAB_TEST='one')"

    host.run(["/usr/bin/python3", "-I", "-c", script], user="vdsm")

    found = wait_until(lambda: host.journal(LAB_TEST="one"), 30, "the entry")
    assert [entry["MESSAGE"] for entry in found] == ["hello"]
    assert (found[0]["PRIORITY"], found[0]["_UID"]) == ("4", "36")
    assert found[0]["_BOOT_ID"] == host.boot_id.replace("-", "")


# ---- units ---------------------------------------------------------------------------------------

SLEEPER = "[Service]\nExecStart=/bin/sleep 4711\n{more}"


@pytest.fixture
def sleeper(host: SystemdHypervisor) -> Iterator[Unit]:
    """A unit that does nothing, and isn't started again."""
    host.write("/run/systemd/system/sleeper.service", SLEEPER.format(more=""))
    host.run(["systemctl", "daemon-reload"])
    unit = Unit(host, "sleeper.service")
    yield unit
    unit.stop()


def test_a_unit_starts_and_stops(sleeper: Unit) -> None:
    assert (sleeper.running, sleeper.pid) == (False, 0)

    sleeper.start()
    pid = sleeper.pid
    sleeper.restart()

    assert sleeper.running
    assert sleeper.pid not in (0, pid)
    sleeper.stop()
    assert (sleeper.running, sleeper.state) == (False, "inactive")


def test_a_unit_is_killed(sleeper: Unit) -> None:
    sleeper.start()

    sleeper.kill()

    wait_until(lambda: sleeper.state == "failed", 30, "notice of its end")
    assert sleeper.property("Result") == "signal"


def test_a_unit_can_be_frozen(sleeper: Unit, host: SystemdHypervisor) -> None:
    def state() -> str:
        return host.read(f"/proc/{sleeper.pid}/stat").rpartition(")")[2].split()[0]

    sleeper.start()

    sleeper.suspend()
    wait_until(lambda: state() == "T", 30, "halt")
    sleeper.resume()

    wait_until(lambda: state() == "S", 30, "life")


def test_a_killed_daemon_is_brought_back_if_its_unit_says_so(host: SystemdHypervisor) -> None:
    unit = host.ovs.vswitchd
    assert isinstance(unit, Unit)
    before = unit.pid

    unit.kill()
    unit.wait_new(before)

    assert "br-phy" in host.vsctl("list-br")
    assert host.output(f"ip -o addr show dev br-phy | grep -c {host.tunnel_address}") == "1"


def test_libvirtd_stays_down_when_it_is_stopped(host: SystemdHypervisor) -> None:
    host.libvirt.stop()
    try:
        answer = host.run("timeout 5 virsh -c qemu:///system list", check=False)

        assert answer.returncode != 0
        assert not host.libvirt.service.running
    finally:
        host.libvirt.start()


# ---- power ---------------------------------------------------------------------------------------


def test_a_power_cut_keeps_the_disk_and_the_journal(lab: Lab, host: SystemdHypervisor) -> None:
    first = host.boot_id
    host.write("/var/lib/kept", "x")
    host.write("/run/lost", "x")
    host.run(["logger", "-t", "lab", "before the cut"])
    wait_until(lambda: host.journal(SYSLOG_IDENTIFIER="lab"), 30, "the entry")

    host.power_cut()
    host.boot()

    assert host.boot_id != first
    assert host.read("/proc/sys/kernel/random/boot_id") == f"{host.boot_id}\n"
    assert host.read("/var/lib/kept") == "x"
    assert not host.exists("/run/lost")
    before = host.journal("--boot=-1", SYSLOG_IDENTIFIER="lab")
    assert [entry["MESSAGE"] for entry in before] == ["before the cut"]
    assert not host.journal(SYSLOG_IDENTIFIER="lab")


def test_after_a_boot_all_daemons_are_there_again(lab: Lab, host: SystemdHypervisor) -> None:
    host.reboot()

    assert host.system_state == "running"
    assert host.ovs.vswitchd.running and host.ovn_controller.running
    assert host.libvirt.connection.getHostname() == host.name
    host.start()  # nothing is left to be done
    lab.central.wait_chassis(host.name)


def test_a_shutdown_ends_every_unit_in_order(lab: Lab, host: SystemdHypervisor) -> None:
    start = time.monotonic()
    host.shutdown()
    seconds = time.monotonic() - start
    host.boot()

    assert seconds < 30
    stopped = [entry["MESSAGE"] for entry in host.journal("--boot=-1", UNIT="libvirtd.service")]
    assert any("Stopped" in message for message in stopped)


def test_each_boot_of_an_ordinary_machine_has_an_id_of_its_own() -> None:
    with Lab(hypervisors=1, ovn=False, start=False) as lab:
        (host,) = lab.hosts
        seen = {Path("/proc/sys/kernel/random/boot_id").read_text()}
        for _ in range(2):
            host.boot()
            seen.add(host.read("/proc/sys/kernel/random/boot_id"))
            host.power_cut()

    assert len(seen) == 3


# ---- what is left behind -------------------------------------------------------------------------

OWNER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from tests.lab.harness.lab import Lab
lab = Lab(hypervisors=1, ovn=False, systemd=True)
lab.__enter__()
print(json.dumps([lab.anchor.cgroups.name, sorted(lab.namespaces())]), flush=True)
time.sleep(600)
"""


def control_groups(name: str) -> list[str]:
    """The control groups of that name that the computer has."""
    look = f"mount -t cgroup2 cgroup2 /mnt && find /mnt -type d -name {name}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", look]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def of_the_computer() -> list[object]:
    """What a boot of systemd would change, if it were not in a machine."""
    mounts = Path("/proc/self/mountinfo").read_text()
    listed = [set(os.listdir(path)) for path in ("/sys/class/net", "/dev", "/run", "/")]
    return [mounts, *listed, os.stat("/tmp").st_ino, Path("/etc/machine-id").exists()]


def test_nothing_outlives_an_owner_that_is_killed(tmp_path: Path) -> None:
    before = of_the_computer()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(PROJECT)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    group, spaces = json.loads(owner.stdout.readline())
    there = len(control_groups(group)), len(processes_in(spaces))

    owner.send_signal(signal.SIGKILL)
    owner.communicate()

    assert there[0] == 1 and there[1] > 8
    wait_until(lambda: not processes_in(spaces), 10, "end of the lab's processes")
    wait_until(lambda: not control_groups(group), 10, "end of the lab's control groups")
    assert of_the_computer() == before
    assert tmp_path.is_dir()


def test_a_lab_that_ends_leaves_nothing() -> None:
    lab = Lab(hypervisors=1, ovn=False, systemd=True)

    with lab:
        during = lab.leftovers()

    assert [line for line in during if line.startswith("control group")]
    assert lab.leftovers() == []
    assert control_groups(lab.anchor.cgroups.name) == []
