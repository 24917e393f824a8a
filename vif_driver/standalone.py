# SPDX-License-Identifier: GPL-2.0-or-later
"""Answer one request without the agent, as the user who asks.

The hook runs this when the agent isn't there.  It speaks the same protocol, over its standard
input, a socket, so that the hook does the same with the answer.  What needs privilege fails with
a message that says so.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket

from vif_driver import config, wire
from vif_driver.errors import BadRequest, one_line
from vif_driver.events import Events, describe, failure
from vif_driver.host import Host


def main() -> int:
    """Read a request from descriptor 0, write the reply to it."""
    journal = _Journal()
    logging.basicConfig(level=logging.INFO, handlers=[journal])
    with socket.socket(fileno=0) as connection, connection.makefile("rwb") as stream:
        reply = _answer(stream.readline(wire.MAX_HEADER), stream.read)
        if reply.status == 0 and not reply.message:
            reply = dataclasses.replace(reply, message=journal.text)
        stream.write(wire.encode_reply(reply))
    return 0


class _Journal(logging.Handler):
    """Keeps what is logged: with no agent whose log it is, it goes to VDSM's by way of stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self._lines.append(record.getMessage())

    @property
    def text(self) -> str:
        """Everything, as one line."""
        return one_line(" | ".join(f"vif-driver: {line}" for line in self._lines))


def _answer(header: bytes, read: wire.Read) -> wire.Reply:
    event, subject = "before_", ""
    try:
        event, properties_length, data_length = wire.parse_header(header)
        properties, data = read(properties_length), read(data_length)
        if len(properties) != properties_length or len(data) != data_length:
            raise BadRequest("the request is cut off", "repeat the operation")
        request = wire.Request(event, wire.parse_properties(properties), data)
        subject = f"{describe(request)}: "
        settings, trouble = config.load_or_defaults()
        return asyncio.run(Events(settings, Host(), trouble=trouble).handle(request))
    except Exception as error:
        return failure(event, f"{subject}{error}")
