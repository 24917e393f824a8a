# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything of a kind from the kernel, in one question (netlink(7)).

For questions that the network library does not know, or to which its answer is too costly: it
takes every attribute of every message apart.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

#: Seconds; the kernel answers at once, unless somebody else is changing many devices.
TIMEOUT = 1.0

# linux/netlink.h
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x1 | 0x300
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr

_BUFFER = 256 * 1024


def dump(protocol: int, kind: int, question: bytes) -> Iterator[bytes]:
    """Ask, and give the messages of the answer without their headers.

    Args:
        protocol: of netlink, such as NETLINK_ROUTE.
        kind: of the question.
        question: what follows its header.

    Raises:
        OSError: the kernel refused, or did not answer.
    """
    flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, flags, protocol) as kernel:
        kernel.settimeout(TIMEOUT)
        size = _HEADER.size + len(question)
        kernel.send(_HEADER.pack(size, kind, _REQUEST_DUMP, 1, 0) + question)
        while True:
            for told, message in _messages(kernel.recv(_BUFFER)):
                if told in (_ERROR, _DONE):
                    # Instead of an answer, and at its end; that may be an error, too.
                    number = -int(struct.unpack_from("=i", message)[0])
                    if number > 0:
                        raise OSError(number, os.strerror(number))
                    return
                yield message


def _messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    begin = 0
    while begin + _HEADER.size <= len(answer):
        length, kind, *_ = _HEADER.unpack_from(answer, begin)
        yield kind, answer[begin + _HEADER.size : begin + length]
        # The next one begins at a multiple of four (NLMSG_ALIGN); none is shorter than its header.
        begin += max((length + 3) & ~3, _HEADER.size)
