# SPDX-License-Identifier: GPL-2.0-or-later
"""By what a row or a device is known to be ours, and whose it is.

Nothing else is ever removed.  The marks are in Open vSwitch's database and in the kernel, so that
whoever comes after an agent that was killed finds them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from vif_driver.vnic import NAME_ID_LENGTH

#: The key of ``external_ids`` by which a row of Open vSwitch's is known to be ours.
ROW_KEY = "vif-driver"

#: Under this key of ``external_ids`` a port's ``iface-id`` is while OVN is not to have it.
HELD_KEY = "vif-driver-held"

#: In ``external_ids`` of the host's own row: the boot in which the boot pass was made, and how many
#: rows it has removed.
BOOT_KEY = "vif-driver-boot-id"
BOOT_REMOVED_KEY = "vif-driver-boot-removed"

#: The group of every device that we make: "vif" in ASCII.
GROUP = 0x766966

#: How the names of our devices begin; the eleven characters of the vNIC's id follow.
PREFIXES = ("qbr", "qvb", "qvo", "tap")

_ALIAS = "vif-driver"


@dataclasses.dataclass(frozen=True)
class Owner:
    """Whose a device is.

    Attributes:
        vnic_id: the vNIC; None for one that an agent made and was killed before it named it.
        vm_id: its VM; None where VDSM did not say.
    """

    vnic_id: str | None = None
    vm_id: str | None = None


def vnic_alias(vnic_id: str) -> str:
    """Give how the ``ifalias`` of a vNIC's devices begins, whichever its VM is."""
    return f"{_ALIAS} {vnic_id} "


def alias(vnic_id: str, vm_id: str | None) -> str:
    """Give the ``ifalias`` of a vNIC's devices."""
    return vnic_alias(vnic_id) + (vm_id or "-")


def owner(name: str, group: int | None, text: str | None) -> Owner | None:
    """Tell whose a device is; None if it is none of ours.

    Args:
        name: of the device.
        group: its device group.
        text: its ``ifalias``.
    """
    if group != GROUP:
        return None
    if not text:
        return Owner()
    words = text.split(" ")
    # Under the name of another vNIC it is not what anybody made.
    if len(words) != 3 or words[0] != _ALIAS or not words[1].startswith(name[3:]):
        return None
    return Owner(words[1], None if words[2] == "-" else words[2])


def stems(names: Iterable[str]) -> list[str]:
    """Give, of devices that may be ours, what their names have of their vNICs' ids."""
    length = len(PREFIXES[0]) + NAME_ID_LENGTH
    # A tap alone may be anybody's.
    return sorted({name[3:] for name in names if len(name) == length and name[:3] in PREFIXES[:3]})
