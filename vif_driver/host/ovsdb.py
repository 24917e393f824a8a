# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch's database: the bridges and ports of this host."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ovs.db.idl

from vif_driver.errors import HostError, NameTaken, Unavailable
from vif_driver.host.ovsdb_rows import COLUMNS, PortRows, Row
from vif_driver.host.ovsdb_socket import SCHEMA, SOCKET
from vif_driver.host.replica import Replica
from vif_driver.host.switch import Switch, SwitchInterface, vnic_of
from vif_driver.marks import HELD_KEY

# The whole database of a busy host has statistics that change all the time; these do not.
_REPLICATED = {
    "Open_vSwitch": ["external_ids", "ovs_version"],
    "Bridge": ["name", "ports", "fail_mode"],
    **{table: list(columns) for table, columns in COLUMNS.items()},
    "Interface": [*COLUMNS["Interface"], "ofport", "error", "ifindex"],
}


@dataclasses.dataclass(frozen=True)
class Port:
    """A port of an Open vSwitch bridge with one interface, as the database has it.

    Attributes:
        name: of the Port row and its Interface row.
        bridge: the bridge it belongs to.
        tag: the VLAN, or None.
        external_ids: of the Interface row.
        ofport: OpenFlow port number, -1 if Open vSwitch could not open the device, None before
            it tried.
        error: why it could not.
        ifindex: of the device that Open vSwitch has opened, None where it says nothing.
        trunks: the VLANs that it is a trunk of; none stands for all.
        type: of the Interface row: empty for a device of the system, ``geneve``, ``patch``, ...
        options: of the Interface row, such as ``remote_ip`` of a tunnel.
        other_config: of the Port row.
    """

    name: str
    bridge: str
    tag: int | None
    external_ids: Mapping[str, str]
    ofport: int | None
    error: str | None
    ifindex: int | None = None
    trunks: tuple[int, ...] = ()
    type: str = ""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    other_config: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def made_by_libvirt(self) -> bool:
        """Whether libvirt added it (virNetDevOpenvswitchAddPort); os-vif says ``vm-uuid``."""
        return "vm-id" in self.external_ids and "attached-mac" in self.external_ids


# Of Bridge, Port and Interface, as the IDL has them.
_Rows = tuple[Any, Any, Any]


