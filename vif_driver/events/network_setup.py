# SPDX-License-Identifier: GPL-2.0-or-later
"""The event before VDSM changes the host's own network."""

from __future__ import annotations

from vif_driver.config import Config
from vif_driver.host import Host
from vif_driver.wire import Reply, Request


class NetworkSetupEvents:
    """Answers VDSM's question whether the network may be changed as the engine wants it.

    Args:
        config: the configuration.
        host: what this process may use.
    """

    def __init__(self, config: Config, host: Host) -> None:
        self._config = config
        self._host = host

    async def requested(self, request: Request) -> Reply:
        """before_network_setup: everything passes."""
        return Reply()
