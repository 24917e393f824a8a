# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of a vNIC of OVN's, from its tap to the tunnels."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from vif_driver.errors import VifError
from vif_driver.host.southbound import Binding
from vif_driver.inspection import tunnels
from vif_driver.inspection.finding import Finding, bad, of_error, ok, unknown
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import guest, open_vswitch
from vif_driver.inspection.vnics import ExternalVnic
from vif_driver.tunnels import words

_CONTROLLER_LOG = "see /var/log/ovn/ovn-controller.log"


async def hops(vnic: ExternalVnic, sight: Sight) -> AsyncGenerator[Finding, None]:
    """Look at one hop after the other."""
    yield await guest.tap(vnic, sight)
    yield open_vswitch.integration_bridge(sight, secure=True)
    yield open_vswitch.port(vnic, sight)
    yield await controller(sight)
    try:
        binding = await sight.binding(vnic.id)
    except VifError as error:
        yield of_error("logical port", error)
        yield _flows(vnic, sight)
    else:
        if binding is None:
            yield bad(
                "logical port",
                f"the southbound database has no logical port {vnic.id}",
                "check the port at the provider; if it is gone, remove the vNIC in the engine and "
                "add it again",
            )
            return
        yield ok("logical port", f"{vnic.id} in the southbound database")
        yield _chassis(binding, sight)
        yield _flows(vnic, sight)
        for network in binding.localnets:
            yield _localnet(network, sight)
    for hop in await _tunnels(vnic, sight):
        yield hop


async def controller(sight: Sight) -> Finding:
    """Look at ovn-controller."""
    name = "ovn-controller"
    try:
        remote = sight.ovn_setting("ovn-remote") or "any southbound database"
    except VifError:
        remote = "the southbound database"
    try:
        running = await sight.controller()
        if running is None:
            return bad(
                name,
                "ovn-controller does not run on this host",
                "systemctl start ovn-controller",
            )
        if not await sight.controller_connected():
            return bad(
                name,
                f"ovn-controller is not connected to {remote}",
                "check ovn-remote, the network to it and the certificates: vifctl doctor",
            )
    except VifError as error:
        return of_error(name, error)
    return ok(name, f"runs, connected to {remote}")


def _chassis(binding: Binding, sight: Sight) -> Finding:
    name = "chassis"
    try:
        own, hostname = sight.chassis_name, sight.hostname
    except VifError as error:
        return of_error(name, error)
    # OVN takes either in requested-chassis (ovn-nb(5)).
    may_be_here = [asked for asked in binding.requested if asked in (own, hostname)]
    if binding.requested and not may_be_here:
        return bad(
            name,
            f"requested-chassis of the logical port is {','.join(binding.requested)}, this host "
            f"is {own}",
            "start or migrate the VM there, or have the provider drop it: ovn-nbctl remove "
            f"Logical_Switch_Port {binding.logical_port} options requested-chassis",
        )
    if binding.chassis is None:
        return bad(
            name,
            "no host has claimed the logical port",
            f"{_CONTROLLER_LOG} of this host for 'Claiming lport' and what follows",
        )
    if binding.chassis != own:
        if binding.requested and binding.requested[0] not in (own, hostname):
            return ok(name, f"bound to {binding.chassis}; {own} is the one it may migrate to")
        return bad(
            name,
            f"the logical port is bound to {binding.chassis}, this host is {own}",
            f"see whether {binding.chassis} has a vNIC of that id, too: vifctl list there",
        )
    return ok(name, f"bound to {own}" + (", requested" if binding.requested else ""))


def _flows(vnic: ExternalVnic, sight: Sight) -> Finding:
    name = "flows"
    try:
        row = sight.ovsdb.port(vnic.guest_tap)
    except VifError as error:
        return of_error(name, error)
    if row is None or row.external_ids.get("ovn-installed") != "true":
        return bad(
            name,
            f"ovn-controller has not installed the flows of {vnic.guest_tap}",
            f"{_CONTROLLER_LOG}; it may be busy: ovn-appctl -t ovn-controller stopwatch/show",
        )
    return ok(name, "installed (ovn-installed)")


def _localnet(network: str, sight: Sight) -> Finding:
    name = "localnet"
    try:
        mappings = dict(
            pair.partition(":")[::2] for pair in words(sight.ovn_setting("ovn-bridge-mappings"))
        )
        bridge = mappings.get(network)
        if bridge is None:
            return bad(
                name,
                f"the network leads to the physical network {network}, for which "
                "ovn-bridge-mappings has no bridge",
                f"ovs-vsctl set Open_vSwitch . external_ids:ovn-bridge-mappings={network}:BRIDGE",
            )
        if not sight.ovsdb.has_bridge(bridge):
            return bad(
                name,
                f"ovn-bridge-mappings maps {network} to {bridge}, which does not exist",
                f"ovs-vsctl add-br {bridge}, and add the device that leads out to it",
            )
    except VifError as error:
        return of_error(name, error)
    return ok(name, f"{network} by way of {bridge}")


async def _tunnels(vnic: ExternalVnic, sight: Sight) -> list[Finding]:
    name = "tunnel"
    try:
        addresses = words(sight.ovn_setting("ovn-encap-ip"))
        present = tunnels.ports(sight.ovsdb.ports(sight.config.integration_bridge))
        tap = await sight.link(vnic.guest_tap)
    except VifError as error:
        return [of_error(name, error)]
    if not addresses:
        return [bad(name, "ovn-encap-ip is not set", "run vdsm-tool ovn-config")]
    ends = await tunnels.check_ends(name, addresses, "ovn-encap-ip", sight)
    if any(end.is_bad for end in ends):
        return ends
    if not present:
        return [*ends, await _without_tunnels(name, sight)]
    if tap is None:
        return ends
    return [*ends, *await tunnels.check_mtu("mtu", present, tap.mtu, sight)]


async def _without_tunnels(name: str, sight: Sight) -> Finding:
    try:
        own = sight.chassis_name
        others = [one.name for one in await sight.chassis() if one.name != own and one.encaps]
    except VifError as error:
        return unknown(name, f"there is none yet, and {error.what}", error.remedy)
    if not others:
        return ok(name, "none, as this host is the only one")
    return bad(
        name,
        f"there is no tunnel to any of the {len(others)} other hosts",
        f"{_CONTROLLER_LOG}; hosts of another ovn-transport-zones have none to each other",
    )
