# SPDX-License-Identifier: GPL-2.0-or-later
"""Where this host's tunnels begin, and what fits into them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from vif_driver.errors import VifError
from vif_driver.host.addresses import Ip
from vif_driver.host.ovsdb import Port
from vif_driver.inspection.finding import Finding, bad, of_error, ok, unknown
from vif_driver.inspection.sight import Sight
from vif_driver.tunnels import TYPES, overhead


def ports(all_ports: Iterable[Port]) -> list[Port]:
    """Give the tunnels among the ports of Open vSwitch."""
    return [port for port in all_ports if port.type in TYPES]


async def check_ends(name: str, texts: list[str], setting: str, sight: Sight) -> list[Finding]:
    """Look at the addresses at which this host's tunnels are to begin.

    Args:
        name: of the findings.
        texts: the addresses.
        setting: where they were written, for messages.
        sight: what to look with.
    """
    try:
        here = await sight.addresses()
    except VifError as error:
        return [of_error(name, error)]
    return [await _check_end(name, text, setting, here, sight) for text in texts]


async def _check_end(
    name: str, text: str, setting: str, here: dict[Ip, str], sight: Sight
) -> Finding:
    correct = f"correct {setting}: it is an address of this host's on the tunnel network"
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return bad(name, f"{setting} {text!r} is not an IP address", correct)
    if ip.is_loopback or ip.is_unspecified or ip.is_multicast:
        return bad(name, f"{setting} {ip} is no address that others can reach", correct)
    device = here.get(ip)
    if device is None:
        return bad(name, f"{setting} {ip} is no address of this host", correct)
    try:
        link = await sight.link(device)
    except VifError as error:
        return of_error(name, error)
    if link is None or not link.up:
        return bad(
            name,
            f"{device}, which has {setting} {ip}, is down",
            f"set it up: ip link set {device} up",
        )
    if not link.carrier:
        return bad(
            name,
            f"{device}, which has {setting} {ip}, has no carrier",
            "check its cable, switch port or bond",
        )
    return ok(name, f"{ip} on {device}, MTU {link.mtu}")


async def check_mtu(
    name: str, tunnels: Iterable[Port], vnic_mtu: int, sight: Sight
) -> list[Finding]:
    """Look whether a vNIC's largest packet fits into the tunnels.

    Args:
        name: of the findings.
        tunnels: the ports of Open vSwitch.
        vnic_mtu: bytes.
        sight: what to look with.
    """
    found: dict[str, Finding] = {}
    smallest: int | None = None
    for tunnel in tunnels:
        remote = tunnel.options.get("remote_ip", "flow")
        try:
            ip = ipaddress.ip_address(remote)
            route = await sight.route(remote)
        except ValueError:
            continue  # the flows say where to
        except VifError as error:
            found.setdefault(
                "", bad(name, f"there is no way to {remote} ({error.what})", "check the routes")
            )
            continue
        room = route.mtu - overhead(tunnel.type, ip.version)
        smallest = room if smallest is None else min(smallest, room)
        if room < vnic_mtu:
            found.setdefault(
                route.device,
                bad(
                    name,
                    f"a vNIC has an MTU of {vnic_mtu}, and {tunnel.type} to {remote} by way of "
                    f"{route.device} (MTU {route.mtu}) has room for {room}",
                    f"raise the MTU of {route.device} and of the network behind it to "
                    f"{vnic_mtu + route.mtu - room}, or lower that of the external network",
                ),
            )
    if found:
        return list(found.values())
    if smallest is None:
        return [unknown(name, "there is no tunnel to measure")]
    return [ok(name, f"tunnels have room for {smallest}, vNICs need {vnic_mtu}")]
