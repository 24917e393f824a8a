# SPDX-License-Identifier: GPL-2.0-or-later
"""Real ovsdb-servers with OVN's northbound schema: one alone, and a cluster of three."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vif_driver.host import json_rpc
from vif_driver.host.certificates import Credentials

from . import programs
from .database_server import DatabaseServer, create, free_port, tls_options

SCHEMA = "/usr/share/ovn/ovn-nb.ovsschema"
DATABASE = "OVN_Northbound"


class Member(DatabaseServer):
    """A server of the database."""

    NAME = DATABASE

    @property
    def remote(self) -> str:
        return f"unix:{self.socket}"

    def state(self) -> dict[str, Any]:
        """Give what the server says about the database, ``leader`` among it."""
        where = [["name", "==", DATABASE]]
        select = {"op": "select", "table": "Database", "where": where}
        (answer,) = json_rpc.ask_unix(str(self.socket), "transact", ["_Server", select], 5)
        state: dict[str, Any] = answer["rows"][0]
        return state

    # ---- rows ------------------------------------------------------------------------------------

    def add_ports(
        self,
        names: Iterable[str],
        options: Mapping[str, str] | None = None,
        external_ids: Mapping[str, str] | None = None,
    ) -> None:
        """Add logical switch ports, on a switch of their own."""
        row = {
            "options": _map(options or {}),
            "external_ids": _map(external_ids or {}),
            "addresses": ["set", ["56:6f:1a:2b:00:01 192.0.2.5"]],
        }
        inserts = [
            {
                "op": "insert",
                "table": "Logical_Switch_Port",
                "row": {"name": name, **row},
                "uuid-name": f"port{number}",
            }
            for number, name in enumerate(names)
        ]
        ports = ["set", [["named-uuid", insert["uuid-name"]] for insert in inserts]]
        switch = {"op": "insert", "table": "Logical_Switch", "row": {"ports": ports}}
        self.transact(*inserts, switch)

    def write(self, name: str, **columns: Any) -> None:
        """Write columns of a port, the whole of them; maps are given as such."""
        row = {
            column: _map(value) if isinstance(value, dict) else value
            for column, value in columns.items()
        }
        self.transact(
            {"op": "update", "table": "Logical_Switch_Port", "where": _is(name), "row": row}
        )

    def remove_ports(self) -> None:
        self.transact({"op": "delete", "table": "Logical_Switch", "where": []})

    def read(self, name: str, column: str) -> dict[str, str]:
        """Read a map of a port."""
        select = {"op": "select", "table": "Logical_Switch_Port", "where": _is(name)}
        (answer,) = self.transact(select)
        return dict(answer["rows"][0][column][1])


class NorthboundServer(Member):
    """OVN's northbound database.

    Args:
        folder: for its files; if there is a database, ``nb.db``, it is taken.
        tls: listen with these besides in the clear on the unix socket.
    """

    def __init__(self, folder: Path, tls: Credentials | None = None) -> None:
        database = folder / "nb.db"
        if not database.exists():
            create(database, SCHEMA)
        self.port = free_port()
        kind = "tcp" if tls is None else "ssl"
        self.inet = f"{kind}:127.0.0.1:{self.port}"
        arguments = [f"--remote=p{kind}:{self.port}:127.0.0.1", *tls_options(tls)]
        super().__init__(folder, database, *arguments, port=self.port)
        self.start()


class NorthboundCluster:
    """Three members of one northbound database, whose leader is elected by RAFT.

    Args:
        folder: for its files; of a short name, since it holds sockets.
    """

    def __init__(self, folder: Path) -> None:
        self.members = []
        first = f"unix:{folder}/raft1"
        for number in (1, 2, 3):
            database, address = folder / f"nb{number}.db", f"unix:{folder}/raft{number}"
            if number == 1:
                make = ["create-cluster", str(database), SCHEMA, address]
            else:
                make = ["join-cluster", str(database), DATABASE, address, first]
            programs.run("ovsdb-tool", *make)
            self.members.append(Member(folder, database))
            self.members[-1].start()
        self.wait_whole()

    @property
    def remotes(self) -> list[str]:
        return [member.remote for member in self.members]

    @property
    def leader(self) -> Member:
        """The one that leads; there is none while it is elected, and for a moment two."""
        deadline = time.monotonic() + 20
        while True:
            running = [member for member in self.members if member.process is not None]
            leaders = [member for member in running if member.state()["leader"]]
            if len(leaders) == 1:
                return leaders[0]
            if time.monotonic() > deadline:
                pytest.fail(f"the cluster has {len(leaders)} leaders")
            time.sleep(0.01)

    @property
    def followers(self) -> list[Member]:
        leader = self.leader
        return [m for m in self.members if m.process is not None and m is not leader]

    def wait_whole(self) -> None:
        """Wait until every member is in its place and one of them leads."""
        deadline = time.monotonic() + 20
        while not self._whole():
            if time.monotonic() > deadline:
                pytest.fail("the cluster did not come together")
            time.sleep(0.01)

    def restart(self) -> None:
        """Start the members that were stopped."""
        for member in self.members:
            if member.process is None:
                member.start()
        self.wait_whole()

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    def _whole(self) -> bool:
        try:
            states = [member.state() for member in self.members]
        except (LookupError, OSError):
            return False
        return all(state["connected"] for state in states) and any(s["leader"] for s in states)


def _map(value: Mapping[str, str]) -> list[Any]:
    return ["map", [list(item) for item in value.items()]]


def _is(name: str) -> list[list[str]]:
    return [["name", "==", name]]