class Ovsdb:
    """Open vSwitch's database on this host.

    Args:
        socket: where ovsdb-server listens.
        schema: the schema file that Open vSwitch installs.

    Raises:
        Unavailable: Open vSwitch is not installed.
    """

    def __init__(self, socket: Path = SOCKET, schema: Path = SCHEMA) -> None:
        try:
            # The library's own parser takes a hundred times as long where it is written in Python.
            tables = ovs.db.idl.SchemaHelper(schema_json=json.loads(schema.read_bytes()))
        except OSError as error:
            raise Unavailable(
                f"Open vSwitch is not installed ({schema}: {error.strerror})",
                "install the package openvswitch",
            ) from error
        for table, columns in _REPLICATED.items():
            tables.register_columns(table, columns)
        self._index: dict[str, list[_Rows]] = {}
        self._index_of = -1
        self._switch = Switch()
        self._switch_of = -1
        self._read: dict[str, list[Port]] = {}
        self.replica = Replica(
            "Open vSwitch's database",
            f"unix:{socket}",
            tables,
            "start Open vSwitch (systemctl start openvswitch), then repeat the operation",
        )

    async def wait_connected(self) -> None:
        """Wait for the connection, which may just be coming back after a restart.

        Raises:
            Unavailable: it did not come.
        """
        await self.replica.wait_connected()

    def has_bridge(self, name: str) -> bool:
        """Tell whether Open vSwitch has a bridge of that name."""
        return self._find("Bridge", name) is not None

    def fail_mode(self, bridge: str) -> str | None:
        """Give what a bridge does without a controller: ``secure``, ``standalone`` or not set."""
        row = self._find("Bridge", bridge)
        return None if row is None else _first(row.fail_mode)

    def bridges(self) -> list[str]:
        """Give the names of all bridges."""
        return sorted(row.name for row in self.replica.rows("Bridge"))

    def settings(self) -> Mapping[str, str]:
        """Give the ``external_ids`` of the host itself: ``system-id``, ``ovn-remote``, ..."""
        for row in self.replica.rows("Open_vSwitch"):
            return dict(row.external_ids)
        return {}

    def version(self) -> str | None:
        """Give the version of the Open vSwitch that runs."""
        for row in self.replica.rows("Open_vSwitch"):
            return _first(row.ovs_version)
        return None

    def port(self, name: str) -> Port | None:
        """Look up the port that carries the interface of that name, on whatever bridge."""
        return next(iter(self._ports_of(name)), None)

    def ports(self, bridge: str | None = None) -> list[Port]:
        """Give the ports of a bridge, or of all."""
        found = (port for name in self._by_interface() for port in self._ports_of(name))
        return [port for port in found if bridge in (None, port.bridge)]

    def switch(self) -> Switch:
        """Give all interfaces and settings, as plain values.

        Raises:
            Unavailable: the database does not answer.
        """
        self.replica.table("Bridge")  # says what is wrong
        return self.last_switch()

    def last_switch(self) -> Switch:
        """Give them as they were when the database last answered; nothing if it never has."""
        if self._switch_of != self.replica.generation:
            settings: Mapping[str, str] = {}
            for row in self.replica.last_rows("Open_vSwitch"):
                settings = dict(row.external_ids)
            interfaces = tuple(
                _switch_interface(bridge, port, interface)
                for bridge in self.replica.last_rows("Bridge")
                for port in bridge.ports
                for interface in port.interfaces
            )
            self._switch = Switch(settings, interfaces)
            self._switch_of = self.replica.generation
        return self._switch

    def names(self, bridge: str) -> set[str]:
        """Give the names of the interfaces on a bridge."""
        owner = self._find("Bridge", bridge)
        return {
            name
            for name, found in self._by_interface().items()
            if any(rows[0] is owner for rows in found)
        }

    def whole(self, name: str) -> list[PortRows]:
        """Give the ports that carry an interface of that name, as they would be put back."""
        return [_whole(*rows) for rows in self._interfaces(name) if len(rows[1].interfaces) == 1]

    def unused_qos(self) -> dict[str, dict[str, Row]]:
        """Give the rows of QoS and Queue that nothing uses, by table and uuid.

        A queue that is used by such a row of QoS alone counts as unused, too.
        """
        return {
            table: {uuid: _row(table, row) for uuid, row in rows.items()}
            for table, rows in self._unused_qos().items()
        }

    def _unused_qos(self) -> dict[str, dict[str, Any]]:
        qos = {str(row.uuid): row for row in self.replica.rows("QoS")}
        queues = {str(row.uuid): row for row in self.replica.rows("Queue")}
        if not qos and not queues:
            return {}
        used = {str(row.uuid) for port in self.replica.rows("Port") for row in port.qos}
        used_queues = {
            str(queue.uuid) for uuid in used & set(qos) for queue in qos[uuid].queues.values()
        }
        return {
            "QoS": {uuid: row for uuid, row in qos.items() if uuid not in used},
            "Queue": {uuid: row for uuid, row in queues.items() if uuid not in used_queues},
        }

    async def add_port(
        self,
        bridge: str,
        name: str,
        *,
        port: Mapping[str, Any],
        interface: Mapping[str, Any],
    ) -> None:
        """Add a port, all of it in one transaction.

        Args:
            bridge: the bridge to add it to.
            name: of the Port and the Interface.
            port: further columns of the Port row.
            interface: further columns of the Interface row.

        Raises:
            NameTaken: there is a row of that name.
            HostError, Unavailable: the database refused, or did not answer.
        """

        def build(transaction: Any) -> None:
            owner = self._find("Bridge", bridge)
            if owner is None:
                raise HostError(
                    f"there is no Open vSwitch bridge {bridge}",
                    "start ovn-controller or Neutron's agent, which make it",
                )
            if self._find("Interface", name) or self._find("Port", name):
                raise NameTaken(
                    f"Open vSwitch has a port {name} already",
                    f"remove it if nothing uses it: ovs-vsctl del-port {name}",
                )
            new_interface = transaction.insert(self.replica.table("Interface"))
            new_interface.name = name
            _set_columns(new_interface, interface)
            new_port = transaction.insert(self.replica.table("Port"))
            new_port.name = name
            new_port.interfaces = [new_interface]
            _set_columns(new_port, port)
            owner.addvalue("ports", new_port)

        await self.replica.transact(f"add port {name} to {bridge}", build)

    async def delete_port(self, name: str, external_ids: Mapping[str, str]) -> bool:
        """Delete a port, provided that its interface still carries these ``external_ids``.

        Returns:
            False if there is no such port.

        Raises:
            HostError, Unavailable: the database refused, or did not answer.
        """
        found = False

        def build(transaction: Any) -> None:
            nonlocal found
            found = False
            for bridge, port, interface in self._interfaces(name):
                if _carries(interface, external_ids):
                    _require_unchanged(interface, "external_ids")
                    # Rows that nothing refers to are removed by the server itself.
                    bridge.delvalue("ports", port)
                    found = True

        await self.replica.transact(f"delete port {name}", build)
        return found

    async def remove(
        self,
        ports: Sequence[PortRows],
        is_stale: Callable[[PortRows], bool],
        unused: Mapping[str, Iterable[str]],
    ) -> list[PortRows]:
        """Remove ports, and rows of QoS that nothing uses, in one transaction.

        What a port used of QoS is left, and is unused from then on.

        Args:
            ports: as they were seen.
            is_stale: asked about each right before the request is sent.
            unused: the uuids of the rows of QoS and Queue, by their table.

        Returns:
            The ports that were removed; the others are not what they were, or not stale.

        Raises:
            HostError, Unavailable: the database refused, or did not answer.
        """
        removed: list[PortRows] = []

        def build(_transaction: Any) -> None:
            removed.clear()
            for port in ports:
                for bridge, row, interface in self._interfaces(port.name):
                    if _whole(bridge, row, interface) == port and is_stale(port):
                        # Whose it is, and whether other software wants it left alone.
                        _require_unchanged(interface, "external_ids")
                        _require_unchanged(row, "external_ids")
                        bridge.delvalue("ports", row)
                        removed.append(port)
            self._delete_unused(unused)

        await self.replica.transact(f"remove {len(ports)} stale ports", build)
        return removed

    async def hold(self, name: str, iface_id: str, timeout: float) -> None:
        """Keep a port from OVN, as soon as there is one, by hiding its ``iface-id``.

        Args:
            name: of the port.
            iface_id: its ``iface-id``.
            timeout: seconds to wait for the port.

        Raises:
            HostError, Unavailable: the database refused, or did not answer.
        """

        def hide(_transaction: Any) -> None:
            for _, _, interface in self._interfaces(name):
                if interface.external_ids.get("iface-id") == iface_id:
                    interface.verify("external_ids")
                    interface.delkey("external_ids", "iface-id")
                    interface.setkey("external_ids", HELD_KEY, iface_id)

        if await self.wait_port(name, {"iface-id": iface_id}, timeout):
            await self.replica.transact(f"hold port {name}", hide)

    async def release(self, name: str, iface_id: str) -> None:
        """Give a port back to OVN that was held.

        Raises:
            HostError, Unavailable: the database refused, or did not answer.
        """

        def show(_transaction: Any) -> None:
            for _, _, interface in self._interfaces(name):
                ids = interface.external_ids
                if iface_id in (ids.get("iface-id"), ids.get(HELD_KEY)):
                    # Whatever is seen here: a request to hold it may be on its way.
                    interface.delkey("external_ids", HELD_KEY)
                    interface.setkey("external_ids", "iface-id", iface_id)

        await self.replica.transact(f"release port {name}", show)

    def _delete_unused(self, unused: Mapping[str, Iterable[str]]) -> None:
        still = self._unused_qos()
        # Queues last: rows of QoS refer to them.
        for table in ("QoS", "Queue"):
            for uuid in unused.get(table, ()):
                if uuid in still.get(table, {}):
                    still[table][uuid].delete()

    async def wait_port(self, name: str, external_ids: Mapping[str, str], timeout: float) -> bool:
        """Wait until there is a port of that name with these ``external_ids``.

        Returns:
            False if ``timeout`` seconds pass first.
        """

        def there() -> bool:
            return any(_carries(row, external_ids) for _, _, row in self._interfaces(name))

        return await self.replica.wait(there, timeout)

    async def wait_ofport(self, name: str, timeout: float) -> None:
        """Wait until ovs-vswitchd has opened the device of a port.

        Raises:
            HostError: it could not, or did not within ``timeout`` seconds.
        """

        def settled() -> bool:
            row = self._find("Interface", name)
            return row is None or bool(row.ofport)

        await self.replica.wait(settled, timeout)
        row = self._find("Interface", name)
        if row is None:
            raise HostError(f"port {name} was removed by somebody else", "repeat the operation")
        if not row.ofport:
            raise HostError(
                f"ovs-vswitchd did not take port {name} up within {timeout:g} s",
                "check that it runs: systemctl status ovs-vswitchd",
            )
        if row.ofport[0] < 1:
            raise HostError(
                f"Open vSwitch could not open {name} ({''.join(row.error) or 'no reason given'})",
                "see ovs-vswitchd.log",
            )

    def _find(self, table: str, name: str) -> Any | None:
        return next((row for row in self.replica.rows(table) if row.name == name), None)

    def _interfaces(self, name: str) -> Iterator[_Rows]:
        """Give bridge, port and interface rows of every interface of that name."""
        return iter(self._by_interface().get(name, ()))

    def _ports_of(self, name: str) -> list[Port]:
        """Give the ports that carry an interface of that name.

        To take them from the library's rows is most of the work, so that is kept until something
        changes; but not while a transaction shows what it wants to change as if it were so.
        """
        rows = self._by_interface().get(name, [])
        if self.replica.in_transaction:
            return [_port(*each) for each in rows]
        if name not in self._read:
            self._read[name] = [_port(*each) for each in rows]
        return self._read[name]

    def _by_interface(self) -> dict[str, list[_Rows]]:
        """Give the rows by the name of the interface.

        Fifty vNICs that wait look at each change of a database with a thousand rows; the table
        is made once for all of them.
        """
        if self._index_of != self.replica.generation:
            self._index, self._read = {}, {}
            for bridge in self.replica.rows("Bridge"):
                for port in bridge.ports:
                    for interface in port.interfaces:
                        self._index.setdefault(interface.name, []).append((bridge, port, interface))
            self._index_of = self.replica.generation
        elif not self.replica.connected:
            self.replica.rows("Bridge")  # says what is wrong
        return self._index


