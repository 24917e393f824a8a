# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl configure neutron``, with the distribution's agents and units, and a Neutron server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.neutron import LOG, Neutron
from tests.lab.harness.product import SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit
from tests.lab.vifctl import killed

Completed = subprocess.CompletedProcess[str]

ETC = "/etc/neutron"
COMMON = f"{ETC}/neutron.conf"
OVS_FILE = f"{ETC}/plugins/ml2/openvswitch_agent.ini"
LINUX_BRIDGE_FILE = f"{ETC}/plugins/ml2/linuxbridge_agent.ini"
OVS_UNIT, LINUX_BRIDGE_UNIT = (
    "neutron-openvswitch-agent.service",
    "neutron-linuxbridge-agent.service",
)
STATE = "/var/lib/vif-driver"

CONFIGURE = ("configure", "neutron")
PASSWORD = "pa$s:w@rd%41,'x"
QUEUE = ("--message-queue", "127.0.0.1", "--user", "neutron", "--password-file", "-")
OPEN_VSWITCH = (*QUEUE, "--bridge-mapping", "physnet1:br-ex", "--tunnel-types", "")
LINUX_BRIDGE = (*QUEUE, "--interface-mapping", "physnet1:nic0")

# Where Debian's services look first: what only a lab needs, and the package's files don't say.
LAB_CONF = """\
[DEFAULT]
state_path = /var/lib/neutron
[agent]
report_interval = 5
[ovs]
datapath_type = netdev
[experimental]
linuxbridge = True
"""


class SystemdNeutronLab(Lab):
    """One hypervisor with systemd, and no OVN."""

    def __init__(self) -> None:
        super().__init__(hypervisors=1, ovn=False, systemd=True)

    def save_logs(self, test: str) -> Path:
        target = super().save_logs(test)
        if self.hosts[0].powered:
            self.hosts[0].collect(target / "neutron", ["/var/log/neutron", LOG])
        return target


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with SystemdNeutronLab() as started:
        yield started


@pytest.fixture(scope="module")
def host(lab: Lab) -> SystemdHypervisor:
    """The hypervisor, with the product and a network card that nobody uses."""
    host = lab.hosts[0]
    assert isinstance(host, SystemdHypervisor)
    SystemdProduct(host).install()
    host.ip("link add nic0 type veth peer name nic0-far", "link set nic0 up")
    return host


@pytest.fixture(scope="module")
def neutron(host: SystemdHypervisor) -> Neutron:
    """Neutron's server; the agents' files are those of the distribution's packages."""
    neutron = Neutron(host)
    neutron.start()
    neutron.add_user("neutron", PASSWORD)
    for path in (COMMON, OVS_FILE, LINUX_BRIDGE_FILE):
        # The server, which has read them, has its own.
        host.path(path).write_bytes(Path(path).read_bytes())
    host.run(f"chown root:neutron {COMMON} {OVS_FILE}; chmod 0640 {COMMON} {OVS_FILE}")
    host.write(f"{ETC}/agent.conf.d/lab.conf", LAB_CONF)
    host.run("ovs-vsctl --if-exists del-br br-int")
    for name in (OVS_UNIT, LINUX_BRIDGE_UNIT):
        # To say good-bye to the server takes it ten seconds.
        Unit(host, name).configure("hurry", "[Service]\nTimeoutStopSec=1\n")
    return neutron


@pytest.fixture
def unconfigured(host: SystemdHypervisor, neutron: Neutron) -> Iterator[dict[str, str]]:
    """A host that is none of Neutron's before and after the test; gives its state."""
    before = state(host)
    yield before
    configure(host, "--undo")


def configure(host: SystemdHypervisor, *arguments: str, password: str = PASSWORD) -> Completed:
    command = ["vifctl", *CONFIGURE, *arguments]
    return host.run(command, input=password, check=False, timeout=150)


def changed(answer: Completed) -> list[str]:
    found: list[str] = json.loads(answer.stdout)["changed"]
    return found


def state(host: SystemdHypervisor) -> dict[str, str]:
    """All that the command may change."""
    found = {
        path: host.output(f"stat -c '%U:%G %a' {path}; cat {path}")
        for path in (COMMON, OVS_FILE, LINUX_BRIDGE_FILE)
    }
    for unit in (OVS_UNIT, LINUX_BRIDGE_UNIT):
        shown = host.output(["systemctl", "show", "-p", "ActiveState,UnitFileState", unit])
        # An agent that takes too long to end counts as failed.
        found[unit] = shown.replace("failed", "inactive")
    found["bridges"] = host.output("ovs-vsctl list-br")
    found[STATE] = host.output(f"ls -A {STATE} 2>/dev/null || true")
    return found


