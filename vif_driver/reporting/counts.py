# SPDX-License-Identifier: GPL-2.0-or-later
"""What the parts of the agent count of their own work."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Switchovers:
    """The VMs that have arrived here by live migration.

    Attributes:
        count: how many.
        worst: seconds that OVN was without knowing where the VM is, of the slowest; None of none.
    """

    count: int = 0
    worst: float | None = None

    def add(self, seconds: float) -> None:
        """Count one.

        Args:
            seconds: from libvirt's word that the VM runs here until its ports had followed.
        """
        self.count += 1
        self.worst = max(seconds, self.worst or 0.0)
