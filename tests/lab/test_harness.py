# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab itself: what the other tests rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import GuestMaker, PortMaker
from tests.lab.harness.anchor import processes_in
from tests.lab.harness.command import CommandError
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.interpreter import Interpreter
from tests.lab.harness.lab import Lab
from tests.lab.harness.libvirt_daemon import libvirt
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.nic import Nic
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vdsm_hooks import HOOKS, HookError
from tests.lab.harness.watchdog import Watchdog


def hook(host: Hypervisor, event: str, name: str, script: str, mode: int = 0o555) -> None:
    host.write(HOOKS / event / name, textwrap.dedent(script).lstrip(), mode=mode)


@pytest.fixture
def vdsm(lab: Lab, no_guests_left: None) -> Iterator[Vdsm]:
    """VDSM of the first host, without any hook installed before or after."""
    host = lab.hosts[0]
    yield Vdsm(host)
    host.run(["rm", "-rf", str(HOOKS)])


# ---- machines ------------------------------------------------------------------------------------


def test_a_host_is_alone_in_its_namespaces(lab: Lab) -> None:
    host = lab.hosts[0]
    assert host.output("hostname") == "hv1"
    assert host.output("cat /proc/1/cmdline").replace("\0", " ").strip().endswith("reaper.py")
    assert {"lo", "eth0", "eth1", "br-int", "br-phy"} <= host.devices()
    host.write("/etc/only-here", "x")
    host.write("/tmp/only-here", "x")
    assert not Path("/etc/only-here").exists()
    assert not Path("/tmp/only-here").exists()
    assert not lab.hosts[1].exists("/etc/only-here")
    assert host.output("readlink /proc/self/ns/net") != os.readlink("/proc/self/ns/net")


def test_the_computers_own_settings_cannot_be_changed(lab: Lab) -> None:
    host = lab.hosts[0]
    with pytest.raises(CommandError, match="Read-only"):
        host.run("echo x > /proc/sys/kernel/hostname")
    host.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
    assert host.output("id -u vdsm; id -g vdsm; getent group kvm") == "36\n36\nkvm:x:36:"


def test_links_are_followed_inside_the_machine(lab: Lab) -> None:
    host = lab.hosts[0]
    host.write("/run/inside", "x")
    assert host.read("/var/run/inside") == "x"  # /var/run is a link to /run, by its full path
    assert not Path("/run/inside").exists()


def test_a_failing_command_tells_everything(lab: Lab) -> None:
    with pytest.raises(CommandError) as caught:
        lab.hosts[1].run("echo out; echo err >&2; exit 7")
    error = caught.value
    assert (error.where, error.status) == ("hv2", 7)
    assert (error.stdout, error.stderr) == ("out\n", "err\n")
    for word in ("hv2", "exit 7", "out", "err"):
        assert word in str(error)


def test_a_command_that_takes_too_long_is_killed(lab: Lab) -> None:
    host = lab.hosts[0]
    with pytest.raises(CommandError, match="took too long"):
        host.run(["sleep", "4711"], timeout=0.3)
    wait_until(lambda: "sleep 4711" not in host.output("ps ax -o args"), 5, "end of sleep")


# ---- guests --------------------------------------------------------------------------------------


def test_guests_on_two_hosts_reach_each_other(
    lab: Lab, new_port: PortMaker, plain_guest: GuestMaker
) -> None:
    ports = [new_port(), new_port()]
    guests = [plain_guest(host, port) for host, port in zip(lab.hosts, ports)]
    for guest, port in zip(guests, ports):
        assert guest.wait_lease(port.mac).address == port.address
    assert guests[0].reaches(ports[1].address)
    assert guests[1].reaches(ports[0].address)
    page = guests[0].run(f"wget -q -O - http://{ports[1].address}/")
    assert page.stdout == "hello\n"
    assert guests[0].run("echo no >&2; exit 3", check=False).returncode == 3
    with pytest.raises(CommandError, match="no"):
        guests[0].run("echo no >&2; exit 3")
    for host, port in zip(lab.hosts, ports):
        assert lab.central.bound_to(port.name) == host.name
        assert host.ovs.interface_of(port.name)["external_ids"]["ovn-installed"] == "true"


