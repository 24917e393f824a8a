# SPDX-License-Identifier: GPL-2.0-or-later
"""The hops that every vNIC begins with: its VM, its link state and its tap."""

from __future__ import annotations

from collections.abc import Iterator

from vif_driver.errors import VifError
from vif_driver.inspection.finding import PLUG_AGAIN, Finding, bad, of_error, ok, unknown
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.vnics import GONE, ExternalVnic


def hops(vnic: ExternalVnic) -> Iterator[Finding]:
    """Judge what libvirt said of the VM."""
    yield _vm(vnic)
    if vnic.link_up is not None:
        yield _link(vnic)


async def tap(vnic: ExternalVnic, sight: Sight, bridge: str | None = None) -> Finding:
    """Look at the guest's tap.

    Args:
        vnic: whose.
        sight: what to look with.
        bridge: the Linux bridge that it belongs on, if it does on one.
    """
    return await device("tap", vnic.guest_tap, sight, bridge, PLUG_AGAIN)


async def device(
    name: str, device: str, sight: Sight, bridge: str | None, if_missing: str
) -> Finding:
    """Look at a device: that it is there, on its bridge, and up.

    Args:
        name: of the hop.
        device: of the device.
        sight: what to look with.
        bridge: the Linux bridge that it belongs on; None does not look.
        if_missing: what to do where it is missing.
    """
    try:
        link = await sight.link(device)
        master = await sight.link(bridge) if bridge is not None else None
    except VifError as error:
        return of_error(name, error)
    if link is None:
        return bad(name, f"there is no device {device}", if_missing)
    if bridge is not None and (master is None or link.master != master.index):
        return bad(
            name,
            f"the device {device} is not on the bridge {bridge}",
            f"put it there: ip link set {device} master {bridge}",
        )
    if not link.up:
        return bad(name, f"the device {device} is down", f"set it up: ip link set {device} up")
    where = "" if bridge is None else f"on {bridge}, "
    return ok(name, f"{device}, {where}up, MTU {link.mtu}")


def _vm(vnic: ExternalVnic) -> Finding:
    vm_id, port = vnic.identity.vm_id, vnic.port
    if vnic.vm_state is None:
        return unknown("vm", "libvirt did not say anything about the VM", "vifctl doctor")
    if vnic.vm_state == GONE:
        left = vnic.guest_tap if port is None else port
        remove = "" if port is None else f": ovs-vsctl del-port {left}"
        return bad(
            "vm",
            f"libvirt has no VM {vm_id} on this host: {left} is left over from one",
            f"remove it if the VM is not just being started{remove}",
        )
    name = f"{vnic.vm_name} ({vm_id})"
    if not vnic.has_interface:
        return bad(
            "vm",
            f"VM {name} has no interface {vnic.guest_tap}: it is left over from one",
            PLUG_AGAIN,
        )
    if vnic.vm_state not in ("running", "paused"):
        return bad("vm", f"VM {name} neither runs nor is paused", "see it in the engine")
    return ok("vm", f"{name}, {vnic.vm_state}")


def _link(vnic: ExternalVnic) -> Finding:
    if vnic.link_up:
        return ok("link", "up, by the VM's settings")
    return bad(
        "link",
        "the vNIC's link is set down in the VM's settings",
        "set its link state to Up in the engine",
    )
