# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host says of its external networks: to VDSM, the engine and Prometheus.

Put together from facts; where those come from is the agent's business.
"""

from __future__ import annotations

from pathlib import Path

#: The file of metrics.  node_exporter reads files of this name's kind, or a symbolic link to one,
#: in its own folder.
METRICS = Path("/run/vif-driver/metrics/vif-driver.prom")
