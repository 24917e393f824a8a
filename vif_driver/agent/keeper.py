# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the note of what is protected, for when Open vSwitch's database does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from vif_driver.config import Config
from vif_driver.errors import HostError
from vif_driver.host import Host
from vif_driver.protection.guard import Guard

log = logging.getLogger(__name__)


class Keeper:
    """Notes what is protected when the database comes, goes, or says something else of this host.

    Requests note it, too; what changes between two of them and does not show in those settings,
    such as a bond's members, is noted when the database goes.

    Args:
        config: the configuration.
        host: what the agent may use.
        guard: who looks, and takes note; he who judges the requests.
    """

    def __init__(self, config: Config, host: Host, guard: Guard) -> None:
        self._ovsdb = host.ovsdb if config.protects else None
        self._guard = guard
        self._unsubscribe: Callable[[], None] = lambda: None
        self._seen: tuple[bool, Mapping[str, str]] = (False, {})
        self._noting: asyncio.Future[None] | None = None
        self._again = False

    def start(self) -> None:
        """Begin; must be called in the running loop."""
        if self._ovsdb is not None:
            self._unsubscribe = self._ovsdb.replica.subscribe(self._changed)
            self._changed()

    async def close(self) -> None:
        """Note how things stand, and end."""
        self._unsubscribe()
        if self._seen != (False, {}):
            self._note()
        while self._noting is not None and not self._noting.done():
            await asyncio.wait([self._noting])

    def _changed(self) -> None:
        ovsdb = self._ovsdb
        if ovsdb is None:
            return
        connected = ovsdb.replica.connected
        seen = connected, ovsdb.settings() if connected else self._seen[1]
        if seen != self._seen:
            self._seen = seen
            self._note()

    def _note(self) -> None:
        if self._noting is not None and not self._noting.done():
            self._again = True
            return
        self._noting = asyncio.ensure_future(self._take_note())

    async def _take_note(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            with contextlib.suppress(HostError):  # the kernel's; then the note stays as it is
                await self._guard.note()
