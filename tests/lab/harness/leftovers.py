# SPDX-License-Identifier: GPL-2.0-or-later
"""What VMs leave on a host: rows in Open vSwitch's database that nobody removed."""

from __future__ import annotations

import json
import socket
import uuid
from typing import Any

from .hypervisor import INTEGRATION_BRIDGE, Hypervisor
from .open_vswitch import RUN

#: How the taps of :func:`add_stale_ports` are called; a number follows.
MANY = "tapstale"

_TIMEOUT = 60.0

_PORT_COLUMNS = ("name", "tag", "trunks", "vlan_mode", "qos", "other_config", "external_ids")
_INTERFACE_COLUMNS = (
    "name",
    "type",
    "options",
    "external_ids",
    "other_config",
    "mtu_request",
    "ingress_policing_rate",
)


def libvirts_ids(vm_id: str = "", vnic_id: str = "") -> dict[str, str]:
    """What libvirt writes about a VM's interface, here of a VM that there is not."""
    return {
        "attached-mac": "fa:16:3e:ff:00:01",
        "iface-id": vnic_id or str(uuid.uuid4()),
        "iface-status": "active",
        "vm-id": vm_id or str(uuid.uuid4()),
    }


def add_port(
    host: Hypervisor, name: str, *, bridge: str = INTEGRATION_BRIDGE, **columns: Any
) -> None:
    """Add a port whose device isn't there.

    Args:
        host: where.
        name: of the port.
        bridge: which it is on.
        columns: of its Interface row; a dict is a map.
    """
    settings = []
    for column, value in columns.items():
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        settings += [f"{column}{':' * bool(key)}{key}={json.dumps(text)}" for key, text in pairs]
    command = ["--no-wait", "add-port", bridge, name]
    host.vsctl(*command, *(["--", "set", "Interface", name, *settings] if settings else []))


def add_stale_ports(host: Hypervisor, count: int) -> set[str]:
    """Add many ports of VMs that there are not, in one transaction; returns their names."""
    names = [f"{MANY}{number}" for number in range(count)]
    operations: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        ids = [[key, value] for key, value in libvirts_ids().items()]
        operations += [
            _insert("Interface", f"i{number}", name=name, external_ids=["map", ids]),
            _insert("Port", f"p{number}", name=name, interfaces=["named-uuid", f"i{number}"]),
        ]
    ports = ["set", [["named-uuid", f"p{number}"] for number in range(count)]]
    operations.append(
        {
            "op": "mutate",
            "table": "Bridge",
            "where": [["name", "==", INTEGRATION_BRIDGE]],
            "mutations": [["ports", "insert", ports]],
        }
    )
    _transact(host, operations)
    return set(names)


def count_stale_ports(host: Hypervisor) -> int:
    """How many of :func:`add_stale_ports` are there."""
    select = {"op": "select", "table": "Port", "where": [], "columns": ["name"]}
    rows = _transact(host, [select])[0]["rows"]
    return sum(row["name"].startswith(MANY) for row in rows)


def written(host: Hypervisor, name: str) -> dict[str, Any]:
    """What libvirt or the product has written of a port, whatever others have added since."""
    port, interface = host.ovs.port(name), host.ovs.interface(name)
    columns = {f"port {column}": port.get(column) for column in _PORT_COLUMNS}
    columns.update({column: interface.get(column) for column in _INTERFACE_COLUMNS})
    ids = columns["external_ids"] or {}
    columns["external_ids"] = {
        key: value for key, value in ids.items() if not key.startswith("ovn-installed")
    }
    return columns


def _insert(table: str, known_as: str, /, **row: Any) -> dict[str, Any]:
    return {"op": "insert", "table": table, "uuid-name": known_as, "row": row}


def _transact(host: Hypervisor, operations: list[dict[str, Any]]) -> list[Any]:
    """Carry out operations (RFC 7047, 4.1.3); ovs-vsctl would take minutes for thousands."""
    request = {"method": "transact", "params": ["Open_vSwitch", *operations], "id": 1}
    answer = ""
    with socket.socket(socket.AF_UNIX) as database:
        database.settimeout(_TIMEOUT)
        database.connect(str(host.path(f"{RUN}/db.sock")))
        database.sendall(json.dumps(request).encode())
        # The server doesn't close the connection, and what it says has no end but its own.
        while not answer.endswith("}") or answer.count("{") > answer.count("}"):
            answer += database.recv(1 << 20).decode()
    reply = json.loads(answer)
    failed = [one for one in reply["result"] or [] if one and "error" in one]
    if reply["error"] or failed:
        raise RuntimeError(f"{host.name}: {reply['error'] or failed[0]}")
    result: list[Any] = reply["result"]
    return result