def added(before: str, after: str) -> list[str]:
    """The lines that are new; all others are there as before, in their order."""
    left = before.splitlines()
    new = []
    for line in after.splitlines():
        if left and line == left[0]:
            left.pop(0)
        else:
            new.append(line)
    assert not left, left[0]
    return new


# ---- the agents ----------------------------------------------------------------------------------


def test_the_open_vswitch_agent_serves_the_host(
    host: SystemdHypervisor, neutron: Neutron, unconfigured: dict[str, str]
) -> None:
    answer = configure(host, *OPEN_VSWITCH)

    assert answer.returncode == 0, answer.stderr
    agent = wait_until(
        lambda: [one for one in neutron.agents(host.name) if one["alive"]], 30, "agent alive"
    )[0]
    assert agent["binary"] == "neutron-openvswitch-agent"
    assert agent["configurations"]["bridge_mappings"] == {"physnet1": "br-ex"}
    assert Unit(host, OVS_UNIT).property("UnitFileState") == "enabled"
    assert {"br-int", "br-ex"} <= set(host.output("ovs-vsctl list-br").split())
    assert "br-ex leads nowhere" in answer.stderr


def test_the_linux_bridge_agent_serves_the_host(
    host: SystemdHypervisor, neutron: Neutron, unconfigured: dict[str, str]
) -> None:
    answer = configure(host, *LINUX_BRIDGE)

    assert answer.returncode == 0, answer.stderr
    agents = wait_until(
        lambda: [
            one
            for one in neutron.agents(host.name)
            if one["alive"] and one["binary"] == "neutron-linuxbridge-agent"
        ],
        30,
        "agent alive",
    )
    assert agents[0]["configurations"]["interface_mappings"] == {"physnet1": "nic0"}


# ---- the rest, without waiting for an agent ------------------------------------------------------


@pytest.fixture
def idle_agent(host: SystemdHypervisor, neutron: Neutron) -> Iterator[Unit]:
    """The Open vSwitch agent's unit, whose program does nothing."""
    unit = Unit(host, OVS_UNIT)
    unit.configure("idle", "[Service]\nExecStart=\nExecStart=/bin/sleep 4711\n")
    yield unit
    configure(host, "--undo")
    unit.configure("idle", "")


@pytest.mark.usefixtures("idle_agent")
def test_of_the_files_only_what_was_asked_for_changes(
    host: SystemdHypervisor, unconfigured: dict[str, str]
) -> None:
    configure(host, *OPEN_VSWITCH, "--no-wait")

    after = state(host)
    assert after[LINUX_BRIDGE_FILE] == unconfigured[LINUX_BRIDGE_FILE]
    (line,) = added(unconfigured[COMMON], after[COMMON])
    assert line == ("transport_url = rabbit://neutron:pa%24s%3Aw%40rd%2541%2C%27x@127.0.0.1:5672/")
    before = re.sub(r"(?m)^(tunnel_types|bridge_mappings) = .*$", r"\1 =", unconfigured[OVS_FILE])
    shown = re.sub(r"(?m)^(tunnel_types|bridge_mappings) = .*$", r"\1 =", after[OVS_FILE])
    assert shown == before
    assert "bridge_mappings = physnet1:br-ex\n" in after[OVS_FILE]


@pytest.mark.usefixtures("unconfigured")
def test_a_second_run_changes_nothing(host: SystemdHypervisor, idle_agent: Unit) -> None:
    first = configure(host, *OPEN_VSWITCH, "--no-wait", "--json")
    after, process = state(host), idle_agent.pid

    second = configure(host, *OPEN_VSWITCH, "--no-wait", "--json")

    assert len(changed(first)) > 5
    assert changed(second) == []
    assert (state(host), idle_agent.pid) == (after, process)


@pytest.mark.usefixtures("unconfigured")
def test_an_agent_is_restarted_when_its_files_change(
    host: SystemdHypervisor, idle_agent: Unit
) -> None:
    configure(host, *OPEN_VSWITCH, "--no-wait")
    process = idle_agent.pid

    configure(host, *OPEN_VSWITCH, "--no-wait", password="another")

    assert idle_agent.pid not in (0, process)


@pytest.mark.usefixtures("idle_agent")
def test_it_can_be_undone(host: SystemdHypervisor, unconfigured: dict[str, str]) -> None:
    configure(host, *OPEN_VSWITCH, "--no-wait", "--uplink", "br-ex:nic0")
    before = host.output("ovs-vsctl list-ports br-ex")

    answer = configure(host, "--undo")

    assert before == "nic0"
    assert answer.returncode == 0, answer.stderr
    assert state(host) == unconfigured


