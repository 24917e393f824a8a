# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's socket: who may call, how much, and for how long.

Whatever comes over the socket is untrusted.  The kernel says who calls (SO_PEERCRED, unix(7));
everything else is counted, bounded in time, and checked against the grammar of vif_driver.wire
before anybody looks at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import pwd
import socket
import struct
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from vif_driver import wire
from vif_driver.errors import BadRequest, VifError, one_line
from vif_driver.events import describe, failure

log = logging.getLogger(__name__)

#: The user that VDSM runs hooks as.
VDSM_USER = "vdsm"

#: Connections served at once.  A host whose VMs all start at once, each of them waiting for its
#: vNICs, stays below; who comes beyond waits in the kernel's queue.
MAX_CONNECTIONS = 512

#: Callers that wait in the kernel's queue; beyond it a blocking connect waits as well.
BACKLOG = 1024

#: Seconds for a request to arrive whole, and for it to be answered.
RECEIVE_TIMEOUT = 5.0
ANSWER_TIMEOUT = 30.0


@dataclasses.dataclass(frozen=True)
class Callers:
    """Who may talk to the agent.

    Attributes:
        users: the user ids that are answered.
        owner: the user id that the socket belongs to.
    """

    users: frozenset[int]
    owner: int


class Service(Protocol):
    """What stands behind the socket."""

    async def handle(self, request: wire.Request) -> wire.Reply:
        """Answer a request; must not raise anything but wire.Declined."""

    async def withdraw(self, request: wire.Request) -> None:
        """Take back what was done for a caller who is gone; must not raise."""


# Before the event is known: the exit status of one that must not go on.
_ANY = "before_"
_REPEAT = "repeat the operation"

_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Server:
    """Serves requests on a unix socket.

    Args:
        service: answers the requests.
        callers: who may ask.
        patience: seconds for answers that may take longer than others, by the event.
        for_root: events that root alone may send.
    """

    def __init__(
        self,
        service: Service,
        callers: Callers,
        patience: Mapping[str, float] | None = None,
        for_root: Collection[str] = (),
    ) -> None:
        self._service = service
        self._callers = callers
        self._patience = patience or {}
        self._for_root = for_root
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        # Of requests with a lot of data each user has one at a time: neither can fill the memory,
        # nor keep the other from being answered.
        self._large: dict[int, asyncio.Lock] = {}
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Accept callers until cancelled; then finish what was begun.

        Args:
            listener: a listening, non-blocking unix socket.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._slots.acquire()
                connection = await _accept(loop, listener)
                task = loop.create_task(self._serve_one(connection))
                self._serving.add(task)
                task.add_done_callback(self._finished)
        finally:
            # Whoever knocks from now on is to find that there is no agent, and help himself; or
            # to wait for the next one, if systemd keeps the socket open.
            listener.close()
            if self._serving:
                await asyncio.wait(self._serving, timeout=ANSWER_TIMEOUT)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection failed", exc_info=task.exception())

    async def _serve_one(self, connection: socket.socket) -> None:
        async with contextlib.AsyncExitStack() as held:
            held.enter_context(connection)
            connection.setblocking(False)
            pid, uid, _ = _peer(connection)
            if uid not in self._callers.users:
                log.warning("refused a call from user %d, process %d", uid, pid)
                return
            begun = time.monotonic()
            reader = _Reader(connection)
            try:
                receiving = self._receive(reader, uid, held)
                request = await asyncio.wait_for(receiving, RECEIVE_TIMEOUT)
            except asyncio.TimeoutError:
                log.warning("process %d of user %d sent no whole request", pid, uid)
                await _send(connection, failure(reader.event, f"no whole request came; {_REPEAT}"))
            except ConnectionError:
                return
            except BadRequest as error:
                log.warning("process %d of user %d: %s", pid, uid, one_line(str(error)))
                await _send(connection, failure(reader.event, str(error)))
            else:
                event = request.event
                if uid != 0 and event in self._for_root:
                    log.warning("refused %s to user %d, process %d", event, uid, pid)
                    only = f"{event} is for root only; repeat it as root"
                    await _send(connection, failure(event, only))
                    return
                await self._serve_request(connection, request)
                milliseconds = (time.monotonic() - begun) * 1000
                log.debug("%s answered in %.1f ms", event, milliseconds)

    async def _receive(
        self, reader: _Reader, uid: int, held: contextlib.AsyncExitStack
    ) -> wire.Request:
        """Receive a request; one with a lot of data when it is its user's turn."""
        header = await reader.line(wire.MAX_HEADER)
        event, properties_length, data_length = wire.parse_header(header)
        reader.event = event
        if data_length > wire.MAX_DATA:
            await held.enter_async_context(self._large.setdefault(uid, asyncio.Lock()))
        properties = wire.parse_properties(await reader.exactly(properties_length))
        return wire.Request(event, properties, await reader.exactly(data_length))

    async def _serve_request(self, connection: socket.socket, request: wire.Request) -> None:
        if _hung_up(connection):
            log.warning("%s: the caller is gone already", request.event)
            return
        patience = self._patience.get(request.event, ANSWER_TIMEOUT)
        try:
            reply = await asyncio.wait_for(self._service.handle(request), patience)
        except wire.Declined:
            log.info("%s: left to the hook", request.event)
            return
        except asyncio.TimeoutError:
            subject = describe(request)
            why = f"not done within {patience:g} s; see journalctl -u vif-agent"
            log.error("%s", one_line(f"{subject}: {why}"))
            reply = failure(request.event, f"{subject}: {why}")
        if not await _send(connection, reply) and reply.status == 0:
            log.warning("%s: the caller is gone; taking it back", request.event)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._service.withdraw(request), ANSWER_TIMEOUT)


