# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting with a deadline, for what no event announces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds that a question takes at most; where it takes longer, the computer stood still.
_ROUND = 0.5
# Seconds of standing still that are not counted, in all.
_PAUSES = 10.0


def wait_until(
    probe: Callable[[], T | None], timeout: float, what: str, interval: float = 0.02
) -> T:
    """Call ``probe`` until what it returns is true, and return that.

    Time in which the computer was busy with something else, and nothing was asked, isn't counted.

    Args:
        probe: a cheap question; any false answer means "not yet".
        timeout: seconds to go on asking.
        what: what is awaited, for the error message.
        interval: seconds between two questions.

    Raises:
        TimeoutError: the deadline passed; the message says what was awaited.
    """
    end, spare = time.monotonic() + timeout, _PAUSES
    while True:
        begun = time.monotonic()
        answer = probe()
        if answer:
            return answer
        time.sleep(interval)
        now = time.monotonic()
        took = now - begun - interval
        if took > _ROUND:
            end, spare = end + min(took, spare), max(spare - took, 0.0)
        if now >= end:
            raise TimeoutError(f"{what}: not within {timeout:g} s (last answer: {answer!r})")
