# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch's database for one look and one transaction, without a replica.

At boot the daemons of the network wait for us: what the IDL would take to be loaded, and to make
objects of ten thousand rows, is most of the time.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import json_rpc
from vif_driver.host.ovsdb_rows import RARE, plain
from vif_driver.host.ovsdb_socket import SOCKET

DATABASE = "Open_vSwitch"

_REMEDY = "see ovsdb-server.log"

# Seconds between two attempts to connect.
_PAUSE = 0.1


class OvsdbOnce:
    """A connection to the database; see :func:`connect`."""

    def __init__(self, connection: json_rpc.Connection) -> None:
        self._connection = connection

    def select(self, tables: Mapping[str, Sequence[str]]) -> dict[str, dict[str, dict[str, Any]]]:
        """Read tables, all as they are at one moment.

        Args:
            tables: their columns, by their names.

        Returns:
            Of each table its rows, by their uuid.  Sets are lists, references uuids.
        """
        queries = [_Query(table, columns) for table, columns in tables.items()]
        answers = iter(self.transact([each for query in queries for each in query.operations()]))
        return {query.table: query.rows(answers) for query in queries}

    def transact(self, operations: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Carry out operations (RFC 7047, 5.2), all or none of them.

        Raises:
            HostError: the server refused.
            Unavailable: it did not answer in time.
        """
        return self.begin(operations)()

    def begin(self, operations: Sequence[Mapping[str, Any]]) -> Callable[[], list[Any]]:
        """Have the server begin to carry out operations.

        Returns:
            What waits for the answers; see :meth:`transact`.

        Raises:
            Unavailable: the server does not listen to them.
        """
        with _as_host_error():
            call = self._connection.begin("transact", [DATABASE, *operations])

        def wait() -> list[Any]:
            with _as_host_error():
                answers: list[Any] = self._connection.result(call)
            for answer in answers:
                if answer is not None and "error" in answer:
                    parts = (str(answer[key]) for key in ("error", "details") if key in answer)
                    why = ": ".join(parts)
                    raise HostError(f"Open vSwitch's database refuses ({why})", _REMEDY)
            return answers

        return wait


@contextlib.contextmanager
def connect(
    timeout: float, path: Path = SOCKET, *, is_starting: bool = False
) -> Iterator[OvsdbOnce]:
    """Connect to the database.

    Args:
        timeout: seconds for all that is asked of it.
        path: where it listens.
        is_starting: it may take so long until it listens.

    Raises:
        Unavailable: it doesn't.
    """
    deadline = time.monotonic() + timeout
    while True:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(timeout)
            try:
                stream.connect(str(path))
            except OSError as error:
                # Its socket is there: it has died, and somebody will start it again.
                is_starting = is_starting or isinstance(error, ConnectionRefusedError)
                if not is_starting or time.monotonic() > deadline:
                    raise Unavailable(
                        f"Open vSwitch's database does not answer on {path} "
                        f"({error.strerror or error})",
                        "start it: systemctl start ovsdb-server",
                    ) from error
            else:
                yield OvsdbOnce(json_rpc.Connection(stream, deadline))
                return
        time.sleep(_PAUSE)


@contextlib.contextmanager
def _as_host_error() -> Iterator[None]:
    try:
        yield
    except json_rpc.Refused as error:
        raise HostError(f"Open vSwitch's database refuses ({error})", _REMEDY) from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"Open vSwitch's database does not answer ({error})", _REMEDY) from error


class _Query:
    """The question for a table's columns.

    Of ten thousand rows each column takes the server milliseconds, even if it is empty in all of
    them.  So what is rare is asked for where it is set, which costs next to nothing.
    """

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        rare = RARE.get(table, {})
        self.table = table
        self._common = [column for column in columns if column not in rare]
        self._rare = {column: rare[column] for column in columns if column in rare}

    def operations(self) -> list[dict[str, Any]]:
        """Give what the server is to carry out."""
        return [self._select(self._common)] + [
            self._select([column], [column, "!=", unset]) for column, unset in self._rare.items()
        ]

    def rows(self, answers: Iterator[Any]) -> dict[str, dict[str, Any]]:
        """Take the answers to these operations, and give the rows by their uuid."""
        unset = {column: plain(value) for column, value in self._rare.items()}
        rows = {}
        for row in next(answers)["rows"]:
            uuid = row.pop("_uuid")[1]
            rows[uuid] = {**unset, **{column: plain(value) for column, value in row.items()}}
        for column in self._rare:
            for row in next(answers)["rows"]:
                rows[row["_uuid"][1]][column] = plain(row[column])
        return rows

    def _select(self, columns: Sequence[str], *where: Sequence[Any]) -> dict[str, Any]:
        columns = ["_uuid", *columns]
        return {"op": "select", "table": self.table, "where": where, "columns": columns}
