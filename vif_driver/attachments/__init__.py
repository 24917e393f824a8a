# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to connect a vNIC, one file each, and which of them a vNIC gets."""

from __future__ import annotations

from vif_driver.attachments.base import Attachment
from vif_driver.attachments.linux_bridge import DummyBridgeAttachment, LinuxBridgeAttachment
from vif_driver.attachments.ovn import OvnAttachment
from vif_driver.attachments.ovs import OvsAttachment
from vif_driver.attachments.ovs_hybrid import OvsHybridAttachment
from vif_driver.config import Config, FirewallDriver, LinuxBridgePlug
from vif_driver.host import Host, neutron_agent
from vif_driver.vnic import Plugin, SecurityGroups, VnicIdentity

# Aliases and class paths that Neutron knows for drivers that filter inside Open vSwitch, or not
# at all.  Whatever else is configured is taken for one that needs the Linux bridge: plugged so,
# a port of these is filtered too, while the reverse would be open.
_FILTERS_IN_OPENVSWITCH = ("openvswitch", "noop", "OVSFirewallDriver", "NoopFirewallDriver")

_CANDIDATES: dict[Plugin, tuple[type[Attachment], ...]] = {
    Plugin.OVIRT_PROVIDER_OVN: (OvnAttachment,),
    Plugin.OPENSTACK_OVN: (OvnAttachment,),
    Plugin.OPEN_VSWITCH: (OvsHybridAttachment, OvsAttachment),
    Plugin.LINUX_BRIDGE: (LinuxBridgeAttachment, DummyBridgeAttachment),
}


def choose(vnic: VnicIdentity, groups: SecurityGroups, config: Config, host: Host) -> Attachment:
    """Give the attachment for a vNIC that is plugged now.

    Args:
        vnic: which.
        groups: which security groups the provider applies to it.
        config: the configuration.
        host: what this process may use.
    """
    if vnic.plugin is Plugin.OPEN_VSWITCH:
        hybrid = groups in config.hybrid_security_groups and _needs_linux_bridge(
            config.firewall_driver
        )
        return (OvsHybridAttachment if hybrid else OvsAttachment)(config, host)
    if vnic.plugin is Plugin.LINUX_BRIDGE:
        if config.linux_bridge_plug is LinuxBridgePlug.DUMMY_BRIDGE:
            return DummyBridgeAttachment(config, host)
        return LinuxBridgeAttachment(config, host)
    return OvnAttachment(config, host)


def candidates(vnic: VnicIdentity, config: Config, host: Host) -> list[Attachment]:
    """Give every attachment that the vNIC may have been plugged with, by whatever settings."""
    return [attachment(config, host) for attachment in _CANDIDATES[vnic.plugin]]


def found(vnic: VnicIdentity, config: Config, host: Host) -> list[Attachment]:
    """Give the attachments of which something is there, the one with more to it first.

    The settings may have changed since the vNIC was plugged; what is there decides.
    """
    return [way for way in candidates(vnic, config, host) if way.is_there(vnic)]


def _needs_linux_bridge(driver: FirewallDriver) -> bool:
    if driver is not FirewallDriver.AUTO:
        return driver is FirewallDriver.IPTABLES_HYBRID
    configured = neutron_agent.firewall_driver()
    return configured is None or configured.rsplit(".", maxsplit=1)[-1] not in (
        _FILTERS_IN_OPENVSWITCH
    )


__all__ = ["Attachment", "candidates", "choose", "found"]
