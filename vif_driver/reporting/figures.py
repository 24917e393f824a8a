# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of this host's external networks, for VDSM's statistics and for Prometheus.

Those that count begin with the agent, at 0.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from vif_driver.inspection.vnics import HYBRID, ExternalVnic
from vif_driver.reporting.counts import Switchovers

#: Another number when a key is removed or means something else; a new key leaves it as it is.
SCHEMA = 1

#: How a vNIC is, by what ``ready`` says of it.
STATES: Mapping[bool | None, str] = {True: "ready", False: "not_ready", None: "unknown"}

#: The devices of a hybrid vNIC, from the guest to the integration bridge, by how their names begin.
HYBRID_DEVICES = ("tap", "qbr", "qvb", "qvo")


class Drops:
    """What the devices of hybrid vNICs have dropped since they were made.

    A device that is gone leaves what it has dropped until it was seen last.
    """

    def __init__(self) -> None:
        self.packets: dict[tuple[str, str], int] = {}
        self._seen: dict[tuple[int, str], int] = {}

    def update(self, found: Mapping[int, tuple[int, int]], devices: Mapping[int, str]) -> None:
        """Take a look at the counters.

        Args:
            found: packets that were dropped on receiving and on sending, by the device's index.
            devices: how the name of each begins that belongs to a hybrid vNIC, by its index.
        """
        seen = {}
        for index, kind in devices.items():
            for direction, count in zip(("rx", "tx"), found.get(index, (0, 0))):
                seen[index, direction] = count
                # An index is used once; a counter that falls is a driver's whim.
                new = max(0, count - self._seen.get((index, direction), 0))
                self.packets[kind, direction] = self.packets.get((kind, direction), 0) + new
        self._seen = seen


@dataclasses.dataclass(frozen=True)
class Figures:
    """All of them.

    Attributes:
        since: when the agent started, in seconds since 1970.
        vnics: how many there are, by their attachment and state.
        waiting: for how many of them somebody waits, a VM's start or a hot plug.
        stale_removed: what VMs had left (ports, rows of QoS, sets of devices) and was removed.
        boot_stale_removed: rows that were removed at boot; None if that is not known.
        plugged_again: ports that VMs had lost and were plugged again.
        switchovers: the VMs that have arrived by live migration.
        hybrid_drops: packets, by how the device's name begins and the direction.
        connected: whether ``ovsdb``, ``libvirt`` and ``ovn_controller`` are; None if that is not
            known, or there is none on this host.
        bridge_exists: whether the integration bridge is there; None if that is not known.
        events: VDSM's events that were answered.
        events_failed: those of them with a failure.
    """

    since: float
    vnics: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    waiting: int = 0
    stale_removed: int = 0
    boot_stale_removed: int | None = None
    plugged_again: int = 0
    switchovers: Switchovers = dataclasses.field(default_factory=Switchovers)
    hybrid_drops: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    connected: Mapping[str, bool | None] = dataclasses.field(default_factory=dict)
    bridge_exists: bool | None = None
    events: int = 0
    events_failed: int = 0

    def in_state(self, state: str) -> int:
        """Give how many vNICs are in a state."""
        return sum(count for (_, other), count in self.vnics.items() if other == state)


def count(vnics: Iterable[ExternalVnic]) -> dict[tuple[str, str], int]:
    """Count vNICs by their attachment and state."""
    return dict(collections.Counter((vnic.attachment, STATES[vnic.ready]) for vnic in vnics))


def hybrid_devices(vnics: Iterable[ExternalVnic]) -> list[str]:
    """Give the names of the devices whose drops are counted."""
    return [name for vnic in vnics if vnic.attachment == HYBRID for name in vnic.devices]


def compose(figures: Figures) -> dict[str, Any]:
    """Put into JSON's types what our key of VDSM's statistics has."""
    worst = figures.switchovers.worst
    drops: dict[str, dict[str, int]] = {}
    for (kind, direction), packets in figures.hybrid_drops.items():
        drops.setdefault(kind, {})[direction] = packets
    return {
        "schema": SCHEMA,
        "since": int(figures.since),
        "vnics": sum(figures.vnics.values()),
        "not_ready": figures.in_state("not_ready"),
        "unknown": figures.in_state("unknown"),
        "stale_removed": figures.stale_removed,
        "boot_stale_removed": figures.boot_stale_removed,
        "plugged_again": figures.plugged_again,
        "switchovers": figures.switchovers.count,
        "switchover_worst_ms": None if worst is None else round(worst * 1000, 1),
        "hybrid_drops": drops,
    }
