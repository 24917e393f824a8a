# SPDX-License-Identifier: GPL-2.0-or-later
"""A command's look at the host, with whatever rights its user has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from vif_driver import config
from vif_driver.errors import HostError, Unavailable, VifError
from vif_driver.host import Host, ovsdb_socket
from vif_driver.host.domains import Domains
from vif_driver.host.links import Links
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.inspection.sight import Sight

_T = TypeVar("_T")

#: What is left out of what an ordinary user is shown, and how to see it.
LEFT_OUT = (
    "Open vSwitch's database, ovn-controller, the southbound database and what the agent waits "
    "for are left out: run vifctl as root"
)

# Seconds.
_CONNECT = 2.0


def is_root() -> bool:
    """Tell whether everything on the host may be looked at."""
    return os.geteuid() == 0


def require_root(command: str) -> None:
    """See that a command runs that has nothing to say to anybody else.

    Raises:
        HostError: it is somebody else's.
    """
    if not is_root():
        raise HostError(f"{command} needs root", "run it as root")


def look(work: Callable[[Sight], Awaitable[_T]]) -> _T:
    """Do a command's work with all that its user may use.

    Raises:
        ConfigError: the configuration cannot be understood.
    """

    async def body() -> _T:
        async with opened(config.load()) as sight:
            return await work(sight)

    return asyncio.run(body())


@contextlib.asynccontextmanager
async def opened(settings: config.Config) -> AsyncIterator[Sight]:
    """Open what this user may use of the host, for one look."""
    async with contextlib.AsyncExitStack() as stack:
        links = Links()
        stack.push_async_callback(links.close)
        domains = Domains(read_only=not is_root())
        stack.push_async_callback(domains.close)
        why: VifError | None = None
        ovsdb: Ovsdb | None = None
        try:
            ovsdb = await _open_ovsdb(stack)
        except VifError as error:
            why = error
        host = Host(links=links, ovsdb=ovsdb, domains=domains)
        yield await stack.enter_async_context(Sight(settings, host, without_ovsdb=why))


async def _open_ovsdb(stack: contextlib.AsyncExitStack) -> Ovsdb:
    if _is_forbidden():
        raise Unavailable("Open vSwitch's database is not for this user", "run vifctl as root")
    ovsdb = Ovsdb()
    ovsdb.replica.open()
    stack.callback(ovsdb.replica.close)
    # One that does not answer is not left out: each finding says so.
    with contextlib.suppress(Unavailable):
        await ovsdb.replica.wait_connected(_CONNECT)
    return ovsdb


def _is_forbidden() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(ovsdb_socket.SOCKET))
        except PermissionError:
            return True
        except OSError:
            return False
    return False
