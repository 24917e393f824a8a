# SPDX-License-Identifier: GPL-2.0-or-later
"""Logical switch ports in OVN's northbound database, for as long as a live migration takes.

The database is one for all hosts.  So the connection is made when it is needed and dropped after,
and the server sends the rows of the given ports and nothing else.

The IDL connects over a stream of our own, not over those of ``ovs.stream``.  In all versions until
4.0 at least, these

* take the credentials of TLS from variables of the whole process;
* call the loop again and again, without a pause, until the other side has answered the handshake;
* resolve names in the loop, and only to IPv6 addresses, or not at all;
* forget why an attempt failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import os
import select
import socket
import ssl
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ovs.db.idl
import ovs.poller
import ovs.stream

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import certificates, threads
from vif_driver.host.certificates import Credentials
from vif_driver.host.replica import Replica
from vif_driver.host.southbound import Remote, parse_remotes

DATABASE = "OVN_Northbound"

#: Where oVirt's engine has the northbound database listen, and OVN by default.
PORT = 6641

#: Seconds for the connection, from the resolution of names until the rows are there.
CONNECT_TIMEOUT = 5.0

#: Seconds for a change; a cluster whose leader has died needs some to elect another.
EDIT_TIMEOUT = 10.0

_NAME = "OVN's northbound database"
_REMEDY = "check ovn-remote, the network and the firewall on the way there, and that it runs"
_ENROLL = certificates.ENROLL

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


@dataclasses.dataclass(frozen=True)
class LogicalSwitchPort:
    """A logical switch port as the database has it.

    Attributes:
        name: the vNIC's id.
        type: empty for a VM's.
        options: ``requested-chassis``, ``activation-strategy``, ...
        external_ids: whatever anybody wrote there.
        addresses: what the provider says that the VM has.
        up: whether a host has it in place; None where OVN has not said yet.
    """

    name: str
    type: str
    options: Mapping[str, str]
    external_ids: Mapping[str, str]
    addresses: tuple[str, ...]
    up: bool | None


@dataclasses.dataclass(frozen=True)
class Edit:
    """What to change of a port; what is not named stays as it is.

    Attributes:
        options: by key the new value; None removes the key.
        external_ids: the same.
    """

    options: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    external_ids: Mapping[str, str | None] = dataclasses.field(default_factory=dict)


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
            raise HostError(f"this host knows no address of {_NAME}", "set ovn-remote on it")
        self._secure = next((remote for remote in self._remotes if remote.kind == "ssl"), None)
        if self._secure and credentials is None:
            raise HostError(
                f"this host has no certificate for {self._secure} in {certificates.FOLDER}",
                _ENROLL,
            )
        self._credentials = credentials
        self._ports = list(dict.fromkeys(ports))
        self._peers: list[_Peer] = []
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
                _Peer(remote, family, address, tls if remote.kind == "ssl" else None)
                for remote, family, address in found
            )
        if not self._peers:
            raise self._unavailable()
        tables = ovs.db.idl.SchemaHelper(schema_json=_SCHEMA)
        tables.register_all()
        names = ",".join(map(str, self._remotes))
        self._replica = Replica(_NAME, names, tables, _REMEDY, self._make_idl)
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
            Unavailable: the connection did not come within ``timeout`` seconds.
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

    def include(self, name: str) -> None:
        """Have the row of one more port sent; it is there a moment later."""
        if name not in self._ports:
            self._ports.append(name)
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
            raise Unavailable(f"{_NAME} was not connected to", "repeat the operation")
        return self._replica

    def _rows(self) -> list[tuple[str, Any]]:
        """Give the rows of the ports by their names, in the order of the names that were given."""
        # A server that knows no conditions (Open vSwitch before 2.6) sends the rows of all.
        rows = {row.name: row for row in self._opened.rows(_TABLE)}
        return [(name, rows[name]) for name in self._ports if name in rows]

    def _make_idl(self, _remotes: str, tables: Any) -> Any:
        probe_interval = _PROBE_INTERVAL if len(self._peers) > 1 else None
        names = ",".join(peer.name for peer in self._peers)
        idl = _Idl(names, tables, probe_interval=probe_interval, leader_only=True)
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
            self._unresolved[remote] = f"its name cannot be resolved: {_words(error)}"
        else:
            return [(remote, family, address) for family, _, _, _, address in found]
        return []

    def _hopeless(self) -> bool:
        """Tell whether every member has ended the matter."""
        return not self._unresolved and all(_refusal(peer) for peer in self._peers)

    def _unavailable(self) -> HostError:
        """Say why there is no connection."""
        refusals = filter(None, map(_refusal, self._peers))
        reasons = dict(self._unresolved)
        for peer in self._peers:
            reasons.setdefault(peer.remote, _reason(peer))
        text = "; ".join(f"{remote}: {why}" for remote, why in reasons.items())
        return next(refusals, None) or Unavailable(f"{_NAME} does not answer ({text})", _REMEDY)


def _parse(remote: str) -> Remote:
    try:
        (parsed,) = parse_remotes(remote)
    except (HostError, ValueError) as error:
        raise HostError(
            f"{remote!r} is no address of {_NAME}", "write it like ssl:engine.example.com:6641"
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


def _refusal(peer: _Peer) -> HostError | None:
    """Say what is wrong with the certificates, if that is what keeps a member away."""
    error, remote = peer.failure, peer.remote
    if isinstance(error, ssl.SSLCertVerificationError):
        return HostError(
            f"the certificate of {_NAME} on {remote} is not accepted ({error.verify_message})",
            certificates.COMPARE,
        )
    alert = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if "ALERT" in alert:
        reason = alert.replace("_", " ").lower().partition("alert ")[2]
        return HostError(f"{_NAME} on {remote} refuses this host's certificate ({reason})", _ENROLL)
    return None


def _reason(peer: _Peer) -> str:
    """Say why a member is not the one that we are connected to."""
    if peer.failure is None:
        return "no answer in time" if peer.asked else "not asked in time"
    hang_up = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)
    if peer.tls and not peer.answered and isinstance(peer.failure, hang_up):
        return "it hangs up on this host, or on its certificate"
    return _words(peer.failure)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class _Idl(ovs.db.idl.Idl):  # type: ignore[misc]
    """The library's IDL, which costs less and finds the leader sooner."""

    def run(self) -> bool:
        """Do what there is to do; True if the contents have changed."""
        reconnect = self._session.reconnect
        if reconnect.backoff and not self._session.is_alive():
            # It pauses.  Of three members one leads: all are to be tried after a pause, not one.
            reconnect.set_backoff_free_tries(self._session.get_num_of_remotes())
        changed: bool = super().run()
        return changed

    def wait(self, poller: Any) -> None:
        """Tell what is to be waited for."""
        if self._session.is_connected():
            super().wait(poller)
        else:
            # The library would not wait at all while it has a condition that it cannot send yet.
            self._session.wait(poller)

    def force_reconnect(self) -> None:
        """Leave a member for the next, which the library does without saying why."""
        table = (self.server_tables or {}).get("Database")
        rows = [] if table is None else table.rows.values()
        peer = _peers.get(self.session_name().partition(":")[2])
        if peer is not None and not any(row.name == DATABASE for row in rows):
            peer.failure = LookupError(f"it has no database {DATABASE}")
        elif peer is not None and not any(row.leader for row in rows if row.name == DATABASE):
            peer.failure = LookupError("it is not the leader of its cluster")
        super().force_reconnect()

    def send_request(self, request: Any) -> Any:
        """Send a request."""
        if request.method == "monitor" and request.params[0] == "_Server":
            # Of a cluster's row there older libraries, EL9's among them, have everything sent anew
            # with every transaction of anybody, 18 KB of schema among it.
            for table in request.params[2].values():
                rest = [column for column in table[0]["columns"] if column != "schema"]
                once = {"columns": ["schema"], "select": {"modify": False}}
                table[:] = [{"columns": rest}, once]
        return super().send_request(request)


