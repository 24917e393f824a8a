# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether an agent of Neutron's reaches its message queue.

It says so to nobody but its log.  One that finds nobody there tries again for ever, one that is
refused ends or tries again, which depends on the release.  What is seen from outside is its
connection: one that its password does not open is closed by the other side within seconds.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from vif_driver.configuration.neutron import Agent
from vif_driver.errors import HostError
from vif_driver.host import connections, units

# Seconds: between two looks, and for which a connection must have been there.  RabbitMQ closes one
# whose credentials are wrong after one second, so that guessing takes long.
_PAUSE, _LASTING = 0.5, 5.0


def wait(agent: Agent, ports: Collection[int], timeout: float) -> None:
    """Wait until an agent that was started is connected.

    Args:
        agent: which.
        ports: of the hosts of its message queue.
        timeout: seconds.

    Raises:
        HostError: it ends, or is not connected in time.
    """
    deadline = time.monotonic() + timeout
    restarts = units.restarts(agent.unit)
    since: dict[int, float] = {}
    while True:
        if units.restarts(agent.unit) != restarts or not units.look(agent.unit).is_active:
            raise HostError(
                f"{agent.title} ends soon after its start",
                "see its log below /var/log/neutron; it ends, too, if the message queue refuses "
                "the user or the password",
            )
        now = time.monotonic()
        connected = connections.of_unit(agent.unit, ports)
        since = {socket: since.get(socket, now) for socket in connected}
        if any(now - begin >= _LASTING for begin in since.values()):
            return
        if now > deadline:
            raise HostError(
                f"{agent.title} has not connected to the message queue within {timeout:g} s",
                "see that it is there, what the agent's log below /var/log/neutron says, and "
                "whether the user and the password are right",
            )
        time.sleep(_PAUSE)
