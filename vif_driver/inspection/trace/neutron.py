# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of a vNIC of Neutron's Open vSwitch agent, direct or by way of a Linux bridge."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from vif_driver.errors import VifError
from vif_driver.host import kernel
from vif_driver.host.ovsdb import Port
from vif_driver.inspection import tunnels
from vif_driver.inspection.finding import PLUG_AGAIN, Finding, bad, of_error, ok
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import guest, open_vswitch
from vif_driver.inspection.vnics import ExternalVnic
from vif_driver.interface_xml import DEAD_VLAN
from vif_driver.tunnels import TYPES

AGENT = "neutron-openvswitch-agent"

_AGENT_LOG = "see /var/log/neutron/openvswitch-agent.log"


async def hops(vnic: ExternalVnic, sight: Sight) -> AsyncGenerator[Finding, None]:
    """Look at one hop after the other, of a tap that is itself the port."""
    yield await guest.tap(vnic, sight)
    async for hop in _from_the_port_on(vnic, sight):
        yield hop


async def hybrid_hops(vnic: ExternalVnic, sight: Sight) -> AsyncGenerator[Finding, None]:
    """Look at one hop after the other, of a tap on a Linux bridge of its own."""
    bridge, near, far = vnic.identity.bridge, vnic.identity.bridge_end, vnic.identity.switch_end
    yield await guest.device("private bridge", bridge, sight, None, PLUG_AGAIN)
    yield await guest.tap(vnic, sight, bridge)
    yield await guest.device("bridge end", near, sight, bridge, PLUG_AGAIN)
    yield await guest.device("switch end", far, sight, None, PLUG_AGAIN)
    yield security_groups(bridge)
    async for hop in _from_the_port_on(vnic, sight):
        yield hop


async def agent(sight: Sight, program: str, kind: str) -> Finding:
    """Look for an agent of Neutron's.

    Args:
        sight: what to look with.
        program: its name, which is its service's, too.
        kind: what it is for, as in "Neutron's ... agent".
    """
    name = "neutron agent"
    try:
        process = await sight.process(program)
    except VifError as error:
        return of_error(name, error)
    if process is None:
        return bad(
            name,
            f"Neutron's {kind} agent does not run on this host",
            f"systemctl start {program}",
        )
    return ok(name, f"{program} runs, process {process}")


def security_groups(bridge: str) -> Finding:
    """Look whether iptables, and so the security groups, see what crosses a vNIC's bridge."""
    name = "bridge netfilter"
    if not kernel.has_bridge_netfilter():
        return bad(
            name,
            "the kernel does not pass bridged frames through iptables: security groups are off",
            "load the module: modprobe br_netfilter",
        )
    if not kernel.filters_bridge(bridge):
        return bad(
            name,
            f"the frames on {bridge} do not pass through iptables: security groups are off",
            f"ip link set {bridge} type bridge nf_call_iptables 1 nf_call_ip6tables 1",
        )
    return ok(name, f"iptables sees the frames on {bridge}")


async def _from_the_port_on(vnic: ExternalVnic, sight: Sight) -> AsyncGenerator[Finding, None]:
    yield open_vswitch.integration_bridge(sight, secure=False)
    yield open_vswitch.port(vnic, sight)
    yield await agent(sight, AGENT, "Open vSwitch")
    yield _vlan(vnic, sight)
    for hop in await _uplink(vnic, sight):
        yield hop


def _vlan(vnic: ExternalVnic, sight: Sight) -> Finding:
    name = "vlan"
    try:
        row = sight.ovsdb.port(vnic.port or vnic.guest_tap)
    except VifError as error:
        return of_error(name, error)
    if row is None or row.tag is None:
        return bad(
            name,
            f"Neutron's Open vSwitch agent has not wired the port {vnic.port} to its network",
            f"{_AGENT_LOG}, and check at Neutron that the port {vnic.id} exists and is bound to "
            "this host",
        )
    if row.tag == DEAD_VLAN:
        return bad(
            name,
            f"Neutron's Open vSwitch agent has put the port {vnic.port} into the dead VLAN",
            f"check at Neutron whether the port {vnic.id} is set down or its binding failed: "
            f"openstack port show {vnic.id}",
        )
    return ok(name, f"{row.tag} on {row.bridge}")


async def _uplink(vnic: ExternalVnic, sight: Sight) -> list[Finding]:
    """Look at what joins the integration bridge to the world outside."""
    name = "uplink"
    try:
        all_ports = sight.ovsdb.ports()
        tap = await sight.link(vnic.guest_tap)
    except VifError as error:
        return [of_error(name, error)]
    row = next((port for port in all_ports if port.name == vnic.port), None)
    # The agent notes the network with the port.
    network = {} if row is None else row.other_config
    kind = network.get("network_type")
    joined = _joined(all_ports, sight.config.integration_bridge)
    if kind == "local":
        return [ok(name, "none, as the network is this host's alone")]
    if not joined:
        return [
            bad(
                name,
                f"{sight.config.integration_bridge} is joined to no other bridge",
                "restart Neutron's agent, which joins them: systemctl restart " + AGENT,
            )
        ]
    there = [port for port in all_ports if port.bridge in joined]
    if kind in ("flat", "vlan"):
        return [_physical(name, network.get("physical_network", "?"), there)]
    present = tunnels.ports(there)
    if not present:
        if kind in TYPES:
            return [ok(name, f"{', '.join(joined)}, without a tunnel: no other host has one")]
        return [_physical(name, "?", there)]
    own = sorted({port.options.get("local_ip", "") for port in present} - {""})
    ends = await tunnels.check_ends("tunnel", own, "local_ip", sight)
    if tap is None or any(end.is_bad for end in ends):
        return ends
    return [*ends, *await tunnels.check_mtu("mtu", present, tap.mtu, sight)]


def _joined(all_ports: list[Port], bridge: str) -> list[str]:
    """Give the bridges that are joined to a bridge: by patch ports, or by Neutron's veth pairs."""
    by_name = {port.name: port for port in all_ports}
    found = set()
    for port in (port for port in all_ports if port.bridge == bridge):
        if port.type == "patch":
            other = by_name.get(port.options.get("peer", ""))
        else:
            other = by_name.get("phy-" + port.name[4:]) if port.name.startswith("int-") else None
        if other is not None and other.bridge != bridge:
            found.add(other.bridge)
    return sorted(found)


def _physical(name: str, network: str, there: list[Port]) -> Finding:
    """Look for a device that leads out of the bridges of physical networks."""
    devices = [
        port
        for port in there
        if port.type in ("", "system") and not port.name.startswith("phy-") and _leads_out(port)
    ]
    bridges = ", ".join(sorted({port.bridge for port in there}))
    if not devices:
        return bad(
            name,
            f"no device leads out of {bridges} (physical network {network})",
            "add the network card: ovs-vsctl add-port BRIDGE DEVICE",
        )
    broken = next((port for port in devices if (port.ofport or -1) < 1), None)
    if broken is not None and len(devices) == 1:
        return bad(
            name,
            f"Open vSwitch cannot open {broken.name} of {broken.bridge} ({broken.error or '?'})",
            "check the device: ip link show " + broken.name,
        )
    return ok(name, f"{', '.join(port.name for port in devices)} of {bridges}")


def _leads_out(port: Port) -> bool:
    # The bridge's own device is of type internal, or has no type and the bridge's name.
    return port.name != port.bridge and Path("/sys/class/net", port.name).exists()
