# SPDX-License-Identifier: GPL-2.0-or-later
"""What VDSM's reports cost on a host with 200 vNICs."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.bench.bench import PYTHON, SPAWN, Bench, Command, Run, failures, hook
from tests.bench.figure import Measured
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.nic import Nic
from vif_driver import wire

VNICS = 200
WARM_UP = 10
ROUNDS = 150
BY_SUBPROCESS = str(SPAWN.with_name("ask_by_subprocess.py"))
SOCKET = "/run/openvswitch/db.sock"

#: A process that asks the agent, and drops the answer.
ASK = f"""
import _socket, posix
report = posix.read(posix.open(posix.environ[b"_hook_json"], posix.O_RDONLY), 1 << 20)
agent = _socket.socket(_socket.AF_UNIX)
agent.connect("{wire.SOCKET}")
agent.sendall(b"vif1 after_get_stats 0 %d\\n" % len(report) + report)
while agent.recv(65536):
    pass
"""

#: As long as the reports of a host with a few dozen networks are.
REPORT = json.dumps(
    {f"net{number}": {"rx": number, "tx": number, "what": "x" * 60} for number in range(250)}
)


def caps(bench: Bench) -> Measured:
    """A hook that adds 200 vNICs to the capabilities."""
    return _ratio(bench, "ours", "the hook after_get_caps")


def caps_openstacknet(bench: Bench) -> Measured:
    """The older way to add one name."""
    return _ratio(bench, "openstacknet", "a hook that runs ovs-ctl status and ovs-vsctl get")


def caps_provider(bench: Bench) -> Measured:
    """The other older way to add one name."""
    return _ratio(bench, "provider", "a hook that runs ovs-vsctl get")


def stats(bench: Bench) -> Measured:
    """The hook for statistics, against what it can't do without."""
    times = _stats_times(bench)
    answer = times["asking"] - times["bare"]
    how = (
        f"the hook after_get_stats, {times['ours'] * 1000:.3f} ms, against the sum of a hook for a "
        f"NIC that is not ours, {times['not ours'] * 1000:.3f} ms, and the agent's answer, "
        f"{answer * 1000:.3f} ms: what a process that asks it and does nothing else takes more "
        f"than a bare interpreter; on a lab host with {VNICS} vNICs of OVN, {ROUNDS} of each of "
        f"the four in turns after {WARM_UP} for warming up; medians"
    )
    return Measured(times["ours"] / (times["not ours"] + answer), how)


def answer(bench: Bench) -> Measured:
    """The agent's part of it."""
    times = _stats_times(bench)
    how = f"the agent's answer to after_get_stats with {VNICS} vNICs of OVN, as in stats_hook"
    return Measured((times["asking"] - times["bare"]) * 1000, how)


def _stats_times(bench: Bench) -> dict[str, float]:
    if "stats" not in bench.shared:
        ours = _report("after_get_stats")
        not_ours = hook("before_device_create", Nic("fa:16:3e:00:00:01", {"of": "somebody"}))
        commands = {
            "bare": ours.instead(PYTHON, "-I", "-S", "-c", "pass"),
            "not ours": not_ours,
            "asking": ours.instead(PYTHON, "-I", "-S", "-c", ASK),
            "ours": ours,
        }
        with _vnics(bench):
            together = list(commands.values())
            runs = bench.spawn(together, rounds=WARM_UP + ROUNDS, together=False)
        found = dict(zip(commands, runs))
        _check(
            [
                text
                for name, command in commands.items()
                for text in failures(command, found[name], rewrites=name == "ours")
            ]
        )
        bench.shared["stats"] = {name: _median(each) for name, each in found.items()}
    known: dict[str, float] = bench.shared["stats"]
    return known


def _ratio(bench: Bench, which: str, what: str) -> Measured:
    runs = _caps_runs(bench)
    base, hooked = _median(runs["bare"]), _median(runs[which])
    how = (
        f"{what} against python3 -I -S -c pass in the same environment, spawned as user vdsm on a "
        f"lab host with {VNICS} vNICs of OVN, a report of {len(REPORT) // 1024} KiB; {ROUNDS} of "
        f"each of the four in turns after {WARM_UP} for warming up; ratio of the medians "
        f"{hooked * 1000:.3f} ms and {base * 1000:.3f} ms"
    )
    return Measured(hooked / base, how)


