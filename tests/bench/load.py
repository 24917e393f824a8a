# SPDX-License-Identifier: GPL-2.0-or-later
"""Fifty hooks at once: whether all of them work, and what the agent makes of it."""

from __future__ import annotations

import re
import statistics
import uuid
from dataclasses import replace

from tests.bench.bench import Bench, Command, failures, hook
from tests.bench.figure import Measured
from tests.lab.harness.nic import Nic

AT_ONCE = 50
MIXED_ROUNDS = 3
OVN_ROUNDS = 10
PLUG, UNPLUG = "before_device_create", "after_device_destroy"
ANSWERED = re.compile(r"^DEBUG (\w+) answered in (\d+\.\d+) ms$", re.MULTILINE)


def hooks_at_once(bench: Bench) -> Measured:
    """Plug and release fifty vNICs, every second one with a Linux bridge, all at once."""
    bench.agent()
    host = bench.host
    devices, ports = host.devices(), host.ovs.ports()
    wrong: list[str] = []
    slowest = []
    for _ in range(MIXED_ROUNDS):
        plugs = [_plug(number, hybrid=number % 2 == 1) for number in range(AT_ONCE)]
        runs = bench.spawn(plugs, rounds=1, together=True)
        slowest.append(max(run.seconds for each in runs for run in each))
        for command, each in zip(plugs, runs):
            wrong += failures(command, each, rewrites=True)
        made = host.ovs.ports() - ports
        if len(made) != AT_ONCE // 2:
            wrong.append(f"{len(made)} ports were made")
        unplugs = [
            replace(command, argv=_released(command), data=each[0].result)
            for command, each in zip(plugs, runs)
        ]
        runs = bench.spawn(unplugs, rounds=1, together=True)
        for command, each in zip(unplugs, runs):
            wrong += failures(command, each, rewrites=False)
        left = (host.devices() - devices) | (host.ovs.ports() - ports)
        wrong += [f"{name} was left behind" for name in sorted(left)]
    how = (
        f"hooks that failed, of {AT_ONCE} {PLUG} spawned together as user vdsm on a lab host "
        f"(OVN and Open vSwitch with iptables_hybrid in turns) and then {AT_ONCE} {UNPLUG}, "
        f"{MIXED_ROUNDS} times with new vNICs, and devices and ports left behind; "
        f"median of the slowest plug {statistics.median(slowest) * 1000:.0f} ms"
    )
    if wrong:
        how += f"; the first: {wrong[0]}"
    return Measured(len(wrong), how)


def request_median(bench: Bench) -> Measured:
    """The agent's median time for a request under load."""
    times = _request_times(bench)
    return Measured(statistics.median(times), _how("median", times))


def request_p99(bench: Bench) -> Measured:
    """The agent's time for a request under load that one in a hundred exceeds."""
    times = _request_times(bench)
    return Measured(statistics.quantiles(times, n=100)[98], _how("99th percentile", times))


def _plug(number: int, *, hybrid: bool) -> Command:
    mac, vnic_id = f"fa:16:3e:00:00:{number:02x}", str(uuid.uuid4())
    nic = Nic.openstack("OPEN_VSWITCH", vnic_id, mac) if hybrid else Nic.ovn(vnic_id, mac)
    return hook(PLUG, nic)


def _released(command: Command) -> tuple[str, ...]:
    return tuple(word.replace(PLUG, UNPLUG) for word in command.argv)


def _request_times(bench: Bench) -> list[float]:
    """The agent's own times, in ms; measured once."""
    if "request_times" not in bench.shared:
        product = bench.agent("--debug")
        begin = len(product.log())
        plugs = [_plug(number, hybrid=False) for number in range(AT_ONCE)]
        runs = bench.spawn(plugs, rounds=OVN_ROUNDS, together=True)
        pairs = zip(plugs, runs)
        wrong = [text for plug, each in pairs for text in failures(plug, each, rewrites=True)]
        if wrong:
            raise RuntimeError(f"{len(wrong)} hooks failed, the first: {wrong[0]}")
        product.stop()  # with its last line written
        bench.no_agent()
        answered = ANSWERED.findall(product.log()[begin:])
        times = [float(time) for event, time in answered if event == PLUG]
        if len(times) != AT_ONCE * OVN_ROUNDS:
            raise RuntimeError(f"the agent logged {len(times)} answers")
        bench.shared["request_times"] = times
    found: list[float] = bench.shared["request_times"]
    return found


def _how(what: str, times: list[float]) -> str:
    return (
        f"{what} of what the agent's log says of {len(times)} {PLUG} of OVN vNICs, "
        f"{AT_ONCE} hooks spawned together {OVN_ROUNDS} times on a lab host, agent with --debug; "
        f"accept to reply, so it includes waiting for the other {AT_ONCE - 1} requests and for "
        f"the processor that their hooks use; median {statistics.median(times):.1f} ms, "
        f"fastest {min(times):.1f} ms, slowest {max(times):.1f} ms"
    )
