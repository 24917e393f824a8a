# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent says of itself."""

from __future__ import annotations

import json
import socket

from vif_driver import wire
from vif_driver.errors import BadRequest, Unavailable

# Seconds; the agent answers from memory.
_TIMEOUT = 5.0


class NotAdmitted(Unavailable):
    """The agent does not talk to this user."""


def ask_status(path: str = wire.SOCKET) -> dict[str, object]:
    """Ask the agent for its state.

    Args:
        path: of its socket.

    Raises:
        NotAdmitted: it doesn't talk to this user.
        Unavailable: it doesn't run, or doesn't answer.
        BadRequest: it is of another version.
    """
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(_TIMEOUT)
            agent.connect(path)
            agent.sendall(wire.encode_request(wire.Request("status", {}, b"")))
            with agent.makefile("rb") as stream:
                frame = stream.read()
    except PermissionError as error:
        raise NotAdmitted("the agent talks to root and VDSM only", "run vifctl as root") from error
    except OSError as error:
        raise Unavailable(
            f"vif-agent does not answer on {path} ({error.strerror or error})",
            "start it: systemctl start vif-agent",
        ) from error
    if not frame:
        raise NotAdmitted("the agent hung up", "run vifctl as root")
    reply = wire.decode_reply(frame)
    if reply.status or reply.data is None:
        raise BadRequest(reply.message or "the agent did not answer", "restart vif-agent")
    try:
        state = json.loads(reply.data)
    except ValueError as error:
        raise BadRequest("the agent's answer cannot be understood", "restart vif-agent") from error
    if not isinstance(state, dict):
        raise BadRequest("the agent's answer cannot be understood", "restart vif-agent")
    return state
