# SPDX-License-Identifier: GPL-2.0-or-later
"""That the agent has the host's certificate.

systemd hands it a copy when it starts.  On a host whose image has the package it has started long
before the engine enrolls the host, and where a certificate is renewed it has the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vif_driver.configuration.change import Before, Change, Fact
from vif_driver.configuration.files import content_of
from vif_driver.host import certificates, units
from vif_driver.host.certificates import Credentials

UNIT = "vif-agent.service"

#: Where systemd keeps what it hands over (systemd.exec(5), LoadCredential=); only root sees it.
HANDED = Path("/run/credentials") / UNIT


class AgentHasCredentials(Change):
    """The agent, if it runs, is started anew unless it has the host's certificate as it is now.

    Hooks wait meanwhile: its socket stays.  It is not started anew if something else fails later.

    Args:
        credentials: those that systemd hands over, see the unit's LoadCredential=.
    """

    kind = "agent-credentials"

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def facts(self) -> Sequence[Fact]:
        """See :class:`Change`; nothing if it can't be seen what the agent has."""
        if not HANDED.is_dir() or not units.look(UNIT).is_active:
            return []
        copies = certificates.in_folder(HANDED)
        pairs = zip(copies.files, self._credentials.files)
        is_so = all(content_of(copy) == content_of(file) for copy, file in pairs)
        return [Fact("vif-agent has this host's certificate", is_so)]

    def before(self) -> Before:
        """See :class:`Change`."""
        return {}

    def make(self) -> None:
        """See :class:`Change`."""
        units.restart(UNIT)

    @classmethod
    def take_back(cls, before: Before) -> str | None:
        """See :class:`Change`."""
        return None
