# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of this host's part of OVN."""

from __future__ import annotations

from vif_driver.errors import VifError
from vif_driver.host.southbound import Chassis, parse_remotes
from vif_driver.inspection import tunnels
from vif_driver.inspection.doctor import floors
from vif_driver.inspection.doctor.open_vswitch import uses_ovn
from vif_driver.inspection.finding import Finding, bad, ok, unknown, warning
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import ovn as path
from vif_driver.tunnels import words

_NONE = "this host is none of OVN's"
_CONFIGURE = "run vdsm-tool ovn-config, or install the host anew in the engine"
_SET = "ovs-vsctl set Open_vSwitch . external_ids:"


async def identity(sight: Sight) -> list[Finding]:
    """Look whether this host has a name at OVN."""
    name = "chassis name"
    if not await uses_ovn(sight):
        return [ok(name, _NONE)]
    if not sight.chassis_name:
        return [bad(name, "system-id is not set", f"{_SET}system-id=NAME")]
    return [ok(name, sight.chassis_name)]


async def encapsulation(sight: Sight) -> list[Finding]:
    """Look at the kind of this host's tunnels, and where they begin."""
    name = "ovn-encap"
    if not await uses_ovn(sight):
        return [ok(name, _NONE)]
    kinds = words(sight.ovn_setting("ovn-encap-type"))
    addresses = words(sight.ovn_setting("ovn-encap-ip"))
    if not kinds:
        return [bad(name, "ovn-encap-type is not set", f"{_SET}ovn-encap-type=geneve")]
    strange = [kind for kind in kinds if kind not in ("geneve", "vxlan", "stt")]
    if strange:
        return [
            bad(
                name,
                f"ovn-encap-type has {strange[0]!r}, which OVN does not know",
                f"{_SET}ovn-encap-type=geneve",
            )
        ]
    if not addresses:
        return [bad(name, "ovn-encap-ip is not set", _CONFIGURE)]
    return await tunnels.check_ends(name, addresses, "ovn-encap-ip", sight)


async def remote(sight: Sight) -> list[Finding]:
    """Look whether the southbound database is set, and can be reached."""
    name = "ovn-remote"
    if not await uses_ovn(sight):
        return [ok(name, _NONE)]
    text = sight.ovn_setting("ovn-remote")
    if not text:
        return [bad(name, "ovn-remote is not set", _CONFIGURE)]
    members = parse_remotes(text)
    try:
        hosts = await sight.chassis()
    except VifError as error:
        # Here it is the very thing that is checked.
        return [bad(name, error.what, error.remedy)]
    what = "it answers" if len(members) == 1 else f"one of its {len(members)} members answers"
    return [ok(name, f"{text}: {what}, {len(hosts)} hosts")]


async def controller(sight: Sight) -> list[Finding]:
    """Look whether ovn-controller runs and is connected."""
    if not await uses_ovn(sight):
        return [ok("ovn-controller", _NONE)]
    return [await path.controller(sight)]


async def registration(sight: Sight) -> list[Finding]:
    """Look whether OVN knows this host, and takes no other one for it."""
    name = "southbound chassis"
    if not await uses_ovn(sight):
        return [ok(name, _NONE)]
    try:
        hosts = await sight.chassis()
    except VifError as error:
        return [unknown(name, error.what)]
    own = sight.chassis_name
    addresses = set(words(sight.ovn_setting("ovn-encap-ip")))
    # A second chassis cannot register an address that one has already: an index of the database.
    findings = [
        bad(
            name,
            f"the chassis {host.name} ({host.hostname}) has this host's tunnel address "
            f"{', '.join(sorted(_addresses(host) & addresses))}",
            f"if it is a former name of this host: ovn-sbctl chassis-del {host.name}",
        )
        for host in hosts
        if host.name != own and _addresses(host) & addresses
    ]
    mine = next((host for host in hosts if host.name == own), None)
    if mine is None:
        findings.append(
            bad(
                name,
                f"the southbound database has no chassis {own}",
                "start ovn-controller, which registers this host; see its log",
            )
        )
    elif mine.hostname != sight.hostname:
        findings.append(
            bad(
                name,
                f"the chassis {own} is registered by {mine.hostname}, and this host is "
                f"{sight.hostname}",
                "give each host a system-id of its own, and restart ovn-controller on both",
            )
        )
    elif not addresses <= _addresses(mine):
        findings.append(
            warning(
                name,
                f"the chassis {own} is registered with "
                f"{', '.join(sorted(_addresses(mine))) or 'no address'}, and ovn-encap-ip is "
                f"{', '.join(sorted(addresses))}",
                "restart ovn-controller; see whether another host has the same system-id",
            )
        )
    return findings or [ok(name, f"{own}, and no other has its address")]


def _addresses(host: Chassis) -> set[str]:
    return {encap.ip for encap in host.encaps}


async def version(sight: Sight) -> list[Finding]:
    """Compare OVN's version with what is known of earlier ones."""
    if not await uses_ovn(sight):
        return [ok("versions", _NONE)]
    running = await sight.controller()
    known = None if running is None else await running.version()
    return [floors.compare("OVN", known, floors.OVN)]
