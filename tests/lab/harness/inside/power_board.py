# SPDX-License-Identifier: GPL-2.0-or-later
"""pid 1 of the machine around a host with a kernel of its own: ``power_board.py SPEC``.

It runs the QEMU that the kernel runs on and the servers of its files, connects callers (`call.py`)
with the host, and ends with any of them.  SPEC is a JSON object:

``door``   the socket on which callers come
``files``  commands of servers of files, by the path of the socket that each listens on; the
           socket's number is appended
``qemu``   QEMU's command; ``{line}`` in an argument becomes the number of the socket that the
           host's virtio port is to be connected with
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import frames
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import frames

LINE, DOOR, WAKE = "line", "door", "wake"


class Peer:
    """A connection, and what is still to be sent on it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.received = bytearray()
        self.unsent = bytearray()

    def receive(self) -> bool:
        """Take in what has come; False if this was the end."""
        try:
            data = self.connection.recv(frames.BLOCK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.received += data
        return bool(data)

    def send(self) -> bool:
        """Send what can be sent; False if nobody is there any more."""
        try:
            while self.unsent:
                del self.unsent[: self.connection.send(self.unsent[: frames.BLOCK])]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


class Board:
    """Connects callers with the host."""

    def __init__(self, line: socket.socket, door: socket.socket) -> None:
        self.line = Peer(line)
        self.door = door
        self.callers: dict[int, Peer] = {}
        self.last = 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(line, selectors.EVENT_READ, LINE)
        self.selector.register(door, selectors.EVENT_READ, DOOR)

    def step(self) -> bool:
        """Wait for something and deal with it; False when the host is gone."""
        for key, events in self.selector.select():
            if key.data == DOOR:
                self.admit()
            elif key.data == LINE:
                if events & selectors.EVENT_READ and not self.from_host():
                    return False
            elif key.data == WAKE:
                os.read(int(key.fd), 4096)
            elif events & selectors.EVENT_READ and key.data in self.callers:
                self.from_caller(key.data)
        return self.send()

    def admit(self) -> None:
        """Let a caller in."""
        connection, _ = self.door.accept()
        self.last += 1
        self.callers[self.last] = Peer(connection)
        self.selector.register(connection, selectors.EVENT_READ, self.last)

    def from_host(self) -> bool:
        """Hand on what the host says."""
        alive = self.line.receive()
        for channel, kind, content in frames.take(self.line.received):
            caller = self.callers.get(channel)
            if caller is not None:
                caller.unsent += frames.pack(channel, kind, content)
        return alive

    def from_caller(self, channel: int) -> None:
        """Hand on what a caller says; its end is the host's business too."""
        caller = self.callers[channel]
        alive = caller.receive()
        for _, kind, content in frames.take(caller.received):
            self.line.unsent += frames.pack(channel, kind, content)
        if not alive:
            self.dismiss(channel)

    def dismiss(self, channel: int) -> None:
        """Forget a caller."""
        caller = self.callers.pop(channel)
        with contextlib.suppress(KeyError):  # not listened to now
            self.selector.unregister(caller.connection)
        caller.connection.close()
        self.line.unsent += frames.pack(channel, frames.HANGUP)

    def send(self) -> bool:
        """Send what waits, and listen for what can't be sent at once; False: the host is gone."""
        for channel, caller in list(self.callers.items()):
            if not caller.send():
                self.dismiss(channel)
        alive = self.line.send()
        full = len(self.line.unsent) > frames.ENOUGH
        for channel, caller in self.callers.items():
            self.listen(caller, not full, channel)
        self.listen(self.line, True, LINE)
        return alive

    def listen(self, peer: Peer, reading: bool, data: object) -> None:
        """Listen to a peer for what matters now."""
        events = selectors.EVENT_READ if reading else 0
        events |= selectors.EVENT_WRITE if peer.unsent else 0
        registered = self.selector.get_map().get(peer.connection)
        if registered is not None and registered.events == events:
            return
        if registered is not None:
            self.selector.unregister(peer.connection)
        if events:
            self.selector.register(peer.connection, events, data)


def listening(path: str) -> socket.socket:
    """A socket that listens at a path."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    made.listen(64)
    return made


def start(argv: list[str], kept: socket.socket) -> int:
    """Start a program that is given one of our sockets."""
    os.set_inheritable(kept.fileno(), True)
    pid = os.posix_spawn(argv[0], argv, dict(os.environ), setsigmask=[], setsigdef=[signal.SIGCHLD])
    kept.close()
    return pid


def main() -> None:
    """Serve until the kernel ends."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    door = listening(spec["door"])
    ours, theirs = socket.socketpair()
    board = Board(ours, door)
    wake, signalled = socket.socketpair()
    signalled.setblocking(False)
    signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
    board.selector.register(wake, selectors.EVENT_READ, WAKE)
    ending = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ending.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    programs = []
    for path, command in spec["files"].items():
        # Listens before QEMU, which asks at once, is started.
        files = listening(path)
        programs.append(start([*command, f"--fd={files.fileno()}"], files))
    line = str(theirs.fileno())
    programs.append(start([word.replace("{line}", line) for word in spec["qemu"]], theirs))
    while board.step() and not ending:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in programs:
                    print(f"process {pid} has ended, status {status}", flush=True)
                    return


if __name__ == "__main__":
    main()
