# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether OVN knows this host, as it is configured; and if not, why not."""

from __future__ import annotations

import asyncio
import time

from vif_driver.configuration.ovn import Wanted
from vif_driver.errors import HostError, Unavailable, VifError
from vif_driver.host import ovn_controller
from vif_driver.host.addresses import Ip
from vif_driver.host.southbound import Chassis, Southbound

# Seconds between two looks.
_PAUSE = 0.3

_LOG = "see ovn-controller.log"


async def refuse_taken(wanted: Wanted, tunnel: Ip, name: str, hostname: str | None) -> None:
    """See that no other host has a name already; two that share one take it from each other.

    Args:
        wanted: what the host is like.
        tunnel: its address for tunnels.
        name: its chassis' name.
        hostname: what this host says it is called; None if it doesn't.

    Raises:
        HostError: one has.
    """
    try:
        known = await Southbound(wanted.remote, wanted.credentials).chassis()
    except VifError:
        return  # whether it answers at all is waited for later
    for other in known:
        if other.name == name and not _is_earlier_self(other, tunnel, hostname):
            raise HostError(
                f"OVN has another host called {name} already ({other.hostname})",
                "give this host's own name; if the other one is gone: "
                f"ovn-sbctl chassis-del {name}, where OVN's databases are",
            )


def _is_earlier_self(other: Chassis, tunnel: Ip, hostname: str | None) -> bool:
    # A host that is installed anew may be called otherwise, or have got another address.
    is_here = any(end.ip == str(tunnel) for end in other.encaps)
    return is_here or hostname is None or _label(other.hostname) == _label(hostname)


def _label(hostname: str) -> str:
    return hostname.partition(".")[0].lower()


async def wait(wanted: Wanted, tunnel: Ip, name: str, timeout: float) -> None:
    """Wait until ovn-controller has connected and registered this host.

    Its own word alone would not do: it may still be that of the connection that it is about to
    give up.  So the kernel is asked where its connections lead, and the southbound database,
    which is reached as ovn-controller is to reach it, whether it has this host.

    Args:
        wanted: what the host is like.
        tunnel: its address for tunnels.
        name: its chassis' name.
        timeout: seconds.

    Raises:
        HostError: it has not within that time; the likely reason is said.
    """
    deadline = time.monotonic() + timeout
    while True:
        trouble = await _trouble(wanted, tunnel, name)
        if trouble is None:
            return
        if time.monotonic() > deadline:
            raise HostError(
                f"ovn-controller did not register this host within {timeout:g} s: {trouble.what}",
                trouble.remedy,
            )
        await asyncio.sleep(_PAUSE)


async def _trouble(wanted: Wanted, tunnel: Ip, name: str) -> VifError | None:
    """Tell what is missing; None if nothing is."""
    try:
        southbound = Southbound(wanted.remote, wanted.credentials)
        known = await southbound.chassis()
    except VifError as error:
        return error
    controller = ovn_controller.find()
    if controller is None:
        return HostError("ovn-controller does not run", _LOG)
    try:
        is_connected = await controller.connected()
    except Unavailable:
        is_connected = True  # its control socket is elsewhere: the rest has to do
    except VifError as error:
        return error
    if not is_connected or ovn_controller.seems_connected(wanted.remote) is False:
        return HostError(
            f"the southbound database answers on {wanted.remote}, but ovn-controller is not "
            "connected to it",
            f"{_LOG}; its user must be able to read the key and the certificates",
        )
    return unregistered(known, wanted, tunnel, name)


def unregistered(known: list[Chassis], wanted: Wanted, tunnel: Ip, name: str) -> VifError | None:
    """Tell what is missing in the southbound database; None if nothing is.

    Args:
        known: all that it has.
        wanted: what this host is like.
        tunnel: its address for tunnels.
        name: its chassis' name.
    """
    ends = wanted.ends(tunnel)
    if any(one.name == name and ends <= set(one.encaps) for one in known):
        return None
    for other in known:
        if other.name != name and ends & set(other.encaps):
            return HostError(
                f"{tunnel} is the tunnels' end of chassis {other.name} ({other.hostname}) already",
                f"if that is an earlier self of this host: ovn-sbctl chassis-del {other.name}, "
                "where OVN's databases are",
            )
    kinds = " and ".join(wanted.encaps)
    return HostError(
        f"the southbound database does not have chassis {name} with {kinds} on {tunnel} so far",
        _LOG,
    )
