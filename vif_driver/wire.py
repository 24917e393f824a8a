# SPDX-License-Identifier: GPL-2.0-or-later
r"""What a hook and the agent say to each other over the socket.

One request, one reply, then the connection is closed.  The hook may not import anything that
costs time (not even json), so both are a header line and two counted fields:

    request:  ``vif1 <event> <length of properties> <length of data>\\n`` properties data
    reply:    ``vif1 <exit status> <length of message> <length of data, or -> <flags>\\n``
              message data

Properties are ``NAME=value`` pairs, each ended by a NUL byte, as in a process's environment.
Data is what VDSM's temporary file holds.  A reply with ``-`` leaves the file alone.  Flags are
those with which the VM is to be started, besides the ones VDSM has in its file of launch flags.
Of an agent that closes the connection without a reply the hook asks the same once more, and does
then without it.
The hook's half stands in hooks.d/vif_hook.py.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Callable

from vif_driver.errors import BadRequest
from vif_driver.vnic import LAUNCH_FLAGS, PROPERTIES

#: The agent's socket.
SOCKET = "/run/vif-driver/agent.sock"

#: Events about the whole host, whose data is JSON; of all others it is XML.
HOST_EVENTS = ("after_get_caps", "after_get_stats", "before_network_setup")

#: Bytes.
MAX_HEADER = 128
MAX_PROPERTIES = 64 * 1024
MAX_DATA = 64 * 1024
MAX_JSON = 8 * 1024 * 1024

_REQUEST_HEADER = re.compile(rb"vif1 ([a-z][a-z_]{0,39}) (0|[1-9][0-9]{0,7}) (0|[1-9][0-9]{0,7})\n")

#: Reads so many bytes, or fewer at the end of the stream.
Read = Callable[[int], bytes]

_REPEAT = "see that the hooks and the agent are of one version: restart vif-agent"


@dataclasses.dataclass(frozen=True)
class Request:
    """What a hook asks.

    Attributes:
        event: the VDSM event, which is the name of the hook's directory.
        properties: those of the vNIC's that are set.
        data: the content of VDSM's file.
        received: when it came, by time.monotonic().
    """

    event: str
    properties: Mapping[str, str]
    data: bytes
    received: float = dataclasses.field(default_factory=time.monotonic, compare=False)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What is to become of it.

    Attributes:
        status: the hook's exit status by VDSM's rules: 0 done, 1 failed but go on, 2 stop.
        message: one line for stderr, or nothing.
        data: new content for VDSM's file; None leaves it alone.
        launch_flags: what to add to libvirt's start flags of the VM (virDomainCreateFlags).
    """

    status: int = 0
    message: str = ""
    data: bytes | None = None
    launch_flags: int = 0


class Declined(Exception):
    """The agent knows that the hook's user will find the answer better than it could."""


def parse_header(header: bytes) -> tuple[str, int, int]:
    """Take a request's first line apart.

    Returns:
        The event, and the lengths of the properties and of the data.

    Raises:
        BadRequest: it does not follow the grammar or announces too much.
    """
    match = _REQUEST_HEADER.fullmatch(header)
    if match is None:
        raise BadRequest("the request has no proper header", _REPEAT)
    event, properties, data = match[1].decode("ascii"), int(match[2]), int(match[3])
    limit = max_data(event)
    if properties > MAX_PROPERTIES or data > limit:
        raise BadRequest(
            f"the request is too large ({properties} bytes of properties, {data} of data)",
            f"at most {MAX_PROPERTIES} and {limit} are taken",
        )
    return event, properties, data


def max_data(event: str) -> int:
    """Give the most bytes of data that come with an event."""
    return MAX_JSON if event in HOST_EVENTS else MAX_DATA


def parse_properties(block: bytes) -> dict[str, str]:
    """Take the properties of a request apart.

    Raises:
        BadRequest: not the grammar, an unknown name, one twice, or a value that isn't UTF-8.
    """
    if block and not block.endswith(b"\0"):
        raise BadRequest("the request's properties are cut off", _REPEAT)
    properties: dict[str, str] = {}
    for pair in block.split(b"\0")[:-1]:
        name, separator, value = pair.partition(b"=")
        try:
            key, text = name.decode("ascii"), value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(
                f"the property {name!r} is not UTF-8", "correct the vNIC in the engine"
            ) from error
        if not separator or key not in (*PROPERTIES, LAUNCH_FLAGS) or key in properties:
            raise BadRequest(f"the request has an unexpected property {name!r}", _REPEAT)
        properties[key] = text
    return properties


def encode_request(request: Request) -> bytes:
    """Put a request into bytes."""
    properties = b"".join(
        f"{name}={value}".encode() + b"\0" for name, value in request.properties.items()
    )
    return b"vif1 %s %d %d\n%s%s" % (
        request.event.encode("ascii"),
        len(properties),
        len(request.data),
        properties,
        request.data,
    )


def encode_reply(reply: Reply) -> bytes:
    """Put a reply into bytes."""
    message = reply.message.encode("utf-8", "replace")
    length = b"-" if reply.data is None else b"%d" % len(reply.data)
    return b"vif1 %d %d %s %d\n%s%s" % (
        reply.status,
        len(message),
        length,
        reply.launch_flags,
        message,
        reply.data or b"",
    )


def decode_reply(frame: bytes) -> Reply:
    """Take a reply apart; the callers of the agent that are not hooks use this.

    Raises:
        BadRequest: it is cut off or no reply.
    """
    header, separator, body = frame.partition(b"\n")
    try:
        version, status, message_length, data_length, launch_flags = header.split()
        split = int(message_length)
        data = None if data_length == b"-" else body[split:]
        whole = split + (0 if data is None else int(data_length))
        if version != b"vif1" or not separator or len(body) != whole:
            raise ValueError(header)
        return Reply(int(status), body[:split].decode("utf-8"), data, int(launch_flags))
    except ValueError as error:
        raise BadRequest("the agent's reply cannot be understood", _REPEAT) from error
