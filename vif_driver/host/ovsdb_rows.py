# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of Open vSwitch's database as plain Python, whichever way they were read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: A row, its maps and sets as Python's; see :func:`plain`.
Row = Mapping[str, Any]

#: The rows of tables by their uuid.
Tables = Mapping[str, Mapping[str, Row]]

#: Of a port all that libvirt and we set, and so all that is needed to put it back.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Port": (
        "name",
        "interfaces",
        "external_ids",
        "other_config",
        "tag",
        "trunks",
        "vlan_mode",
        "qos",
    ),
    "Interface": ("name", "type", "options", "external_ids", "other_config", "mtu_request"),
    "QoS": ("type", "queues", "external_ids", "other_config"),
    "Queue": ("dscp", "external_ids", "other_config"),
}

_NONE, _EMPTY = ["set", []], ["map", []]

#: Of those columns the ones that hardly any row of a VM's has set, and what they are then, in
#: OVSDB's notation.
RARE: Mapping[str, Mapping[str, Any]] = {
    "Port": {
        "external_ids": _EMPTY,
        "other_config": _EMPTY,
        "tag": _NONE,
        "trunks": _NONE,
        "vlan_mode": _NONE,
        "qos": _NONE,
    },
    "Interface": {"type": "", "options": _EMPTY, "other_config": _EMPTY, "mtu_request": _NONE},
}


@dataclasses.dataclass(frozen=True)
class PortRows:
    """A port with one interface, whole.

    Attributes:
        uuid: of the Port row.
        bridge: the name of its bridge.
        port: the Port row.
        interface: the Interface row.
        qos: the QoS row that it uses, if any.
        queues: the Queue rows of that, by their uuid.
    """

    uuid: str
    bridge: str
    port: Row
    interface: Row
    qos: Row | None = None
    queues: Mapping[str, Row] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its device."""
        name: str = self.interface["name"]
        return name

    @property
    def ids(self) -> Mapping[str, str]:
        """``external_ids`` of the interface."""
        ids: Mapping[str, str] = self.interface["external_ids"]
        return ids

    @property
    def vm_id(self) -> str | None:
        """The VM that it was made for."""
        return self.ids.get("vm-id")

    def record(self) -> dict[str, Any]:
        """Give all that is needed to put it back."""
        whole = {"bridge": self.bridge, "Port": dict(self.port), "Interface": dict(self.interface)}
        if self.qos is not None:
            whole["QoS"] = dict(self.qos)
            whole["Queue"] = {uuid: dict(row) for uuid, row in self.queues.items()}
        return whole

    def __str__(self) -> str:
        vnic = self.ids.get("iface-id")
        return f"port {self.name} of {self.bridge} (VM {self.vm_id}, vNIC {vnic})"


def ports(bridges: Mapping[str, Row], tables: Tables) -> Iterator[PortRows]:
    """Give the ports of bridges; those with several interfaces, which no VM has, are left out.

    Args:
        bridges: their rows, with ``name`` and ``ports``.
        tables: Port, Interface, QoS and Queue.
    """
    for bridge in bridges.values():
        for uuid in references(bridge["ports"]):
            port = tables["Port"][uuid]
            interfaces = references(port["interfaces"])
            if len(interfaces) != 1:
                continue
            qos = next((tables["QoS"].get(used) for used in references(port["qos"])), None)
            used = [] if qos is None else qos["queues"].values()
            queues = {queue: tables["Queue"][queue] for queue in used if queue in tables["Queue"]}
            interface = tables["Interface"][interfaces[0]]
            yield PortRows(uuid, bridge["name"], port, interface, qos, queues)


def plain(value: Any) -> Any:
    """Turn OVSDB's notation (RFC 7047, 5.1) into Python's.

    Sets are lists, but for sets of one, which stand for themselves there; references are uuids.
    """
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "set":
        return [plain(element) for element in content]
    if kind == "map":
        # The values of a map are of one kind; nearly all maps have texts, which are as they are.
        if content and isinstance(content[0][1], list):
            return {key: plain(element) for key, element in content}
        return dict(content)
    return content  # of a reference


def references(value: Any) -> Sequence[str]:
    """Give the uuids in a column that refers to other rows."""
    return value if isinstance(value, list) else [value]


def reference(uuid: str) -> list[str]:
    """Put a uuid into OVSDB's notation."""
    return ["uuid", uuid]