def test_a_guest_without_dhcp_is_given_its_address(
    lab: Lab, new_port: PortMaker, plain_guest: GuestMaker
) -> None:
    port = new_port(address="10.0.0.200")
    guest = plain_guest(lab.hosts[0], port, dhcp=False)
    guest.wait_up()
    guest.set_address(guest.device(port.mac), "10.0.0.200/24", "10.0.0.1")
    assert guest.reaches("10.0.0.1")
    assert guest.events("dhcp-bound") == []


def test_a_deleted_tap_leaves_the_datapath_as_it_does_on_users_hosts(
    lab: Lab, new_port: PortMaker
) -> None:
    host, port = lab.hosts[0], new_port()
    host.run(["ip", "tuntap", "add", "tap-gone", "mode", "tap"])
    host.vsctl("add-port", "br-int", "tap-gone", "--", "set", "Interface", "tap-gone",
               f"external_ids:iface-id={port.name}")  # fmt: skip
    host.ovs.wait_ready("tap-gone")
    host.run(["ip", "link", "del", "tap-gone"])
    host.ovs.wait("Interface", "tap-gone", "ofport=-1")
    assert "No such device" in host.ovs.interface("tap-gone")["error"]
    lab.central.wait_unbound(port.name)
    host.run(["ip", "tuntap", "add", "tap-gone", "mode", "tap"])
    host.ovs.wait_ready("tap-gone")
    host.run(["ip", "link", "del", "tap-gone"])
    host.vsctl("del-port", "tap-gone")


# ---- VDSM ----------------------------------------------------------------------------------------

APPEND = """
    #!/bin/sh
    echo "<!-- {name} $(id -un) $# $vnic_id $vmId -->" >> "$_hook_domxml"
    echo "{name} says" >&2
    exit {status}
"""


def test_hooks_run_in_name_order_on_one_file_as_user_vdsm(vdsm: Vdsm) -> None:
    host, event = vdsm.host, "before_device_create"
    for name, status in (("60_b", 0), ("50_a", 0), ("70_c", 0)):
        hook(host, event, name, APPEND.format(name=name, status=status))
    hook(host, event, "55_plain_file", "not executable", mode=0o444)
    custom = {"vnic_id": "from-device", "both": "device"}
    given = b"<interface/>\n"
    result = vdsm.hooks.run(
        event, given, vm_id="vm-1", vm_custom={"both": "vm"}, device_custom=custom
    )
    expected = "".join(f"<!-- {n} vdsm 0 from-device vm-1 -->\n" for n in ("50_a", "60_b", "70_c"))
    assert result.decode() == given.decode() + expected
    assert [run.script for run in vdsm.runs] == ["50_a", "60_b", "70_c"]
    assert vdsm.runs[0].stderr == "50_a says\n"
    assert vdsm.runs[0].properties["both"] == "vm"
    assert vdsm.runs[1].given == vdsm.runs[0].result


def test_the_file_is_vdsms_and_goes_away(vdsm: Vdsm) -> None:
    hook(
        vdsm.host,
        "before_device_create",
        "50_a",
        """
        #!/bin/sh
        stat -c '%u %g %a' "$_hook_domxml" > /tmp/seen
        echo "$_hook_domxml $(id -G) $(id -u)" >> /tmp/seen
        env >> /tmp/seen
        """,
    )
    vdsm.hooks.run("before_device_create", b"<interface/>")
    owner, names, *environment = vdsm.host.read("/tmp/seen").splitlines()
    path, *ids = names.split()
    assert owner == "36 36 600"
    assert ids == ["36", "36"]
    assert not vdsm.host.exists(path)
    assert "LC_ALL=C" in environment
    assert not [line for line in environment if line.startswith("vmId=")]


@pytest.mark.parametrize(
    ("status", "runs"), [(1, ["50_a", "60_b"]), (2, ["50_a"]), (3, ["50_a", "60_b"])]
)
def test_a_failing_hook_stops_the_others_only_with_status_2(
    vdsm: Vdsm, status: int, runs: list[str]
) -> None:
    hook(vdsm.host, "before_nic_hotplug", "50_a", APPEND.format(name="50_a", status=status))
    hook(vdsm.host, "before_nic_hotplug", "60_b", APPEND.format(name="60_b", status=0))
    with pytest.raises(HookError) as caught:
        vdsm.hooks.run("before_nic_hotplug", b"<interface/>")
    assert [run.script for run in vdsm.runs] == runs
    assert caught.value.stderr == f"{runs[-1]} says\n"


