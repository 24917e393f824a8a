# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of a vNIC, hop by hop, from its VM to the tunnel; the first bad hop is the diagnosis."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from vif_driver.inspection.finding import Finding
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import guest, linux_bridge, neutron, ovn
from vif_driver.inspection.vnics import DUMMY, HYBRID, LINUX_BRIDGE, OVN, OVS, ExternalVnic

_PATHS = {
    OVN: ovn.hops,
    OVS: neutron.hops,
    HYBRID: neutron.hybrid_hops,
    LINUX_BRIDGE: linux_bridge.hops,
    DUMMY: linux_bridge.dummy_hops,
}


async def trace(
    vnic: ExternalVnic, sight: Sight, *, with_vm: bool = True
) -> AsyncGenerator[Finding, None]:
    """Look at one hop after the other.

    Args:
        vnic: whose path.
        sight: what to look with.
        with_vm: begin with the VM, as libvirt has it.
    """
    if with_vm:
        for hop in guest.hops(vnic):
            yield hop
    async for hop in _PATHS[vnic.attachment](vnic, sight):
        yield hop


async def first_bad(vnic: ExternalVnic, sight: Sight) -> Finding | None:
    """Give the first bad hop of a vNIC's path, and look no further; None if none is bad."""
    hops = trace(vnic, sight)
    try:
        async for hop in hops:
            if hop.is_bad:
                return hop
    finally:
        await hops.aclose()
    return None
