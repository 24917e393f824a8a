# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything of a kind from the kernel, in one question (netlink(7)).

For questions that the network library does not know, or to which its answer is too costly: it
takes every attribute of every message apart, a millisecond for each of the hundreds of devices
that a hypervisor has.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

#: Seconds; the kernel answers at once, unless somebody else is changing many devices.
TIMEOUT = 1.0

# linux/netlink.h
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x1 | 0x300
_INTERRUPTED = 0x10
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_TYPE_MASK = 0x3FFF
_SOL_NETLINK, _STRICT_CHECK = 270, 12

_BUFFER = 256 * 1024

# How often is asked again, if something changed in the middle.
_ATTEMPTS = 5


def dump(protocol: int, kind: int, question: bytes, timeout: float = TIMEOUT) -> list[memoryview]:
    """Ask, and give the messages of the answer without their headers.

    Args:
        protocol: of netlink, such as NETLINK_ROUTE.
        kind: of the question.
        question: what follows its header.
        timeout: seconds for each part of the answer.

    Raises:
        OSError: the kernel refused, or did not answer.
    """
    flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, flags, protocol) as kernel:
        kernel.settimeout(timeout)
        # An old kernel knows no strict check, and without it does the same and more.
        with contextlib.suppress(OSError):
            kernel.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        for _ in range(_ATTEMPTS):
            messages, is_whole = _ask(kernel, kind, question)
            if is_whole:
                break
        return messages


def attributes(data: memoryview, wanted: frozenset[int]) -> dict[int, memoryview]:
    """Give some of the attributes of a message, or of an attribute that holds others.

    Args:
        data: them all.
        wanted: the kinds of those that are given.
    """
    found = {}
    begin, end = 0, len(data)
    while begin + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, begin)
        kind &= _TYPE_MASK
        if kind in wanted:
            found[kind] = data[begin + _ATTRIBUTE.size : begin + length]
        begin += max(_aligned(length), _ATTRIBUTE.size)
    return found


def _ask(kernel: socket.socket, kind: int, question: bytes) -> tuple[list[memoryview], bool]:
    """Ask once; give the answer, and whether its parts are of one moment."""
    size = _HEADER.size + len(question)
    kernel.send(_HEADER.pack(size, kind, _REQUEST_DUMP, 1, 0) + question)
    messages: list[memoryview] = []
    is_whole = True
    while True:
        part = memoryview(kernel.recv(_BUFFER))
        begin = 0
        while begin + _HEADER.size <= len(part):
            length, told, flags, _, _ = _HEADER.unpack_from(part, begin)
            message = part[begin + _HEADER.size : begin + length]
            is_whole = is_whole and not flags & _INTERRUPTED
            if told in (_ERROR, _DONE):
                # Instead of an answer, and at its end; that may be an error, too.
                number = -int(struct.unpack_from("=i", message)[0])
                if number > 0:
                    raise OSError(number, os.strerror(number))
                return messages, is_whole
            messages.append(message)
            # None is shorter than its header.
            begin += max(_aligned(length), _HEADER.size)


def _aligned(length: int) -> int:
    """Give where the next message or attribute begins, at a multiple of four (NLMSG_ALIGN)."""
    return (length + 3) & ~3
