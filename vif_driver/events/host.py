# SPDX-License-Identifier: GPL-2.0-or-later
"""The events in which VDSM reports on the host: its capabilities, its statistics."""

from __future__ import annotations

from typing import Protocol

from vif_driver.wire import Reply, Request


class Reporter(Protocol):
    """Who knows what the reports are to say; the agent does."""

    async def capabilities(self, report: bytes) -> bytes | None:
        """Add to VDSM's capabilities.

        Args:
            report: them, as JSON.

        Returns:
            All of it; None if there is nothing to add.

        Raises:
            BadRequest: it is not the JSON that VDSM writes.
        """

    async def statistics(self, report: bytes) -> bytes | None:
        """Add to VDSM's statistics of the host; see :meth:`capabilities`."""


class HostEvents:
    """Answers VDSM's events about its reports.

    Args:
        reporter: who knows what to add; None without the agent, when they stay as they are.
    """

    def __init__(self, reporter: Reporter | None) -> None:
        self._reporter = reporter

    async def capabilities(self, request: Request) -> Reply:
        """after_get_caps: add what the engine is to know of this host's external networks."""
        if self._reporter is None:
            return Reply()
        return Reply(data=await self._reporter.capabilities(request.data))

    async def statistics(self, request: Request) -> Reply:
        """after_get_stats: add how this host's external vNICs do."""
        if self._reporter is None:
            return Reply()
        return Reply(data=await self._reporter.statistics(request.data))
