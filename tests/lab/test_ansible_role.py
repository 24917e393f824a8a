# SPDX-License-Identifier: GPL-2.0-or-later
"""The Ansible role, run on a host that systemd has booted."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.harness.lab import CENTRAL_ADDRESS, Lab
from tests.lab.harness.product import BOOT_PASS, SERVICE, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit

# As the engine's tasks name it, which need no roles_path then.
ROLE = "/usr/share/vif-driver/ansible/roles/vif_driver"
PLAYBOOK = "/root/play.yml"
AGENT = "neutron-openvswitch-agent.service"
SERVICES = (AGENT, SERVICE, BOOT_PASS, "ovn-controller.service")
COMMON = "/etc/neutron/neutron.conf"
TOLD = "/root/firewall-told"
PASSWORD = "pa$$word of 'mine'"

VARIABLES: dict[str, Any] = {
    "vif_driver_package_source": "none",
    "vif_driver_ovn_central": CENTRAL_ADDRESS,
    "vif_driver_ovn_options": ["--no-ssl"],
    "vif_driver_neutron": True,
    "vif_driver_neutron_message_queues": ["127.0.0.1"],
    "vif_driver_neutron_user": "neutron",
    "vif_driver_neutron_password": PASSWORD,
    "vif_driver_neutron_bridge_mappings": {"physnet1": "br-ex"},
    "vif_driver_neutron_uplinks": {"br-ex": "nic0"},
    "vif_driver_neutron_integration_bridge": "br-neutron",
    "vif_driver_neutron_tunnel_types": ["vxlan"],
    "vif_driver_neutron_wait": 0,
    "vif_driver_firewalld_zone": "external",
}

# firewalld needs D-Bus, which this host has not.  This one notes what it was told, and like a real
# one it knows of services that are new only after a reload.
FIREWALL_CMD = """\
#!/bin/bash
told=/root/firewall-told
where=runtime
for word; do
    case $word in
        --permanent) where=permanent ;;
        --state | --zone=external) ;;
        --reload) sed -n s/permanent/runtime/p $told >>$told; touch $told-reloaded ;;
        --query-service=* | --add-service=*)
            [ -e $told-reloaded ] || [ $where = permanent ] || exit 101
            if [ "${word%%=*}" = --add-service ]; then
                echo "$where ${word#*=}" >>$told
            else
                grep -sqx "$where ${word#*=}" $told || exit 1
            fi ;;
        --remove-service=*) sed -i "/^$where ${word#*=}$/d" $told ;;
        *) exit 2 ;;
    esac
done
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with systemd, and OVN."""
    with Lab(hypervisors=1, systemd=True) as started:
        yield started


@pytest.fixture(scope="module")
def host(lab: Lab) -> SystemdHypervisor:
    """The hypervisor, with the product and an agent of Neutron's that does nothing."""
    host = lab.hosts[0]
    assert isinstance(host, SystemdHypervisor)
    SystemdProduct(host).install()
    host.ip("link add nic0 type veth peer name nic0-far")
    host.write("/etc/neutron/agent.conf.d/lab.conf", "[ovs]\ndatapath_type = netdev\n")
    Unit(host, AGENT).configure("idle", "[Service]\nExecStart=\nExecStart=/bin/sleep 4711\n")
    host.write("/usr/bin/firewall-cmd", FIREWALL_CMD, mode=0o755)
    return host


