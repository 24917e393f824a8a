# SPDX-License-Identifier: GPL-2.0-or-later
"""The vNICs of external networks on this host, from all that tells of them.

Open vSwitch's database, the kernel's devices and libvirt's XML complement each other: a vNIC whose
port is gone is still in its VM's XML, a port whose VM is gone is still in the database, and of
the three an ordinary user may read two.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from lxml import etree

from vif_driver import attachments
from vif_driver.attachments import Attachment, linux_bridge, ovn, ovs, ovs_hybrid
from vif_driver.attachments.private_bridge import owner_of
from vif_driver.config import Config
from vif_driver.errors import BadRequest, VifError
from vif_driver.host import Host, kernel
from vif_driver.inspection.sight import Sight
from vif_driver.interface_xml import DEAD_VLAN, Connection, Interface
from vif_driver.marks import ROW_KEY, Owner
from vif_driver.vnic import NAME_ID_LENGTH, Plugin, VnicIdentity, is_uuid

if TYPE_CHECKING:
    from vif_driver.host.domains import Domain
    from vif_driver.host.ovsdb import Port

OVN = ovn.OvnAttachment.name
OVS = ovs.OvsAttachment.name
HYBRID = ovs_hybrid.OvsHybridAttachment.name
LINUX_BRIDGE = linux_bridge.LinuxBridgeAttachment.name
DUMMY = linux_bridge.DummyBridgeAttachment.name

#: The attachments whose readiness stands in Open vSwitch's database.
IN_OPEN_VSWITCH = (OVN, OVS, HYBRID)

#: What a VM is said to do that libvirt does not have.
GONE = "gone"

_PLUGINS = {
    OVN: Plugin.OVIRT_PROVIDER_OVN,
    OVS: Plugin.OPEN_VSWITCH,
    HYBRID: Plugin.OPEN_VSWITCH,
    LINUX_BRIDGE: Plugin.LINUX_BRIDGE,
    DUMMY: Plugin.LINUX_BRIDGE,
}

_OUR_TAP = re.compile(r"(?:tap|qtp)[0-9a-f]{8}-[0-9a-f]{2}")

# Where VDSM keeps a device's custom properties in the XML of its VM (vdsm/virt/metadata.py).
_VDSM = "{http://ovirt.org/vm/1.0}"
_VNIC_ID = f"{_VDSM}custom/{_VDSM}vnic_id"


@dataclasses.dataclass(frozen=True)
class _NamedOtherwise(VnicIdentity):
    """A vNIC whose tap may be called otherwise than we would call it: an older driver's."""

    actual_tap: str

    @property
    def tap(self) -> str:
        return self.actual_tap


@dataclasses.dataclass(frozen=True)
class ExternalVnic:
    """A vNIC of an external network on this host.

    Attributes:
        identity: its id, and the names of its devices.  Where nothing tells the whole id, it is
            the eleven characters that the names have of it.
        attachment: how it is connected.
        guest_tap: the device that its VM has open.
        mac: as the VM's XML has it, or else the database; None if neither does.
        vm_name: its VM's; None if libvirt did not say.
        vm_state: what its VM does; None if libvirt did not say.
        has_interface: whether it is in the VM's XML; None if libvirt did not say.
        link_up: the link state that the engine asked for; None if libvirt did not say.
        ready: whether the provider's agent has connected it; None if that cannot be seen.
        why: what is wrong, where that was looked into.
    """

    identity: VnicIdentity
    attachment: str
    guest_tap: str
    mac: str | None = None
    vm_name: str | None = None
    vm_state: str | None = None
    has_interface: bool | None = None
    link_up: bool | None = None
    ready: bool | None = None
    why: str = ""

    @property
    def id(self) -> str:
        """The port's id at the provider."""
        return self.identity.id

    @property
    def devices(self) -> tuple[str, ...]:
        """Its devices, from the guest to the bridge that it shares with others."""
        vnic = self.identity
        if self.attachment == HYBRID:
            return vnic.tap, vnic.bridge, vnic.bridge_end, vnic.switch_end
        if self.attachment == LINUX_BRIDGE:
            return vnic.hidden_tap, vnic.bridge, vnic.bridge_end, vnic.tap
        return (self.guest_tap,)

    @property
    def port(self) -> str | None:
        """Its port in Open vSwitch; None for an attachment without one."""
        if self.attachment == HYBRID:
            return self.identity.switch_end
        return self.guest_tap if self.attachment in IN_OPEN_VSWITCH else None


@dataclasses.dataclass(frozen=True)
class Plugged:
    """What a VM's XML says of an external vNIC.

    Attributes:
        attachment: how it is connected.
        guest_tap: the device that the VM has open.
        id: its id; of a private bridge no more of it than the devices' names have, if VDSM has
            noted nothing either.
        mac: its MAC address.
        link_up: the link state that the engine asked for.
    """

    attachment: str
    guest_tap: str
    id: str
    mac: str | None
    link_up: bool


