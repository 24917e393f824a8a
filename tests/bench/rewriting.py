# SPDX-License-Identifier: GPL-2.0-or-later
"""What rewriting a NIC's XML costs, alone."""

from __future__ import annotations

import statistics
import time

from tests.bench.bench import Bench
from tests.bench.figure import Measured
from tests.lab.harness.nic import Nic
from vif_driver.interface_xml import Connection, Interface

VNIC = "0b8d1f2e-0000-4000-8000-000000000001"
BATCHES = 20
BATCH = 500


def rewrites(bench: Bench) -> Measured:
    """How often a second VDSM's XML can be parsed, connected and serialised."""
    data = Nic.ovn(VNIC, "fa:16:3e:00:00:01").xml().encode()
    connection = Connection("br-int", f"tap{VNIC[:11]}", VNIC)
    rates = []
    for _ in range(BATCHES):
        begun = time.perf_counter()
        for _ in range(BATCH):
            interface = Interface(data)
            interface.connect(connection)
            interface.to_bytes()
        rates.append(BATCH / (time.perf_counter() - begun))
    how = (
        f"interface_xml alone, in this process: parse, connect to OVN and serialise VDSM's "
        f"{len(data)} bytes; median of {BATCHES} batches of {BATCH}, "
        f"{1e6 / statistics.median(rates):.0f} us each"
    )
    return Measured(statistics.median(rates), how)
