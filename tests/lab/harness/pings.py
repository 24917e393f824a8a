# SPDX-License-Identifier: GPL-2.0-or-later
"""A ping that goes on while something happens, and what was lost of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .anchor import INSIDE, INTERPRETER
from .hypervisor import INTEGRATION_BRIDGE, Hypervisor

#: Seconds between two requests.
INTERVAL = 0.01

#: The same, so seldom that a queue takes all that comes while what forwards it is busy for some
#: seconds: Open vSwitch in userspace with other work of its only thread, or a guest that is moved.
SELDOM = 0.05

#: Seconds after which an answer is of no use any more.
LATE = 0.2

PINGER = (INTERPRETER, "-I", "-S", str(INSIDE / "pinger.py"))


@dataclass
class Pings:
    """What became of a ping; all zero while it goes on.

    Attributes:
        sent: requests, from the first one that was answered on.
        lost: those that no answer came to, however late.
        longest_gap: seconds between two answers, at most.
        late: answers that were of no use any more.
        outage: seconds for which no request was answered in time, at most.
        duplicates: answers beyond the first to a request.
    """

    sent: int = 0
    lost: int = 0
    longest_gap: float = 0.0
    late: int = 0
    outage: float = 0.0
    duplicates: int = 0


@dataclass(frozen=True)
class Probe:
    """Something on an integration bridge that is no VM: it can ping.

    Attributes:
        host: where.
        name: of the namespace that it lives in, and of the device that leads there.
    """

    host: Hypervisor
    name: str

    @contextmanager
    def ping(
        self, address: str, *, interval: float = INTERVAL, late: float = LATE
    ) -> Iterator[Pings]:
        """Ping an address, from its first answer to the block's end.

        Args:
            address: which.
            interval: seconds between two requests.
            late: seconds after which an answer is of no use any more.

        Raises:
            RuntimeError: it is not reached at all.
        """
        inside = ["ip", "netns", "exec", self.name]
        command = [*inside, "timeout", "300", *PINGER, address, str(interval), str(late)]
        pings = Pings()
        with self.host.popen(command, stdin=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise RuntimeError(f"{self.name} does not reach {address}")
                yield pings
                told, _ = process.communicate(timeout=20)  # which ends its standard input
                vars(pings).update(json.loads(told))
            finally:
                process.kill()

    def reaches(self, address: str, timeout: int = 1) -> bool:
        """Whether an answer comes to one request."""
        inside = ["ip", "netns", "exec", self.name]
        command = [*inside, "ping", "-n", "-q", "-c", "1", "-W", str(timeout), address]
        return self.host.run(command, check=False).returncode == 0

    def remove(self) -> None:
        """Take it away; its port may be gone already."""
        # Before its namespace, which the kernel takes its time to clear.
        self.host.run(["ip", "link", "del", self.name])
        self.host.run(["ip", "netns", "del", self.name])
        self.host.vsctl("--if-exists", "del-port", self.name)


def add_probe(
    host: Hypervisor, name: str, mac: str, address: str, *, mtu: int = 1442, **columns: str
) -> Probe:
    """Join a namespace of a host to its integration bridge, as software other than libvirt would.

    Args:
        host: where.
        name: of the namespace and of the device that leads there.
        mac: its MAC.
        address: its address, with prefix length.
        mtu: bytes.
        columns: what the rows of tables are set to, like ``Port="tag=5"``.
    """
    host.run(
        f"""set -e
        ip netns add {name}
        ip link add {name} type veth peer name eth0 address {mac} netns {name}
        # The userspace datapath completes no checksums.
        ip netns exec {name} ethtool -K eth0 tx off >/dev/null
        ip -n {name} link set eth0 mtu {mtu} up
        ip -n {name} addr add {address} dev eth0
        ip link set {name} up"""
    )
    settings = [f"-- set {table} {name} {text}".split() for table, text in columns.items()]
    host.vsctl("add-port", INTEGRATION_BRIDGE, name, *(word for each in settings for word in each))
    return Probe(host, name)