def play(
    host: SystemdHypervisor, *options: str, check: bool = True, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run the role."""
    address = host.tunnel_address
    ends = {"vif_driver_ovn_tunnel": address, "vif_driver_neutron_tunnel_ip": address}
    variables = {**VARIABLES, **ends, **more}
    task = {"ansible.builtin.include_role": {"name": ROLE}, "vars": variables}
    plays = [{"hosts": "all", "gather_facts": False, "tasks": [task]}]
    return run_playbook(host, plays, *options, check=check)


def run_playbook(
    host: SystemdHypervisor, plays: list[dict[str, Any]], *options: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the host itself."""
    host.write(PLAYBOOK, json.dumps(plays))  # which is YAML
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", *options, PLAYBOOK]
    env = {"LC_ALL": "C.UTF-8", "HOME": "/root"}
    return host.run(command, env=env, check=check, timeout=120)


def changes(answer: subprocess.CompletedProcess[str]) -> int:
    """How many tasks changed something."""
    recap = answer.stdout.rpartition("changed=")[2]
    return int(recap.split()[0])


@dataclasses.dataclass(frozen=True)
class State:
    """What the role looks after.

    Attributes:
        common: the content of Neutron's common file.
        uplinks: the ports of the bridge that leads to a physical network.
        remote: where ovn-controller is told that the southbound database is.
        running: those of its services that run.
        enabled: those that start at boot.
        firewall: what the firewall was told.
    """

    common: str
    uplinks: list[str]
    remote: str
    running: set[str]
    enabled: set[str]
    firewall: set[str]

    @classmethod
    def of(cls, host: SystemdHypervisor) -> State:
        ports = host.run(["ovs-vsctl", "list-ports", "br-ex"], check=False).stdout
        get = "ovs-vsctl --if-exists get Open_vSwitch . external_ids:ovn-remote"
        units = {name: Unit(host, name) for name in SERVICES}
        return cls(
            common=host.read(COMMON),
            uplinks=ports.split(),
            remote=host.output(get),
            running={name for name, unit in units.items() if unit.running},
            enabled={
                name for name, unit in units.items() if unit.property("UnitFileState") == "enabled"
            },
            firewall=set(host.read(TOLD).splitlines()) if host.exists(TOLD) else set(),
        )


@dataclasses.dataclass(frozen=True)
class Played:
    """A run of the role: how many tasks changed something, what was shown, and what is so then."""

    changes: int
    shown: str
    state: State


def played(host: SystemdHypervisor, *options: str, **more: Any) -> Played:
    """Run the role, and look at the host."""
    answer = play(host, *options, **more)
    return Played(changes(answer), answer.stdout, State.of(host))


# The runs follow each other, each of them with the host as the one before has left it.


@pytest.fixture(scope="module")
def before(host: SystemdHypervisor) -> State:
    """The host before the first run."""
    host.run("ovs-vsctl remove Open_vSwitch . external_ids ovn-remote")
    return State.of(host)


@pytest.fixture(scope="module")
def rehearsal(host: SystemdHypervisor, before: State) -> Played:
    """A run in check mode."""
    return played(host, "--check")


@pytest.fixture(scope="module")
def first(host: SystemdHypervisor, rehearsal: Played) -> Played:
    """The first run, of which much is shown."""
    return played(host, "-vv")


@pytest.fixture(scope="module")
def second(host: SystemdHypervisor, first: Played) -> Played:
    """Another run of the same."""
    return played(host)


@pytest.fixture(scope="module")
def undone(host: SystemdHypervisor, second: Played) -> Played:
    """A run that takes it all back."""
    return played(host, vif_driver_state="unconfigured")


def test_check_mode_tells_of_changes_and_makes_none(before: State, rehearsal: Played) -> None:
    assert rehearsal.changes > 0
    assert rehearsal.state == before


def test_neutron_serves_the_host(first: Played) -> None:
    assert "transport_url = rabbit://neutron:pa%24%24word" in first.state.common
    assert first.state.uplinks == ["nic0"]


def test_the_host_is_one_of_ovns(first: Played) -> None:
    assert first.state.remote == f'"tcp:{CENTRAL_ADDRESS}:6642"'


def test_services_run_and_start_at_boot(first: Played) -> None:
    assert first.state.running >= set(SERVICES) - {BOOT_PASS}
    assert first.state.enabled >= {AGENT, SERVICE, BOOT_PASS}


def test_the_firewall_lets_tunnels_through_now_and_later(first: Played) -> None:
    assert first.state.firewall == {
        f"{when} vif-driver-{tunnel}"
        for when in ("permanent", "runtime")
        for tunnel in ("geneve", "vxlan")
    }


def test_the_password_is_not_shown(first: Played) -> None:
    assert PASSWORD not in first.shown and "pa%24" not in first.shown


def test_a_second_run_changes_nothing(second: Played) -> None:
    assert second.changes == 0


def test_unconfigured_it_is_none_of_neutrons_again(before: State, undone: Played) -> None:
    assert undone.changes > 0
    assert undone.state.common == before.common
    assert AGENT not in undone.state.running


def test_unconfigured_it_lets_no_tunnels_through(first: Played, undone: Played) -> None:
    assert first.state.firewall
    assert undone.state.firewall == set()


OF_OVN = {"vif_driver_ovn_central": CENTRAL_ADDRESS, "vif_driver_neutron": False}
OF_NEUTRON = {"vif_driver_ovn_central": "", "vif_driver_neutron": True}


@pytest.mark.parametrize(
    ("variables", "services"),
    [
        ({**OF_OVN, "vif_driver_ovn_options": []}, ["vif-driver-geneve"]),
        ({**OF_OVN, "vif_driver_ovn_options": ["--encap", "vxlan"]}, ["vif-driver-vxlan"]),
        (
            {**OF_OVN, "vif_driver_ovn_options": ["--no-ssl", "--encap=vxlan,geneve", "--ipsec"]},
            ["vif-driver-geneve", "vif-driver-vxlan", "ipsec"],
        ),
        ({**OF_NEUTRON, "vif_driver_ovn_options": ["--ipsec"]}, []),
        (
            {
                **OF_NEUTRON,
                "vif_driver_ovn_options": [],
                "vif_driver_neutron_tunnel_types": ["vxlan", "gre"],
            },
            ["vif-driver-vxlan", "gre"],
        ),
    ],
)
def test_the_firewall_is_opened_for_the_tunnels_that_there_are(
    host: SystemdHypervisor, variables: dict[str, Any], services: list[str]
) -> None:
    told = "/root/services"
    tasks = [
        {"ansible.builtin.include_vars": f"{ROLE}/vars/main.yml"},
        {
            "ansible.builtin.copy": {
                "content": "{{ vif_driver_tunnel_services | to_json }}",
                "dest": told,
            }
        },
    ]
    plays = [{"hosts": "all", "gather_facts": False, "vars": variables, "tasks": tasks}]

    run_playbook(host, plays)

    assert json.loads(host.read(told)) == services


def test_what_is_wrong_is_shown_and_the_password_is_not(host: SystemdHypervisor) -> None:
    answer = play(host, check=False, vif_driver_neutron_uplinks={"br-ex": "nic9"})

    assert answer.returncode != 0
    assert "--uplink: there is no device nic9; see ip link" in answer.stdout
    assert PASSWORD not in answer.stdout + answer.stderr
