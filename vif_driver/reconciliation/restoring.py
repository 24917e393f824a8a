# SPDX-License-Identifier: GPL-2.0-or-later
"""How what was removed from Open vSwitch's database is put back, by its record in the journal.

Rows get back their own uuids (``uuid`` of an insert, an extension of ovsdb-server's since 2.13):
a queue can be put back before the row of QoS that names it, and nothing twice.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Union

from vif_driver import stale
from vif_driver.config import is_device_name
from vif_driver.errors import BadRequest, HostError, NameTaken, VifError
from vif_driver.host.ovsdb_rows import COLUMNS, PortRows, Row, Tables, reference, references
from vif_driver.vnic import is_uuid

#: What has to be known of the database to put something back.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "Bridge": ("name",),
    "Port": ("name",),
    "Interface": ("name",),
    "QoS": (),
    "Queue": (),
}

Operation = dict[str, Any]

_REMEDY = "vifctl reconcile --list shows what can be put back"


@dataclasses.dataclass(frozen=True)
class QosRow:
    """A row of QoS or Queue that no port used.

    Attributes:
        table: which of the two.
        uuid: that it had.
        row: its columns.
    """

    table: str
    uuid: str
    row: Row

    @property
    def vm_id(self) -> str:
        """The VM that it was made for."""
        vm_id: str = self.row["external_ids"]["vm-id"]
        return vm_id

    def __str__(self) -> str:
        return f"{self.table} {self.uuid} (VM {self.vm_id})"


#: What can be put back.
Removed = Union[PortRows, QosRow]


class BadRecord(BadRequest):
    """The record of a removal is none that this driver writes.

    Args:
        what: what is wrong with it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"the record is not one of a removed row ({what})", _REMEDY)


# ---- the record ----------------------------------------------------------------------------------


def parse(record: str, uuid: str) -> Removed:
    """Understand a record (:meth:`PortRows.record`, or one of a row of QoS); strictly.

    Args:
        record: the journal's field ``VIF_ROW``.
        uuid: its field ``VIF_ROW_ID``.

    Raises:
        BadRecord: it is none, or not one of a VM's row.
    """
    try:
        content = json.loads(record)
    except (ValueError, RecursionError) as error:
        raise BadRecord("no JSON") from error
    if not is_uuid(uuid):
        raise BadRecord("its id is no UUID")
    if not isinstance(content, dict):
        raise BadRecord("no object")
    if "Port" in content:
        return _parse_port(content, uuid)
    ((table, row),) = content.items() if len(content) == 1 else ((None, None),)
    if table not in ("QoS", "Queue"):
        raise BadRecord(f"of {', '.join(sorted(content)) or 'nothing'}")
    removed = QosRow(table, uuid, _checked(table, row))
    if not stale.orphans({uuid: removed.row}, ()):
        raise BadRecord("it was not made for a VM")
    return removed


def _parse_port(content: Mapping[str, Any], uuid: str) -> PortRows:
    has_qos = "QoS" in content
    bridge, queues = content.get("bridge"), content.get("Queue", {})
    tables = {"bridge", "Port", "Interface"} | ({"QoS", "Queue"} if has_qos else set())
    if content.keys() != tables or not isinstance(bridge, str) or not isinstance(queues, dict):
        raise BadRecord(f"of {', '.join(sorted(content))}")
    port = PortRows(
        uuid=uuid,
        bridge=bridge,
        port=_checked("Port", content["Port"]),
        interface=_checked("Interface", content["Interface"]),
        qos=_checked("QoS", content["QoS"]) if has_qos else None,
        queues={used: _checked("Queue", row) for used, row in queues.items()},
    )
    used_qos = references(port.port["qos"])
    if len(references(port.port["interfaces"])) != 1:
        raise BadRecord("it has not one interface")
    if len(used_qos) != (0 if port.qos is None else 1):
        raise BadRecord("its rows of QoS are not those of the port")
    if port.qos is not None and set(port.qos["queues"].values()) != port.queues.keys():
        raise BadRecord("its queues are not those of its QoS")
    if not is_device_name(port.name) or not is_device_name(port.port["name"]):
        raise BadRecord("its name is no device's")
    if not stale.is_a_vms(port):
        raise BadRecord("it was not made for a VM")
    return port


def _checked(table: str, row: Any) -> Row:
    """Give a row of which all columns are there, no others, and each is of its type."""
    if not isinstance(row, dict) or row.keys() != set(COLUMNS[table]):
        raise BadRecord(f"its columns are not those of {table}")
    _encoded(table, row)
    return row


# ---- the types of columns ------------------------------------------------------------------------
# Each gives a value in OVSDB's notation (RFC 7047, 5.1), and raises ValueError at another type.

_Type = Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("no number")
    return value


def _key_number(value: Any) -> int:
    # JSON has no other keys than texts.
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()):
        raise ValueError("no number")
    return int(value)


def _row(value: Any) -> list[str]:
    if not isinstance(value, str) or not is_uuid(value):
        raise ValueError("no reference")
    return reference(value)


def _set(of: _Type) -> _Type:
    def encode(value: Any) -> list[Any]:
        # One element stands for itself, see vif_driver.host.ovsdb_rows.plain.
        return ["set", [of(one) for one in (value if isinstance(value, list) else [value])]]

    return encode


