# SPDX-License-Identifier: GPL-2.0-or-later
"""What the boot pass costs, against what the database itself takes to forget the same rows."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.bench import PYTHON, SPAWN, Bench
from tests.bench.figure import Measured
from tests.lab.harness.hypervisor import INTEGRATION_BRIDGE, Hypervisor
from tests.lab.harness.leftovers import MANY, add_stale_ports
from tests.lab.harness.open_vswitch import DATABASE, RUN
from vif_driver.host.ovsdb_rows import COLUMNS

BOOT_PASS = "/usr/libexec/vif-driver/boot-pass"
CLIENT = "/usr/bin/ovsdb-client"
REMOTE = f"unix:{RUN}/db.sock"
LIVE = 200
WARM_UP = 1
ROUNDS = 9
CALLS = 20
BOOT_ID = "0123456789abcdef0123456789abcdef"

_AMONG = f"rows of VMs among {LIVE} whose taps are there, anew for each run, without ovs-vswitchd"


def against_bare(bench: Bench) -> Measured:
    """The pass against one transaction that removes the same rows, made by hand beforehand."""
    times = _times(bench, 10_000)
    how = (
        f"boot-pass as installed, its log going to a file, against ovsdb-client with the one "
        f"transaction that is left to do for who knows what to remove; 10000 stale {_AMONG}, "
        f"{ROUNDS} of each in turns after {WARM_UP} for warming up, ratio of the medians "
        f"{times.boot_pass * 1000:.0f} ms and {times.removal * 1000:.0f} ms"
    )
    return Measured(times.boot_pass / times.removal, how)


def by_hand(bench: Bench) -> Measured:
    """The pass against who has to ask the database first what there is."""
    times = _times(bench, 10_000)
    how = (
        f"the same runs of boot-pass against ovsdb-client with a query for what the pass logs of a "
        f"row ({times.query * 1000:.0f} ms), and then with that transaction "
        f"({times.removal * 1000:.0f} ms); choosing the rows is not counted"
    )
    return Measured(times.boot_pass / (times.query + times.removal), how)


def against_loop(bench: Bench) -> Measured:
    """The pass against ovs-vsctl del-port for one row after the other."""
    stale = 10_000
    per_call = []
    for rows in (stale, 100):
        with _Database(bench, rows).prepared() as database:
            names = " ".join(f"{MANY}{LIVE + number}" for number in range(CALLS))
            remove = f"ovs-vsctl --no-wait --if-exists del-port {INTEGRATION_BRIDGE} $name"
            loop = f"for name in {names}; do {remove}; done"
            per_call.append(database.run("/bin/sh", "-c", loop) / CALLS)
    many, few = per_call
    whole = (many + few) / 2 * stale
    boot_pass = _times(bench, stale).boot_pass
    how = (
        f"a shell's loop of 'ovs-vsctl --if-exists del-port' against the same runs of boot-pass "
        f"({boot_pass * 1000:.0f} ms).  The loop would take {whole:.0f} s, extrapolated: ovs-vsctl "
        f"reads all rows each time, so {CALLS} calls were timed with 10000 stale rows "
        f"({many * 1000:.0f} ms a call) and {CALLS} with 100 ({few * 1000:.0f} ms), and what lies "
        f"between taken to be linear"
    )
    return Measured(whole / boot_pass, how)


def of_100(bench: Bench) -> Measured:
    """A pass over a hundred stale rows."""
    return _growth(bench, 100)


def of_1000(bench: Bench) -> Measured:
    """A pass over a thousand."""
    return _growth(bench, 1000)


def of_10000(bench: Bench) -> Measured:
    """A pass over ten thousand."""
    return _growth(bench, 10_000)


def _growth(bench: Bench, stale: int) -> Measured:
    times = _times(bench, stale)
    how = (
        f"median of {ROUNDS} runs of boot-pass, from its spawn to its end, {stale} stale {_AMONG}; "
        f"the bare transaction takes {times.removal * 1000:.0f} ms"
    )
    return Measured(times.boot_pass * 1000, how)


@dataclass(frozen=True)
class _Times:
    """Medians, in seconds.

    Attributes:
        boot_pass: of the pass.
        removal: of the bare transaction.
        query: of the question for all rows.
    """

    boot_pass: float
    removal: float
    query: float


def _times(bench: Bench, stale: int) -> _Times:
    """Time everything with so many stale rows; measured once."""
    key = f"boot_pass_{stale}"
    if key not in bench.shared:
        with _Database(bench, stale).prepared() as database:
            commands = {
                "boot_pass": (BOOT_PASS, BOOT_ID),
                "removal": (CLIENT, "transact", REMOTE, database.removal()),
                "query": (CLIENT, "query", REMOTE, _query()),
            }
            runs: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(WARM_UP + ROUNDS):
                for name, argv in commands.items():
                    runs[name].append(database.run(*argv))
                    left = LIVE + (stale if name == "query" else 0)
                    if len(database.host.ovs.ports()) != left:
                        raise RuntimeError(f"{name} did not leave {left} ports")
        medians = {name: statistics.median(times[WARM_UP:]) for name, times in runs.items()}
        bench.shared[key] = _Times(**medians)
    found: _Times = bench.shared[key]
    return found


class _Database:
    """Open vSwitch's database with stale rows, on the bench's host.

    Args:
        bench: whose host.
        stale: how many rows no tap belongs to.
    """

    def __init__(self, bench: Bench, stale: int) -> None:
        bench.no_agent()
        self.host: Hypervisor = bench.host
        self._stale = stale
        self._file = self.host.path(DATABASE)
        self._before = self._file.with_suffix(".before")
        self._template = self._file.with_suffix(".template")

    @contextmanager
    def prepared(self) -> Iterator[_Database]:
        """Have it for the time being instead of the host's own, and nobody using it."""
        taps = [f"{MANY}{number}" for number in range(LIVE)]
        self.host.ovs.vswitchd.stop()
        shutil.copy(self._file, self._before)
        self.host.ip(*(f"tuntap add {tap} mode tap" for tap in taps))
        try:
            add_stale_ports(self.host, LIVE + self._stale)
            shutil.copy(self._file, self._template)
            yield self
        finally:
            self._start(self._before)
            self.host.ip(*(f"link del {tap}" for tap in taps))
            self.host.restart_vswitchd()

    def removal(self) -> str:
        """The transaction that removes the stale rows: the others alone are the bridge's."""
        self._start(self._template)
        ports = self.host.ovs.rows("Port", columns=["_uuid", "name"])
        stale = {f"{MANY}{number}" for number in range(LIVE, LIVE + self._stale)}
        gone = {port["_uuid"] for port in ports if port["name"] in stale}
        (bridge,) = self.host.ovs.rows("Bridge", f"name={INTEGRATION_BRIDGE}", columns=["ports"])
        kept = [["uuid", port] for port in bridge["ports"] if port not in gone]
        operation = {
            "op": "update",
            "table": "Bridge",
            "where": [["name", "==", INTEGRATION_BRIDGE]],
            "row": {"ports": ["set", kept]},
        }
        return json.dumps(["Open_vSwitch", operation])

    def run(self, *argv: str) -> float:
        """Run a command on it, as it was prepared; gives the seconds."""
        self._start(self._template)
        # As root, where a host has systemd give vif-agent access.
        order = {
            "rounds": 1,
            "together": False,
            "commands": [{"argv": argv, "env": self.host.environment(), "data": ""}],
        }
        done = self.host.run([PYTHON, "-I", "-S", str(SPAWN)], input=json.dumps(order))
        (((seconds, status, stderr, _),),) = json.loads(done.stdout)
        if status != 0:
            raise RuntimeError(f"{argv[0]}: exit status {status}: {stderr[-500:]}")
        return float(seconds)

    def _start(self, content: object) -> None:
        database = self.host.ovs.database
        database.stop()
        shutil.copy(str(content), self._file)
        database.start()


def _query() -> str:
    tables = {
        "Bridge": ("name", "ports"),
        "Port": COLUMNS["Port"],
        "Interface": COLUMNS["Interface"],
    }
    select = {"op": "select", "where": []}
    operations = [
        {**select, "table": table, "columns": ["_uuid", *columns]}
        for table, columns in tables.items()
    ]
    return json.dumps(["Open_vSwitch", *operations])
