# SPDX-License-Identifier: GPL-2.0-or-later
"""One piece of work at a time for vNICs whose devices have the same names."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator


class Turns:
    """Who may work on which vNIC: what VDSM asks for, or what the agent does by itself."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, tap: str) -> AsyncIterator[None]:
        """Wait for one's turn, and keep it for as long as the block takes.

        Args:
            tap: the name of the vNIC's tap.
        """
        lock = self._locks.setdefault(tap, asyncio.Lock())
        async with lock:
            yield

    def is_taken(self, tap: str) -> bool:
        """Tell whether somebody works on a vNIC now."""
        lock = self._locks.get(tap)
        return lock is not None and lock.locked()
