# SPDX-License-Identifier: GPL-2.0-or-later
"""The event before VDSM changes the host's own network."""

from __future__ import annotations

import logging

from vif_driver.config import Config
from vif_driver.errors import one_line
from vif_driver.host import Host
from vif_driver.host.vdsm_config import Unreadable
from vif_driver.journal import about
from vif_driver.protection import request as setup
from vif_driver.protection.guard import Guard
from vif_driver.protection.known import OF_ROOT, Known
from vif_driver.protection.policy import message
from vif_driver.wire import Declined, Reply, Request

log = logging.getLogger(__name__)


class NetworkSetupEvents:
    """Answers VDSM's question whether the network may be changed as the engine wants it.

    Args:
        config: the configuration.
        host: what this process may use.
        guard: who judges; without the agent None, this is a process of root's then, which has no
            business in the agent's folder.
    """

    def __init__(self, config: Config, host: Host, guard: Guard | None = None) -> None:
        self._protects = config.protects
        self._by_agent = guard is not None
        self._guard = guard or Guard(config, host, Known(OF_ROOT))

    async def requested(self, request: Request) -> Reply:
        """before_network_setup: refuse what would break what external networks stand on.

        Raises:
            BadRequest: it is no request that VDSM could carry out.
            Declined: this is the agent, and root sees more.
        """
        if not self._protects:
            return Reply()
        asked = setup.parse(request.data)
        if asked.restores:  # that has to pass, and nobody is to wait for it
            return Reply()
        verdict = await self._guard.judge(asked)
        if self._by_agent and isinstance(verdict.blind, Unreadable):
            raise Declined  # the hook runs as root, who may read what VDSM has written
        fields = about(event=request.event)
        if verdict.blind is not None:
            log.warning("%s", one_line(f"judged by what was known: {verdict.blind}"), extra=fields)
        for refusal, by in verdict.waived:
            text = f"setupNetworks may go on as {by} allowed {refusal.device}: {refusal}"
            log.warning("%s", one_line(text), extra=fields)
        for refusal in verdict.refusals:
            log.warning("%s", one_line(f"setupNetworks refused: {refusal}"), extra=fields)
        if not verdict.refusals:
            return Reply()
        return Reply(status=2, message=one_line(f"vif-driver: {message(verdict.refusals)}"))
