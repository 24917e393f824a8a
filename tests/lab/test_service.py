# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent as a service of systemd's, on a hypervisor that systemd boots."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.harness.command import run_command
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.product import AGENT, BOOT_PASS, SERVICE, SOCKET, SOCKET_UNIT, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vdsm_hooks import HookError, HookRun
from tests.lab.neutron_vnics import a_vm, ours
from vif_driver.host import certificates

CAP_NET_ADMIN = 1 << 12
CONFIG = "/etc/vif-driver/vif-driver.conf"
# Nobody here would make a vNIC ready.
SETTINGS = "[neutron]\nfirewall_driver = iptables_hybrid\n[start]\ndeadline = 0\n"
# Where VDSM keeps what it tells libvirt.
SECRET = "/etc/pki/vdsm/keys/libvirt_password"
PASSWORD = "shibboleth"
NEUTRON = "/etc/neutron"
NEUTRON_CONF = f"{NEUTRON}/neutron.conf"
# What an administrator looks at.
LOOKS = (("status",), ("list",), ("doctor",), ("protect",), ("reconcile", "--dry-run"))
HYBRID = ("qbr", "qvb", "qvo", "tap")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with systemd, without OVN."""
    with Lab(hypervisors=1, ovn=False, systemd=True) as started:
        yield started


@pytest.fixture(scope="module")
def product(host: SystemdHypervisor) -> SystemdProduct:
    """The product, installed as a package would, on a host that VDSM has set up; it runs."""
    product = SystemdProduct(host)
    product.install()
    host.write(CONFIG, SETTINGS)
    host.write(SECRET, PASSWORD, mode=0o600, owner="vdsm")
    host.libvirt.require_password(PASSWORD)
    host.libvirt.restart()
    product.start()
    return product


@pytest.fixture
def agent(product: SystemdProduct) -> Unit:
    """The agent's unit; it runs."""
    product.start()
    return product.agent


@pytest.fixture
def vdsm(host: SystemdHypervisor, agent: Unit) -> Iterator[Vdsm]:
    """VDSM; after the test no VM runs."""
    yield Vdsm(host)
    for domain in host.libvirt.connection.listAllDomains():
        domain.destroy()


def status(host: SystemdHypervisor) -> dict[str, Any]:
    """What the agent says of itself; {} while it doesn't answer."""
    answer = host.run(["vifctl", "status", "--json"], check=False, timeout=20).stdout
    agent: dict[str, Any] = json.loads(answer)["agent"] if answer else {}
    return agent if agent.get("answers") else {}


def connected(host: SystemdHypervisor) -> dict[str, Any]:
    """Wait until the agent is connected to everything, and return what it says."""

    def both() -> dict[str, Any]:
        now = status(host)
        return now if now.get("ovsdb_connected") and now.get("libvirt_connected") else {}

    return wait_until(both, 15, "the agent's connections", interval=0.1)


def process_status(host: SystemdHypervisor, agent: Unit) -> dict[str, str]:
    """The agent's /proc/PID/status."""
    lines = host.read(f"/proc/{agent.pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def plug(vdsm: Vdsm, vm: Vm) -> HookRun:
    """Run the hook that connects the VM's NIC, and the one that takes it back; the first's run."""
    nic = vm.nics[0]
    custom = {"vm_id": vm.id, "device_custom": nic.custom}
    vdsm.hooks.run("before_device_create", nic.xml().encode(), **custom)  # type: ignore[arg-type]
    first = vdsm.runs[-1]
    vdsm.hooks.run("after_device_destroy", b"", **custom)  # type: ignore[arg-type]
    return first


# ---- what it may do ------------------------------------------------------------------------------


def test_the_agent_runs_as_a_user_of_its_own_with_one_capability(
    host: SystemdHypervisor, agent: Unit
) -> None:
    process = process_status(host, agent)

    user = host.user("vif-agent")
    assert process["Uid"].split() == [str(user.uid)] * 4
    assert process["Gid"].split() == [str(user.gid)] * 4
    sets = {name: int(process[name], 16) for name in ("CapEff", "CapBnd", "CapAmb", "CapPrm")}
    assert sets == dict.fromkeys(sets, CAP_NET_ADMIN)
    assert process["NoNewPrivs"] == "1"
    assert process["Seccomp"] == "2"


@pytest.mark.parametrize(("unit", "limit"), [(SERVICE, 1.7), (BOOT_PASS, 1.3)])
def test_the_units_are_as_closed_as_they_can_be(unit: str, limit: float) -> None:
    file = PROJECT / "packaging" / "systemd" / unit
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(file)]
    text = run_command("here", command).stdout

    score = re.search(r"exposure level for \S+: ([0-9.]+)", text)
    assert score is not None, text
    assert float(score[1]) <= limit, text


def test_the_units_have_no_mistake(host: SystemdHypervisor, agent: Unit) -> None:
    checked = host.run(["systemd-analyze", "verify", "--man=no", SERVICE, SOCKET_UNIT], check=False)

    assert "vif-agent" not in checked.stderr


