# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch's database for one look and one transaction, without a replica.

At boot the daemons of the network wait for us: what the IDL would take to be loaded, and to make
objects of ten thousand rows, is most of the time.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import json_rpc
from vif_driver.host.ovsdb_rows import plain
from vif_driver.host.ovsdb_socket import SOCKET

DATABASE = "Open_vSwitch"

_REMEDY = "see ovsdb-server.log"


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
        operations = [
            {"op": "select", "table": table, "where": [], "columns": ["_uuid", *columns]}
            for table, columns in tables.items()
        ]
        answers = self.transact(operations)
        return {
            table: {
                row["_uuid"][1]: {column: plain(row[column]) for column in columns}
                for row in answer["rows"]
            }
            for (table, columns), answer in zip(tables.items(), answers)
        }

    def transact(self, operations: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Carry out operations (RFC 7047, 5.2), all or none of them.

        Raises:
            HostError: the server refused.
            Unavailable: it did not answer in time.
        """
        try:
            answers: list[Any] = self._connection.call("transact", [DATABASE, *operations])
        except json_rpc.Refused as error:
            raise HostError(f"Open vSwitch's database refuses ({error})", _REMEDY) from error
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"Open vSwitch's database does not answer ({error})", _REMEDY
            ) from error
        for answer in answers:
            if answer is not None and "error" in answer:
                why = ": ".join(str(answer[key]) for key in ("error", "details") if key in answer)
                raise HostError(f"Open vSwitch's database refuses ({why})", _REMEDY)
        return answers


@contextlib.contextmanager
def connect(timeout: float, path: Path = SOCKET) -> Iterator[OvsdbOnce]:
    """Connect to the database.

    Args:
        timeout: seconds for all that is asked of it.
        path: where it listens.

    Raises:
        Unavailable: it doesn't.
    """
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(timeout)
        try:
            stream.connect(str(path))
        except OSError as error:
            raise Unavailable(
                f"Open vSwitch's database does not answer on {path} ({error.strerror or error})",
                "start it: systemctl start ovsdb-server",
            ) from error
        yield OvsdbOnce(json_rpc.Connection(stream, time.monotonic() + timeout))
