# SPDX-License-Identifier: GPL-2.0-or-later
"""The events in which VDSM reports on the host: its capabilities, its statistics."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from vif_driver.errors import VifError, one_line
from vif_driver.journal import about
from vif_driver.wire import Reply, Request

log = logging.getLogger(__name__)

_Add = Callable[[bytes], Awaitable["bytes | None"]]


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
        self._told: dict[str, str] = {}

    async def capabilities(self, request: Request) -> Reply:
        """after_get_caps: add what the engine is to know of this host's external networks."""
        if self._reporter is None:
            return Reply()
        return await self._answer(request, self._reporter.capabilities)

    async def statistics(self, request: Request) -> Reply:
        """after_get_stats: add how this host's external vNICs do."""
        if self._reporter is None:
            return Reply()
        return await self._answer(request, self._reporter.statistics)

    async def _answer(self, request: Request, add: _Add) -> Reply:
        """Answer, and log each failure once: the next report is a few seconds away."""
        try:
            reply = Reply(data=await add(request.data))
        except Exception as error:
            text = str(error)
            if not isinstance(error, VifError):
                text = f"internal error ({error!r}); see the log of vif-agent"
            subject = f"{request.event}: {text}"
            if self._told.get(request.event) != text:
                self._told[request.event] = text
                unexpected = not isinstance(error, VifError)
                extra = about(event=request.event)
                log.error("%s", one_line(subject), exc_info=unexpected, extra=extra)
            return Reply(status=1, message=one_line(f"vif-driver: {subject}"))
        self._told.pop(request.event, None)
        return reply
