# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent takes of the host: memory, wake-ups, and time to start."""

from __future__ import annotations

import json
import socket
import time
import uuid
from dataclasses import dataclass, replace

from tests.bench.bench import Bench, failures, hook
from tests.bench.figure import Measured
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.machine import Machine
from tests.lab.harness.nic import Nic
from vif_driver import wire

VNICS = 200
AT_ONCE = 50
ROWS = 1000
IDLE_SECONDS = 60
PLUG, UNPLUG = "before_device_create", "after_device_destroy"


def memory(bench: Bench) -> Measured:
    """The agent's resident memory after it has plugged 200 vNICs with everything we make."""
    bench.no_agent()
    product = bench.agent()
    fresh = _memory(bench.host, product.agent.pid)
    plugs = [
        hook(PLUG, Nic.openstack("OPEN_VSWITCH", str(uuid.uuid4()), f"fa:16:3e:00:04:{n:02x}"))
        for n in range(VNICS)
    ]
    wrong: list[str] = []
    for begin in range(0, VNICS, AT_ONCE):
        batch = plugs[begin : begin + AT_ONCE]
        for command, runs in zip(batch, bench.spawn(batch, rounds=1, together=True)):
            wrong += failures(command, runs, rewrites=True)
    used = _memory(bench.host, product.agent.pid)
    for begin in range(0, VNICS, AT_ONCE):
        batch = [
            replace(plug, argv=tuple(word.replace(PLUG, UNPLUG) for word in plug.argv))
            for plug in plugs[begin : begin + AT_ONCE]
        ]
        for command, runs in zip(batch, bench.spawn(batch, rounds=1, together=True)):
            wrong += failures(command, runs, rewrites=False)
    if wrong:
        raise RuntimeError(f"{len(wrong)} hooks failed, the first: {wrong[0]}")
    how = (
        f"VmRSS with {VNICS} hybrid vNICs plugged ({AT_ONCE} at once), each with its bridge, veth "
        f"pair and port; {fresh:.1f} MiB when the agent had just started"
    )
    return Measured(used, how)


@dataclass(frozen=True)
class _Idle:
    switches: int
    of_loop: int
    ticks: int


def wake_ups(bench: Bench) -> Measured:
    """How often the agent's threads run while nothing happens."""
    idle = _idle(bench)
    how = (
        f"context switches of all its threads in {IDLE_SECONDS} s on a lab host with Open vSwitch, "
        f"ovn-controller and libvirtd running and no VM, {idle.of_loop} of them its own loop's; "
        f"the others answer libvirtd's keepalive (every 5 s, keepalive_interval in libvirtd.conf); "
        f"as a service it also feeds systemd's watchdog, twice a minute"
    )
    return Measured(idle.switches, how)


def idle_time(bench: Bench) -> Measured:
    """The processor time that the agent uses while nothing happens."""
    how = (
        f"user and system time in the same {IDLE_SECONDS} s, of which the kernel counts "
        f"hundredths of a second"
    )
    return Measured(_idle(bench).ticks * 10, how)


def _idle(bench: Bench) -> _Idle:
    if "idle" not in bench.shared:
        host, pid = bench.vdsm.host, bench.ovn_product.agent.pid
        time.sleep(3)  # what its start has set going
        before = _Idle(_switches(host, pid), _switches(host, pid, f"{pid}"), _ticks(host, pid))
        time.sleep(IDLE_SECONDS)
        bench.shared["idle"] = _Idle(
            _switches(host, pid) - before.switches,
            _switches(host, pid, f"{pid}") - before.of_loop,
            _ticks(host, pid) - before.ticks,
        )
    found: _Idle = bench.shared["idle"]
    return found


def start_up(bench: Bench) -> Measured:
    """From the agent's spawn until it serves and knows a database of a thousand interfaces."""
    bench.no_agent()
    host, product = bench.host, bench.product
    names = [f"stale{number}" for number in range(ROWS)]
    # ovs-vswitchd would spend the time of the measurement on devices that aren't there.
    host.ovs.vswitchd.stop()
    _vsctl(host, [f"add-port br-int {name}" for name in names])
    times = []
    try:
        for _ in range(5):
            begun = time.monotonic()
            product.start()
            wait_until(lambda: _is_up(host), 20, "the agent", interval=0.002)
            times.append(time.monotonic() - begun)
            product.stop()
    finally:
        _vsctl(host, [f"del-port br-int {name}" for name in names])
        host.restart_vswitchd()
        bench.no_agent()
    how = (
        f"median of 5 starts, from the spawn to an answer of vif-agent's on its socket that says "
        f"it has the contents of a database with {ROWS} more Interface rows; "
        f"fastest {min(times):.2f} s, slowest {max(times):.2f} s"
    )
    return Measured(sorted(times)[2], how)


def _memory(host: Machine, pid: int) -> float:
    """Resident memory in MiB."""
    for line in host.read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has ended")


def _switches(host: Machine, pid: int, thread_id: str = "*") -> int:
    total = 0
    for thread in host.path(f"/proc/{pid}/task").glob(thread_id):
        for line in (thread / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def _ticks(host: Machine, pid: int) -> int:
    """Processor time in hundredths of a second (proc(5), utime and stime)."""
    fields = host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _vsctl(host: Machine, commands: list[str]) -> None:
    for begin in range(0, len(commands), 250):
        batch = " -- ".join(commands[begin : begin + 250])
        host.run(f"ovs-vsctl --no-wait -- {batch}", timeout=120)


def _is_up(host: Machine) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(host.path(wire.SOCKET)))
            agent.sendall(wire.encode_request(wire.Request("status", {}, b"")))
            with agent.makefile("rb") as stream:
                reply = wire.decode_reply(stream.read())
    except OSError:
        return False
    return reply.data is not None and bool(json.loads(reply.data)["integration_bridge_exists"])
