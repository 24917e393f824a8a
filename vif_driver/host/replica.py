# SPDX-License-Identifier: GPL-2.0-or-later
"""A replica of an OVSDB database that lives in the asyncio loop.

The replica is kept by the IDL of the ``ovs`` package (ovs/db/idl.py), whose descriptor and timers
hang in the loop: nothing polls, and the process sleeps while the database is quiet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import ovs.db.idl
import ovs.poller
import ovs.timeval

from vif_driver.errors import HostError, Unavailable

log = logging.getLogger(__name__)

#: Seconds until a transaction that the server does not answer is given up.
TRANSACTION_TIMEOUT = 5.0

#: Seconds for a connection that was lost to come back.
RECONNECTION_TIMEOUT = 2.0

#: Milliseconds between two attempts to connect; less the library doesn't allow (ovs/reconnect.py).
RECONNECT_BACKOFF = 1000

# Seconds that a transaction waits for the change that it was refused for, before it tries again.
_PAUSE = 0.1

_COMMITTED = (ovs.db.idl.Transaction.SUCCESS, ovs.db.idl.Transaction.UNCHANGED)


class Replica:
    """A connection to a database that outlives the server's restarts.

    Args:
        name: of the database, for messages.
        remote: where its server listens, in OVSDB's own notation (ovsdb(7)).
        tables: the tables and columns to replicate; the IDL writes only to those as well.
        remedy: what to do when the server does not answer.
        idl: makes the IDL of a remote and tables; for one that is to be set up otherwise.
    """

    def __init__(
        self,
        name: str,
        remote: str,
        tables: ovs.db.idl.SchemaHelper,
        remedy: str,
        idl: Callable[[str, Any], Any] = ovs.db.idl.Idl,
    ) -> None:
        self._name = name
        self._remote = remote
        self._remedy = remedy
        self._waiters: list[asyncio.Future[None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._told = -1
        self._armed = contextlib.ExitStack()
        self._closed = False
        self._was_connected = False
        self._idl = idl(remote, tables)
        # By default the pause between two attempts grows to 8 s; a VM start doesn't wait so long
        # for a database that has been back for a while.
        self._idl._session.reconnect.set_backoff(RECONNECT_BACKOFF, RECONNECT_BACKOFF)

    def open(self) -> None:
        """Begin to connect; must be called in the running loop."""
        self._turn()

    def poke(self) -> None:
        """Let the IDL send what it was told outside of a transaction."""
        self._turn()

    def close(self) -> None:
        """Drop the connection."""
        self._closed = True
        self._armed.close()
        self._idl.close()

    @property
    def connected(self) -> bool:
        """Whether the replica is complete and the server answers."""
        # The IDL keeps its last contents until it has the new ones, and says so nowhere but here.
        return (
            not self._closed
            and self._idl.state == ovs.db.idl.Idl.IDL_S_MONITORING
            and self._idl._session.is_connected()
        )

    @property
    def generation(self) -> int:
        """A number that is another one after each change of the contents."""
        number: int = self._idl.change_seqno
        return number

    @property
    def in_transaction(self) -> bool:
        """Whether rows show changes that are not committed."""
        return self._idl.txn is not None

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have a function called after each change, of the contents or of the connection.

        Returns:
            What ends that.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def wait_connected(self, timeout: float = RECONNECTION_TIMEOUT) -> None:
        """Wait for the connection, which may just be coming back after a restart.

        Raises:
            Unavailable: it did not come within ``timeout`` seconds.
        """
        if not await self.wait(lambda: self.connected, timeout):
            raise self._unavailable()

    def table(self, name: str) -> Any:
        """Give a table of the replica.

        Raises:
            Unavailable: the replica may be out of date.
        """
        if not self.connected:
            raise self._unavailable()
        return self._idl.tables[name]

    def rows(self, table: str) -> Iterator[Any]:
        """Give the rows of a table as they are now.

        Raises:
            Unavailable: the replica may be out of date.
        """
        return iter(list(self.table(table).rows.values()))

    def last_rows(self, table: str) -> Iterator[Any]:
        """Give the rows of a table as they were when the server last answered."""
        return iter(list(self._idl.tables[table].rows.values()))

    async def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on the replica holds; False if ``timeout`` seconds pass first."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not condition():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or not await self._wait_for_change(left):
                return condition()
        return True

    async def transact(
        self,
        what: str,
        build: Callable[[Any], None],
        timeout: float = TRANSACTION_TIMEOUT,
        reconnection: float = RECONNECTION_TIMEOUT,
    ) -> None:
        """Commit what ``build`` puts into a transaction, again if the database had moved on.

        Args:
            what: the purpose, for messages, as in "refused to ...".
            build: called anew for each attempt, with an empty ovs.db.idl.Transaction.
            timeout: seconds until the last attempt is given up.
            reconnection: how many of them a connection that was lost may take to come back.

        Raises:
            HostError: the server refused, or the database kept changing.
            Unavailable: the server did not answer in time.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            left = deadline - asyncio.get_running_loop().time()
            await self.wait_connected(min(reconnection, left))
            status, error = await self._attempt(build, deadline)
            if status in _COMMITTED:
                return
            if status == ovs.db.idl.Transaction.INCOMPLETE:
                raise Unavailable(f"{self._name} did not answer a request to {what}", self._remedy)
            if status != ovs.db.idl.Transaction.TRY_AGAIN:
                raise HostError(f"{self._name} refused to {what} ({error})", "see its log")
            if asyncio.get_running_loop().time() + _PAUSE >= deadline:
                raise HostError(
                    f"{self._name} kept changing while trying to {what}", "repeat the operation"
                )
            await self._wait_for_change(_PAUSE)

    async def _attempt(
        self, build: Callable[[Any], None], deadline: float
    ) -> tuple[str, str | None]:
        """Commit once; give the status (INCOMPLETE if time ran out) and the server's error."""
        transaction = ovs.db.idl.Transaction(self._idl)
        try:
            build(transaction)
            status = transaction.commit()
            while status == ovs.db.idl.Transaction.INCOMPLETE:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 or not await self._wait_for_change(left):
                    break
                status = transaction.commit()
            return status, transaction.get_error()
        finally:
            transaction.abort()

    async def _wait_for_change(self, timeout: float) -> bool:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        # A transaction begun since the last turn may have a request left to send.
        self._arm()
        try:
            done, _ = await asyncio.wait([waiter], timeout=timeout)
            return bool(done)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _turn(self) -> None:
        """Let the IDL do what it has to do now, and have the loop call again when it must."""
        if self._closed:
            return
        try:
            self._idl.run()
        except Exception:  # the IDL must not take the loop down with it
            log.exception("the replica of %s failed; connecting anew", self._name)
            self._idl.force_reconnect()
        reconnected = self.connected != self._was_connected
        if reconnected:
            self._was_connected = self.connected
            log.log(
                logging.INFO if self._was_connected else logging.WARNING,
                "%s on %s %s",
                self._name,
                self._remote,
                "answers" if self._was_connected else "does not answer any more",
            )
        if reconnected or self.generation != self._told:
            self._told = self.generation
            for listener in list(self._listeners):
                listener()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._arm()

    def _arm(self) -> None:
        self._armed.close()
        if self._closed:
            return
        wishes = _Wishes()
        try:
            self._idl.wait(wishes)
        except OSError:  # a socket that is just being closed; the next turn finds out
            wishes.timer_wait(RECONNECT_BACKOFF)
        loop = asyncio.get_running_loop()
        for descriptor, events in wishes.descriptors.items():
            if events & ovs.poller.POLLIN:
                loop.add_reader(descriptor, self._turn)
                self._armed.callback(loop.remove_reader, descriptor)
            if events & ovs.poller.POLLOUT:
                loop.add_writer(descriptor, self._turn)
                self._armed.callback(loop.remove_writer, descriptor)
        if wishes.seconds is not None:
            self._armed.callback(loop.call_later(wishes.seconds, self._turn).cancel)

    def _unavailable(self) -> Unavailable:
        return Unavailable(f"{self._name} does not answer on {self._remote}", self._remedy)


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
