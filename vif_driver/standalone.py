# SPDX-License-Identifier: GPL-2.0-or-later
"""Answer one request without the agent, as the user who asks.

The hook runs this when the agent isn't there.  It speaks the same protocol, over its standard
input, a socket, so that the hook does the same with the answer.  What needs privilege fails with
a message that says so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys

from vif_driver import config, wire
from vif_driver.errors import BadRequest, VifError
from vif_driver.events import Events, failure
from vif_driver.host import Host


def main() -> int:
    """Read a request from descriptor 0, write the reply to it."""
    # The hook's stderr goes to vdsm.log on success, and to the user on failure: then the hook's
    # own line must be the only one.
    logging.basicConfig(level=logging.CRITICAL)
    with socket.socket(fileno=0) as connection, connection.makefile("rwb") as stream:
        reply = _answer(stream.readline(wire.MAX_HEADER), stream.read)
        stream.write(wire.encode_reply(reply))
    return 0


def _answer(header: bytes, read: wire.Read) -> wire.Reply:
    event = "before_"
    try:
        event, properties_length, data_length = wire.parse_header(header)
        properties, data = read(properties_length), read(data_length)
        if len(properties) != properties_length or len(data) != data_length:
            raise BadRequest("the request is cut off", "repeat the operation")
        request = wire.Request(event, wire.parse_properties(properties), data)
        return asyncio.run(Events(config.load(), Host()).handle(request))
    except VifError as error:
        return failure(event, str(error))


if __name__ == "__main__":
    sys.exit(main())
