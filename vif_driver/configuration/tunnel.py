# SPDX-License-Identifier: GPL-2.0-or-later
"""This host's address for tunnels: given as such, or as the VDSM network that has it."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from vif_driver.errors import ConfigError, HostError, one_line
from vif_driver.host import addresses, vdsm_config
from vif_driver.host.addresses import Ip
from vif_driver.host.links import Links
from vif_driver.host.vdsm_config import Entries
from vif_driver.protection.request import Network, parse_network

#: Where VDSM has written down its networks: as they are, and as they are to be at boot.
FOLDERS = (vdsm_config.FOLDER, Path("/var/lib/vdsm/persistence/netconf"))


def parse(text: str) -> Ip | str:
    """Read an address for tunnels, or the name of a network, whose existence is not looked at.

    Raises:
        ConfigError: no other host can send anything to that address.
    """
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return text
    # One with a zone, such as fe80::1%eth0, is link-local, too.
    if (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or address.is_link_local
    ):
        raise ConfigError(
            f"tunnels cannot end at {address}: no other host can reach it",
            "give an address of this host that others reach",
        )
    return address


async def find(tunnel: Ip | str, folders: Sequence[Path] = FOLDERS) -> Ip:
    """Find the address.

    Args:
        tunnel: the address, or the name of a network; of which its IPv4 address, or else its
            first IPv6 address is taken, as VDSM's capabilities would have it.
        folders: VDSM's.

    Raises:
        HostError: it is not this host's, or there is no such network, or it has none.
    """
    return await _with_links(lambda links: _find(links, tunnel, folders))


async def _find(links: Links, tunnel: Ip | str, folders: Sequence[Path]) -> Ip:
    if not isinstance(tunnel, str):
        if tunnel not in await addresses.devices_of(links):
            raise HostError(
                f"{tunnel} is no address of this host",
                "give one that it has (ip address), or the VDSM network that tunnels go through",
            )
        return tunnel
    network = _network(tunnel, folders)
    device = network.top or tunnel
    found = await addresses.lasting(links, device)
    for address in sorted(found, key=lambda one: one.version):  # which keeps their order
        return address
    raise HostError(
        f"VDSM's network {tunnel} has no address on {device}",
        "give it one in the engine (Setup Host Networks), or name another network",
    )


def _network(name: str, folders: Sequence[Path]) -> Network:
    known: set[str] = set()
    for folder in folders:
        networks = Entries("nets", parse_network, folder).all()
        if name in networks:
            return networks[name]
        known.update(networks)
    there = f"one of them ({', '.join(sorted(known))})" if known else "a network once VDSM has one"
    raise HostError(
        f"{one_line(name, 40)!r} is neither an IP address nor a network that VDSM has on this host",
        f"give {there}, or an address of this host",
    )


async def _with_links(work: Callable[[Links], Awaitable[Ip]]) -> Ip:
    links = Links()
    try:
        return await work(links)
    finally:
        await links.close()
