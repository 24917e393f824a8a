# SPDX-License-Identifier: GPL-2.0-or-later
"""What VMs that are there have lost: the port of a vNIC whose tap is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lxml import etree

from vif_driver.attachments import ovs_hybrid
from vif_driver.attachments.private_bridge import owner_of
from vif_driver.config import Config
from vif_driver.host import Host, kernel
from vif_driver.reconciliation.in_use import InUse
from vif_driver.vnic import NAME_ID_LENGTH

if TYPE_CHECKING:
    from vif_driver.host.domains import Domain
    from vif_driver.host.links import Links
    from vif_driver.host.ovsdb import Ovsdb


@dataclasses.dataclass(frozen=True)
class LostPort:
    """A port that is missing.

    Attributes:
        name: of its device, which is there.
        tap: of its vNIC, whose turn is taken by who works on that.
        vm_id: the VM.
        vnic_id: the vNIC.
        port: the columns that its Port row had.
        interface: those of its Interface row.
        has_limits: libvirt had limited its bandwidth by rows of QoS.
    """

    name: str
    tap: str
    vm_id: str
    vnic_id: str
    port: Mapping[str, Any]
    interface: Mapping[str, Any]
    has_limits: bool = False

    def __str__(self) -> str:
        return f"port {self.name} (VM {self.vm_id}, vNIC {self.vnic_id})"


async def find(config: Config, host: Host, used: InUse) -> list[LostPort]:
    """Give the ports on the integration bridge that VMs have lost.

    Args:
        config: the configuration.
        host: what this process may use.
        used: what libvirt said.

    Raises:
        HostError, Unavailable: the database or the kernel does not answer.
    """
    ovsdb = host.ovsdb
    if ovsdb is None or not ovsdb.has_bridge(config.integration_bridge):
        return []
    found = []
    for domain in used.domains:
        for interface in etree.fromstring(domain.xml).iterfind("devices/interface"):
            lost = _lost(interface, domain, config.integration_bridge, ovsdb)
            if lost is None and host.links is not None:
                lost = await _lost_hybrid(interface, domain, ovsdb, host.links)
            if lost is not None:
                found.append(lost)
    return found


def _lost(interface: etree._Element, domain: Domain, bridge: str, ovsdb: Ovsdb) -> LostPort | None:
    """Give the port that libvirt made for an interface, if it is missing."""
    source, target, mac = map(interface.find, ("source", "target", "mac"))
    parameters = interface.find("virtualport[@type='openvswitch']/parameters")
    if source is None or target is None or mac is None or parameters is None:
        return None
    name, vnic_id = target.get("dev"), parameters.get("interfaceid")
    if source.get("bridge") != bridge or not name or not vnic_id or not _is_missing(name, ovsdb):
        return None
    ids = {
        "attached-mac": mac.get("address") or "",
        "iface-id": vnic_id,
        "iface-status": "active",
        "vm-id": domain.id,
    }
    profile = parameters.get("profileid")
    if profile:
        ids["port-profile"] = profile
    return LostPort(
        name=name,
        tap=name,
        vm_id=domain.id,
        vnic_id=vnic_id,
        port=dict(_vlans(interface.find("vlan"))),
        interface={"external_ids": ids},
        has_limits=interface.find("bandwidth") is not None,
    )


async def _lost_hybrid(
    interface: etree._Element, domain: Domain, ovsdb: Ovsdb, links: Links
) -> LostPort | None:
    """Give the port that we made for an interface, if it is missing."""
    source, target, mac = map(interface.find, ("source", "target", "mac"))
    if source is None or target is None or mac is None:
        return None
    bridge, tap = source.get("bridge") or "", target.get("dev") or ""
    stem = bridge[3:]
    if bridge != "qbr" + stem or tap != "tap" + stem or len(stem) != NAME_ID_LENGTH:
        return None
    name = "qvo" + stem
    if kernel.master(tap) != bridge or not _is_missing(name, ovsdb):
        return None
    link = await links.get(name)
    owner = None if link is None else owner_of(link)
    if owner is None or owner.vnic_id is None or owner.vm_id != domain.id:
        return None
    ids = ovs_hybrid.interface_ids(owner.vnic_id, domain.id, mac.get("address") or "")
    return LostPort(
        name=name,
        tap=tap,
        vm_id=domain.id,
        vnic_id=owner.vnic_id,
        port=ovs_hybrid.PORT_COLUMNS,
        interface={"external_ids": ids},
    )


def _is_missing(name: str, ovsdb: Ovsdb) -> bool:
    return ovsdb.port(name) is None and kernel.has_device(name)


def _vlans(vlan: etree._Element | None) -> Iterator[tuple[str, Any]]:
    """Give the columns that libvirt sets by ``<vlan>`` (virNetDevOpenvswitchConstructVlans)."""
    tags = [] if vlan is None else vlan.findall("tag")
    numbers = [int(tag.get("id") or 0) for tag in tags]
    for tag, number in zip(tags, numbers):
        mode = tag.get("nativeMode")
        if mode is not None:
            yield "vlan_mode", f"native-{mode}"
            yield "tag", number
    if vlan is not None and vlan.get("trunk") == "yes":
        yield "trunks", numbers
    elif numbers:
        yield "tag", numbers[0]
