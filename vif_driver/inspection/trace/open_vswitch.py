# SPDX-License-Identifier: GPL-2.0-or-later
"""The hops on the integration bridge that OVN and Neutron have in common."""

from __future__ import annotations

from vif_driver.errors import VifError
from vif_driver.host import kernel
from vif_driver.inspection.finding import PLUG_AGAIN, Finding, bad, of_error, ok
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.vnics import ExternalVnic


def integration_bridge(sight: Sight, *, secure: bool) -> Finding:
    """Look at the integration bridge.

    Args:
        sight: what to look with.
        secure: it must forward nothing without flows.
    """
    name, bridge = "integration bridge", sight.config.integration_bridge
    try:
        ovsdb = sight.ovsdb
        if not ovsdb.has_bridge(bridge):
            return bad(
                name,
                f"the integration bridge {bridge} does not exist",
                "start ovn-controller or Neutron's Open vSwitch agent, which make it, or correct "
                "integration_bridge in vif-driver.conf",
            )
        mode = ovsdb.fail_mode(bridge) or "standalone"
    except VifError as error:
        return of_error(name, error)
    if secure and mode != "secure":
        return bad(
            name,
            f"the integration bridge {bridge} is in mode {mode}: without flows it switches frames "
            "between all ports",
            f"ovs-vsctl set-fail-mode {bridge} secure",
        )
    return ok(name, f"{bridge}, {mode}")


def port(vnic: ExternalVnic, sight: Sight) -> Finding:
    """Look at the vNIC's port in Open vSwitch."""
    name, bridge = "port", sight.config.integration_bridge
    wanted = vnic.port or vnic.guest_tap
    try:
        row = sight.ovsdb.port(wanted)
    except VifError as error:
        return of_error(name, error)
    if row is None:
        return bad(name, f"Open vSwitch has no port {wanted}", PLUG_AGAIN)
    if row.bridge != bridge:
        return bad(name, f"the port {wanted} is on {row.bridge}, not on {bridge}", PLUG_AGAIN)
    if row.external_ids.get("iface-id") != vnic.id:
        return bad(
            name,
            f"the port {wanted} has the iface-id {row.external_ids.get('iface-id')}, "
            f"the vNIC is {vnic.id}",
            PLUG_AGAIN,
        )
    if row.ofport is None:
        return bad(
            name,
            f"ovs-vswitchd has not taken the port {wanted} up",
            "check that it runs: systemctl status ovs-vswitchd",
        )
    if row.ofport < 1 or row.error:
        why = row.error or "no reason given"
        return bad(name, f"Open vSwitch cannot open {wanted} ({why})", "see ovs-vswitchd.log")
    if row.ifindex not in (None, kernel.ifindex(wanted)) and kernel.has_device(wanted):
        return bad(
            name,
            f"Open vSwitch has an earlier device {wanted} open, not the one that is there now",
            "restart ovs-vswitchd: systemctl restart ovs-vswitchd",
        )
    attached = row.external_ids.get("attached-mac", "").lower()
    if vnic.mac is not None and attached != vnic.mac:
        return bad(
            name,
            f"the port {wanted} has the MAC address {attached or 'none'}, the VM's has {vnic.mac}",
            PLUG_AGAIN,
        )
    return ok(name, f"{wanted} on {bridge}, OpenFlow port {row.ofport}")
