# SPDX-License-Identifier: GPL-2.0-or-later
"""A vNIC of an external network as VDSM asked for it: checked, immutable, with its names.

The properties come from the engine through VDSM, which gives them to a hook as environment
variables; every one of them may be missing or empty.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping

from vif_driver.errors import BadRequest

#: The environment variables that describe a vNIC.  Nothing else of the hook's environment is
#: ever looked at.
PROPERTIES = ("provider_type", "plugin_type", "vnic_id", "security_groups", "vmId")

#: Besides them, what a hook says of the VM: the flags it is going to be started with, as VDSM
#: has them in its file.
LAUNCH_FLAGS = "launch_flags"

#: How many characters of the id the device names carry.  Neutron's agents, os-vif and Nova
#: derive ``tap``/``qbr``/``qvb``/``qvo`` + the first 11 characters, and look devices up by it.
NAME_ID_LENGTH = 11

# libvirt parses ``interfaceid`` as a UUID and prints it in lower case; OVN and Neutron compare
# the text.  An id in upper case would therefore plug, and never be connected.
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")

#: The smallest MTU IPv4 works with (RFC 791) and the largest a Linux tap takes.
MTU_RANGE = (68, 65535)


class Plugin(enum.Enum):
    """Who runs the network, as the engine's ``plugin_type`` names it."""

    OVIRT_PROVIDER_OVN = "OVIRT_PROVIDER_OVN"
    OPENSTACK_OVN = "OPENSTACK_OVN"
    OPEN_VSWITCH = "OPEN_VSWITCH"
    LINUX_BRIDGE = "LINUX_BRIDGE"


_PLUGINS_OF_PROVIDER = {
    "EXTERNAL_NETWORK": (Plugin.OVIRT_PROVIDER_OVN,),
    "OPENSTACK_NETWORK": (Plugin.OPENSTACK_OVN, Plugin.OPEN_VSWITCH, Plugin.LINUX_BRIDGE),
}


class SecurityGroups(enum.Enum):
    """Which security groups the provider applies to a vNIC.

    The engine's ``security_groups`` property: absent, empty, or a list of UUIDs.
    """

    DEFAULT = "default"
    NONE = "none"
    LISTED = "listed"


@dataclasses.dataclass(frozen=True)
class VnicIdentity:
    """Which vNIC, and the names of its devices; enough to find it, not to plug it.

    Attributes:
        id: the port's id at the provider, a UUID in lower case: OVN's logical switch port name,
            Neutron's port id, ``iface-id`` in Open vSwitch.
        plugin: who runs the network.
        vm_id: the VM's UUID in lower case, or None where VDSM did not say.
    """

    id: str
    plugin: Plugin
    vm_id: str | None

    @property
    def tap(self) -> str:
        """The tap, under the name by which Neutron's agents look for it."""
        return self._device("tap")

    @property
    def bridge(self) -> str:
        """The Linux bridge that is this vNIC's alone."""
        return self._device("qbr")

    @property
    def bridge_end(self) -> str:
        """The end of the veth pair that is a port of :attr:`bridge`."""
        return self._device("qvb")

    @property
    def switch_end(self) -> str:
        """The end of the veth pair that is a port of the integration bridge."""
        return self._device("qvo")

    @property
    def hidden_tap(self) -> str:
        """The guest's tap where ``tap…`` is the name of something else.

        It must not begin with ``tap``, which the Linux bridge agent would pick up, nor with
        ``vnet``, which libvirt takes for a name of its own and replaces.
        """
        return self._device("qtp")

    def _device(self, prefix: str) -> str:
        return prefix + self.id[:NAME_ID_LENGTH]

    def __str__(self) -> str:
        return f"vNIC {self.id}" + (f" of VM {self.vm_id}" if self.vm_id else "")


@dataclasses.dataclass(frozen=True)
class Vnic(VnicIdentity):
    """A vNIC that can be plugged.

    Attributes:
        mac: in lower case.
        security_groups: which groups apply.
        mtu: bytes, or None where the engine left it to the host.
    """

    mac: str
    security_groups: SecurityGroups = SecurityGroups.DEFAULT
    mtu: int | None = None


def is_uuid(text: str) -> bool:
    """Tell whether a text is a UUID in lower case."""
    return _UUID.fullmatch(text) is not None


def parse_vm_id(vm_id: str | None) -> str | None:
    """Check a VM's id, and give it in lower case; None where VDSM did not say.

    Raises:
        BadRequest: it is no UUID.
    """
    if not vm_id:
        return None
    if not is_uuid(vm_id.lower()):
        raise BadRequest(f"vmId {vm_id!r} is not a UUID", "start the VM through VDSM")
    return vm_id.lower()


def describe(properties: Mapping[str, str]) -> str:
    """Name the vNIC for a message before it is known whether it makes sense."""
    vm = properties.get("vmId")
    return f"vNIC {properties.get('vnic_id') or 'without vnic_id'}" + (f" of VM {vm}" if vm else "")


