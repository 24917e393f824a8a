# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows of Open vSwitch's database a VM has left behind.

The database outlives a reboot, the taps in it don't.  A row that is left is worse than dirt: the
next tap of its name is given its ``iface-id``, and answers for somebody else's port.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Callable

#: The key of ``external_ids`` by which a row is known to be ours.
MARK_KEY = "vif-driver"

#: What libvirt gives the interface of a VM (virNetDevOpenvswitchAddPort, virnetdevopenvswitch.c).
LIBVIRT_KEYS = frozenset(("vm-id", "attached-mac", "iface-id"))

#: By this key other software asks cleaners to leave a port alone (neutron-ovs-cleanup).
SKIP_KEY = "skip_cleanup"

#: A row as OVSDB has it, its maps and sets as Python's.
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Port:
    """A port with one interface.

    Attributes:
        uuid: of the Port row.
        bridge: the name of its bridge.
        port: the Port row.
        interface: the Interface row.
    """

    uuid: str
    bridge: str
    port: Row
    interface: Row

    @property
    def name(self) -> str:
        """The name of its device."""
        name: str = self.interface["name"]
        return name

    @property
    def vm_id(self) -> str | None:
        """The VM that it was made for."""
        return _ids(self.interface).get("vm-id")

    def whole(self) -> dict[str, Any]:
        """Give all that is needed to put it back."""
        return {"bridge": self.bridge, "Port": dict(self.port), "Interface": dict(self.interface)}

    def __str__(self) -> str:
        ids = _ids(self.interface)
        return f"port {self.name} of {self.bridge} (VM {self.vm_id}, vNIC {ids.get('iface-id')})"


def left_behind(
    ports: Iterable[Port], integration_bridge: str, has_device: Callable[[str], bool]
) -> list[Port]:
    """Give the ports that a VM of an earlier boot has left.

    Those are libvirt's and our own on the integration bridge, whose device is not there.  Never
    any other: uplinks, patch, tunnel and internal ports have another type or no VM, and ports of
    other software neither mark nor libvirt's keys.

    Args:
        ports: those of the database.
        integration_bridge: the name of the only bridge that is looked at.
        has_device: tells whether the kernel has a device of a name.  With one a VM runs, or is
            just being started.
    """
    return [
        port
        for port in ports
        if port.bridge == integration_bridge and is_a_vms(port) and not has_device(port.name)
    ]


def is_a_vms(port: Port) -> bool:
    """Tell whether a port is libvirt's or ours, and made for a VM."""
    ids = _ids(port.interface)
    if port.interface["type"] not in ("", "system") or SKIP_KEY in {**_ids(port.port), **ids}:
        return False
    return MARK_KEY in ids or ids.keys() >= LIBVIRT_KEYS


def orphans(rows: Mapping[str, Row], used: Iterable[str]) -> list[str]:
    """Give the QoS or Queue rows that libvirt made for a VM and that nothing uses.

    They don't go by themselves: both tables are roots (isRoot in Open vSwitch's schema).

    Args:
        rows: those of the table, by their uuid.
        used: the uuids that are referred to.
    """
    in_use = set(used)
    return [uuid for uuid, row in rows.items() if "vm-id" in _ids(row) and uuid not in in_use]


def _ids(row: Row) -> Mapping[str, str]:
    ids: Mapping[str, str] = row["external_ids"]
    return ids
