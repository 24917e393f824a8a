# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of Open vSwitch."""

from __future__ import annotations

from vif_driver.host.ovsdb_socket import SCHEMA
from vif_driver.inspection.doctor import floors
from vif_driver.inspection.finding import Finding, bad, ok
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import linux_bridge, neutron
from vif_driver.inspection.trace.open_vswitch import integration_bridge

_NOT_INSTALLED = "Open vSwitch is not installed on this host"


def is_installed() -> bool:
    """Tell whether this host has Open vSwitch; one of Neutron's Linux bridge agent needs none."""
    return SCHEMA.exists()


async def uses_ovn(sight: Sight) -> bool:
    """Tell whether this host is meant to be one of OVN's.

    Raises:
        Unavailable: Open vSwitch's database, which has the settings, is not to be asked.
    """
    if not is_installed():
        return False
    settings = sight.settings
    if any(key.startswith(("ovn-remote", "ovn-encap")) for key in settings):
        return True
    return await sight.controller() is not None


async def database(sight: Sight) -> list[Finding]:
    """Look whether Open vSwitch's database answers."""
    name = "open vswitch"
    if not is_installed():
        return [ok(name, _NOT_INSTALLED)]
    ports = sight.ovsdb.ports()
    return [ok(name, f"its database answers, {len(ports)} ports")]


async def daemon(sight: Sight) -> list[Finding]:
    """Look whether ovs-vswitchd runs."""
    name = "ovs-vswitchd"
    if not is_installed():
        return [ok(name, _NOT_INSTALLED)]
    process = await sight.process(name)
    if process is None:
        return [bad(name, "ovs-vswitchd does not run", "systemctl start openvswitch")]
    return [ok(name, f"runs, process {process}")]


async def bridge(sight: Sight) -> list[Finding]:
    """Look whether the integration bridge is there, and forwards nothing of its own accord."""
    name = "integration bridge"
    if not is_installed():
        return [ok(name, _NOT_INSTALLED)]
    wanted = sight.config.integration_bridge
    ovn = await uses_ovn(sight)
    if (
        not sight.ovsdb.has_bridge(wanted)
        and not ovn
        and await sight.process(neutron.AGENT) is None
        and await sight.process(linux_bridge.AGENT) is not None
    ):
        return [ok(name, f"{wanted} is not there, and Neutron's Linux bridge agent needs none")]
    findings = [integration_bridge(sight, secure=ovn)]
    theirs = sight.ovn_setting("ovn-bridge") or "br-int"
    if ovn and theirs != wanted:
        findings.append(
            bad(
                name,
                f"ovn-controller uses {theirs}, and vif-driver.conf says {wanted}",
                f"set [host] integration_bridge = {theirs}",
            )
        )
    return findings


async def version(sight: Sight) -> list[Finding]:
    """Compare Open vSwitch's version with what is known of earlier ones."""
    if not is_installed():
        return [ok("versions", _NOT_INSTALLED)]
    return [floors.compare("Open vSwitch", sight.ovsdb.version(), floors.OPEN_VSWITCH)]
