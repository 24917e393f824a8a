# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows of Open vSwitch's database a VM has left behind.

The database outlives a reboot, the taps in it don't.  A row that is left is worse than dirt: the
next tap of its name is given its ``iface-id``, and answers for somebody else's port.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Callable

from vif_driver.host.ovsdb_rows import PortRows, Row
from vif_driver.marks import HELD_KEY, ROW_KEY

#: What libvirt gives the interface of a VM (virNetDevOpenvswitchAddPort, virnetdevopenvswitch.c).
LIBVIRT_KEYS = frozenset(("vm-id", "attached-mac", "iface-id"))

#: The types of an Interface row that stand for a device of the kernel (ovs-vswitchd.conf.db(5)).
SYSTEM_TYPES = ("", "system")

#: By this key other software asks cleaners to leave a port alone (neutron-ovs-cleanup).
SKIP_KEY = "skip_cleanup"


def left_behind(
    ports: Iterable[PortRows], integration_bridge: str, has_device: Callable[[str], bool]
) -> list[PortRows]:
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


def is_a_vms(port: PortRows) -> bool:
    """Tell whether a port is libvirt's or ours, and made for a VM."""
    if port.interface["type"] not in SYSTEM_TYPES:
        return False
    if SKIP_KEY in port.ids or SKIP_KEY in port.port["external_ids"]:
        return False
    if ROW_KEY in port.ids or port.ids.keys() >= LIBVIRT_KEYS:
        return True
    # Libvirt's, while we keep it from OVN.
    return HELD_KEY in port.ids and port.ids.keys() >= LIBVIRT_KEYS - {"iface-id"}


def orphans(rows: Mapping[str, Row], used: Iterable[str]) -> list[str]:
    """Give the QoS or Queue rows that libvirt made for a VM and that nothing uses.

    They don't go by themselves: both tables are roots (isRoot in Open vSwitch's schema).

    Args:
        rows: those of the table, by their uuid.
        used: the uuids that are referred to.
    """
    in_use = set(used)
    return [
        uuid for uuid, row in rows.items() if "vm-id" in row["external_ids"] and uuid not in in_use
    ]