def test_a_failing_after_hook_is_only_logged(vdsm: Vdsm) -> None:
    hook(vdsm.host, "after_nic_hotplug", "50_a", APPEND.format(name="50_a", status=1))
    assert vdsm.hooks.run("after_nic_hotplug", b"<interface/>").startswith(b"<interface/>")
    assert vdsm.runs[0].status == 1


def test_network_hooks_run_as_root_on_json(vdsm: Vdsm) -> None:
    script = """
        #!/bin/sh
        id -un > /tmp/who
        sed -i 's/"options": {}/"options": {"seen": true}/' "$_hook_json"
    """
    hook(vdsm.host, "before_network_setup", "50_a", script)
    answer = vdsm.setup_networks({"net": {"remove": True}})
    assert vdsm.host.read("/tmp/who") == "root\n"
    assert answer["request"]["options"] == {"seen": True}
    assert json.loads(vdsm.runs[0].given)["request"]["networks"] == {"net": {"remove": True}}


PLUG = """
    #!/usr/bin/python3
    import os, re
    path = os.environ["_hook_domxml"]
    text = open(path).read()
    port = '<virtualport type="openvswitch"><parameters interfaceid="%s"/></virtualport>'
    text = text.replace(";vdsmdummy;", "br-int")
    text = re.sub("<filterref.*?/>", port % os.environ["vnic_id"], text)
    open(path, "w").write(text)
"""
PAUSE = """
    #!/usr/bin/python3
    import os
    path = "/run/vdsm/%s/launchflags" % os.environ["vmId"]
    flags = int(open(path).read()) | 1
    open(path, "w").write(str(flags))
"""


def test_a_vm_lives_through_all_its_events(vdsm: Vdsm, lab: Lab, new_port: PortMaker) -> None:
    host, first, second = vdsm.host, new_port(), new_port()
    for event in ("before_device_create", "before_nic_hotplug", "before_update_device"):
        hook(host, event, "50_plug", PLUG)
    hook(host, "before_device_create", "60_pause", PAUSE)
    for event in (
        "before_vm_start", "after_vm_start", "after_device_create", "after_nic_hotplug",
        "before_nic_hotunplug", "after_nic_hotunplug", "after_update_device",
        "after_device_destroy", "after_vm_destroy",
    ):  # fmt: skip
        hook(host, event, "50_nothing", "#!/bin/sh\n")
    nic = Nic.ovn(first.name, first.mac)
    vm = Vm("lives", [nic])
    guest = vdsm.create_vm(vm)
    assert guest.paused
    assert not host.exists(vm.launch_flags_path)
    vdsm.resume_vm(vm)
    assert guest.wait_lease(first.mac).address == first.address

    plugged = Nic.ovn(second.name, second.mac)
    vdsm.hotplug(vm, plugged)
    assert guest.wait_lease(second.mac).address == second.address
    vdsm.hotunplug(vm, plugged)
    guest.wait_event("nic-removed")

    down = vdsm.update_nic(vm, nic, link_up=False)
    assert guest.run("cat /sys/class/net/eth0/carrier").stdout == "0\n"
    vdsm.update_nic(vm, down, link_up=True)
    assert guest.run("cat /sys/class/net/eth0/carrier").stdout == "1\n"
    vdsm.destroy_vm(vm)
    assert host.libvirt.domains() == set()
    order = [run.event for run in vdsm.runs if run.script != "60_pause"]
    assert order == [
        "before_device_create", "before_vm_start", "after_vm_start", "after_device_create",
        "before_nic_hotplug", "after_nic_hotplug", "before_nic_hotunplug", "after_nic_hotunplug",
        "before_update_device", "after_update_device", "before_update_device",
        "after_update_device", "after_vm_destroy", "after_device_destroy",
    ]  # fmt: skip
    assert {run.status for run in vdsm.runs} == {0}
    assert b"openvswitch" not in vdsm.hooks.runs_of("before_update_device")[0].given
    assert vdsm.hooks.runs_of("after_device_destroy")[0].given == b""


