# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hook's process costs, against the bare interpreter that it cannot do without."""

from __future__ import annotations

import statistics
import uuid

from tests.bench.bench import PYTHON, Bench, Command, failures, hook
from tests.bench.figure import Measured
from tests.lab.harness.nic import Nic

MAC = "fa:16:3e:00:00:01"
EVENT = "before_device_create"
WARM_UP = 10
PAIRS = 300
SLOW_PAIRS = 40


def not_ours(bench: Bench) -> Measured:
    """A hook for a NIC of the host's own networks, with a custom property of somebody else's."""
    nic = Nic(MAC, {"somebody_elses": "property"})
    bench.agent()
    return _against_bare(bench, "the hook for a NIC that is not ours", hook(EVENT, nic), False)


def ovn_agent(bench: Bench) -> Measured:
    """A hook that has the agent plug an OVN vNIC."""
    bench.agent()
    what = "the hook that plugs an OVN vNIC through the agent"
    return _against_bare(bench, what, hook(EVENT, _ovn()), True)


def ovn_no_agent(bench: Bench) -> Measured:
    """The same without the agent."""
    bench.no_agent()
    what = "the hook that plugs an OVN vNIC without the agent"
    # With no agent whose log it is, it writes to stderr, which VDSM logs.
    logs = "prepared by ovn"
    return _against_bare(bench, what, hook(EVENT, _ovn()), True, SLOW_PAIRS, logs)


def _ovn() -> Nic:
    return Nic.ovn(str(uuid.uuid4()), MAC)


def _against_bare(
    bench: Bench,
    what: str,
    command: Command,
    rewrites: bool,
    pairs: int = PAIRS,
    logs: str = "",
) -> Measured:
    bare = command.instead(PYTHON, "-I", "-S", "-c", "pass")
    both = bench.spawn([bare, command], rounds=WARM_UP + pairs, together=False)
    wrong = failures(bare, both[0], rewrites=False)
    wrong += failures(command, both[1], rewrites=rewrites, logs=logs)
    if wrong:
        raise RuntimeError(f"{len(wrong)} runs went wrong, the first: {wrong[0]}")
    base, hooked = (statistics.median(run.seconds for run in runs[WARM_UP:]) for runs in both)
    how = (
        f"{what} against python3 -I -S -c pass in the same environment, both spawned directly "
        f"as user vdsm on a lab host, {pairs} pairs in turns after {WARM_UP} for warming up, "
        f"ratio of the medians {hooked * 1000:.3f} ms and {base * 1000:.3f} ms"
    )
    return Measured(hooked / base, how)
