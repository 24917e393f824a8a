# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of leftovers, lost ports and what was done about them; vifctl(8) has the keys."""

from __future__ import annotations

import dataclasses
from typing import Any

from vif_driver.host.ovsdb_rows import PortRows
from vif_driver.reconciliation.leftovers import Leftover
from vif_driver.reconciliation.lost import LostPort


@dataclasses.dataclass(frozen=True)
class Told:
    """One thing, in words for people.

    Attributes:
        what: what it is.
        why: why it was, or is to be, dealt with as it is.
        vm_id: the VM that it was made for.
        vnic_id: the vNIC that it was made for.
        row_id: of the row that it is in Open vSwitch's database, by which it can be put back.
    """

    what: str
    why: str
    vm_id: str | None = None
    vnic_id: str | None = None
    row_id: str | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of two looks at the host.

    Attributes:
        removed: what was left over.
        plugged: the ports that VMs had lost.
        left: what is left over or lost, and was not dealt with.
        kept: the ports without a device that stay.
        trouble: why there was no second look; None if there was.
    """

    removed: tuple[Told, ...] = ()
    plugged: tuple[Told, ...] = ()
    left: tuple[Told, ...] = ()
    kept: tuple[Told, ...] = ()
    trouble: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give it for JSON."""
        return dataclasses.asdict(self)


def of_leftover(one: Leftover, more: str = "") -> Told:
    """Tell of something left over; ``more`` follows the reason."""
    row_id = one.key if isinstance(one.key, str) else None
    return Told(str(one), one.why + more, one.vm_id, one.vnic_id, row_id)


def of_lost(port: LostPort, more: str = "") -> Told:
    """Tell of a lost port; ``more`` follows the reason."""
    why = "its device is there, and libvirt has the VM" + more
    return Told(str(port), why, port.vm_id, port.vnic_id)


def of_kept(port: PortRows, why: str) -> Told:
    """Tell of a port without a device that stays."""
    return Told(str(port), why, port.vm_id, port.ids.get("iface-id"), port.uuid)
