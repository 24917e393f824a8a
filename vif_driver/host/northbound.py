# SPDX-License-Identifier: GPL-2.0-or-later
"""Logical switch ports in OVN's northbound database, for as long as a live migration takes.

The database is one for all hosts.  So the connection is made when it is needed and dropped after,
and the server sends the rows of the given ports and nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ovs.db.idl

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import certificates, threads
from vif_driver.host.certificates import Credentials
from vif_driver.host.northbound_connection import DATABASE, NAME, Idl, Peer
from vif_driver.host.northbound_rows import Edit, LogicalSwitchPort
from vif_driver.host.replica import Replica
from vif_driver.host.southbound import Remote, parse_remotes, reason

#: Where oVirt's engine has the northbound database listen, and OVN by default.
PORT = 6641

#: Seconds for the connection, from the resolution of names until the rows are there.
CONNECT_TIMEOUT = 5.0

#: Seconds for a change; a cluster whose leader has died needs some to elect another.
EDIT_TIMEOUT = 10.0

_REMEDY = "check ovn-remote, the network and the firewall on the way there, and that it runs"

# Milliseconds after which a silent member is asked for a sign of life; as long again, and it is
# left for another.  A lone server has no other: it is given the library's own time.
_PROBE_INTERVAL = 1500

_TABLE = "Logical_Switch_Port"
_STRINGS = {"key": "string", "min": 0, "max": "unlimited"}
_MAP = {"key": "string", "value": "string", "min": 0, "max": "unlimited"}
_UP = {"key": "boolean", "min": 0, "max": 1}

# A host need not have the schema's file: it comes with the server.  All versions of OVN have these
# columns.
_SCHEMA = {
    "name": DATABASE,
    "tables": {
        _TABLE: {
            "columns": {
                "name": {"type": "string"},
                "type": {"type": "string"},
                "options": {"type": _MAP},
                "external_ids": {"type": _MAP},
                "addresses": {"type": _STRINGS},
                "up": {"type": _UP},
            },
        },
    },
}


def remotes_from(ovn_remote: str) -> list[str]:
    """Derive where the northbound database listens from ``ovn-remote``.

    It is on the same machines as the southbound database, on its own port.  A unix socket is left
    out: it says nothing about the northbound database.

    Raises:
        HostError: ``ovn_remote`` is malformed.
    """
    inet = (remote for remote in parse_remotes(ovn_remote) if remote.kind != "unix")
    moved = (str(dataclasses.replace(remote, port=PORT)) for remote in inet)
    return list(dict.fromkeys(moved))


class Northbound:
    """A connection to the northbound database with the rows of some ports.

    An asynchronous context manager, or ``open()`` and ``close()``.

    Args:
        remotes: its members, as in ``ssl:engine.example.com:6641``; of a cluster the leader is
            looked for, and looked for again when there is another.
        credentials: for ``ssl``, which does not go without.
        ports: the names of the logical switch ports.

    Raises:
        HostError: there are no remotes, or they are malformed, or there are no credentials.
    """

    def __init__(
        self, remotes: Sequence[str], credentials: Credentials | None, ports: Sequence[str]
    ) -> None:
        self._remotes = [_parse(remote) for remote in remotes]
        if not self._remotes:
            raise HostError(f"this host knows no address of {NAME}", "set ovn-remote on it")
        self._secure = next((remote for remote in self._remotes if remote.kind == "ssl"), None)
        if self._secure and credentials is None:
            raise certificates.missing(str(self._secure))
        self._credentials = credentials
        self._ports = list(dict.fromkeys(ports))
        self._peers: list[Peer] = []
        self._unresolved: dict[Remote, str] = {}
        self._replica: Replica | None = None
        self._idl: Any = None

    async def __aenter__(self) -> Northbound:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def open(self, timeout: float = CONNECT_TIMEOUT) -> None:
        """Begin to connect.

        Args:
            timeout: seconds for names to be resolved.

        Raises:
            HostError: the certificates cannot be used.
            Unavailable: no name could be resolved.
        """
        tls = None
        if self._secure and self._credentials is not None:
            tls = certificates.context(self._credentials)
        for found in await asyncio.gather(*(self._resolve(one, timeout) for one in self._remotes)):
            self._peers.extend(
                Peer(remote, family, address, tls if remote.kind == "ssl" else None)
                for remote, family, address in found
            )
        if not self._peers:
            raise self._unavailable()
        tables = ovs.db.idl.SchemaHelper(schema_json=_SCHEMA)
        tables.register_all()
        names = ",".join(map(str, self._remotes))
        self._replica = Replica(NAME, names, tables, _REMEDY, self._make_idl)
        self._replica.open()

    def close(self) -> None:
        """Drop the connection."""
        if self._replica is not None:
            self._replica.close()

    @property
    def connected(self) -> bool:
        """Whether the rows are there and the server answers."""
        return self._replica is not None and self._replica.connected

    async def wait_connected(self, timeout: float = CONNECT_TIMEOUT) -> None:
        """Wait for the connection.

        Raises:
            HostError: the certificate of one side is not accepted by the other; that is told as
                soon as it is known of all members.
            Unavailable: the connection did not come within ``timeout`` seconds, or there is nobody
                to wait for: all members refused it all the time, see REFUSED_FOR.
        """
        await self._opened.wait(lambda: self.connected or self._hopeless(), timeout)
        if not self.connected:
            raise self._unavailable()

    def ports(self) -> dict[str, LogicalSwitchPort]:
        """Give those of the ports that there are, by name.

        Raises:
            Unavailable: the connection is lost for the moment.
        """
        return {name: _port(row) for name, row in self._rows()}

    def port(self, name: str) -> LogicalSwitchPort | None:
        """Look up one of the ports.

        Raises:
            Unavailable: the connection is lost for the moment.
        """
        return self.ports().get(name)

    def include(self, names: Iterable[str]) -> None:
        """Have the rows of more ports sent; they are there a moment later."""
        more = [name for name in names if name not in self._ports]
        if more:
            self._ports.extend(more)
            self._idl.cond_change(_TABLE, [["name", "==", port] for port in self._ports])
            self._opened.poke()

    async def edit(
        self,
        what: str,
        change: Callable[[LogicalSwitchPort], Edit | None],
        timeout: float = EDIT_TIMEOUT,
    ) -> list[str]:
        """Change all ports in one transaction; nothing that somebody else writes is lost by it.

        Whenever ``options`` or ``external_ids`` of a port that is to be changed are not what
        ``change`` has been shown, nothing is written and ``change`` is asked anew, about each port.
        The same happens if the connection breaks before the answer: what is shown then may be the
        change itself.  So ``change`` must decide by what it is shown, and by nothing it remembers
        of an earlier call.

        Args:
            what: the purpose, for messages, as in "refused to ...".
            change: tells what to change of a port; None, or what is there already: nothing.  What
                it raises ends the edit, with nothing written.
            timeout: seconds, those included that a lost connection takes to come back.

        Returns:
            The names of the ports that the last attempt changed: none, if one before had done it
            without an answer.  What is shown of the ports is new by then.

        Raises:
            HostError: the database refused, or the ports kept changing.
            Unavailable: it did not answer in time; the change may have been made all the same.
        """
        changed: list[str] = []

        def build(_transaction: Any) -> None:
            changed.clear()
            for name, row in self._rows():
                edit = change(_port(row))
                if edit is not None and _apply(row, edit):
                    changed.append(name)

        await self._opened.transact(what, build, timeout, reconnection=timeout)
        return changed

    async def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on the ports holds.

        Args:
            condition: asked after each change, while the connection is there.
            timeout: seconds.

        Returns:
            False if they pass first.
        """
        return await self._opened.wait(lambda: self.connected and condition(), timeout)

    # ---- the connection --------------------------------------------------------------------------

    @property
    def _opened(self) -> Replica:
        if self._replica is None:
            raise Unavailable(f"{NAME} was not connected to", "repeat the operation")
        return self._replica

    def _rows(self) -> list[tuple[str, Any]]:
        """Give the rows of the ports by their names, in the order of the names that were given."""
        # A server that knows no conditions (Open vSwitch before 2.6) sends the rows of all.
        rows = {row.name: row for row in self._opened.rows(_TABLE)}
        return [(name, rows[name]) for name in self._ports if name in rows]

    def _make_idl(self, _remotes: str, tables: Any) -> Any:
        probe_interval = _PROBE_INTERVAL if len(self._peers) > 1 else None
        names = ",".join(peer.name for peer in self._peers)
        idl = Idl(names, tables, probe_interval=probe_interval, leader_only=True)
        # Before anything is sent, so that no other row ever comes.
        idl.cond_change(_TABLE, [["name", "==", name] for name in self._ports])
        self._idl = idl
        return idl

    async def _resolve(self, remote: Remote, timeout: float) -> list[tuple[Remote, int, Any]]:
        """Give the addresses of a member, each with its family; none if there is no such name."""
        if remote.kind == "unix":
            return [(remote, socket.AF_UNIX, remote.address)]

        def look_up(flags: int = 0) -> list[Any]:
            kind = socket.SOCK_STREAM
            return socket.getaddrinfo(remote.address, remote.port, type=kind, flags=flags)

        try:
            try:
                found = look_up(socket.AI_NUMERICHOST)  # nobody is asked
            except socket.gaierror:
                found = await threads.run(look_up, timeout, "resolver")
        except asyncio.TimeoutError:
            self._unresolved[remote] = "its name was not resolved in time"
        except (OSError, UnicodeError) as error:
            self._unresolved[remote] = f"its name cannot be resolved: {reason(error)}"
        else:
            return [(remote, family, address) for family, _, _, _, address in found]
        return []

    def _hopeless(self) -> bool:
        """Tell whether every member has ended the matter."""
        if self._unresolved:
            return False
        return all(peer.is_deserted or peer.refusal is not None for peer in self._peers)

    def _unavailable(self) -> HostError:
        """Say why there is no connection."""
        refusals = (peer.refusal for peer in self._peers if peer.refusal is not None)
        reasons = dict(self._unresolved)
        for peer in self._peers:
            reasons.setdefault(peer.remote, peer.trouble)
        text = "; ".join(f"{remote}: {why}" for remote, why in reasons.items())
        return next(refusals, None) or Unavailable(f"{NAME} does not answer ({text})", _REMEDY)


def _parse(remote: str) -> Remote:
    try:
        (parsed,) = parse_remotes(remote)
    except (HostError, ValueError) as error:
        raise HostError(
            f"{remote!r} is no address of {NAME}", "write it like ssl:engine.example.com:6641"
        ) from error
    return parsed


def _port(row: Any) -> LogicalSwitchPort:
    return LogicalSwitchPort(
        name=row.name,
        type=row.type,
        options=dict(row.options),
        external_ids=dict(row.external_ids),
        addresses=tuple(row.addresses),
        up=row.up[0] if row.up else None,
    )


def _apply(row: Any, edit: Edit) -> bool:
    """Write what an edit changes, key by key; tell whether it changes anything."""
    writes = [
        (column, key, value)
        for column, keys in (("options", edit.options), ("external_ids", edit.external_ids))
        for key, value in keys.items()
        if value != getattr(row, column).get(key)
    ]
    if writes:
        row.verify("options")
        row.verify("external_ids")
    for column, key, value in writes:
        if value is None:
            row.delkey(column, key)
        else:
            row.setkey(column, key, value)
    return bool(writes)