def _map(key: _Type, of: _Type) -> _Type:
    def encode(value: Any) -> list[Any]:
        if not isinstance(value, dict):
            raise ValueError("no map")
        return ["map", [[key(name), of(one)] for name, one in value.items()]]

    return encode


_TEXTS = _map(_text, _text)

_TYPES: Mapping[str, Mapping[str, _Type]] = {
    "Port": {
        "name": _text,
        "interfaces": _set(_row),
        "external_ids": _TEXTS,
        "other_config": _TEXTS,
        "tag": _set(_number),
        "trunks": _set(_number),
        "vlan_mode": _set(_text),
        "qos": _set(_row),
    },
    "Interface": {
        "name": _text,
        "type": _text,
        "options": _TEXTS,
        "external_ids": _TEXTS,
        "other_config": _TEXTS,
        "mtu_request": _set(_number),
    },
    "QoS": {
        "type": _text,
        "queues": _map(_key_number, _row),
        "external_ids": _TEXTS,
        "other_config": _TEXTS,
    },
    "Queue": {"dscp": _set(_number), "external_ids": _TEXTS, "other_config": _TEXTS},
}


def _encoded(table: str, row: Row) -> dict[str, Any]:
    encoded = {}
    for column, value in row.items():
        try:
            encoded[column] = _TYPES[table][column](value)
        except ValueError as error:
            raise BadRecord(f"{table} {column}: {error}") from error
    return encoded


# ---- the transaction -----------------------------------------------------------------------------


def spared(port: PortRows) -> PortRows:
    """Give a port that neither the agent nor the boot pass will remove."""
    ids = {**port.ids, stale.SKIP_KEY: "true"}
    return dataclasses.replace(port, interface={**port.interface, "external_ids": ids})


def hindrance(removed: Removed, bridge: str, tables: Tables) -> VifError | None:
    """Tell why something cannot be put back.

    Args:
        removed: it.
        bridge: the integration bridge.
        tables: the database as it is, see :data:`NEEDED`.
    """
    if isinstance(removed, QosRow):
        if removed.uuid in tables[removed.table]:
            return NameTaken(f"{removed} is there already", "nothing needs to be done")
        missing = [queue for queue in _queues_of(removed.row) if queue not in tables["Queue"]]
        if missing:
            return HostError(
                f"{removed} names a queue that is not there",
                f"put it back first: vifctl reconcile --restore {missing[0]}",
            )
        return None
    if removed.bridge != bridge:
        return HostError(
            f"{removed} was not on the integration bridge {bridge}",
            "see [host] integration_bridge in vif-driver.conf",
        )
    if not any(row["name"] == bridge for row in tables["Bridge"].values()):
        return HostError(
            f"there is no Open vSwitch bridge {bridge}",
            "start ovn-controller or Neutron's agent, which make it",
        )
    for table, name in (("Port", removed.port["name"]), ("Interface", removed.name)):
        if any(row["name"] == name for row in tables[table].values()):
            return NameTaken(
                f"{removed} is there already, or another one of its name",
                f"see it: ovs-vsctl list {table} {name}",
            )
    return None


def operations(removed: Removed, tables: Tables) -> list[Operation]:
    """Give the operations (RFC 7047, 5.2) that put something back, in one transaction.

    Args:
        removed: it.
        tables: the database as it is, see :data:`NEEDED`.
    """
    said = {"op": "comment", "comment": f"vifctl reconcile --restore {removed.uuid}"}
    if isinstance(removed, QosRow):
        return [said, _insert(removed.table, removed.uuid, removed.row)]
    interface, name = references(removed.port["interfaces"])[0], removed.port["name"]
    # What it used of QoS may not have been removed yet, or be put back already.
    more = [("Queue", uuid, row) for uuid, row in removed.queues.items()]
    if removed.qos is not None:
        more.append(("QoS", references(removed.port["qos"])[0], removed.qos))
    return [
        said,
        # Whoever makes a port of that name, or takes the bridge away, meanwhile, wins.
        _wait("Interface", removed.name, []),
        _wait("Port", name, []),
        _wait("Bridge", removed.bridge, [{"name": removed.bridge}]),
        *(_insert(*one) for one in more if one[1] not in tables[one[0]]),
        _insert("Interface", interface, removed.interface),
        _insert("Port", removed.uuid, removed.port),
        {
            "op": "mutate",
            "table": "Bridge",
            "where": [["name", "==", removed.bridge]],
            "mutations": [["ports", "insert", ["set", [reference(removed.uuid)]]]],
        },
    ]


def _queues_of(row: Row) -> list[str]:
    return list(row.get("queues", {}).values())


def _insert(table: str, uuid: str, row: Row) -> Operation:
    return {"op": "insert", "table": table, "uuid": uuid, "row": _encoded(table, row)}


def _wait(table: str, name: str, rows: list[Operation]) -> Operation:
    return {
        "op": "wait",
        "timeout": 0,
        "table": table,
        "where": [["name", "==", name]],
        "columns": ["name"],
        "until": "==",
        "rows": rows,
    }
