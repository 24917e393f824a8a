# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the vNICs that are on this host."""

from __future__ import annotations

from collections import Counter

from vif_driver.host import kernel
from vif_driver.inspection.doctor.open_vswitch import is_installed
from vif_driver.inspection.finding import Finding, bad, ok, warning
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.vnics import GONE, ExternalVnic, find


async def vnics_of(sight: Sight) -> list[ExternalVnic]:
    """Give the vNICs of this host, as far as they can be seen."""
    vnics, _ = await sight.once("vnics", lambda: find(sight))
    return vnics


async def identities(sight: Sight) -> list[Finding]:
    """Look whether every vNIC has an id of its own, and is connected."""
    name = "vnics"
    vnics = await vnics_of(sight)
    counts = Counter(vnic.id for vnic in vnics)
    findings = []
    for vnic_id, count in sorted(counts.items()):
        if count > 1:
            taps = ", ".join(vnic.guest_tap for vnic in vnics if vnic.id == vnic_id)
            findings.append(
                bad(
                    name,
                    f"{count} vNICs have the id {vnic_id}: {taps}; OVN and Neutron connect one "
                    "of them",
                    "remove the one that no VM uses: ovs-vsctl del-port",
                )
            )
    late = [vnic for vnic in vnics if vnic.ready is False]
    if late:
        findings.append(
            bad(
                name,
                f"{len(late)} of {len(vnics)} vNICs are not ready",
                f"vifctl list, vifctl trace {late[0].guest_tap}",
            )
        )
    if findings:
        return findings
    unseen = sum(vnic.ready is None for vnic in vnics)
    return [ok(name, f"{len(vnics)} on this host, {len(vnics) - unseen} of them seen to be ready")]


async def rows(sight: Sight) -> list[Finding]:
    """Look for ports of vNICs whose device is gone."""
    name = "rows"
    if not is_installed():
        return [ok(name, "no Open vSwitch on this host")]
    sight.ovsdb.bridges()  # says so where they cannot be seen
    stale = [
        vnic.port
        for vnic in await vnics_of(sight)
        if vnic.port is not None
        and sight.ovsdb.port(vnic.port) is not None
        and not kernel.has_device(vnic.port)
        and vnic.vm_state in (GONE, None)
    ]
    if stale:
        return [
            warning(
                name,
                f"{len(stale)} ports of vNICs have no device: {', '.join(stale[:5])}",
                "remove those of VMs that do not run: ovs-vsctl del-port " + stale[0],
            )
        ]
    return [ok(name, "every port of a vNIC has its device")]
