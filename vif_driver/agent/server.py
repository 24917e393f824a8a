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
from collections.abc import Awaitable
from pathlib import Path
from typing import Callable

from vif_driver import wire
from vif_driver.errors import BadRequest, VifError, one_line
from vif_driver.events import failure

log = logging.getLogger(__name__)

#: The user that VDSM runs hooks as.
VDSM_USER = "vdsm"

#: Connections served at once.  A host that starts fifty VMs of several vNICs each stays below;
#: who comes beyond waits in the kernel's queue.
MAX_CONNECTIONS = 128

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
        group: the group id that may connect at all.
    """

    users: frozenset[int]
    group: int


Answer = Callable[[wire.Request], Awaitable[wire.Reply]]

_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Server:
    """Serves requests on a unix socket.

    Args:
        answer: turns a request into a reply; must not raise.
        callers: who may ask.
    """

    def __init__(self, answer: Answer, callers: Callers) -> None:
        self._answer = answer
        self._callers = callers
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
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
            if self._serving:
                await asyncio.wait(self._serving, timeout=ANSWER_TIMEOUT)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection failed", exc_info=task.exception())

    async def _serve_one(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            pid, uid, _ = _peer(connection)
            if uid not in self._callers.users:
                log.warning("refused a call from user %d, process %d", uid, pid)
                return
            begun = time.monotonic()
            reader = _Reader(connection)
            event = "before_"
            try:
                request = await asyncio.wait_for(_receive(reader), RECEIVE_TIMEOUT)
                event = request.event
                reply = await asyncio.wait_for(self._answer(request), ANSWER_TIMEOUT)
            except asyncio.TimeoutError:
                log.error("process %d of user %d: %s timed out", pid, uid, event)
                reply = failure(event, "the agent could not answer in time; repeat the operation")
            except ConnectionError:
                return
            except BadRequest as error:
                log.warning("process %d of user %d: %s", pid, uid, one_line(str(error)))
                reply = failure(event, str(error))
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(
                    asyncio.get_running_loop().sock_sendall(connection, wire.encode_reply(reply)),
                    RECEIVE_TIMEOUT,
                )
            log.debug("%s answered in %.1f ms", event, (time.monotonic() - begun) * 1000)


def listen(path: Path, callers: Callers) -> socket.socket:
    """Make the agent's listening socket, in the place of one that an earlier agent left.

    Args:
        path: where; its directory must exist and be writable by nobody else.
        callers: whose group may connect.

    Raises:
        VifError: it cannot be made, or another agent is listening there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if path.is_socket():
            with (
                socket.socket(socket.AF_UNIX) as probe,
                contextlib.suppress(ConnectionRefusedError),
            ):
                probe.connect(str(path))
                raise VifError(f"an agent is listening on {path} already", "stop that one first")
            path.unlink()
        listener.bind(str(path))
        # VDSM's group is kvm, which QEMU's processes are in as well: the mode keeps everybody
        # else from knocking, it doesn't say who may come in.
        os.chown(path, -1, callers.group)
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise VifError(
            f"cannot listen on {path} ({error})", "run the agent as a service"
        ) from error
    except VifError:
        listener.close()
        raise
    return listener


def callers_of_this_host() -> Callers:
    """Root and, where it exists, VDSM."""
    try:
        vdsm = pwd.getpwnam(VDSM_USER)
    except KeyError:
        log.warning("there is no user %s on this host; only root is admitted", VDSM_USER)
        return Callers(users=frozenset((0,)), group=0)
    return Callers(users=frozenset((0, vdsm.pw_uid)), group=vdsm.pw_gid)


class _Reader:
    """Reads a header line and counted fields from a non-blocking socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

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
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
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


async def _receive(reader: _Reader) -> wire.Request:
    event, properties_length, data_length = wire.parse_header(await reader.line(wire.MAX_HEADER))
    properties = wire.parse_properties(await reader.exactly(properties_length))
    return wire.Request(event, properties, await reader.exactly(data_length))


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, gid = _PEER_CREDENTIALS.unpack(raw)
    return pid, uid, gid
