# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch's interfaces and settings as plain values, whichever way they were read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vif_driver.host.ovsdb_once import OvsdbOnce, connect
from vif_driver.host.ovsdb_rows import references
from vif_driver.host.ovsdb_socket import SOCKET
from vif_driver.marks import HELD_KEY

#: What makes an interface a vNIC's: OVN and Neutron look for the one, libvirt sets the others.
_VNIC_KEYS = ("iface-id", HELD_KEY, "vm-id", "attached-mac")

_TABLES = {
    "Open_vSwitch": ("external_ids",),
    "Bridge": ("name", "ports"),
    "Port": ("name", "interfaces", "tag"),
    "Interface": ("name", "type", "options", "external_ids"),
}


class SwitchInterface(NamedTuple):
    """An interface of Open vSwitch.

    Attributes:
        name: of the Interface row, and so of its device.
        type: empty for a device of the system, ``internal``, ``patch``, ``geneve``, ...
        port: the name of its Port row, which has several where it is a bond.
        bridge: the bridge of that port.
        tag: the VLAN that the port is in, or None.
        options: such as ``local_ip`` of a tunnel, ``peer`` of a patch.
        vnic_id: whose it is if it is a VM's, as far as that is known; None of all others.
    """

    name: str
    type: str
    port: str
    bridge: str
    tag: int | None = None
    options: Mapping[str, str] = {}
    vnic_id: str | None = None

    @property
    def is_of_system(self) -> bool:
        """Whether it is a device that somebody else has made, and no VM's."""
        return self.type in ("", "system") and self.vnic_id is None


@dataclasses.dataclass(frozen=True)
class Switch:
    """Open vSwitch on this host.

    Attributes:
        settings: ``external_ids`` of the host: ``ovn-encap-ip``, ...
        interfaces: of all bridges.
    """

    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    interfaces: Sequence[SwitchInterface] = ()

    @functools.cached_property
    def by_name(self) -> Mapping[str, SwitchInterface]:
        """The interfaces by their names."""
        return {interface.name: interface for interface in self.interfaces}

    @functools.cached_property
    def by_bridge(self) -> Mapping[str, Sequence[SwitchInterface]]:
        """The interfaces of each bridge."""
        found: dict[str, list[SwitchInterface]] = {}
        for interface in self.interfaces:
            found.setdefault(interface.bridge, []).append(interface)
        return found

    @functools.cached_property
    def bonds(self) -> Mapping[str, Sequence[SwitchInterface]]:
        """The interfaces of each port that has several."""
        found: dict[str, list[SwitchInterface]] = {}
        for interface in self.interfaces:
            found.setdefault(interface.port, []).append(interface)
        return {port: members for port, members in found.items() if len(members) > 1}


def vnic_of(ids: Mapping[str, str]) -> str | None:
    """Tell whose an interface with these ``external_ids`` is; see :class:`SwitchInterface`."""
    return next((ids[key] for key in _VNIC_KEYS if key in ids), None)


def read_once(timeout: float, path: Path = SOCKET) -> Switch:
    """Ask the database over a connection of its own.

    Args:
        timeout: seconds.
        path: where it listens.

    Raises:
        HostError, Unavailable: it refuses or does not answer.
    """
    with connect(timeout, path) as database:
        return _switch(database)


def _switch(database: OvsdbOnce) -> Switch:
    tables = database.select(_TABLES)
    interfaces = []
    for bridge in tables["Bridge"].values():
        for port in (tables["Port"][uuid] for uuid in references(bridge["ports"])):
            for uuid in references(port["interfaces"]):
                row = tables["Interface"][uuid]
                interfaces.append(
                    SwitchInterface(
                        name=row["name"],
                        type=row["type"],
                        port=port["name"],
                        bridge=bridge["name"],
                        # OVSDB has a set of one as what is in it.
                        tag=port["tag"] if isinstance(port["tag"], int) else None,
                        options=row["options"],
                        vnic_id=vnic_of(row["external_ids"]),
                    )
                )
    settings: Mapping[str, str] = {}
    for row in tables["Open_vSwitch"].values():
        settings = row["external_ids"]
    return Switch(settings, tuple(interfaces))