@dataclasses.dataclass(frozen=True)
class Vm:
    """A VM of libvirt's, as far as its external vNICs are concerned.

    Attributes:
        id: its UUID.
        name: what the administrator calls it.
        state: what it does.
        plugged: the vNICs that its XML has.
    """

    id: str
    name: str
    state: str
    plugged: tuple[Plugged, ...]


@dataclasses.dataclass(frozen=True)
class Sources:
    """All that tells of vNICs.

    Attributes:
        ports: those of the integration bridge.
        ovn_is_set: whether this host knows a southbound database.
        devices: the names of the host's devices.
        owners: whose they are, of those that we have made.
        vms: libvirt's; None if it did not answer.
    """

    ports: Iterable[Port] = ()
    ovn_is_set: bool = False
    devices: Collection[str] = ()
    owners: Mapping[str, Owner] = dataclasses.field(default_factory=dict)
    vms: Collection[Vm] | None = None


@dataclasses.dataclass
class _Known:
    """What the sources have told so far of the vNIC with one guest's tap."""

    attachment: str
    id: str
    vm_id: str | None = None
    mac: str | None = None
    vm_name: str | None = None
    vm_state: str | None = None
    has_interface: bool | None = None
    link_up: bool | None = None


async def find(sight: Sight) -> tuple[list[ExternalVnic], list[VifError]]:
    """Find the vNICs of this host.

    Returns:
        Them, in the order of their VMs' names, and what kept a source from telling.
    """
    sources = Sources()
    missed: list[VifError] = []
    bridge = sight.config.integration_bridge
    try:
        ports, ovn_is_set = sight.ovsdb.ports(bridge), bool(sight.ovn_setting("ovn-remote"))
        sources = dataclasses.replace(sources, ports=ports, ovn_is_set=ovn_is_set)
    except VifError as error:
        missed.append(error)
    try:
        links = {link.name: owner_of(link) for link in await sight.links()}
        owners = {name: owner for name, owner in links.items() if owner is not None}
        sources = dataclasses.replace(sources, devices=links.keys(), owners=owners)
    except VifError as error:
        missed.append(error)
    try:
        vms = [read_vm(domain, bridge) for domain in await sight.domains()]
        sources = dataclasses.replace(sources, vms=vms)
    except VifError as error:
        missed.append(error)
    vnics = combine(sources, sight.config, sight.host)
    return sorted(vnics, key=lambda vnic: (vnic.vm_name or "~", vnic.id, vnic.guest_tap)), missed


def combine(sources: Sources, config: Config, host: Host) -> list[ExternalVnic]:
    """Give the vNICs of which any source tells.

    Args:
        sources: what they tell.
        config: the configuration.
        host: what this process may use, to see which of them are ready.
    """
    found: dict[str, _Known] = {}
    for port in sources.ports:
        _add_port(found, port, ovn_is_set=sources.ovn_is_set)
    _add_devices(found, sources.owners, sources.devices)
    if sources.vms is not None:
        _add_vms(found, sources.vms)
    return [_vnic(tap, known, config, host) for tap, known in found.items()]


def of_identity(vnic: VnicIdentity, sight: Sight) -> ExternalVnic:
    """Give what can be told of a vNIC that the agent speaks of, without asking libvirt."""
    ways = attachments.found(vnic, sight.config, sight.host) or attachments.candidates(
        vnic, sight.config, sight.host
    )
    way = ways[0].name
    return ExternalVnic(vnic, way, _guest_tap(way, vnic), ready=_is_ready(ways[0], vnic))


def _add_port(found: dict[str, _Known], port: Port, *, ovn_is_set: bool) -> None:
    ids = port.external_ids
    vnic_id = ids.get("iface-id", "")
    if ids.get(ROW_KEY) == HYBRID:
        tap = "tap" + vnic_id[:NAME_ID_LENGTH]
        found[tap] = _Known(HYBRID, vnic_id, ids.get("vm-id"), ids.get("attached-mac"))
    elif port.made_by_libvirt and vnic_id:
        way = OVS if _is_neutrons(port, ovn_is_set=ovn_is_set) else OVN
        found[port.name] = _Known(way, vnic_id, ids.get("vm-id"), ids.get("attached-mac"))


def _is_neutrons(port: Port, *, ovn_is_set: bool) -> bool:
    """Tell a port of Neutron's Open vSwitch agent from one of OVN's.

    The agent writes the network into ``other_config`` (neutron, ovs_lib and ovs_neutron_agent),
    and sets the tag; ovn-controller does neither.
    """
    if port.tag is not None or port.trunks == (DEAD_VLAN,) or "net_uuid" in port.other_config:
        return True
    return not ovn_is_set and "ovn-installed" not in port.external_ids


