# SPDX-License-Identifier: GPL-2.0-or-later
"""How a task that follows a VM is woken."""

from __future__ import annotations

import asyncio


class Told(asyncio.Event):
    """An event that is waited for during some time, and then no longer."""

    async def within(self, timeout: float) -> bool:
        """Wait to be told; False if ``timeout`` seconds pass first."""
        # Not asyncio.wait_for(), see host.threads.
        waiting = asyncio.ensure_future(self.wait())
        try:
            done, _ = await asyncio.wait([waiting], timeout=timeout)
        finally:
            waiting.cancel()
        return bool(done)
