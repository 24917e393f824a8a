# SPDX-License-Identifier: GPL-2.0-or-later
"""vifctl, the administrator's command."""

from __future__ import annotations

import argparse
import json
import socket
import sys

from vif_driver import __version__, wire
from vif_driver.errors import BadRequest, Unavailable, VifError

# Seconds; the agent answers from memory.
_TIMEOUT = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run ``vifctl``; the exit status is 0 if everything is as it should be."""
    parser = argparse.ArgumentParser(
        prog="vifctl", description="Looks after the vNICs of external networks on this host."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="tell how the agent and Open vSwitch are")
    status.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    try:
        return _status(options.json)
    except VifError as error:
        print(f"vifctl: {error}", file=sys.stderr)
        return 1


def _status(as_json: bool) -> int:
    state = ask_status()
    if as_json:
        print(json.dumps(state, indent=2))
    else:
        print(f"agent               running, version {state['version']}, process {state['pid']}")
        print(f"Open vSwitch        {_open_vswitch(state)}")
        print(f"events              {state['events_answered']} answered")
        print(f"                    {state['events_failed']} of them with a failure")
    # A host of Neutron's Linux bridge agent has no Open vSwitch, and needs none.
    return 0 if state["integration_bridge_exists"] or not state["openvswitch_installed"] else 1


def _open_vswitch(state: dict[str, object]) -> str:
    if not state["openvswitch_installed"]:
        return "not installed"
    if not state["ovsdb_connected"]:
        return "NOT CONNECTED: systemctl status openvswitch"
    bridge = state["integration_bridge"]
    return f"connected, integration bridge {bridge}" + (
        "" if state["integration_bridge_exists"] else " MISSING"
    )


def ask_status() -> dict[str, object]:
    """Ask the agent for its state.

    Raises:
        Unavailable: it doesn't run, or doesn't talk to this user.
    """
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(_TIMEOUT)
            agent.connect(wire.SOCKET)
            agent.sendall(wire.encode_request(wire.Request("status", {}, b"")))
            with agent.makefile("rb") as stream:
                frame = stream.read()
    except PermissionError as error:
        raise Unavailable("the agent talks to root and VDSM only", "run vifctl as root") from error
    except OSError as error:
        raise Unavailable(
            f"vif-agent does not answer on {wire.SOCKET} ({error.strerror or error})",
            "start it: systemctl start vif-agent",
        ) from error
    if not frame:
        raise Unavailable("the agent hung up", "run vifctl as root")
    reply = wire.decode_reply(frame)
    if reply.status or reply.data is None:
        raise BadRequest(reply.message or "the agent did not answer", "restart vif-agent")
    state: dict[str, object] = json.loads(reply.data)
    return state
