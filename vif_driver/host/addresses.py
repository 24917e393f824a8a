# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses, names and routes of hosts; what the kernel knows, over netlink, without privilege."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from pyroute2 import IPRoute

    from vif_driver.host.links import Links

# Secondary (for IPv6: temporary), failed, deprecated, tentative (linux/if_addr.h).
_PASSING = 0x01 | 0x08 | 0x20 | 0x40

# RFC 1123, 2.1; an underscore is no host name, and in use.
_NAME = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(?:\.(?!-)[\w-]{1,63}(?<!-))*", re.ASCII)

Ip = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


@dataclasses.dataclass(frozen=True)
class Route:
    """The way to an address.

    Attributes:
        device: the name of the device that leads there.
        mtu: the largest packet, in bytes: the route's own limit, or else the device's.
    """

    device: str
    mtu: int


def is_host_name(text: str) -> bool:
    """Tell whether a host can be called so in DNS."""
    return len(text) <= 253 and _NAME.fullmatch(text) is not None


def place(host: str, port: int) -> str:
    """Give a host's name or address with a port, an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def devices_of(links: Links) -> dict[Ip, str]:
    """Give every address of this host, and the name of the device that has it.

    Raises:
        HostError: the kernel did not answer.
    """

    def ask(netlink: IPRoute) -> dict[Ip, str]:
        names = {message["index"]: _name(message) for message in netlink.get_links()}
        found: dict[Ip, str] = {}
        for message in netlink.get_addr():
            # On a point-to-point device IFA_ADDRESS is the other end's.
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text:
                found[ipaddress.ip_address(text)] = names.get(message["index"], "?")
        return found

    return await links.ask("list the addresses", ask)


async def lasting(links: Links, device: str) -> list[Ip]:
    """Give the addresses of a device that others can reach it by, in the kernel's order.

    Not those that are valid on its link or this host alone, that are about to go or not yet
    checked, and not secondary ones: a network has its own address first.

    Raises:
        HostError: the kernel did not answer.
    """

    def ask(netlink: IPRoute) -> list[Ip]:
        indices = [m["index"] for m in netlink.get_links() if _name(m) == device]
        found = []
        for message in netlink.get_addr():
            # The 8 bits of the header are all that was there before the kernel's 3.14.
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            if message["index"] in indices and message["scope"] == 0 and not flags & _PASSING:
                text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                found.append(ipaddress.ip_address(text))
        return found

    return await links.ask(f"list the addresses of {device}", ask)


async def route(links: Links, destination: Ip) -> Route:
    """Look up the way to an address.

    Raises:
        HostError: there is none, or the kernel did not answer.
    """
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6

    def ask(netlink: IPRoute) -> Route:
        message = next(iter(netlink.route("get", dst=str(destination), family=family)))
        link = netlink.get_links(message.get_attr("RTA_OIF"))[0]
        metrics = message.get_attr("RTA_METRICS")
        own = None if metrics is None else metrics.get_attr("RTAX_MTU")
        return Route(device=_name(link), mtu=own or link.get_attr("IFLA_MTU"))

    return await links.ask(f"find a route to {destination}", ask)


def _name(message: Any) -> str:
    name: str = message.get_attr("IFLA_IFNAME")
    return name
