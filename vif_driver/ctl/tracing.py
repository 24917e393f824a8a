# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl trace``: the path of a vNIC, and where it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vif_driver.ctl import FINE, USAGE, WRONG, complain, text
from vif_driver.ctl.listing import Listed, as_dict
from vif_driver.ctl.look import LEFT_OUT, is_root, look
from vif_driver.errors import HostError, VifError
from vif_driver.inspection.finding import Finding
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import trace
from vif_driver.inspection.vnics import ExternalVnic, find


class Ambiguous(VifError):
    """What was given fits several vNICs."""


@dataclasses.dataclass(frozen=True)
class Traced:
    """A vNIC and its path."""

    vnic: ExternalVnic
    hops: Sequence[Finding]

    @property
    def diagnosis(self) -> Finding | None:
        """The first bad hop."""
        return next((hop for hop in self.hops if hop.is_bad), None)


def run(wanted: str, *, as_json: bool) -> int:
    """Show the path of the vNIC that ``wanted`` names."""

    async def work(sight: Sight) -> Traced:
        vnics, missed = await find(sight)
        vnic = choose(wanted, vnics, missed)
        return Traced(vnic, [hop async for hop in trace(vnic, sight)])

    try:
        traced = look(work)
    except Ambiguous as error:
        complain(error)
        return USAGE
    wrong = traced.diagnosis
    if as_json:
        text.print_json(
            {
                "vnic": as_dict(Listed(traced.vnic, wrong)),
                "hops": [text.as_dict(hop) for hop in traced.hops],
                "diagnosis": None if wrong is None else text.as_dict(wrong),
                "left_out": [] if is_root() else [LEFT_OUT],
            }
        )
    else:
        print(f"vNIC {traced.vnic.id}, {traced.vnic.attachment}")
        text.print_findings(traced.hops)
        if not is_root():
            print(LEFT_OUT)
    return FINE if wrong is None else WRONG


def choose(
    wanted: str, vnics: Sequence[ExternalVnic], missed: Sequence[VifError] = ()
) -> ExternalVnic:
    """Find the vNIC that the administrator means.

    Args:
        wanted: its id, the beginning of it, or the name of one of its devices.
        vnics: those of this host.
        missed: what kept more of them from being seen.

    Raises:
        HostError: there is none.
        Ambiguous: there are several.
    """
    lower = wanted.lower()
    fitting = [vnic for vnic in vnics if wanted in vnic.devices or vnic.id == lower]
    fitting = fitting or [vnic for vnic in vnics if lower and vnic.id.startswith(lower)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        taps = ", ".join(vnic.guest_tap for vnic in fitting)
        raise Ambiguous(f"{len(fitting)} vNICs are meant by {wanted!r}", f"name one of {taps}")
    raise HostError(
        f"this host has no vNIC {wanted!r}",
        "; ".join(["see vifctl list", *map(str, missed)]),
    )
