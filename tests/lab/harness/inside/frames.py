# SPDX-License-Identifier: GPL-2.0-or-later
"""How commands travel to a host with a kernel of its own, and their output back.

Everything is frames: a channel, which stands for one command; what the frame is; its content.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# To the host: a command to run (JSON: argv, env), its standard input (nothing at all: its end),
# and that nobody waits for it any more.
CALL, INPUT, HANGUP = 1, 2, 3
# From the host: what it writes, and its end: exit status, or a signal's number, negative.
OUTPUT, ERRORS, ENDED = 4, 5, 6

HEADER = struct.Struct("!IBI")
BLOCK = 1 << 16
# Bytes waiting to be sent from which on nothing more is read.
ENOUGH = 1 << 20


def pack(channel: int, kind: int, content: bytes = b"") -> bytes:
    """One frame."""
    return HEADER.pack(channel, kind, len(content)) + content


def take(received: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Take the frames that are complete out of what has been received."""
    while len(received) >= HEADER.size:
        channel, kind, length = HEADER.unpack_from(received)
        end = HEADER.size + length
        if len(received) < end:
            return
        content = bytes(received[HEADER.size : end])
        del received[:end]
        yield channel, kind, content
