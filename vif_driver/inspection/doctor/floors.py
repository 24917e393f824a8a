# SPDX-License-Identifier: GPL-2.0-or-later
"""The versions below which something is known to be missing or broken."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from vif_driver.inspection.finding import Finding, ok, unknown, warning

_NAME = "versions"


@dataclasses.dataclass(frozen=True)
class Floor:
    """A version, and what those below lack.

    Attributes:
        fixed: the first versions that have it, one a release line, in rising order; every later
            line has it from its start.
        lack: what is missing, to follow "it".
    """

    fixed: tuple[str, ...]
    lack: str


#: ovn's NEWS, and the tags that contain the commits.
OVN = (
    Floor(
        ("22.09",),
        "knows no port on two hosts at once, so VMs lose packets for as long as a migration lasts",
    ),
    Floor(
        ("23.09.6", "24.03.4", "24.09.1"),
        "may take a minute to install the flows of a port on a host with many "
        "(https://github.com/ovn-org/ovn/issues/261)",
    ),
)

#: The oldest that oVirt's wrapper package demands (vdsm.spec.in).
OPEN_VSWITCH = (Floor(("2.17",), "is older than any that oVirt has been run with"),)

#: libvirt's NEWS of 10.3.0.
LIBVIRT = (
    Floor(
        ("10.3.0",),
        "leaves the ports of VMs in Open vSwitch's database when the host loses power",
    ),
)


def compare(program: str, version: str | None, floors: Sequence[Floor]) -> Finding:
    """Say what a program's version lacks.

    Args:
        program: its name.
        version: what it says; None if it did not.
        floors: what is known of earlier versions.
    """
    have = _parts(version or "")
    if not have:
        return unknown(_NAME, f"{program} did not say its version")
    for floor in floors:
        if not _has(have, [_parts(fixed) for fixed in floor.fixed]):
            remedy = f"update it to {' or '.join(floor.fixed)}, or later"
            return warning(_NAME, f"{program} {version} {floor.lack}", remedy)
    return ok(_NAME, f"{program} {version}")


def _parts(version: str) -> tuple[int, ...]:
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return () if found is None else tuple(int(part) for part in found[0].split("."))


def _has(version: tuple[int, ...], fixed: Sequence[tuple[int, ...]]) -> bool:
    # A release line is the first two numbers; a fix in one is not in the lines before it.
    for first in fixed:
        if version[:2] == first[:2]:
            return version >= first
    return version[:2] > fixed[-1][:2]
