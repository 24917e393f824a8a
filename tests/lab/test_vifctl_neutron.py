# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""vifctl on a hypervisor with Neutron's own agents."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.neutron import Neutron, NeutronNetwork
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.vifctl import bad, broken, vifctl
from tests.lab.with_neutron import lab, network, neutron  # noqa: F401

# The names of hops.
PRIVATE = ("vm", "link", "private bridge", "tap", "bridge end")
ON_INTEGRATION_BRIDGE = ("integration bridge", "port", "neutron agent", "vlan", "uplink")


@contextmanager
def running(
    host: Hypervisor, neutron: Neutron, network: NeutronNetwork, plugin: str = "OPEN_VSWITCH"
) -> Iterator[Vm]:
    """A VM with one vNIC that Neutron's agent has connected."""
    port = neutron.create_port(network, [])
    nic = replace(Nic.openstack(plugin, port.id, port.mac, mtu=network.mtu), filter=None)
    vm = Vm(f"vm-{uuid.uuid4().hex[:6]}", [nic], dhcp=False)
    Vdsm(host).create_vm(vm)
    try:
        wait_until(lambda: listed(host, vm)["ready"], 60, f"{nic.vnic_id} ready")
        yield vm
    finally:
        Vdsm(host).destroy_vm(vm)


def listed(host: Hypervisor, vm: Vm) -> dict[str, Any]:
    vnics: list[dict[str, Any]] = vifctl(host, "list").json["vnics"]
    return next(vnic for vnic in vnics if vnic["id"] == vm.nics[0].vnic_id)


def hops(host: Hypervisor, vm: Vm) -> dict[str, str]:
    answer = vifctl(host, "trace", vm.nics[0].vnic_id)
    return {hop["name"]: hop["state"] for hop in answer.json["hops"]}


def good(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "ok")


def diagnosis(host: Hypervisor, vm: Vm) -> tuple[str, str]:
    answer = vifctl(host, "trace", vm.nics[0].vnic_id)
    assert answer.status == 1
    return answer.json["diagnosis"]["name"], answer.json["diagnosis"]["detail"]


# ---- Linux bridge --------------------------------------------------------------------------------


def test_a_vnic_of_the_linux_bridge_agent(
    host: Hypervisor, product: Product, neutron: Neutron, network: NeutronNetwork
) -> None:
    neutron.use_agent("linux_bridge")
    with running(host, neutron, network, "LINUX_BRIDGE") as vm:
        vnic, path = listed(host, vm), hops(host, vm)
        as_nobody = vifctl(host, "list", user="nobody").json["vnics"]
        far = vm.nics[0].tap
        bridge = host.output(f"basename $(readlink /sys/class/net/{far}/master)")
        # The lab's networks are this host's alone: a cable stands in for a tunnel.
        host.ip("link add out0 type veth peer name out1", f"link set out0 master {bridge}")
        cut = diagnosis(host, vm)
        host.ip("link set out0 up")
        whole = vifctl(host, "trace", vm.nics[0].vnic_id)
        host.ip("link del out0", f"link set {far} nomaster")
        off = diagnosis(host, vm)
        host.ip(f"link set {far} master {bridge}")
        host.run(f"ip link set {far.replace('tap', 'qtp')} nomaster")
        without_tap = diagnosis(host, vm)

    short = vm.nics[0].vnic_id[:11]
    assert (vnic["attachment"], vnic["vm_id"], vnic["ready"]) == ("linux_bridge", vm.id, True)
    assert vnic["devices"] == [f"qtp{short}", f"qbr{short}", f"qvb{short}", f"tap{short}"]
    assert [(v["id"], v["ready"]) for v in as_nobody] == [(vm.nics[0].vnic_id, True)]
    assert path == {**good(*PRIVATE, "neutron agent", "network bridge"), "uplink": "warning"}
    assert off[0] == "network bridge" and "on no bridge" in off[1]
    assert cut == ("uplink", f"out0, which leads out of {bridge}, is down")
    assert (whole.status, whole.text("uplink")) == (0, f"out0 of {bridge}")
    assert without_tap[0] == "tap"


