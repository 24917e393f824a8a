# SPDX-License-Identifier: GPL-2.0-or-later
"""``pinger.py ADDRESS SECONDS LATE``: send a ping every so often until standard input ends.

iputils' ping counts its pauses in the kernel's ticks, and does not wait for answers at its end.
Prints a line when the first answer has come, and at the end what became of the requests sent from
then on, as JSON.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time

ECHO_REQUEST, ECHO_REPLY = 8, 0
HEADER = struct.Struct("!BBHHHI")
IP_HEADER_LENGTH = 0x0F
#: Seconds that an answer may take; the userspace datapath and its guests may be busy.
PATIENCE = 10.0
#: Seconds by which a request may be late; if it is later, this program had no processor.
STALL = 0.1


def request(number: int, identity: int) -> bytes:
    """Make an echo request (RFC 792) with a number that doesn't wrap around in its data."""
    draft = HEADER.pack(ECHO_REQUEST, 0, 0, identity, number & 0xFFFF, number)
    total = sum(struct.unpack("!6H", draft))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return HEADER.pack(ECHO_REQUEST, 0, checksum, identity, number & 0xFFFF, number)


def answered(packet: bytes, identity: int) -> int | None:
    """Give the number of the request that a packet answers, if it answers one of ours."""
    body = packet[(packet[0] & IP_HEADER_LENGTH) * 4 :]
    if len(body) < HEADER.size:
        return None
    kind, _, _, theirs, _, number = HEADER.unpack_from(body)
    return number if (kind, theirs) == (ECHO_REPLY, identity) else None


def unasked(begun: dict[int, float], interval: float, earlier: float, later: float) -> float:
    """Give the seconds between two moments in which this program didn't get to send anything."""
    moments = [moment for moment in begun.values() if earlier <= moment <= later]
    waits = (after - before - interval for before, after in zip(moments, moments[1:]))
    return sum(wait for wait in waits if wait > STALL)


def main() -> None:
    """Ping."""
    address, interval, late = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    identity = os.getpid() & 0xFFFF
    line = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    line.connect((address, 0))
    answers: dict[int, float] = {}
    begun: dict[int, float] = {}
    sent = first = duplicates = 0
    due = time.monotonic()
    end = None
    while end is None or (len(answers) < sent - first and time.monotonic() < end):
        readable, _, _ = select.select(
            [line, *([sys.stdin] if end is None else [])],
            [],
            [],
            max(0.0, (due if end is None else end) - time.monotonic()),
        )
        if line in readable:
            number = answered(line.recv(2048), identity)
            if number is not None and not answers:
                first = number
                print("answered", flush=True)
            if number is not None and number >= first:
                duplicates += number in answers
                answers.setdefault(number, time.monotonic())
        if sys.stdin in readable:
            end = time.monotonic() + PATIENCE
        elif end is None and time.monotonic() >= due:
            # The numbers begin with 0.
            begun[sent] = time.monotonic()
            line.send(request(sent, identity))
            sent += 1
            # What waited too long for the processor is not made up for: so many at once get lost.
            due = max(due + interval, begun[sent - 1])
    times = sorted(answers.values())
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    # Of requests that were answered in time the moments; between two of them nothing was heard.
    heard = [begun[number] for number in sorted(answers) if answers[number] - begun[number] <= late]
    silences = [
        later - earlier - interval - unasked(begun, interval, earlier, later)
        for earlier, later in zip(heard, heard[1:])
    ]
    told = {
        "sent": sent - first,
        "lost": sent - first - len(answers),
        "longest_gap": max(gaps, default=0.0),
        "late": len(answers) - len(heard),
        "outage": max(0.0, max(silences, default=0.0)),
        "duplicates": duplicates,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
