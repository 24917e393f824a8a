# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl list``: the vNICs of external networks on this host."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from vif_driver.ctl import FINE, WRONG, text
from vif_driver.ctl.look import LEFT_OUT, is_root, look
from vif_driver.errors import VifError, one_line
from vif_driver.inspection.finding import Finding
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import first_bad
from vif_driver.inspection.vnics import ExternalVnic, find

# How many paths are looked into at once.
_AT_ONCE = 8

_HEADINGS = ("VM", "STATE", "VNIC", "ATTACHMENT", "MAC", "TAP", "READY", "")
_READY = {True: "yes", False: "no", None: "?"}


@dataclasses.dataclass(frozen=True)
class Listed:
    """A vNIC, and what is wrong with it.

    Attributes:
        vnic: the vNIC.
        wrong: the first bad hop of its path; None if it is ready, or nothing was found.
    """

    vnic: ExternalVnic
    wrong: Finding | None


def run(*, as_json: bool) -> int:
    """Show them."""
    listed, missed = look(_list)
    left_out = _left_out(missed)
    if as_json:
        text.print_json({"vnics": [as_dict(one) for one in listed], "left_out": left_out})
    else:
        if listed:
            text.print_table([_HEADINGS, *map(_row, listed)])
        else:
            print("no vNIC of an external network on this host")
        for line in left_out:
            print(line)
    wrong = any(one.vnic.ready is False for one in listed) or (bool(missed) and is_root())
    return WRONG if wrong else FINE


def as_dict(one: Listed) -> dict[str, Any]:
    """Give a vNIC as vifctl(8) describes it."""
    vnic = one.vnic
    return {
        "id": vnic.id,
        "vm_id": vnic.identity.vm_id,
        "vm_name": vnic.vm_name,
        "vm_state": vnic.vm_state,
        "mac": vnic.mac,
        "attachment": vnic.attachment,
        "tap": vnic.guest_tap,
        "devices": list(vnic.devices),
        "link_up": vnic.link_up,
        "ready": vnic.ready,
        "wrong": None if one.wrong is None else text.as_dict(one.wrong),
    }


async def _list(sight: Sight) -> tuple[list[Listed], list[VifError]]:
    vnics, missed = await find(sight)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def explained(vnic: ExternalVnic) -> Listed:
        if vnic.ready is not False:
            return Listed(vnic, None)
        async with slots:
            return Listed(vnic, await first_bad(vnic, sight))

    return list(await asyncio.gather(*map(explained, vnics))), missed


def _left_out(missed: list[VifError]) -> list[str]:
    """Say what is not shown: of an ordinary user's, in one line."""
    if is_root():
        return [str(error) for error in missed]
    return [LEFT_OUT]


def _row(one: Listed) -> tuple[str, ...]:
    vnic = one.vnic
    return (
        vnic.vm_name or vnic.identity.vm_id or "?",
        vnic.vm_state or "?",
        vnic.id,
        vnic.attachment,
        vnic.mac or "?",
        vnic.guest_tap,
        _READY[vnic.ready],
        "" if one.wrong is None else one_line(str(one.wrong)),
    )
