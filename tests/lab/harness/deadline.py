# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting with a deadline, for what no event announces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    probe: Callable[[], T | None], timeout: float, what: str, interval: float = 0.02
) -> T:
    """Call ``probe`` until what it returns is true, and return that.

    Args:
        probe: a cheap question; any false answer means "not yet".
        timeout: seconds to go on asking.
        what: what is awaited, for the error message.
        interval: seconds between two questions.

    Raises:
        TimeoutError: the deadline passed; the message says what was awaited.
    """
    end = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() >= end:
            raise TimeoutError(f"{what}: not within {timeout:g} s (last answer: {answer!r})")
        time.sleep(interval)
