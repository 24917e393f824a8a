# SPDX-License-Identifier: GPL-2.0-or-later
"""What the reconciler's looks find and do from a moment on, for somebody who asked."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Mapping

from vif_driver.reconciliation.leftovers import Found, Leftover
from vif_driver.reconciliation.lost import LostPort
from vif_driver.reconciliation.report import Report, Told, of_kept, of_leftover, of_lost

_SEE = "see journalctl -u vif-agent"


class Account:
    """Follows the looks until nothing of what the first has found may go yet.

    It does not look itself: who asks gets neither a look less nor one that runs beside another.

    Args:
        patience: seconds after the first look until which the end of a grace period is awaited.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._until: float | None = None
        self._removed: dict[Hashable, Leftover] = {}
        self._plugged: dict[str, LostPort] = {}
        self._found = Found()
        self._waits: Mapping[Hashable, float] = {}
        self._lost: Mapping[str, LostPort] = {}
        self._trouble: str | None = None
        self._finished = asyncio.Event()

    def removed(self, leftovers: Iterable[Leftover]) -> None:
        """Note what was removed."""
        self._removed.update((one.key, one) for one in leftovers)

    def plugged(self, port: LostPort) -> None:
        """Note a port that was plugged again."""
        self._plugged[port.name] = port

    def looked(
        self, found: Found, waits: Mapping[Hashable, float], lost: Iterable[LostPort]
    ) -> None:
        """Note what a look has found, and that what was due was done.

        Args:
            found: what was left over.
            waits: after how many seconds each of these is to go.
            lost: the ports that were missing.
        """
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + self._patience
        before, self._lost = self._lost, {port.name: port for port in lost}
        self._found, self._waits = found, waits
        to_go = any(0 < wait <= self._until - now for wait in waits.values())
        # A second look plugs what is missing, or cannot.
        to_plug = self._lost.keys() - self._plugged.keys() - before.keys()
        if not to_go and not to_plug:
            self._finished.set()

    def failed(self, why: str) -> None:
        """Note that a look came to nothing, which begins every grace period anew."""
        if not self._finished.is_set():
            self._trouble = why
            self._finished.set()

    async def report(self, timeout: float) -> Report:
        """Wait for the last look that matters, and give what came of all of them.

        Args:
            timeout: seconds after which it is given up.
        """
        try:
            await asyncio.wait_for(self._finished.wait(), timeout)
        except asyncio.TimeoutError:
            self.failed(f"not done within {timeout:g} s; {_SEE}")
        return Report(
            removed=tuple(map(of_leftover, self._removed.values())),
            plugged=tuple(map(of_lost, self._plugged.values())),
            left=tuple(self._left()),
            kept=tuple(of_kept(port, why) for port, why in self._found.kept),
            trouble=self._trouble,
        )

    def _left(self) -> list[Told]:
        left = []
        for one in self._found.leftovers:
            if one.key not in self._removed:
                wait = self._waits[one.key]
                later = f"it goes in {wait:.0f} s if that is still so"
                failed = f"not removed: somebody works on it, or {_SEE}"
                left.append(of_leftover(one, f"; {later if wait > 0 else failed}"))
        for name, port in self._lost.items():
            if name not in self._plugged:
                failed = f"not plugged again: somebody works on it, or {_SEE}"
                left.append(of_lost(port, f"; {failed}"))
        return left