def test_only_vdsm_may_knock(host: SystemdHypervisor, agent: Unit) -> None:
    made = host.path(SOCKET).stat()

    assert (made.st_uid, made.st_mode & 0o777) == (36, 0o600)


# ---- what it reaches -----------------------------------------------------------------------------


def test_the_agent_reaches_open_vswitch_and_libvirt(host: SystemdHypervisor, agent: Unit) -> None:
    assert connected(host)["pid"] == agent.pid


def test_a_filtered_vnic_is_plugged_and_taken_out(host: SystemdHypervisor, vdsm: Vdsm) -> None:
    vm = a_vm()
    tail = vm.nics[0].vnic_id[:11]

    vdsm.create_vm(vm)
    plugged = ours(host)
    bridge = f"/sys/class/net/qbr{tail}"
    filtering = host.read(f"{bridge}/bridge/nf_call_iptables")
    no_ipv6 = host.output(f"cat /proc/sys/net/ipv6/conf/qbr{tail}/disable_ipv6")
    vdsm.destroy_vm(vm)

    assert plugged == {f"{prefix}{tail}" for prefix in HYBRID}
    assert (filtering, no_ipv6) == ("1\n", "1")
    assert all(run.status == 0 and not run.stderr for run in vdsm.runs)
    assert ours(host) == set()


def test_the_journal_tells_what_was_done_for_a_vnic(product: SystemdProduct, vdsm: Vdsm) -> None:
    vm = a_vm()

    plug(vdsm, vm)

    entries = product.journal(VIF_VNIC=vm.nics[0].vnic_id)
    assert entries
    assert {entry["VIF_VM"] for entry in entries} == {vm.id}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"vif-agent"}


# ---- secrets -------------------------------------------------------------------------------------


def test_a_secret_of_vdsms_is_handed_to_the_agent(host: SystemdHypervisor, agent: Unit) -> None:
    handed = host.path(f"/run/credentials/{SERVICE}/libvirt_password")

    assert handed.read_text() == PASSWORD
    assert handed.stat().st_uid == host.user("vif-agent").uid
    assert handed.stat().st_mode & 0o077 == 0


def test_the_agent_starts_where_there_are_no_secrets(host: SystemdHypervisor, agent: Unit) -> None:
    host.run(["rm", "-rf", "/etc/pki/vdsm"])
    try:
        agent.restart()

        handed = host.path(f"/run/credentials/{SERVICE}")
        assert {file.read_text().strip() for file in handed.iterdir()} == {""}
        assert wait_until(lambda: status(host).get("ovsdb_connected"), 10, "the database")
    finally:
        host.write(SECRET, PASSWORD, mode=0o600, owner="vdsm")
        agent.restart()


def test_the_agent_tells_libvirt_vdsms_password(host: SystemdHypervisor, agent: Unit) -> None:
    stranger = host.run(["virsh", "-c", "qemu:///system", "list"], user="vdsm", check=False)

    assert "authentication" in stranger.stderr  # it came as far as VDSM's group does
    assert connected(host)["pid"] == agent.pid


@pytest.fixture
def talkative(host: SystemdHypervisor, agent: Unit) -> Iterator[Unit]:
    """The agent, which logs all that it can, and finds out by itself what filters its vNICs."""
    agent.configure("talkative", f"[Service]\nExecStart=\nExecStart={AGENT} --debug\n")
    host.write(CONFIG, "[start]\ndeadline = 0\n")
    yield agent
    agent.configure("talkative", "")
    host.write(CONFIG, SETTINGS)
    host.write(SECRET, PASSWORD, mode=0o600, owner="vdsm")
    host.run(["rm", "-rf", NEUTRON])
    agent.restart()


@pytest.mark.parametrize(
    ("password", "neutron"),
    [
        pytest.param(PASSWORD, "[DEFAULT]\n%s\n", id="all is well"),
        pytest.param("canary-password", "%s\n[DEFAULT]\n", id="nothing is"),
    ],
)
def test_no_secret_is_ever_told(
    host: SystemdHypervisor, talkative: Unit, vdsm: Vdsm, password: str, neutron: str
) -> None:
    canaries = {PASSWORD, "canary-password", "canary-transport", "canary-key"}
    host.write(SECRET, password, mode=0o600, owner="vdsm")
    host.write(NEUTRON_CONF, neutron % "transport_url = rabbit://neutron:canary-transport@mq/")
    for name in certificates.NAMES:
        host.write(certificates.FOLDER / name, "canary-key\n", mode=0o600, owner="vdsm")
    host.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-remote=ssl:192.0.2.1:6642")
    talkative.restart()

    plug(vdsm, a_vm())
    told = [host.run(["vifctl", *words], check=False) for words in LOOKS]
    talkative.stop()
    with pytest.raises(HookError, match="only it can make"):
        plug(vdsm, a_vm())  # in a process of its own
    talkative.start()
    host.vsctl("remove", "Open_vSwitch", ".", "external_ids", "ovn-remote")

    journal = json.dumps(host.journal())
    assert "answered in" in journal  # what is logged for nobody but developers
    hooks = "".join(run.stderr for run in vdsm.runs)
    output = "".join(done.stdout + done.stderr for done in told)
    assert "certificate" in output
    assert [name for name in canaries if name in journal + hooks + output] == []


