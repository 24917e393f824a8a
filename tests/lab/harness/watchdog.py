# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a test that waits without end.

Whatever the harness itself waits for has a deadline.  libvirt has none for a migration, nor has its
client for an answer, and a thread that waits there for another program hears of nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from types import TracebackType

from .anchor import Anchor


class Watchdog:
    """Cuts the power of labs unless the block ends in time.

    What waits for a daemon of a lab goes on then with an error, and the test with it.

    Args:
        limit: seconds for the block.
        last_look: done before, while everything is still as it is.
        anchors: of which labs; by default of all that there are then.

    Attributes:
        bit: whether the block took too long.
    """

    def __init__(
        self,
        limit: float,
        last_look: Callable[[], object] = lambda: None,
        anchors: Collection[Anchor] = Anchor.standing,
    ) -> None:
        self.bit = False
        self._anchors = anchors
        self._last_look = last_look
        self._timer = threading.Timer(limit, self._bite)
        self._timer.daemon = True

    def __enter__(self) -> Watchdog:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._timer.join()

    def _bite(self) -> None:
        self.bit = True
        try:
            self._last_look()
        finally:
            for anchor in list(self._anchors):
                anchor.cut()