def identify(properties: Mapping[str, str]) -> VnicIdentity:
    """Tell which vNIC VDSM speaks of.

    Args:
        properties: the custom properties of the device, and ``vmId``.

    Raises:
        BadRequest: something of the identity is missing or malformed.
    """
    return VnicIdentity(
        id=_parse_id(properties.get("vnic_id")),
        plugin=_parse_plugin(properties.get("provider_type"), properties.get("plugin_type")),
        vm_id=parse_vm_id(properties.get("vmId")),
    )


def parse(properties: Mapping[str, str], mac: str | None, mtu: str | None) -> Vnic:
    """Check what VDSM said about a vNIC that is to be plugged.

    Args:
        properties: the custom properties of the device, and ``vmId``.
        mac: the interface's MAC address as its XML has it.
        mtu: the interface's MTU as its XML has it, in bytes.

    Raises:
        BadRequest: something is missing or malformed.
    """
    identity = identify(properties)
    return Vnic(
        id=identity.id,
        plugin=identity.plugin,
        vm_id=identity.vm_id,
        mac=parse_mac(mac),
        security_groups=parse_security_groups(properties.get("security_groups")),
        mtu=_parse_mtu(mtu),
    )


def parse_interface(identity: VnicIdentity, mac: str | None, mtu: str | None) -> Vnic:
    """Give a vNIC of which libvirt's XML has told the rest.

    Args:
        identity: which.
        mac: its MAC address as the XML has it.
        mtu: its MTU as the XML has it, in bytes.

    Raises:
        BadRequest: one of them is missing or malformed.
    """
    return Vnic(
        id=identity.id,
        plugin=identity.plugin,
        vm_id=identity.vm_id,
        mac=parse_mac(mac),
        mtu=_parse_mtu(mtu),
    )


def is_external(properties: Mapping[str, str]) -> bool:
    """Tell whether a device with these properties is for us to connect.

    ``OPENSTACK_NETWORK`` is this driver's in all its forms.  ``EXTERNAL_NETWORK`` is the
    engine's word for any provider that is not OpenStack: with another plugin than oVirt's OVN
    provider it belongs to the hook of some other vendor.
    """
    provider = properties.get("provider_type")
    if provider == "EXTERNAL_NETWORK":
        return properties.get("plugin_type") == Plugin.OVIRT_PROVIDER_OVN.value
    return provider == "OPENSTACK_NETWORK"


def _parse_plugin(provider: str | None, plugin: str | None) -> Plugin:
    known = _PLUGINS_OF_PROVIDER.get(provider or "")
    if known is None:
        raise BadRequest(
            f"unknown provider_type {provider!r}",
            "expected one of " + ", ".join(_PLUGINS_OF_PROVIDER),
        )
    for candidate in known:
        if candidate.value == plugin:
            return candidate
    raise BadRequest(
        f"unknown plugin_type {plugin!r} of a provider of type {provider}",
        "set the network plugin of the external provider in the engine to one of "
        + ", ".join(candidate.value for candidate in known),
    )


def _parse_id(vnic_id: str | None) -> str:
    if not vnic_id:
        raise BadRequest(
            "the vNIC has no vnic_id",
            "check in the engine that the provider could create the port, and start the VM again",
        )
    if not _UUID.fullmatch(vnic_id):
        raise BadRequest(
            f"vnic_id {vnic_id!r} is not a UUID in lower case",
            "check the port at the provider: the integration bridge and libvirt know no other ids",
        )
    return vnic_id


def parse_mac(mac: str | None) -> str:
    """Check a MAC address, and give it in lower case.

    Raises:
        BadRequest: there is none, or it is none that a port can have.
    """
    if not mac:
        raise BadRequest(
            "the interface has no MAC address",
            "give the vNIC a MAC address in the engine; the provider filters by it",
        )
    lower = mac.lower()
    if not _MAC.fullmatch(lower):
        raise BadRequest(f"MAC address {mac!r} is malformed", "correct the vNIC in the engine")
    if int(lower[:2], 16) & 1:
        raise BadRequest(
            f"MAC address {mac} is a multicast address",
            "give the vNIC a unicast MAC address in the engine",
        )
    return lower


def parse_security_groups(groups: str | None) -> SecurityGroups:
    """Check the engine's ``security_groups``.

    Args:
        groups: the property; None if it isn't set.

    Raises:
        BadRequest: it is malformed.
    """
    if groups is None:
        return SecurityGroups.DEFAULT
    if not groups.strip():
        return SecurityGroups.NONE
    for group in groups.split(","):
        if not _UUID.fullmatch(group.strip().lower()):
            raise BadRequest(
                f"security group {group.strip()!r} is not a UUID",
                "correct the custom property security_groups of the vNIC profile: UUIDs, "
                "separated by commas, or nothing at all for no security group",
            )
    return SecurityGroups.LISTED


def _parse_mtu(mtu: str | None) -> int | None:
    if mtu is None:
        return None
    lowest, highest = MTU_RANGE
    # str.isdigit() would let through digits that int() takes but the kernel's tools do not.
    if not re.fullmatch(r"[0-9]{1,6}", mtu) or not lowest <= int(mtu) <= highest:
        raise BadRequest(
            f"MTU {mtu!r} is not a number from {lowest} to {highest}",
            "correct the MTU of the network in the engine",
        )
    return int(mtu)