# ---- its life ------------------------------------------------------------------------------------


def test_a_killed_agent_comes_back_and_the_hook_that_came_meanwhile_is_answered(
    host: SystemdHypervisor, agent: Unit, vdsm: Vdsm
) -> None:
    connected(host)
    before = agent.pid

    agent.kill()
    run = plug(vdsm, a_vm())

    assert (run.status, run.stderr) == (0, "")
    assert b"qbr" in run.result
    assert agent.wait_new(before)
    assert status(host)["events_answered"] == 2


def test_an_agent_that_hangs_is_restarted(host: SystemdHypervisor, agent: Unit) -> None:
    agent.configure("watchdog", "[Service]\nWatchdogSec=5\n")
    try:
        agent.restart()
        before = agent.pid

        agent.suspend()
        agent.wait_new(before)

        assert connected(host)
    finally:
        agent.configure("watchdog", "")
        agent.restart()


def test_an_agent_that_works_is_not_taken_for_one_that_hangs(
    host: SystemdHypervisor, agent: Unit
) -> None:
    def last_sign() -> int:
        return int(agent.property("WatchdogTimestampMonotonic"))

    agent.configure("watchdog", "[Service]\nWatchdogSec=12\n")
    try:
        agent.restart()
        before, begin = agent.pid, last_sign()

        wait_until(lambda: last_sign() > begin, 20, "a sign of life")

        assert agent.pid == before
    finally:
        agent.configure("watchdog", "")
        agent.restart()


def test_however_often_the_agent_ends_its_socket_stays_open(
    host: SystemdHypervisor, product: SystemdProduct, agent: Unit, vdsm: Vdsm
) -> None:
    # As if a library of its own were missing.
    agent.configure("broken", "[Service]\nExecStart=\nExecStart=/bin/false\n")
    runs: list[HookRun] = []
    try:
        agent.kill()
        # More often than systemd's own limits allow (five within ten seconds).
        wait_until(lambda: int(agent.property("NRestarts")) >= 25, 60, "many restarts")
        hook = threading.Thread(target=lambda: runs.append(plug(vdsm, a_vm())))
        hook.start()
        wait_until(lambda: int(agent.property("NRestarts")) >= 30, 30, "more restarts")
        waiting = hook.is_alive()
    finally:
        agent.configure("broken", "")
    agent.wait_ready()
    hook.join(30)

    assert waiting
    assert Unit(host, SOCKET_UNIT).running
    assert [run.status for run in runs] == [0]


@pytest.mark.parametrize("name", ["ovsdb-server.service", "libvirtd.service"])
def test_the_agent_finds_what_it_needs_again_after_a_restart_of_it(
    host: SystemdHypervisor, agent: Unit, name: str
) -> None:
    before = connected(host)

    Unit(host, name).restart()

    wait_until(lambda: connected(host), 15, "connections")
    assert connected(host)["pid"] == before["pid"]
    assert host.system_state == "running"


def test_the_agent_starts_before_what_it_needs(host: SystemdHypervisor, agent: Unit) -> None:
    host.libvirt.stop()
    host.ovs.stop()
    try:
        agent.restart()
        alone = status(host)
    finally:
        host.start_ovs()
        host.libvirt.start()

    assert (alone["ovsdb_connected"], alone["libvirt_connected"]) == (False, False)
    assert connected(host)["pid"] == alone["pid"]


def test_the_agent_is_stopped_in_order(
    host: SystemdHypervisor, product: SystemdProduct, agent: Unit
) -> None:
    product.stop()

    assert agent.state == "inactive"
    assert agent.property("Result") == "success"
    assert not status(host)


def test_after_a_power_cut_the_agent_is_there_by_itself(
    host: SystemdHypervisor, agent: Unit
) -> None:
    host.power_cut()
    host.boot()

    assert host.exists(SOCKET)
    assert agent.running
    assert connected(host)
    assert host.system_state == "running"


def test_units_start_the_programs_where_they_were_installed(tmp_path: Path) -> None:
    settings = ["PREFIX=/usr/local", f"DESTDIR={tmp_path}"]
    run_command("here", ["make", "--silent", "-C", str(PROJECT), "install", *settings], timeout=120)

    units = (tmp_path / "usr/local/lib/systemd/system").glob("vif-*.service")
    text = "".join(unit.read_text() for unit in units)

    programs = re.findall(r"^ExecStart=-?/(\S+)", text, re.M)
    assert len(programs) == 2
    assert [name for name in programs if not (tmp_path / name).is_file()] == []
