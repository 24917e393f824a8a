# SPDX-License-Identifier: GPL-2.0-or-later
"""What Open vSwitch's database says of the host as a whole: the one row of its first table.

ovn-controller takes its settings from ``external_ids`` there, and its certificate from the table
SSL (``ovs-vsctl set-ssl``) rather than from its command line; ovs-monitor-ipsec takes its from
``other_config``.  A change is seen by all of them at once; none has to be started anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vif_driver.errors import HostError
from vif_driver.host.certificates import COLUMNS, Credentials
from vif_driver.host.ovsdb_once import OvsdbOnce
from vif_driver.marks import ROW_KEY

TABLE = "Open_vSwitch"

#: The maps of that row that are read and changed.
MAPS = ("external_ids", "other_config")

# What our rows of the table SSL are marked with.
_MARK = "ovn"

# The row is the only one of its table, so it needs no condition.
_ROW: list[Any] = []


@dataclasses.dataclass(frozen=True)
class Tls:
    """What ``ovs-vsctl get-ssl`` shows.

    Attributes:
        credentials: the files.
        is_ours: we have set it.
    """

    credentials: Credentials
    is_ours: bool = True


@dataclasses.dataclass(frozen=True)
class Settings:
    """The row.

    Attributes:
        maps: each map by its column's name.
        tls: the files for connections; None if it names none.
    """

    maps: Mapping[str, Mapping[str, str]]
    tls: Tls | None = None

    @property
    def external_ids(self) -> Mapping[str, str]:
        """That column."""
        return self.maps["external_ids"]


def read(database: OvsdbOnce) -> Settings:
    """Read it.

    Raises:
        HostError, Unavailable: the database refuses or does not answer, or was never set up.
    """
    tables = database.select({TABLE: [*MAPS, "ssl"], "SSL": [*COLUMNS, "external_ids"]})
    for row in tables[TABLE].values():
        return Settings({column: row[column] for column in MAPS}, _tls(row, tables["SSL"]))
    raise HostError(
        "Open vSwitch's database is empty", "start Open vSwitch: systemctl start openvswitch"
    )


def change(
    database: OvsdbOnce,
    maps: Mapping[str, Mapping[str, str | None]],
    tls: Sequence[Tls | None] = (),
) -> None:
    """Change it, all in one transaction.

    Args:
        database: Open vSwitch's.
        maps: of each column the keys that change, and their values; None takes a key away.
        tls: the one that it is to name from now on, or None; nothing to leave that alone.

    Raises:
        HostError, Unavailable: the database refuses or does not answer; nothing has changed.
    """
    operations: list[dict[str, Any]] = []
    for column, values in maps.items():
        given = [[key, value] for key, value in values.items() if value is not None]
        mutations = [[column, "delete", ["set", list(values)]], [column, "insert", ["map", given]]]
        if values:
            operation = {"op": "mutate", "table": TABLE, "where": _ROW, "mutations": mutations}
            operations.append(operation)
    for one in tls:
        operations += _naming(one)
    if operations:
        # It is on the disk before the note of what it changes is removed, whatever happens then.
        database.transact([*operations, {"op": "commit", "durable": True}])


def _naming(tls: Tls | None) -> list[dict[str, Any]]:
    # A row of the table SSL that nothing names any more is removed by the server.
    if tls is None:
        return [{"op": "update", "table": TABLE, "where": _ROW, "row": {"ssl": ["set", []]}}]
    row: dict[str, Any] = {
        column: str(path) for column, path in zip(COLUMNS, tls.credentials.files)
    }
    row["external_ids"] = ["map", [[ROW_KEY, _MARK]] if tls.is_ours else []]
    return [
        {"op": "insert", "table": "SSL", "row": row, "uuid-name": "tls"},
        {"op": "update", "table": TABLE, "where": _ROW, "row": {"ssl": ["named-uuid", "tls"]}},
    ]


def _tls(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> Tls | None:
    named = row["ssl"] if isinstance(row["ssl"], list) else [row["ssl"]]
    for uuid in named:
        found = rows[uuid]
        files = Credentials(*(Path(found[column]) for column in COLUMNS))
        return Tls(files, found["external_ids"].get(ROW_KEY) == _MARK)
    return None