# ---- the stream ----------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class _Peer:
    """An address of a member, and how it went there.

    Attributes:
        remote: the member.
        family: of the address.
        address: as connect() takes it.
        tls: for a member that speaks TLS.
        name: what the IDL knows the address by.
        asked: whether there was an attempt.
        failure: how the last one ended, if it failed.
        answered: whether any has got as far as an answer.
    """

    remote: Remote
    family: int
    address: Any
    tls: ssl.SSLContext | None
    name: str = ""
    asked: bool = False
    failure: Exception | None = None
    answered: bool = False

    def __post_init__(self) -> None:
        number = str(next(_numbers))
        self.name = f"{_METHOD}:{number}"
        _peers[number] = self


_METHOD = "vif-driver"
_numbers = itertools.count()

# The library makes a stream of a name and nothing else.
_peers: weakref.WeakValueDictionary[str, _Peer] = weakref.WeakValueDictionary()


class _Stream:
    """A connection, from its beginning, with the methods that ovs.jsonrpc calls.

    No call blocks.  Errors are numbers, as in all of the library.
    """

    @staticmethod
    def needs_probes() -> bool:
        return True

    @staticmethod
    def _open(number: str, _dscp: int) -> tuple[int, _Peer | None]:
        peer = _peers.get(number)
        return (errno.ENOENT, None) if peer is None else (0, peer)

    @staticmethod
    def check_connection_completion(_peer: _Peer) -> int:
        return errno.EAGAIN  # connect() tells

    def __init__(self, peer: _Peer, name: str, _status: int) -> None:
        self.name = name
        self._peer = peer
        self._peer.asked = True
        self._error = 0
        self._connected = False
        self._handshake: Callable[[], None] | None = None
        self._awaited = ovs.poller.POLLOUT
        self._socket = socket.socket(peer.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        begun = self._socket.connect_ex(peer.address)
        if begun not in (0, errno.EINPROGRESS):
            self._fail(OSError(begun, os.strerror(begun)))

    def connect(self) -> int:
        """Go on; 0 once the connection is made, TLS included."""
        if self._error:
            return self._error
        try:
            if not self._connected and not self._has_connected():
                return errno.EAGAIN
            if self._handshake is not None:
                self._handshake()
                self._handshake = None
        except ssl.SSLWantReadError:
            self._awaited = ovs.poller.POLLIN
            return errno.EAGAIN
        except ssl.SSLWantWriteError:
            self._awaited = ovs.poller.POLLOUT
            return errno.EAGAIN
        except OSError as error:
            return self._fail(error)
        return 0

    def recv(self, size: int) -> tuple[int, bytes]:
        error = self.connect()
        if error:
            return error, b""
        try:
            data = self._socket.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return errno.EAGAIN, b""
        except OSError as failure:
            return self._fail(failure), b""
        if data:
            self._peer.failure, self._peer.answered = None, True
        else:
            self._peer.failure = ConnectionResetError(errno.ECONNRESET, "it hangs up")
        return 0, data

    def send(self, text: str) -> int:
        error = self.connect()
        if error:
            return -error
        try:
            return self._socket.send(text.encode())
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return -errno.EAGAIN
        except OSError as failure:
            # Whoever refuses our certificate says so, and hangs up: what was said is still there.
            said, _ = self.recv(1)
            return -(self._fail(failure) if said in (0, errno.EAGAIN) else said)

    def run(self) -> None:
        pass

    def run_wait(self, poller: Any) -> None:
        pass

    def connect_wait(self, poller: Any) -> None:
        if self._error:
            poller.immediate_wake()
        else:
            poller.fd_wait(self._socket, self._awaited)

    def recv_wait(self, poller: Any) -> None:
        if self._error or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            poller.immediate_wake()  # what TLS has decrypted is nothing to the descriptor
        else:
            poller.fd_wait(self._socket, ovs.poller.POLLIN)

    def send_wait(self, poller: Any) -> None:
        poller.fd_wait(self._socket, ovs.poller.POLLOUT)

    def close(self) -> None:
        if not self._error and (not self._connected or self._handshake is not None):
            self._peer.failure = TimeoutError("no answer in time")
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._socket.unwrap()  # without a farewell the server logs an error
        self._socket.close()

    def _has_connected(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(0):
            return False
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self._connected = True
        if self._peer.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._peer.tls is not None:
            secure = self._peer.tls.wrap_socket(self._socket, do_handshake_on_connect=False)
            self._socket, self._handshake = secure, secure.do_handshake
        return True

    def _fail(self, error: OSError) -> int:
        self._peer.failure = error
        # The numbers of TLS are not those of the system.
        known = error.errno and not isinstance(error, ssl.SSLError)
        self._error = error.errno if known and error.errno else errno.EPROTO
        return self._error


ovs.stream.Stream.register_method(_METHOD, _Stream)
