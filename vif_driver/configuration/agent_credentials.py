# SPDX-License-Identifier: GPL-2.0-or-later
"""That the agent has the host's certificate."""

from __future__ import annotations

from collections.abc import Sequence

from vif_driver.configuration.change import Before, Change, Fact
from vif_driver.host import handed_credentials, units
from vif_driver.host.certificates import Credentials


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
        if not units.look(handed_credentials.UNIT).is_active:
            return []
        is_so = handed_credentials.is_current(self._credentials)
        return [] if is_so is None else [Fact("vif-agent has this host's certificate", is_so)]

    def before(self) -> Before:
        """See :class:`Change`."""
        return {}

    def make(self) -> None:
        """See :class:`Change`."""
        units.restart(handed_credentials.UNIT)

    @classmethod
    def take_back(cls, before: Before) -> str | None:
        """See :class:`Change`."""
        return None
