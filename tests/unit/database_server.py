# SPDX-License-Identifier: GPL-2.0-or-later
"""A real ovsdb-server, of whatever schema."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from vif_driver.host import json_rpc
from vif_driver.host.certificates import Credentials

from . import programs


def create(database: Path, schema: str) -> None:
    """Make the file of an empty database."""
    programs.run("ovsdb-tool", "create", database, schema)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tls_options(credentials: Credentials | None) -> list[str]:
    """What a server is told of the certificates that it is to listen with."""
    if credentials is None:
        return []
    return [
        f"--private-key={credentials.key}",
        f"--certificate={credentials.certificate}",
        f"--ca-cert={credentials.ca}",
    ]


class DatabaseServer:
    """An ovsdb-server; with its socket everything about it can be asked and changed.

    Args:
        folder: for its files; of a short name, since it holds sockets.
        database: its file.
        arguments: further ones.
        port: where it listens by TCP, if its arguments say so.
    """

    #: The database's name.
    NAME: ClassVar[str]

    def __init__(
        self, folder: Path, database: Path, *arguments: str, port: int | None = None
    ) -> None:
        self.database = database
        self.socket = folder / f"{database.stem}.sock"
        self.log = folder / f"{database.stem}.log"
        self._port = port
        self._command = [
            programs.path("ovsdb-server"),
            str(database),
            f"--remote=punix:{self.socket}",
        ]
        self._command += [f"--unixctl={folder / database.stem}.ctl", *arguments]
        self._command += [f"--log-file={self.log}", "-vconsole:off", "--no-chdir"]
        self.process: subprocess.Popen[bytes] | None = None
        self._changing = threading.Lock()

    def start(self) -> None:
        """Start it, unless it runs."""
        with self._changing:
            if self.process is None or self.process.poll() is not None:
                self.socket.unlink(missing_ok=True)
                self.process = subprocess.Popen(
                    self._command, stderr=subprocess.DEVNULL, close_fds=False
                )
            deadline = time.monotonic() + 20
            while not self._listens():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("ovsdb-server did not start")
                time.sleep(0.002)

    def stop(self) -> None:
        """Kill it, if it runs."""
        with self._changing:
            if self.process is not None:
                self.process.kill()
                self.process.wait()
                self.process = None
                self.socket.unlink(missing_ok=True)

    def transact(self, *operations: Mapping[str, Any]) -> list[Any]:
        with self._connection() as connection:
            return self._transact(connection, operations)

    def replace(self, operations: Iterable[Mapping[str, Any]]) -> None:
        """Delete everything, and do something else, in one transaction."""
        with self._connection() as connection:
            # What a client sent before it hung up is done by the time that this is answered.
            tables = connection.call("get_schema", [self.NAME])["tables"]
            everything = ({"op": "delete", "table": table, "where": []} for table in tables)
            self._transact(connection, [*everything, *operations])

    @contextlib.contextmanager
    def _connection(self) -> Iterator[json_rpc.Connection]:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(self.socket))
            yield json_rpc.Connection(stream, time.monotonic() + 5)

    def _transact(
        self, connection: json_rpc.Connection, operations: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        answer: list[Any] = connection.call("transact", [self.NAME, *operations])
        assert not any("error" in (one or {}) for one in answer), answer
        return answer

    def _listens(self) -> bool:
        # Its socket is there a moment before it listens.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)) != 0:
                return False
        if self._port is None:
            return True
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