def _switch_interface(bridge: Any, port: Any, interface: Any) -> SwitchInterface:
    return SwitchInterface(
        name=interface.name,
        type=interface.type,
        port=port.name,
        bridge=bridge.name,
        tag=_first(port.tag),
        options=dict(interface.options),
        vnic_id=vnic_of(interface.external_ids),
    )


def _whole(bridge: Any, port: Any, interface: Any) -> PortRows:
    qos = _first(port.qos)
    queues = [] if qos is None else qos.queues.values()
    return PortRows(
        uuid=str(port.uuid),
        bridge=bridge.name,
        port=_row("Port", port),
        interface=_row("Interface", interface),
        qos=None if qos is None else _row("QoS", qos),
        queues={str(queue.uuid): _row("Queue", queue) for queue in queues},
    )


def _row(table: str, row: Any) -> Row:
    return {column: _plain(getattr(row, column)) for column in COLUMNS[table]}


def _plain(value: Any) -> Any:
    """Put what the IDL has in a column into the form of vif_driver.host.ovsdb_rows."""
    if isinstance(value, dict):
        return {key: _plain(element) for key, element in value.items()}
    if isinstance(value, (list, tuple)):
        return _plain(value[0]) if len(value) == 1 else [_plain(element) for element in value]
    return str(value.uuid) if isinstance(value, ovs.db.idl.Row) else value


def _set_columns(row: Any, columns: Mapping[str, Any]) -> None:
    for column, value in columns.items():
        setattr(row, column, value)


def _require_unchanged(row: Any, column: str) -> None:
    """Have a transaction be tried anew if a column has changed that the replica shows unchanged.

    The IDL demands that, but of rows alone that are written to (ovs.db.idl.Transaction.commit());
    so the column is written, as it is.
    """
    row.verify(column)
    setattr(row, column, getattr(row, column))


def _carries(row: Any, external_ids: Mapping[str, str]) -> bool:
    return all(row.external_ids.get(key) == value for key, value in external_ids.items())


def _first(values: list[Any]) -> Any | None:
    return values[0] if values else None


def _port(bridge: Any, row: Any, interface: Any) -> Port:
    return Port(
        name=interface.name,
        bridge=bridge.name,
        tag=_first(row.tag),
        external_ids=dict(interface.external_ids),
        ofport=_first(interface.ofport),
        error=_first(interface.error),
        ifindex=_first(interface.ifindex),
        trunks=tuple(row.trunks),
        type=interface.type,
        options=dict(interface.options),
        other_config=dict(row.other_config),
    )
