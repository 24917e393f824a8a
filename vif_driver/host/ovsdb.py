# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch's database: a replica of what we use of it, and transactions.

The replica is kept by the IDL of the ``ovs`` package (ovs/db/idl.py), driven by the asyncio
loop: nothing polls, and the process sleeps while the database is quiet.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import ovs.db.idl
import ovs.poller
import ovs.timeval

from vif_driver.errors import HostError, NameTaken, Unavailable
from vif_driver.host.ovsdb_socket import SOCKET

log = logging.getLogger(__name__)

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")

#: Seconds until a transaction that ovsdb-server does not answer is given up.
TRANSACTION_TIMEOUT = 5.0

#: Milliseconds between two attempts to connect, at first and at most.
RECONNECT_BACKOFF = (250, 1000)

# The whole database of a busy host has statistics that change all the time; these do not.  The
# IDL also writes only to columns that it replicates.
_REPLICATED = {
    "Bridge": ["name", "ports"],
    "Port": ["name", "interfaces", "external_ids", "other_config", "tag", "trunks"],
    "Interface": ["name", "external_ids", "ofport", "error"],
}

_NOT_CONNECTED = "start Open vSwitch (systemctl start openvswitch), then repeat the operation"


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
    """

    name: str
    bridge: str
    tag: int | None
    external_ids: Mapping[str, str]
    ofport: int | None
    error: str | None


class Ovsdb:
    """A connection to the local ovsdb-server that outlives the server's restarts.

    Args:
        socket: the server's unix socket.
        schema: the schema file that Open vSwitch installs.
    """

    def __init__(self, socket: Path = SOCKET, schema: Path = SCHEMA) -> None:
        self._socket = socket
        self._schema = schema
        self._idl: Any | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._armed = contextlib.ExitStack()

    async def open(self) -> None:
        """Begin to connect; returns at once, whether or not there is a server.

        Raises:
            Unavailable: Open vSwitch is not installed.
        """
        try:
            helper = ovs.db.idl.SchemaHelper(str(self._schema))
        except OSError as error:
            raise Unavailable(
                f"Open vSwitch is not installed ({self._schema}: {error.strerror})",
                "install the package openvswitch",
            ) from error
        for table, columns in _REPLICATED.items():
            helper.register_columns(table, columns)
        self._idl = ovs.db.idl.Idl(f"unix:{self._socket}", helper)
        # By default the pause between two attempts grows to 8 s; a VM start doesn't wait so long
        # for a database that has been back for a while.
        self._idl._session.reconnect.set_backoff(*RECONNECT_BACKOFF)
        self._pump()

    async def close(self) -> None:
        """Drop the connection."""
        self._armed.close()
        if self._idl is not None:
            self._idl.close()
            self._idl = None

    @property
    def connected(self) -> bool:
        """Whether the replica is complete and the server answers."""
        # The IDL keeps its last contents while it reconnects, and says so nowhere but here.
        return (
            self._idl is not None
            and self._idl.has_ever_connected()
            and self._idl._session.is_connected()
        )

    async def wait_connected(self, timeout: float = 2.0) -> None:
        """Wait for the connection, which may just be coming back after a restart.

        Raises:
            Unavailable: it did not come within ``timeout`` seconds.
        """
        if not await self._wait(lambda: self.connected, timeout):
            raise Unavailable(
                f"Open vSwitch's database does not answer on {self._socket}", _NOT_CONNECTED
            )

    def has_bridge(self, name: str) -> bool:
        """Tell whether Open vSwitch has a bridge of that name."""
        return self._find("Bridge", name) is not None

    def port(self, name: str) -> Port | None:
        """Look up the port that carries the interface of that name, on whatever bridge."""
        for bridge in self._rows("Bridge"):
            for row in bridge.ports:
                for interface in row.interfaces:
                    if interface.name == name:
                        return _port(bridge, row, interface)
        return None

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
            new_interface = transaction.insert(self._table("Interface"))
            new_interface.name = name
            _set_columns(new_interface, interface)
            new_port = transaction.insert(self._table("Port"))
            new_port.name = name
            new_port.interfaces = [new_interface]
            _set_columns(new_port, port)
            owner.addvalue("ports", new_port)

        await self._transact(f"add port {name} to {bridge}", build)

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
            for bridge in self._rows("Bridge"):
                for row in bridge.ports:
                    for interface in row.interfaces:
                        if interface.name != name or not _carries(interface, external_ids):
                            continue
                        interface.verify("external_ids")
                        bridge.delvalue("ports", row)
                        # Rows that nothing refers to are removed by the server itself.
                        found = True

        await self._transact(f"delete port {name}", build)
        return found

    async def wait_ofport(self, name: str, timeout: float) -> None:
        """Wait until ovs-vswitchd has opened the device of a port.

        Raises:
            HostError: it could not, or did not within ``timeout`` seconds.
        """

        def settled() -> bool:
            row = self._find("Interface", name)
            return row is None or bool(row.ofport)

        await self._wait(settled, timeout)
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

    # -- the IDL ------------------------------------------------------------------------------

    def _table(self, table: str) -> Any:
        if self._idl is None or not self.connected:
            raise Unavailable("Open vSwitch's database does not answer", _NOT_CONNECTED)
        return self._idl.tables[table]

    def _rows(self, table: str) -> Iterator[Any]:
        return iter(list(self._table(table).rows.values()))

    def _find(self, table: str, name: str) -> Any | None:
        return next((row for row in self._rows(table) if row.name == name), None)

    async def _transact(self, what: str, build: Callable[[Any], None]) -> None:
        """Commit what ``build`` puts into a transaction, again if the database had moved on.

        ``build`` is called anew for each try, with an empty transaction.
        """
        deadline = asyncio.get_running_loop().time() + TRANSACTION_TIMEOUT
        while True:
            await self.wait_connected()
            transaction = ovs.db.idl.Transaction(self._idl)
            try:
                build(transaction)
                status = transaction.commit()
                while status == ovs.db.idl.Transaction.INCOMPLETE:
                    left = deadline - asyncio.get_running_loop().time()
                    if left <= 0 or not await self._wait_for_change(left):
                        raise Unavailable(
                            f"Open vSwitch's database did not answer a request to {what}",
                            _NOT_CONNECTED,
                        )
                    status = transaction.commit()
            finally:
                transaction.abort()
            if status in (
                ovs.db.idl.Transaction.SUCCESS,
                ovs.db.idl.Transaction.UNCHANGED,
            ):
                return
            if status != ovs.db.idl.Transaction.TRY_AGAIN:
                raise HostError(
                    f"Open vSwitch's database refused to {what} ({transaction.get_error()})",
                    "see ovsdb-server.log",
                )
            if asyncio.get_running_loop().time() >= deadline:
                raise HostError(
                    f"Open vSwitch's database kept changing while trying to {what}",
                    "repeat the operation",
                )
            await self._wait_for_change(0.1)

    async def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on the replica holds; False if ``timeout`` seconds pass first."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not condition():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or not await self._wait_for_change(left):
                return condition()
        return True

    async def _wait_for_change(self, timeout: float) -> bool:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        # A transaction begun since the last turn has a request to send.
        self._arm()
        done, _ = await asyncio.wait([waiter], timeout=timeout)
        if not done:
            self._waiters.remove(waiter)
        return bool(done)

    def _pump(self) -> None:
        """Let the IDL do what it has to do now, and have the loop call again when it must."""
        if self._idl is None:
            return
        try:
            self._idl.run()
        except Exception:  # the IDL must not take the loop down with it
            log.exception("the replica of Open vSwitch's database failed; connecting anew")
            self._idl.force_reconnect()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._arm()

    def _arm(self) -> None:
        self._armed.close()
        if self._idl is None:
            return
        wishes = _Wishes()
        self._idl.wait(wishes)
        loop = asyncio.get_running_loop()
        for descriptor, events in wishes.descriptors.items():
            if events & ovs.poller.POLLIN:
                loop.add_reader(descriptor, self._pump)
                self._armed.callback(loop.remove_reader, descriptor)
            if events & ovs.poller.POLLOUT:
                loop.add_writer(descriptor, self._pump)
                self._armed.callback(loop.remove_writer, descriptor)
        if wishes.seconds is not None:
            self._armed.callback(loop.call_later(wishes.seconds, self._pump).cancel)


class _Wishes:
    """What the IDL wants to be woken for; stands in for its own poll loop (ovs/poller.py)."""

    def __init__(self) -> None:
        self.descriptors: dict[int, int] = {}
        self.seconds: float | None = None

    def fd_wait(self, descriptor: Any, events: int) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        self.descriptors[number] = self.descriptors.get(number, 0) | events

    def timer_wait(self, milliseconds: int) -> None:
        seconds = max(0.0, milliseconds / 1000)
        self.seconds = seconds if self.seconds is None else min(self.seconds, seconds)

    def timer_wait_until(self, milliseconds: int) -> None:
        self.timer_wait(milliseconds - ovs.timeval.msec())

    def immediate_wake(self) -> None:
        self.seconds = 0.0


def _set_columns(row: Any, columns: Mapping[str, Any]) -> None:
    for column, value in columns.items():
        setattr(row, column, value)


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
    )
