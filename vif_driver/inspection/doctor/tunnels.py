# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of what fits into this host's tunnels."""

from __future__ import annotations

from vif_driver.inspection import tunnels
from vif_driver.inspection.doctor.open_vswitch import is_installed
from vif_driver.inspection.doctor.vnics import vnics_of
from vif_driver.inspection.finding import Finding, ok
from vif_driver.inspection.sight import Sight


async def mtu(sight: Sight) -> list[Finding]:
    """Look whether the largest packet of any vNIC here fits into every tunnel."""
    name = "mtu"
    if not is_installed():
        return [ok(name, "no tunnel of Open vSwitch's, which is not installed")]
    present = tunnels.ports(sight.ovsdb.ports())
    if not present:
        return [ok(name, "this host has no tunnel")]
    taps = {vnic.guest_tap for vnic in await vnics_of(sight) if vnic.port is not None}
    sizes = [link.mtu for link in await sight.links() if link.name in taps]
    if not sizes:
        return [ok(name, "no vNIC on this host uses its tunnels")]
    return await tunnels.check_mtu(name, present, max(sizes), sight)
