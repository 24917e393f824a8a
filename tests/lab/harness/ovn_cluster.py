# SPDX-License-Identifier: GPL-2.0-or-later
"""OVN's central machine with a database of three members, of which one leads.

All are on one machine, with an address each: what is wanted of them is that one can die.
"""

from __future__ import annotations

from collections.abc import Sequence

from .command import CommandError
from .deadline import wait_until
from .ovn_central import DATABASES, SCHEMAS, Central, socket_of
from .service import Service

# Of the underlay; the first is the machine's own.
ADDRESSES = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
RAFT_PORT = 6643


class ClusteredCentral(Central):
    """The machine that runs OVN's databases, three servers of one of them."""

    #: The database that has three.
    kind = "nb"

    @property
    def members(self) -> list[Service]:
        """The servers of that database."""
        remotes = enumerate((f"ptcp:{self._port}:{address}" for address in ADDRESSES), start=1)
        return [
            self.server(self.kind, f"{self.kind}{number}", remote) for number, remote in remotes
        ]

    @property
    def remotes(self) -> str:
        """Where they listen, as clients are told it."""
        return ",".join(f"tcp:{address}:{self._port}" for address in ADDRESSES)

    @property
    def leader(self) -> Service:
        """The member that leads; another one a few seconds after it has died."""
        return self.wait_leader()

    def wait_leader(self) -> Service:
        """Wait until a member leads, and return that."""
        return wait_until(self._find_leader, 20, f"{self.name}: a member that leads")

    def restore(self) -> None:
        """Start the members that do not run; returns when all, and northd, are in their places."""
        missing = [member for member in self.members if not member.running]
        for member in missing:
            member.start()
        for member in self.members:
            self._wait_joined(member)
        if missing and self.northd.running:
            # It would look for the leader for half a minute: 8 s, in the end, between two members.
            self.northd.restart()

    # ---- what is different -------------------------------------------------------------------

    def servers(self, kind: str) -> list[Service]:
        return self.members if kind == self.kind else super().servers(kind)

    def asked(self, kind: str) -> Service:
        # ovn-nbctl tries each member once, and doesn't wait for one to lead.
        return self.leader if kind == self.kind else super().asked(kind)

    def _control(self, tool: str, kind: str, arguments: Sequence[str], timeout: float) -> str:
        def ask() -> str | None:
            try:
                return super(ClusteredCentral, self)._control(tool, kind, arguments, timeout) + "\n"
            except CommandError as error:
                if "connection failed" in error.stderr:
                    return None  # another member has become the leader since that was looked up
                raise

        return wait_until(ask, 20, f"{self.name}: an answer to {tool}", 0.2)[:-1]

    def start_database(self, kind: str) -> None:
        if kind != self.kind:
            super().start_database(kind)
            return
        for address in ADDRESSES[1:]:
            self.ip(f"addr replace {address}/24 dev eth0")
        first = f"tcp:{ADDRESSES[0]}:{RAFT_PORT}"
        for member, address in zip(self.members, ADDRESSES):
            file, own = f"/var/lib/ovn/{member.name}.db", f"tcp:{address}:{RAFT_PORT}"
            if not self.exists(file) and own == first:
                self.run(["ovsdb-tool", "create-cluster", file, SCHEMAS[kind], own])
            elif not self.exists(file):
                self.run(["ovsdb-tool", "join-cluster", file, self._database, own, first])
            member.start()
        self.restore()
        control = self.nbctl if kind == "nb" else self.sbctl
        control("init")

    @property
    def _database(self) -> str:
        return DATABASES[self.kind][0]

    @property
    def _port(self) -> int:
        return DATABASES[self.kind][2]

    def _wait_joined(self, member: Service) -> None:
        wait = ["ovsdb-client", "--timeout=20", "wait", socket_of(member)]
        self.run([*wait, self._database, "connected"])

    def _find_leader(self) -> Service | None:
        for member in self.members:
            if member.running:
                ask = ["ovs-appctl", "-t", f"/run/ovn/{member.name}_db.ctl"]
                done = self.run([*ask, "cluster/status", self._database], check=False)
                if "Role: leader" in done.stdout:
                    return member
        return None


class SouthboundCluster(ClusteredCentral):
    """The machine that runs OVN's databases, three servers of the southbound one among them."""

    kind = "sb"