@pytest.mark.usefixtures("idle_agent", "unconfigured")
def test_vms_keep_their_ways_out(host: SystemdHypervisor) -> None:
    configure(host, *OPEN_VSWITCH, "--no-wait")
    row = "set Interface vm0 type=internal external_ids:iface-id=vm0"
    host.run(f"ovs-vsctl add-port br-int vm0 -- {row}")
    before = state(host)

    answers = [configure(host, "--bridge-mapping", "", "--no-wait"), configure(host, "--undo")]
    after = state(host)
    host.run("ovs-vsctl del-port br-int vm0")

    assert [answer.returncode for answer in answers] == [1, 1]
    assert "would no longer have physnet1:br-ex" in answers[0].stderr
    assert "vNIC vm0 of a VM is on br-int and would be cut off" in answers[1].stderr
    assert after == before


@pytest.mark.usefixtures("idle_agent")
def test_nobody_is_told_the_password(host: SystemdHypervisor, unconfigured: dict[str, str]) -> None:
    told = [configure(host, *OPEN_VSWITCH, "--no-wait"), configure(host, *OPEN_VSWITCH, "--json")]

    host.run(["journalctl", "--sync"], check=False)
    journal = json.dumps(host.journal(SYSLOG_IDENTIFIER="vifctl"))
    assert "transport_url" in journal
    shown = journal + "".join(answer.stdout + answer.stderr for answer in told)
    assert PASSWORD not in shown and "pa%24s" not in shown and "w@rd" not in shown
    assert host.output(f"stat -c %a {STATE}/neutron.json") == "600"


@pytest.mark.usefixtures("idle_agent")
def test_a_rehearsal_changes_nothing(host: SystemdHypervisor, unconfigured: dict[str, str]) -> None:
    answer = configure(host, *OPEN_VSWITCH, "--dry-run", "--json")

    assert len(changed(answer)) > 5
    assert state(host) == unconfigured


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.usefixtures("idle_agent")
def test_all_is_taken_back_when_the_agent_does_not_connect(
    host: SystemdHypervisor, unconfigured: dict[str, str]
) -> None:
    answer = configure(host, *OPEN_VSWITCH, "--timeout", "1")

    assert answer.returncode == 1
    assert "has not connected to the message queue within 1 s; see that" in answer.stderr
    assert state(host) == unconfigured


def test_all_is_taken_back_when_the_password_is_wrong(
    host: SystemdHypervisor, unconfigured: dict[str, str]
) -> None:
    answer = configure(host, *LINUX_BRIDGE, "--timeout", "30", password="wrong")

    assert answer.returncode == 1
    assert re.search(
        "has not connected to the message queue|ends soon after its start", answer.stderr
    )
    assert state(host) == unconfigured


#: When it has noted a change and when it has made it, and at the end.
NOTED, DONE = (f"vif_driver.configuration.record:Record.{name}" for name in ("write", "remove"))
POINTS = [(NOTED, "before", "2"), (NOTED, "before", "4"), (NOTED, "after", "5"),
          (NOTED, "after", "6"), (DONE, "before", "1")]  # fmt: skip


@pytest.mark.usefixtures("idle_agent")
def test_wherever_one_run_is_killed_the_next_one_takes_back(
    host: SystemdHypervisor, unconfigured: dict[str, str]
) -> None:
    for point in POINTS:
        command = (*CONFIGURE, *OPEN_VSWITCH, "--no-wait")
        assert killed(host, point, *command, told=PASSWORD), point
        assert state(host) != unconfigured, point

        refused = configure(host, "--bridge-mapping", "physnet1:br-x")

        assert "no message queue is configured" in refused.stderr, point
        assert state(host) == unconfigured, point


@pytest.mark.usefixtures("idle_agent", "unconfigured")
def test_a_killed_undo_is_taken_back(host: SystemdHypervisor) -> None:
    configure(host, *OPEN_VSWITCH, "--no-wait")
    before = state(host)
    assert killed(host, (NOTED, "after", "4"), *CONFIGURE, "--undo")

    assert configure(host, *OPEN_VSWITCH, "--no-wait").returncode == 0

    assert state(host) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bridge-mapping", "p1:br-with-too-long-a-name"], "cannot be the name of a bridge"),
        (["--interface-mapping", "p1:nic9"], "there is no device nic9"),
        (["--interface-mapping", "p1:br-phy"], "br-phy is a"),
        (["--bridge-mapping", "p1:br-x", "--uplink", "br-x:eth0"], "eth0 is a port of"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    host: SystemdHypervisor, unconfigured: dict[str, str], arguments: list[str], said: str
) -> None:
    answer = configure(host, *QUEUE, *arguments)

    assert answer.returncode == 1
    assert said in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert state(host) == unconfigured