def _add_devices(
    found: dict[str, _Known], owners: Mapping[str, Owner], devices: Collection[str]
) -> None:
    for owner in owners.values():
        if owner.vnic_id is None:
            continue
        vnic = VnicIdentity(owner.vnic_id, Plugin.LINUX_BRIDGE, owner.vm_id)
        way = HYBRID if vnic.switch_end in devices else LINUX_BRIDGE
        known = found.setdefault(_guest_tap(way, vnic), _Known(way, vnic.id))
        known.vm_id = known.vm_id or vnic.vm_id


def _add_vms(found: dict[str, _Known], vms: Collection[Vm]) -> None:
    for vm in vms:
        for vnic in vm.plugged:
            known = found.setdefault(vnic.guest_tap, _Known(vnic.attachment, vnic.id))
            if is_uuid(vnic.id) and not is_uuid(known.id):
                known.id = vnic.id
            known.vm_id, known.mac = vm.id, vnic.mac or known.mac
            known.has_interface, known.link_up = True, vnic.link_up
    states = {vm.id: (vm.name, vm.state) for vm in vms}
    for known in found.values():
        if known.vm_id is not None:
            known.vm_name, known.vm_state = states.get(known.vm_id, (None, GONE))
            known.has_interface = bool(known.has_interface)


def read_vm(domain: Domain, integration_bridge: str) -> Vm:
    """Take from a VM's XML what it has of external vNICs."""
    ids_of_vdsm = _ids_of_vdsm(domain.xml)
    plugged = []
    for interface, connection in _connections(domain):
        mac = (interface.mac or "").lower() or None
        way = _way(connection, integration_bridge)
        if way is not None:
            whole = connection.interface_id or ids_of_vdsm.get(mac or "")
            vnic_id = whole or connection.target[3:]
            plugged.append(Plugged(way, connection.target, vnic_id, mac, _link_up(interface)))
    return Vm(domain.id, domain.name, domain.state.value, tuple(plugged))


def _connections(domain: Domain) -> Iterator[tuple[Interface, Connection]]:
    for data in domain.interfaces():
        try:
            interface = Interface(data)
        except BadRequest:
            continue
        if interface.connection is not None:
            yield interface, interface.connection


def _way(connection: Connection, integration_bridge: str) -> str | None:
    """Tell by its XML how an interface is connected; None if to no external network."""
    if connection.bridge == integration_bridge and connection.interface_id:
        return OVS if connection.dead_vlan else OVN
    if not _OUR_TAP.fullmatch(connection.target):
        return None
    if connection.bridge == "qbr" + connection.target[3:]:
        return HYBRID if connection.target.startswith("tap") else LINUX_BRIDGE
    if connection.bridge == linux_bridge.DUMMY_BRIDGE and connection.target.startswith("tap"):
        return DUMMY
    return None


def _link_up(interface: Interface) -> bool:
    link = etree.fromstring(interface.to_bytes()).find("link")
    return link is None or link.get("state") != "down"


def _ids_of_vdsm(domain_xml: bytes) -> dict[str, str]:
    """Give the ids of a VM's external vNICs, by their MAC addresses, as VDSM has noted them."""
    found = {}
    for device in etree.fromstring(domain_xml).iterfind(f"metadata/{_VDSM}vm/{_VDSM}device"):
        mac, vnic_id = device.get("mac_address"), device.findtext(_VNIC_ID)
        if mac and vnic_id and is_uuid(vnic_id):
            found[mac.lower()] = vnic_id
    return found


def _guest_tap(way: str, vnic: VnicIdentity) -> str:
    return vnic.hidden_tap if way == LINUX_BRIDGE else vnic.tap


def _vnic(tap: str, known: _Known, config: Config, host: Host) -> ExternalVnic:
    identity = VnicIdentity(known.id, _PLUGINS[known.attachment], known.vm_id)
    if known.attachment in (OVN, OVS) and tap != identity.tap:
        identity = _NamedOtherwise(known.id, identity.plugin, known.vm_id, tap)
    ways = attachments.candidates(identity, config, host)
    way = next(way for way in ways if way.name == known.attachment)
    return ExternalVnic(
        identity,
        known.attachment,
        tap,
        known.mac,
        known.vm_name,
        known.vm_state,
        known.has_interface,
        known.link_up,
        _is_ready(way, identity) and kernel.has_device(tap),
    )


def _is_ready(way: Attachment, vnic: VnicIdentity) -> bool | None:
    if way.name in IN_OPEN_VSWITCH and way.host.ovsdb is None:
        return None
    try:
        return way.is_ready(vnic)
    except VifError:
        return None
