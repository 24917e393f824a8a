# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent says of itself."""

from __future__ import annotations

import json
import socket

from vif_driver import wire
from vif_driver.errors import BadRequest, HostError, Unavailable

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
    reply = _ask("status", _TIMEOUT, path)
    if reply.status:
        raise BadRequest(reply.message or "the agent did not answer", "restart vif-agent")
    return _object(reply)


def ask_reconcile(timeout: float, path: str = wire.SOCKET) -> dict[str, object]:
    """Have the agent look for what VMs have left and lost, and deal with it.

    Args:
        timeout: seconds; it waits for a grace period.
        path: of its socket.

    Raises:
        Unavailable: it doesn't run, doesn't answer, or doesn't talk to this user.
        HostError: it could not.
        BadRequest: it is of another version.
    """
    try:
        reply = _ask("reconcile", timeout, path)
    except NotAdmitted as error:  # root is admitted
        raise Unavailable(
            f"no answer came ({error.what})", "repeat it; see journalctl -u vif-agent"
        ) from error
    if reply.status:
        raise HostError(reply.message.removeprefix("vif-driver: "), "see journalctl -u vif-agent")
    return _object(reply)


def _ask(event: str, timeout: float, path: str) -> wire.Reply:
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(timeout)
            agent.connect(path)
            agent.sendall(wire.encode_request(wire.Request(event, {}, b"")))
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
    return wire.decode_reply(frame)


def _object(reply: wire.Reply) -> dict[str, object]:
    try:
        state = json.loads(reply.data or b"")
    except ValueError as error:
        raise BadRequest("the agent's answer cannot be understood", "restart vif-agent") from error
    if not isinstance(state, dict):
        raise BadRequest("the agent's answer cannot be understood", "restart vif-agent")
    return state
