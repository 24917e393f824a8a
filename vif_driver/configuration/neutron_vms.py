# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom it cuts off that one of Neutron's agents is told something else, or ends.

An agent that starts makes the host what its files say.  To what they no longer name, such as the
bridge of a physical network, it leads no vNIC any more, whichever VMs run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vif_driver import marks
from vif_driver.configuration import bridges, neutron
from vif_driver.configuration.neutron import LINUX_BRIDGE, OPEN_VSWITCH, Agent, Files
from vif_driver.configuration.neutron_past import Past
from vif_driver.errors import HostError
from vif_driver.host import neutron_agent, snapshot, switch
from vif_driver.tunnels import words

# Seconds for Open vSwitch's database.
_TIMEOUT = 10.0


class WaysOut(NamedTuple):
    """What the vNICs of an agent reach their networks by.

    Attributes:
        agent: which.
        bridge: where they are; None of the Linux bridge agent, which gives each network one.
        names: the ways, for people.
    """

    agent: Agent
    bridge: str | None
    names: tuple[str, ...]


def ways_out(agent: Agent, files: Files) -> WaysOut:
    """Say by what vNICs reach their networks if an agent has read these files."""
    if agent is OPEN_VSWITCH:
        bridge = files.get("ovs", "integration_bridge") or neutron.INTEGRATION_BRIDGE
        mappings = words(files.get("ovs", "bridge_mappings"))
        kinds, address = words(files.get("agent", "tunnel_types")), files.get("ovs", "local_ip")
        tunnels = _tunnels(kinds, address)
        return WaysOut(agent, bridge, (f"integration bridge {bridge}", *_named(mappings), *tunnels))
    mappings = words(files.get("linux_bridge", "physical_interface_mappings"))
    is_off = neutron_agent.is_false(files.get("vxlan", "enable_vxlan"))
    tunnels = _tunnels([] if is_off else ["vxlan"], files.get("vxlan", "local_ip"))
    return WaysOut(agent, None, (*_named(mappings), *tunnels))


def refuse_loss(before: WaysOut, after: WaysOut) -> None:
    """See that no VM loses a way out of those that an agent has had.

    Raises:
        HostError: one would.
    """
    lost = [name for name in before.names if name not in after.names]
    if not lost:
        return
    why = f"{before.agent.title} would no longer have {', '.join(lost)}"
    if before.bridge is None:
        _refuse_on_linux_bridges(why)
        return
    there = switch.read_once(_TIMEOUT)
    # The vNICs there are OVN's business, which an agent beside it has another bridge for.
    if not neutron.is_of_ovn(before.bridge, there):
        _refuse(bridges.users(before.bridge), before.bridge, why)


def refuse_restart(agent: Agent, files: Files) -> None:
    """See that an agent can be started anew without a VM's being cut off meanwhile.

    Raises:
        HostError: it can't.
    """
    cut = neutron.would_cut(files) if agent is OPEN_VSWITCH else None
    if cut is not None:
        raise HostError(
            f"{agent.title} has to be restarted, which would cut all VMs off ({cut})",
            f"set it to false in {files.folder / agent.file}, or say --force",
        )


def refuse_end(past: Past) -> None:
    """See that no VM uses what is stopped, or taken away, when a host is what it was.

    Raises:
        HostError: one does.
    """
    stopped = {service.unit for service in past.services if not service.active}
    if OPEN_VSWITCH.unit in stopped or past.bridges or past.uplinks:
        configured = neutron_agent.underlay().integration_bridge
        for name in {*past.bridges, configured or neutron.INTEGRATION_BRIDGE}:
            _refuse(bridges.users(name), name)
    if LINUX_BRIDGE.unit in stopped:
        _refuse_on_linux_bridges()


def _named(mappings: Iterable[str]) -> list[str]:
    # Blanks beside the colon mean nothing.
    return [":".join(part.strip() for part in mapping.split(":")) for mapping in mappings]


def _tunnels(kinds: Iterable[str], address: str) -> list[str]:
    return [f"{kind} tunnels from {address}" for kind in kinds if address]


def _refuse_on_linux_bridges(why: str | None = None) -> None:
    for device in snapshot.take().devices.values():
        # Ours is one end of a pair, the tap is behind it; with older drivers it is the tap itself.
        is_vms = device.kind == "tun" or device.group == marks.GROUP
        if is_vms and (device.master or "").startswith("brq"):
            _refuse(device.name, str(device.master), why)


def _refuse(user: str | None, bridge: str, why: str | None = None) -> None:
    if user is None:
        return
    what = f"{user} of a VM is on {bridge} and would be cut off"
    raise HostError(
        what if why is None else f"{what}: {why}",
        "migrate or stop the VMs with external networks first, or say --force",
    )