def test_a_guest_moves_to_the_other_host(
    lab: Lab, no_guests_left: None, new_port: PortMaker
) -> None:
    source, target = (Vdsm(host) for host in lab.hosts)
    hook(source.host, "before_device_create", "50_plug", PLUG)
    port = new_port()
    vm = Vm("moves", [Nic.ovn(port.name, port.mac)])
    guest = source.create_vm(vm)
    guest.wait_lease(port.mac)
    job = guest.start("sleep 2; echo done")
    job.wait_started()
    source.migrate(vm, target)
    assert guest.host is target.host
    lab.central.wait_bound(port.name, "hv2")
    assert job.wait().stdout == "done\n"
    assert guest.reaches("10.0.0.1")
    assert source.host.libvirt.domains() == set()
    target.destroy_vm(vm)


# ---- power ---------------------------------------------------------------------------------------


def test_a_power_cut_keeps_the_disk_and_empties_run() -> None:
    with Lab(hypervisors=1) as lab:
        (host,) = lab.hosts
        host.run(["ip", "tuntap", "add", "tap-lost", "mode", "tap"])
        host.vsctl("add-port", "br-int", "tap-lost", "--", "set", "Interface", "tap-lost",
                   "external_ids:iface-id=some-port")  # fmt: skip
        host.ovs.wait("Interface", "tap-lost", "ofport>0")
        host.write("/var/lib/kept", "x")
        host.write("/run/lost", "x")
        host.write("/tmp/lost", "x")
        spaces = set(host.namespaces)
        host.power_cut()
        wait_until(lambda: not processes_in(spaces), 5, "end of all processes")
        host.boot()
        assert host.read("/var/lib/kept") == "x"
        assert not host.exists("/run/lost")
        assert not host.exists("/tmp/lost")
        assert "tap-lost" not in host.devices()
        host.start()
        row = host.ovs.interface("tap-lost")
        assert row["external_ids"]["iface-id"] == "some-port"
        assert row["ofport"] == -1
        assert "No such device" in row["error"]
        assert host.libvirt.connection.getHostname() == "hv1"
        lab.central.wait_chassis("hv1")


OWNER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from tests.lab.harness.interpreter import Interpreter
from tests.lab.harness.lab import Lab
lab = Lab(hypervisors=1)
lab.__enter__()
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
    assert len(processes_in(spaces)) > 10
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    wait_until(lambda: not processes_in(spaces), 10, "end of the lab's processes")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert os.listdir("/sys/class/net") == devices


def test_a_lab_that_ends_leaves_nothing() -> None:
    lab = Lab(hypervisors=1)
    with lab:
        assert lab.leftovers() != []
    assert lab.leftovers() == []


# ---- what takes too long -------------------------------------------------------------------------


def test_who_waits_for_a_daemon_without_end_goes_on_when_the_time_is_up() -> None:
    seen_before = []
    with Lab(hypervisors=1, ovn=False) as lab:
        (host,) = lab.hosts
        connection = host.libvirt.connection
        host.libvirt.service.suspend()
        last_look = lambda: seen_before.append(host.powered)  # noqa: E731
        with Watchdog(1.0, last_look, [lab.anchor]), pytest.raises(libvirt.libvirtError):
            connection.getLibVersion()
    assert seen_before == [True]
    assert lab.leftovers() == []


def test_a_wait_goes_on_for_as_long_as_the_computer_stood_still() -> None:
    answers = iter([False, True])

    def slow() -> bool:
        time.sleep(1)
        return next(answers)

    assert wait_until(slow, 0.3, "an answer")


def test_a_wait_for_what_does_not_come_ends() -> None:
    begun = time.monotonic()

    with pytest.raises(TimeoutError, match=r"nothing: not within 0\.3 s"):
        wait_until(lambda: False, 0.3, "nothing")

    assert time.monotonic() - begun >= 0.3


def test_what_ends_in_time_is_left_alone() -> None:
    with Lab(hypervisors=1, ovn=False, start=False) as lab:
        with Watchdog(0.5, anchors=[lab.anchor]):
            pass
        time.sleep(1)
        assert lab.anchor.alive


# ---- interpreters --------------------------------------------------------------------------------


def test_a_host_may_have_el9s_python() -> None:
    with Lab(hypervisors=1, start=False, interpreter=Interpreter.of_environment()) as lab:
        (host,) = lab.hosts
        host.boot()
        script = "import sys, lxml, pyroute2, ovs, libvirt; print(*sys.version_info[:2])"
        done = host.run(["/usr/bin/python3", "-I", "-c", script], user="vdsm")
        assert done.stdout == "3 9\n"
        assert Path("/usr/bin/python3").resolve().name != "python3.9"
