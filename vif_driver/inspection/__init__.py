# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen of this host and of its external vNICs.  Nothing here changes anything.

``vifctl`` shows it to the administrator; the agent asks it for the likely reason when a vNIC is
not ready in time.
"""

from __future__ import annotations

from vif_driver.inspection.reason import likely_reason

__all__ = ["likely_reason"]
