# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that block, kept out of the loop's way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Callable, TypeVar

_T = TypeVar("_T")


async def run(call: Callable[[], _T], timeout: float, name: str) -> _T:
    """Make a blocking call in a thread of its own, and wait for it for so long.

    Not in the loop's pool: a call that hangs would take one of its few threads for good, and the
    interpreter waits for those at its end.

    Args:
        call: makes it; must end by itself some time.
        timeout: seconds.
        name: of the thread.

    Raises:
        asyncio.TimeoutError: time ran out; what the call gives later is dropped.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def succeed(result: _T) -> None:
        if not outcome.done():
            outcome.set_result(result)

    def fail(error: Exception) -> None:
        if not outcome.done():
            outcome.set_exception(error)

    def work() -> None:
        try:
            result = call()
        except Exception as error:
            with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
                loop.call_soon_threadsafe(fail, error)
        else:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(succeed, result)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        # Not asyncio.wait_for(): until Python 3.12 a cancellation is lost in it if the answer comes
        # at the same moment (bpo-37658).
        done, _ = await asyncio.wait([outcome], timeout=timeout)
        if not done:
            raise asyncio.TimeoutError
        return outcome.result()
    finally:
        outcome.cancel()