def _caps_runs(bench: Bench) -> dict[str, list[Run]]:
    if "caps" not in bench.shared:
        ours = _report("after_get_caps")
        commands = {
            "bare": ours.instead(PYTHON, "-I", "-S", "-c", "pass"),
            "ours": ours,
            "openstacknet": ours.instead(PYTHON, BY_SUBPROCESS, "openstacknet"),
            "provider": ours.instead(PYTHON, BY_SUBPROCESS, "provider"),
        }
        with _vnics(bench):
            # They have sudo for it.
            bench.host.path(SOCKET).chmod(0o666)
            together = list(commands.values())
            runs = bench.spawn(together, rounds=WARM_UP + ROUNDS, together=False)
        found: dict[str, list[Run]] = dict(zip(commands, runs))
        _check(
            [
                text
                for name, command in commands.items()
                for text in failures(command, found[name], rewrites=name != "bare")
            ]
        )
        added = json.loads(found["ours"][-1].result)["external_networks"]["vnics"]
        if [vnic["ready"] for vnic in added] != [True] * VNICS:
            raise RuntimeError(f"not all of the {VNICS} vNICs are ready in the capabilities")
        bench.shared["caps"] = found
    known: dict[str, list[Run]] = bench.shared["caps"]
    return known


def _report(event: str) -> Command:
    command = hook(event, Nic("fa:16:3e:00:00:01"), data=REPORT)
    return replace(command, variable="_hook_json")


def _median(runs: list[Run]) -> float:
    return statistics.median(run.seconds for run in runs[WARM_UP:])


def _check(wrong: list[str]) -> None:
    if wrong:
        raise RuntimeError(f"{len(wrong)} runs went wrong, the first: {wrong[0]}")


@contextlib.contextmanager
def _vnics(bench: Bench) -> Iterator[None]:
    """Have vNICs of OVN on the host as libvirt and ovn-controller leave them."""
    bench.no_agent()
    host = bench.host
    ids = [f"{number:08x}-ab12-4000-8000-000000000000" for number in range(VNICS)]
    taps = [f"tap{vnic_id[:11]}" for vnic_id in ids]
    host.run("".join(f"ip tuntap add dev {tap} mode tap && " for tap in taps) + "true")
    ports = []
    for tap, vnic_id in zip(taps, ids):
        known = f"iface-id={vnic_id} vm-id={vnic_id} attached-mac=fa:16:3e:00:00:01"
        keys = " ".join(f"external_ids:{key}" for key in f"{known} ovn-installed=true".split())
        ports.append(f"add-port br-int {tap} -- set Interface {tap} {keys}")
    try:
        host.run(["sh", "-c", "ovs-vsctl " + " -- ".join(ports)], timeout=120)
        bench.agent()
        wait_until(lambda: _are_ready(bench), 60, "the vNICs", interval=0.2)
        time.sleep(2)  # for everybody who hears of new devices
        yield
    finally:
        gone = " -- ".join(f"--if-exists del-port {tap}" for tap in taps)
        host.run(["sh", "-c", f"ovs-vsctl {gone}"], timeout=120)
        host.run("".join(f"ip link del {tap}; " for tap in taps), timeout=120)
        bench.no_agent()


def _are_ready(bench: Bench) -> bool:
    vnics = _exchange(bench, "after_get_caps").get("external_networks", {}).get("vnics", [])
    return [vnic["ready"] for vnic in vnics] == [True] * VNICS


def _exchange(bench: Bench, event: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.connect(str(bench.host.path(wire.SOCKET)))
        agent.sendall(wire.encode_request(wire.Request(event, {}, REPORT.encode())))
        with agent.makefile("rb") as stream:
            reply = wire.decode_reply(stream.read())
    if reply.status or reply.data is None:
        raise RuntimeError(f"the agent did not answer: {reply.message}")
    answer: dict[str, Any] = json.loads(reply.data)
    return answer
