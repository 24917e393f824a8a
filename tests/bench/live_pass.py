# SPDX-License-Identifier: GPL-2.0-or-later
"""What live VMs feel of it when the agent removes what thousands of others have left."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack

from tests.bench.bench import Bench
from tests.bench.figure import Measured
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.leftovers import add_stale_ports, count_stale_ports
from tests.lab.harness.nic import Nic
from tests.lab.harness.pings import INTERVAL, add_probe
from tests.lab.harness.vdsm import Vm

STALE = 10_000
VMS = 2
PROBE_MAC = "fa:16:3e:00:04:ff"
TIMEOUT = 180.0
#: Seconds, less than the grace period, after which Open vSwitch has looked at all that is new.
PAUSE = 5.0


def lost_pings(bench: Bench) -> Measured:
    """Ping VMs while the agent removes ten thousand stale rows."""
    lab, vdsm, network = bench.ovn_lab, bench.vdsm, bench.network
    host = vdsm.host
    ports = [
        lab.central.add_port(network, str(uuid.uuid4()), mac)
        for mac in (PROBE_MAC, *(f"fa:16:3e:00:04:{number:02x}" for number in range(VMS)))
    ]
    vms = [Vm(f"live-{port.name[:6]}", [Nic.ovn(port.name, port.mac)]) for port in ports[1:]]
    with ExitStack() as stack:
        for port in ports:
            stack.callback(lab.central.remove_port, port.name)
        for vm in vms:
            stack.callback(vdsm.destroy_vm, vm)
        vdsm.create_vms(vms)
        targets = [vm.running.wait_lease().address for vm in vms]
        address = f"{ports[0].address}/{network.subnet.prefixlen}"
        row = f"external_ids:iface-id={ports[0].name}"
        probe = add_probe(host, "probe", PROBE_MAC, address, mtu=network.mtu, Interface=row)
        stack.callback(probe.remove)
        host.ovs.wait_ready(probe.name)
        add_stale_ports(host, STALE)
        time.sleep(PAUSE)
        with ExitStack() as pinging:
            pings = [pinging.enter_context(probe.ping(target)) for target in targets]
            wait_until(lambda: _left(bench) < STALE, TIMEOUT, "the first removal", interval=0.1)
            begun = time.monotonic()
            wait_until(lambda: not _left(bench), TIMEOUT, "the last removal", interval=0.1)
            seconds = time.monotonic() - begun
    sent = sum(each.sent for each in pings)
    lost = sum(each.lost for each in pings)
    gap = max(each.longest_gap for each in pings)
    how = (
        f"{lost} of {sent} pings, one every {INTERVAL * 1000:.0f} ms to each of {VMS} VMs from a "
        f"namespace on their logical switch, that were never answered while the agent found and "
        f"removed {STALE} rows of VMs that there were not, with all daemons of a lab host on one "
        f"computer; from the first removal to the last {seconds:.1f} s, longest time without an "
        f"answer {gap * 1000:.0f} ms"
    )
    return Measured(lost, how)


def _left(bench: Bench) -> int:
    return count_stale_ports(bench.vdsm.host)
