# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a command on a host with a kernel of its own: ``call.py SOCKET COMMAND...``.

Environment, standard input, output and exit status are as if it ran here; when this program is
killed, so is the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import frames
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import frames

NOT_RUN = 255


def write_all(handle: int, data: bytes) -> None:
    """Write everything."""
    while data:
        data = data[os.write(handle, data) :]


def leave(status: int) -> None:
    """End as the command has ended."""
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other way
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def main() -> None:
    """Have the command run, and be it."""
    host = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        host.connect(sys.argv[1])
        call = {"argv": sys.argv[2:], "env": dict(os.environ)}
        host.sendall(frames.pack(0, frames.CALL, json.dumps(call).encode()))
        received = bytearray()
        sources: list[int] = [host.fileno(), 0]
        while True:
            readable, _, _ = select.select(sources, [], [])
            if 0 in readable:
                data = os.read(0, frames.BLOCK)
                host.sendall(frames.pack(0, frames.INPUT, data))
                if not data:
                    sources.remove(0)
            if host.fileno() not in readable:
                continue
            data = host.recv(frames.BLOCK)
            if not data:
                break
            received += data
            for _, kind, content in frames.take(received):
                if kind == frames.ENDED:
                    leave(int(content))
                write_all(1 if kind == frames.OUTPUT else 2, content)
    except OSError as error:
        print(f"call: {error}", file=sys.stderr)
        os._exit(NOT_RUN)
    print("call: the host's kernel is gone", file=sys.stderr)
    sys.stderr.flush()
    os._exit(NOT_RUN)


if __name__ == "__main__":
    main()
