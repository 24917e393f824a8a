# SPDX-License-Identifier: GPL-2.0-or-later
"""How the connection to OVN's northbound database is made, and why not.

The IDL connects over a stream of our own, not over those of ``ovs.stream``.  In all versions until
4.0 at least, these

* take the credentials of TLS from variables of the whole process;
* call the loop again and again, without a pause, until the other side has answered the handshake;
* resolve names in the loop, and only to IPv6 addresses, or not at all;
* forget why an attempt failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import select
import socket
import ssl
import time
import weakref
from collections.abc import Callable
from typing import Any

import ovs.db.idl
import ovs.poller
import ovs.stream

from vif_driver.errors import HostError
from vif_driver.host import certificates
from vif_driver.host.southbound import Remote, reason

#: The database, as it calls itself and as messages do.
DATABASE = "OVN_Northbound"
NAME = "OVN's northbound database"

#: Seconds after which nobody is expected to listen any more where connections are refused.  The
#: library tries each second: it is the third attempt that counts, and a server that restarts
#: has nearly two seconds for it.
REFUSED_FOR = 1.5

# Nobody listens, or a firewall says so; of a server that is overloaded, nothing is heard.
_REFUSALS = (
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EADDRNOTAVAIL,
    errno.ENOENT,
)

_METHOD = "vif-driver"
_numbers = itertools.count()

# The library makes a stream of a name and nothing else.
_peers: weakref.WeakValueDictionary[str, Peer] = weakref.WeakValueDictionary()


@dataclasses.dataclass(eq=False)
class Peer:
    """An address of a member, and how it went there.

    Attributes:
        remote: the member.
        family: of the address.
        address: as connect() takes it.
        tls: for a member that speaks TLS.
        name: what the IDL knows the address by.
        asked: whether there was an attempt.
        failure: how the last one ended, if it failed.
        refused: when the connection was refused, at first and at last, in monotonic seconds; None
            if the last attempt was not.
        answered: whether any has got as far as an answer.
    """

    remote: Remote
    family: int
    address: Any
    tls: ssl.SSLContext | None
    name: str = ""
    asked: bool = False
    failure: Exception | None = None
    refused: tuple[float, float] | None = None
    answered: bool = False

    def __post_init__(self) -> None:
        number = str(next(_numbers))
        self.name = f"{_METHOD}:{number}"
        _peers[number] = self

    def fail(self, error: Exception) -> None:
        """Take note of how an attempt has ended."""
        self.failure = error
        # The numbers of TLS are not those of the system.
        number = None if isinstance(error, ssl.SSLError) else getattr(error, "errno", None)
        if number in _REFUSALS:
            now = time.monotonic()
            self.refused = (now if self.refused is None else self.refused[0], now)
        else:
            self.refused = None

    @property
    def is_deserted(self) -> bool:
        """Whether nobody listens there, and not just for a moment."""
        return self.refused is not None and self.refused[1] - self.refused[0] >= REFUSED_FOR

    @property
    def refusal(self) -> HostError | None:
        """What is wrong with the certificates, if that is what keeps the member away."""
        if self.failure is None:
            return None
        return certificates.refusal(f"{NAME} on {self.remote}", self.failure)

    @property
    def trouble(self) -> str:
        """Why the member is not the one that we are connected to."""
        if self.failure is None:
            return "no answer in time" if self.asked else "not asked in time"
        hang_up = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)
        if self.tls and not self.answered and isinstance(self.failure, hang_up):
            return "it hangs up on this host, or on its certificate"
        return reason(self.failure)


class _Stream:
    """A connection, from its beginning, with the methods that ovs.jsonrpc calls.

    No call blocks.  Errors are numbers, as in all of the library.
    """

    @staticmethod
    def needs_probes() -> bool:
        return True

    @staticmethod
    def _open(number: str, _dscp: int) -> tuple[int, Peer | None]:
        peer = _peers.get(number)
        return (errno.ENOENT, None) if peer is None else (0, peer)

    @staticmethod
    def check_connection_completion(_peer: Peer) -> int:
        return errno.EAGAIN  # connect() tells

    def __init__(self, peer: Peer, name: str, _status: int) -> None:
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
            self._peer.fail(ConnectionResetError(errno.ECONNRESET, "it hangs up"))
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
            self._peer.fail(TimeoutError("no answer in time"))
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
        self._connected, self._peer.refused = True, None
        if self._peer.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._peer.tls is not None:
            secure = self._peer.tls.wrap_socket(self._socket, do_handshake_on_connect=False)
            self._socket, self._handshake = secure, secure.do_handshake
        return True

    def _fail(self, error: OSError) -> int:
        self._peer.fail(error)
        known = error.errno and not isinstance(error, ssl.SSLError)
        self._error = error.errno if known and error.errno else errno.EPROTO
        return self._error


ovs.stream.Stream.register_method(_METHOD, _Stream)


class Idl(ovs.db.idl.Idl):  # type: ignore[misc]
    """The library's IDL, which costs less and finds the leader sooner."""

    def run(self) -> bool:
        """Do what there is to do; True if the contents have changed."""
        session = self._session
        if session.reconnect.backoff and session.rpc is None and session.stream is None:
            # It pauses.  Of three members one leads: all are to be tried after a pause, not one.
            session.reconnect.set_backoff_free_tries(session.get_num_of_remotes())
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
            peer.fail(LookupError(f"it has no database {DATABASE}"))
        elif peer is not None and not any(row.leader for row in rows if row.name == DATABASE):
            peer.fail(LookupError("it is not the leader of its cluster"))
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
