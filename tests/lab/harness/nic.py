# SPDX-License-Identifier: GPL-2.0-or-later
"""A vNIC as the engine describes it to VDSM, and the XML that VDSM makes of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import quoteattr

DUMMY_BRIDGE = ";vdsmdummy;"
SPOOFING_FILTER = "vdsm-no-mac-spoofing"
OVN_PLUGIN = "OVIRT_PROVIDER_OVN"

# With a uuid of its own, so that defining it again is no error.
FILTER_XML = f"""\
<filter name="{SPOOFING_FILTER}" chain="root">
  <uuid>{uuid.uuid5(uuid.NAMESPACE_DNS, SPOOFING_FILTER)}</uuid>
  <filterref filter="no-mac-spoofing"/>
  <filterref filter="no-arp-mac-spoofing"/>
</filter>
"""


@dataclass(frozen=True)
class Nic:
    """A vNIC.

    Attributes:
        mac: its MAC.
        custom: the device's custom properties; hooks find them in their environment.
        network: bridge of the host; VDSM's dummy for an external network.
        mtu: bytes; None leaves the element out.
        link_up: the link state.
        filter: nwfilter that VDSM asks for; None leaves it out.
        isolated: the port isolation of the vNIC profile.
        alias: libvirt's user alias.
        model: of the device.
    """

    mac: str
    custom: Mapping[str, str] = field(default_factory=dict)
    network: str = DUMMY_BRIDGE
    mtu: int | None = 1442
    link_up: bool = True
    filter: str | None = SPOOFING_FILTER
    isolated: bool = False
    alias: str = field(default_factory=lambda: f"ua-{uuid.uuid4()}")
    model: str = "virtio"

    @classmethod
    def ovn(cls, vnic_id: str, mac: str, **more: object) -> Nic:
        """A NIC on a network of oVirt's OVN provider; ``more`` are attributes."""
        return cls._external("EXTERNAL_NETWORK", OVN_PLUGIN, vnic_id, mac, more)

    @classmethod
    def openstack(cls, plugin: str, vnic_id: str, mac: str, **more: object) -> Nic:
        """A NIC on a network of Neutron's.

        Args:
            plugin: ``LINUX_BRIDGE``, ``OPEN_VSWITCH`` or ``OPENSTACK_OVN``.
            vnic_id: Neutron's port id.
            mac: its MAC.
            more: attributes; ``security_groups`` is a custom property.
        """
        return cls._external("OPENSTACK_NETWORK", plugin, vnic_id, mac, more)

    @classmethod
    def _external(
        cls, provider: str, plugin: str, vnic_id: str, mac: str, more: dict[str, object]
    ) -> Nic:
        custom = {"provider_type": provider, "plugin_type": plugin, "vnic_id": vnic_id}
        groups = more.pop("security_groups", None)
        if groups is not None:
            custom["security_groups"] = str(groups)
        nic = cls(mac, custom)
        return replace(nic, **more)  # type: ignore[arg-type]

    @property
    def vnic_id(self) -> str:
        """The provider's port id; '' for a NIC of the host's own networks."""
        return self.custom.get("vnic_id", "")

    @property
    def tap(self) -> str:
        """What Neutron's agents want the tap to be called."""
        return f"tap{self.vnic_id[:11]}"

    def xml(self) -> str:
        """The ``<interface>`` as VDSM's model of the NIC writes it, before any hook."""
        lines = [
            '<interface type="bridge">',
            f"  <mac address={quoteattr(self.mac)}/>",
            f"  <model type={quoteattr(self.model)}/>",
            f"  <source bridge={quoteattr(self.network)}/>",
        ]
        if self.filter is not None:
            lines.append(f"  <filterref filter={quoteattr(self.filter)}/>")
        lines.append(f'  <link state="{"up" if self.link_up else "down"}"/>')
        if self.mtu is not None:
            lines.append(f'  <mtu size="{self.mtu}"/>')
        if self.isolated:
            lines.append('  <port isolated="yes"/>')
        lines += [f"  <alias name={quoteattr(self.alias)}/>", "</interface>"]
        return "\n".join(lines) + "\n"