# ---- Open vSwitch, hybrid ------------------------------------------------------------------------


def test_a_hybrid_vnic(
    host: Hypervisor, product: Product, neutron: Neutron, network: NeutronNetwork
) -> None:
    neutron.use_agent("hybrid")
    with running(host, neutron, network) as vm:
        short = vm.nics[0].vnic_id[:11]
        vnic, path = listed(host, vm), hops(host, vm)
        doctor = vifctl(host, "doctor")
        host.run(
            f"ip link set qbr{short} type bridge nf_call_iptables 0"
            " && sysctl -qw net.bridge.bridge-nf-call-iptables=0"
        )
        unfiltered, found = diagnosis(host, vm), vifctl(host, "doctor")
        host.run(f"ip link set qbr{short} type bridge nf_call_iptables 1")
        host.ip(f"link set qvo{short} down")
        down = diagnosis(host, vm)
        host.ip(f"link set qvo{short} up")
        healed = vifctl(host, "trace", vm.nics[0].vnic_id)

    assert (vnic["attachment"], vnic["vm_id"], vnic["ready"]) == ("ovs_hybrid", vm.id, True)
    assert vnic["devices"] == [f"tap{short}", f"qbr{short}", f"qvb{short}", f"qvo{short}"]
    assert path == good(*PRIVATE, "switch end", "bridge netfilter", *ON_INTEGRATION_BRIDGE)
    assert (doctor.status, bad(doctor)) == (0, {})
    assert unfiltered[0] == "bridge netfilter"
    assert "security groups are off" in bad(found)["bridge netfilter"]
    assert down == ("switch end", f"the device qvo{short} is down")
    assert healed.status == 0


# ---- Open vSwitch, direct ------------------------------------------------------------------------


def test_a_direct_vnic_and_what_its_agent_can_do_to_it(
    host: Hypervisor, product: Product, neutron: Neutron, network: NeutronNetwork
) -> None:
    neutron.use_agent("direct")
    with running(host, neutron, network) as vm:
        tap = vm.nics[0].tap
        vnic, path = listed(host, vm), hops(host, vm)
        neutron.stop_agent()
        tag = host.ovs.port(tap)["tag"]
        host.vsctl("clear", "Port", tap, "tag")
        without_agent, late = diagnosis(host, vm), listed(host, vm)
        named_by_doctor = bad(vifctl(host, "doctor"))
        neutron.start_agent("direct")
        assert neutron.agent is not None
        neutron.agent.suspend()  # it would wire the port again
        with broken(neutron.agent.resume):
            host.vsctl("set", "Port", tap, "tag=4095")
            dead = diagnosis(host, vm)
            host.vsctl("set", "Port", tap, f"tag={tag}")

    assert (vnic["attachment"], vnic["tap"], vnic["ready"]) == ("ovs", tap, True)
    assert path == good("vm", "link", "tap", *ON_INTEGRATION_BRIDGE)
    assert without_agent == (
        "neutron agent",
        "Neutron's Open vSwitch agent does not run on this host",
    )
    assert late["wrong"]["remedy"] == "systemctl start neutron-openvswitch-agent"
    assert named_by_doctor["neutron agent"] == without_agent[1]
    assert dead[0] == "vlan" and "dead VLAN" in dead[1]


def test_an_integration_bridge_that_is_gone(
    host: Hypervisor, product: Product, neutron: Neutron
) -> None:
    neutron.stop_agent()
    host.vsctl("del-br", "br-int")
    gone, status = vifctl(host, "doctor"), vifctl(host, "status")
    host.ovs.add_bridge("br-int", "fail_mode=secure")

    assert "br-int does not exist" in bad(gone)["integration bridge"]
    assert status.status == 1
