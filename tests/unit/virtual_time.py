# SPDX-License-Identifier: GPL-2.0-or-later
"""A loop whose time passes while nothing happens: a day of it takes no longer than its events.

For what neither a process nor a thread takes part in; nobody here waits for them.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Impatient(selectors.DefaultSelector):
    """Doesn't wait, and notes for how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing is ever going to happen")
            self.passed += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._impatient = _Impatient()
        super().__init__(self._impatient)

    def time(self) -> float:
        return self._impatient.passed


def run(body: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in such a loop."""
    loop = _Loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(body)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def now() -> float:
    """Give the loop's time, in seconds since it began."""
    return asyncio.get_running_loop().time()
