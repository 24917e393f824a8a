# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of Neutron's part of this host, and of what its security groups need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vif_driver.config import FirewallDriver
from vif_driver.host import accounts, iptables, kernel, neutron_agent, threads
from vif_driver.inspection.doctor.vnics import vnics_of
from vif_driver.inspection.finding import Finding, ok, unknown, warning
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import linux_bridge, neutron
from vif_driver.inspection.vnics import DUMMY, HYBRID, LINUX_BRIDGE, OVS

_FOLDER = Path("/etc/neutron")

# Whose vNICs each agent connects.
_AGENTS = (
    (neutron.AGENT, "Open vSwitch", (OVS, HYBRID)),
    (linux_bridge.AGENT, "Linux bridge", (LINUX_BRIDGE, DUMMY)),
)

# Seconds.
_TIMEOUT = 3.0

#: The user that the agent runs as where it isn't root.
AGENT_USER = "vif-agent"


async def agents(sight: Sight) -> list[Finding]:
    """Look whether the agents run whose vNICs are here."""
    name = "neutron agent"
    present = {vnic.attachment for vnic in await vnics_of(sight)}
    needed = [(agent, kind) for agent, kind, ways in _AGENTS if present.intersection(ways)]
    if not needed:
        return [ok(name, "no vNIC of Neutron's agents on this host")]
    return [await neutron.agent(sight, agent, kind) for agent, kind in needed]


async def configuration(sight: Sight) -> list[Finding]:
    """Look whether vif-agent may read what filters the ports of Neutron's agent."""
    name = "neutron configuration"
    driver = sight.config.firewall_driver
    if driver is not FirewallDriver.AUTO:
        return [ok(name, f"not needed: vif-driver.conf has firewall_driver = {driver.value}")]
    if shutil.which(neutron.AGENT) is None and await sight.process(neutron.AGENT) is None:
        return [ok(name, "Neutron's Open vSwitch agent is not installed")]
    if not os.access(_FOLDER, os.R_OK | os.X_OK):
        return [unknown(name, f"{_FOLDER} may not be read by this user", "run vifctl as root")]
    running = await sight.process("vif-agent")
    account = accounts.of_process(running) if running else accounts.named(AGENT_USER)
    files = [path for pattern in neutron_agent.CONFIG for path in sorted(_FOLDER.glob(pattern))]
    hidden = [path for path in files if account is not None and not account.may_read(path)]
    if hidden:
        return [
            warning(
                name,
                f"vif-agent may not read {hidden[0]}, so vNICs get a Linux bridge for "
                "iptables_hybrid whatever filters them",
                f"usermod -a -G neutron {AGENT_USER} and restart vif-agent, or set "
                "firewall_driver in vif-driver.conf",
            )
        ]
    if not all(os.access(path, os.R_OK) for path in files):
        return [ok(name, "vif-agent may read it")]
    configured = neutron_agent.firewall_driver(_FOLDER) or "not set, so iptables_hybrid"
    return [ok(name, f"vif-agent may read it: firewall_driver is {configured}")]


async def bridge_netfilter(sight: Sight) -> list[Finding]:
    """Look whether iptables sees the frames that it is to filter, and drops no others."""
    name = "bridge netfilter"
    vnics = await vnics_of(sight)
    bridges = [vnic.identity.bridge for vnic in vnics if vnic.attachment == HYBRID]
    findings = [neutron.security_groups(bridge) for bridge in bridges]
    if findings and not kernel.has_bridge_netfilter():
        return findings[:1]  # the same for all of them
    wrong = [finding for finding in findings if finding.is_bad]
    if any(vnic.attachment == LINUX_BRIDGE for vnic in vnics) and kernel.filters_all_bridges():
        policy = await threads.run(iptables.forward_policy, _TIMEOUT, "iptables")
        if policy != "ACCEPT":
            wrong.append(
                warning(
                    name,
                    f"frames on every bridge pass through iptables, whose chain FORWARD has the "
                    f"policy {policy}: it stops those of Linux bridge vNICs",
                    "iptables -P FORWARD ACCEPT, or sysctl net.bridge.bridge-nf-call-iptables=0",
                )
            )
    if wrong:
        return wrong
    if bridges:
        return [ok(name, f"iptables sees the frames on the bridges of {len(bridges)} vNICs")]
    return [await _ahead(sight)]


async def _ahead(sight: Sight) -> Finding:
    """Say what will be of vNICs that are not there yet."""
    name = "bridge netfilter"
    if kernel.has_bridge_netfilter():
        return ok(name, "there for vNICs that need it")
    direct = sight.config.firewall_driver is FirewallDriver.OPENVSWITCH
    if direct or await sight.process(neutron.AGENT) is None:
        return ok(name, "not there, and not needed")
    return warning(
        name,
        "the kernel does not pass bridged frames through iptables: vNICs with security groups of "
        "iptables_hybrid will be refused",
        "load the module: modprobe br_netfilter",
    )
