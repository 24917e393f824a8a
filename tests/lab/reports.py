# SPDX-License-Identifier: GPL-2.0-or-later
"""What the product adds to VDSM's reports, asked until it is there.

An agent that is late leaves a report as it was, and on a busy computer it may be late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.lab.harness.deadline import wait_until
from tests.lab.harness.vdsm import Vdsm

KEY = "external_networks"
_PATIENCE = 20.0


def own_capabilities(vdsm: Vdsm, report: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Give our part of the capabilities; ``report`` is what VDSM has to say itself."""
    return wait_until(
        lambda: vdsm.get_capabilities(report).get(KEY), _PATIENCE, "capabilities", interval=0.2
    )


def own_statistics(vdsm: Vdsm) -> dict[str, Any]:
    """Give our part of the statistics."""
    return wait_until(lambda: vdsm.get_stats().get(KEY), _PATIENCE, "statistics", interval=0.2)