def listen(path: Path, callers: Callers) -> socket.socket:
    """Make the agent's listening socket, in the place of one that an earlier agent left.

    Args:
        path: where; its directory must exist and be writable by nobody else.
        callers: to whom the socket belongs.

    Raises:
        VifError: it cannot be made, or another agent is listening there.
    """
    if _is_served(path):
        raise VifError(f"an agent is listening on {path} already", "stop that one first")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # Under its own name only once it listens: whoever finds it can use it.
    unfinished = path.with_name(f"{path.name}.new")
    try:
        if path.exists() and not path.is_socket():
            raise FileExistsError(f"{path} is no socket")
        unfinished.unlink(missing_ok=True)
        listener.bind(str(unfinished))
        # For VDSM's user alone, and root.  Its group is kvm, which QEMU's processes are in too.
        os.chown(unfinished, callers.owner, 0)
        unfinished.chmod(0o600)
        listener.listen(BACKLOG)
        unfinished.replace(path)
    except OSError as error:
        listener.close()
        raise VifError(
            f"cannot listen on {path} ({error})", "run the agent as a service"
        ) from error
    return listener


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except socket.timeout:
            return True
        except OSError:
            return False
    return True


def callers_of_this_host() -> Callers:
    """Root and, where it exists, VDSM."""
    try:
        vdsm = pwd.getpwnam(VDSM_USER)
    except KeyError:
        log.warning("there is no user %s on this host; only root is admitted", VDSM_USER)
        return Callers(users=frozenset((0,)), owner=0)
    return Callers(users=frozenset((0, vdsm.pw_uid)), owner=vdsm.pw_uid)


class _Reader:
    """Reads a header line and counted fields from a non-blocking socket.

    Attributes:
        event: which is asked about, as far as that is known.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.event = _ANY
        self._connection = connection
        self._buffer = bytearray()

    async def line(self, limit: int) -> bytes:
        while b"\n" not in self._buffer and len(self._buffer) < limit:
            await self._fill()
        end = self._buffer.find(b"\n") + 1
        return self._take(end if 0 < end <= limit else limit)

    async def exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            await self._fill()
        return self._take(length)

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    async def _fill(self) -> None:
        chunk = await asyncio.get_running_loop().sock_recv(self._connection, 65536)
        if not chunk:
            raise ConnectionError("the caller hung up")
        self._buffer += chunk


async def _accept(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> socket.socket:
    while True:
        try:
            connection, _ = await loop.sock_accept(listener)
            return connection
        except OSError as error:
            # Out of descriptors, or the caller is gone again: neither is a reason to end.
            log.error("cannot accept a connection: %s", error)
            await asyncio.sleep(0.1)


def _hung_up(connection: socket.socket) -> bool:
    """Tell whether the caller has closed the connection: nothing more was to come from him."""
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def _send(connection: socket.socket, reply: wire.Reply) -> bool:
    """Send a reply; False if the caller did not take it."""
    sending = asyncio.get_running_loop().sock_sendall(connection, wire.encode_reply(reply))
    try:
        await asyncio.wait_for(sending, RECEIVE_TIMEOUT)
    except (OSError, asyncio.TimeoutError):
        return False
    return True


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, gid = _PEER_CREDENTIALS.unpack(raw)
    return pid, uid, gid
