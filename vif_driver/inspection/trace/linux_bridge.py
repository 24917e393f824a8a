# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of a vNIC of Neutron's Linux bridge agent."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from vif_driver.attachments.linux_bridge import NEUTRON_BRIDGE_PREFIX
from vif_driver.errors import VifError
from vif_driver.host import neutron_agent
from vif_driver.host.links import Link
from vif_driver.inspection.finding import PLUG_AGAIN, Finding, bad, of_error, ok, warning
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import guest, neutron
from vif_driver.inspection.vnics import ExternalVnic

AGENT = "neutron-linuxbridge-agent"

# Kinds of device (IFLA_INFO_KIND) that lead to a guest or to another bridge, not out.
_INWARD = ("tun", "veth", "bridge")


async def hops(vnic: ExternalVnic, sight: Sight) -> AsyncGenerator[Finding, None]:
    """Look at one hop after the other."""
    identity = vnic.identity
    yield await guest.device("private bridge", identity.bridge, sight, None, PLUG_AGAIN)
    yield await guest.tap(vnic, sight, identity.bridge)
    near = identity.bridge_end
    yield await guest.device("bridge end", near, sight, identity.bridge, PLUG_AGAIN)
    async for hop in _from_the_agents_device_on(identity.tap, sight):
        yield hop


async def dummy_hops(vnic: ExternalVnic, sight: Sight) -> AsyncGenerator[Finding, None]:
    """Look at one hop after the other, of a tap that the agent takes itself."""
    async for hop in _from_the_agents_device_on(vnic.guest_tap, sight):
        yield hop


async def _from_the_agents_device_on(device: str, sight: Sight) -> AsyncGenerator[Finding, None]:
    yield await neutron.agent(sight, AGENT, "Linux bridge")
    name = "network bridge"
    try:
        links = await sight.links()
    except VifError as error:
        yield of_error(name, error)
        return
    by_name, by_index = {link.name: link for link in links}, {link.index: link for link in links}
    taken = by_name.get(device)
    if taken is None:
        yield bad("agent's device", f"there is no device {device}", PLUG_AGAIN)
        return
    bridge = by_index.get(taken.master or 0)
    if bridge is None or not _is_neutrons(bridge.name):
        where = "no bridge" if bridge is None else f"{bridge.name}, which is not the agent's"
        yield bad(
            name,
            f"Neutron's Linux bridge agent has not put {device} on its network's bridge: it is on "
            f"{where}",
            "see /var/log/neutron/linuxbridge-agent.log, and check at Neutron that the port is "
            "bound to this host",
        )
        return
    for link in (taken, bridge):
        if not link.up:
            yield bad(
                name,
                f"the device {link.name} is down",
                f"set it up: ip link set {link.name} up; if the port is set down at Neutron, "
                "set it up there",
            )
            return
    yield ok(name, f"{device} on {bridge.name}, up")
    yield _uplink(bridge, links)


def _is_neutrons(bridge: str) -> bool:
    return bridge.startswith(NEUTRON_BRIDGE_PREFIX) or bridge in neutron_agent.linux_bridges()


def _uplink(bridge: Link, links: list[Link]) -> Finding:
    name = "uplink"
    outward = [
        link
        for link in links
        if link.master == bridge.index
        # A VLAN of a network card, a VXLAN, or the card itself; a veth only where the mapped
        # bridge was joined to something by hand.
        and (link.kind not in _INWARD or not link.name.startswith(("tap", "qvb", "vnet")))
        and link.kind != "tun"
    ]
    if not outward:
        # A network of type "local" has none, which is not for this host to know.
        return warning(
            name,
            f"no port of {bridge.name} leads out of this host",
            "if the network is to: see /var/log/neutron/linuxbridge-agent.log; check local_ip, or "
            "physical_interface_mappings, of the agent's configuration",
        )
    working = [link.name for link in outward if link.up]
    if not working:
        return bad(
            name,
            f"{outward[0].name}, which leads out of {bridge.name}, is down",
            f"set it up: ip link set {outward[0].name} up",
        )
    return ok(name, f"{', '.join(working)} of {bridge.name}")
