# SPDX-License-Identifier: GPL-2.0-or-later
"""The Ansible role, run on a host that systemd has booted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.harness.lab import CENTRAL_ADDRESS, Lab
from tests.lab.harness.product import SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit

# As the engine's tasks name it, which need no roles_path then.
ROLE = "/usr/share/vif-driver/ansible/roles/vif_driver"
PLAYBOOK = "/root/play.yml"
AGENT = "neutron-openvswitch-agent.service"
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
    host.write(PLAYBOOK, json.dumps(plays))  # which is YAML
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", *options, PLAYBOOK]
    env = {"LC_ALL": "C.UTF-8", "HOME": "/root"}
    return host.run(command, env=env, check=check, timeout=120)


def changes(answer: subprocess.CompletedProcess[str]) -> int:
    """How many tasks changed something."""
    recap = answer.stdout.rpartition("changed=")[2]
    return int(recap.split()[0])


def test_the_role_configures_a_host_and_a_second_run_changes_nothing(
    host: SystemdHypervisor,
) -> None:
    host.run("ovs-vsctl remove Open_vSwitch . external_ids ovn-remote")
    before = host.read(COMMON)

    rehearsed = play(host, "--check")

    assert changes(rehearsed) > 0
    assert host.read(COMMON) == before
    assert not host.exists(TOLD)

    first = play(host, "-vv")

    assert changes(first) > 0
    assert "transport_url = rabbit://neutron:pa%24%24word" in host.read(COMMON)
    assert host.output("ovs-vsctl list-ports br-ex") == "nic0"
    remote = host.output("ovs-vsctl get Open_vSwitch . external_ids:ovn-remote")
    assert remote == f'"tcp:{CENTRAL_ADDRESS}:6642"'
    for name in (AGENT, "vif-agent.service", "ovn-controller.service"):
        assert Unit(host, name).running
    assert Unit(host, "vif-driver-boot.service").property("UnitFileState") == "enabled"
    assert set(host.read(TOLD).splitlines()) == {
        f"{when} vif-driver-{tunnel}"
        for when in ("permanent", "runtime")
        for tunnel in ("geneve", "vxlan")
    }
    assert PASSWORD not in first.stdout and "pa%24" not in first.stdout

    second = play(host)

    assert changes(second) == 0

    undone = play(host, vif_driver_state="unconfigured")

    assert changes(undone) > 0
    assert host.read(COMMON) == before
    assert not Unit(host, AGENT).running


def test_what_is_wrong_is_shown_and_the_password_is_not(host: SystemdHypervisor) -> None:
    answer = play(host, check=False, vif_driver_neutron_uplinks={"br-ex": "nic9"})

    assert answer.returncode != 0
    assert "--uplink: there is no device nic9; see ip link" in answer.stdout
    assert PASSWORD not in answer.stdout + answer.stderr
