# SPDX-License-Identifier: GPL-2.0-or-later
"""pid 1 of a host with a kernel of its own: runs commands that come in on its virtio port."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import frames
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import frames

PORTS = "/sys/class/virtio-ports"
NOT_FOUND, NOT_EXECUTABLE = 127, 126


def find_program(name: str, env: dict[str, str]) -> str:
    """The file that a command's first word means."""
    if "/" in name:
        return name
    for directory in os.get_exec_path(env):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise FileNotFoundError(2, "No such file or directory", name)


class Command:
    """A command that runs.

    Args:
        call: what to run.

    Attributes:
        pid: of it.
        outputs: the open ends of its standard output and error, and their kinds of frame.
        stdin: the open end of its standard input; None when that has been closed.
        pending: what it hasn't read yet.
        no_more: its input ends after that.
        status: None while it runs.
    """

    def __init__(self, call: dict[str, object]) -> None:
        argv, env = call["argv"], call["env"]
        assert isinstance(argv, list)
        assert isinstance(env, dict)
        pipes = [os.pipe(), os.pipe(), os.pipe()]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        self.stdin: int | None = pipes[0][1]
        self.outputs = {pipes[1][0]: frames.OUTPUT, pipes[2][0]: frames.ERRORS}
        self.pending = bytearray()
        self.no_more = False
        self.status: int | None = None
        self.pid = 0
        try:
            self.pid = os.posix_spawn(
                find_program(argv[0], env),
                argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, end, n) for n, end in enumerate(theirs)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGCHLD, signal.SIGPIPE],
            )
        except OSError as error:
            self.status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            os.write(pipes[2][1], f"{error}\n".encode())
        for end in theirs:
            os.close(end)
        for end in (self.stdin, *self.outputs):
            os.set_blocking(end, False)


class Init:
    """The commands, and the port that they come from."""

    def __init__(self) -> None:
        while not os.path.isdir(PORTS) or not os.listdir(PORTS):
            time.sleep(0.01)  # until the kernel has asked the port for its name
        (name,) = os.listdir(PORTS)
        self.port = os.open(f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK)
        self.received = bytearray()
        self.unsent = bytearray()
        self.commands: dict[int, Command] = {}
        self.wanted: dict[int, int] = {}
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve for ever."""
        wake, signalled = socket.socketpair()
        wake.setblocking(False)
        signalled.setblocking(False)
        signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        while True:
            self.watch(wake.fileno())
            ready = {int(key.fd): events for key, events in self.selector.select()}
            if ready.pop(wake.fileno(), 0):
                wake.recv(4096)
                self.reap()
            events = ready.pop(self.port, 0)
            if events & selectors.EVENT_READ:
                self.read_port()
            for channel, command in list(self.commands.items()):
                if command.stdin in ready:
                    self.feed(command)
                for end in [end for end in command.outputs if end in ready]:
                    self.collect(channel, command, end)
                if command.status is not None and not command.outputs:
                    self.finish(channel, command)
            self.send()

    def watch(self, wake: int) -> None:
        """Listen to what matters now."""
        full = len(self.unsent) > frames.ENOUGH
        wanted = {wake: selectors.EVENT_READ}
        wanted[self.port] = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.unsent else 0)
        for command in self.commands.values():
            if command.stdin is not None and (command.pending or command.no_more):
                wanted[command.stdin] = selectors.EVENT_WRITE
            if not full:
                wanted.update(dict.fromkeys(command.outputs, selectors.EVENT_READ))
        for handle in self.wanted.keys() - wanted.keys():
            self.selector.unregister(handle)
        for handle, events in wanted.items():
            if handle not in self.wanted:
                self.selector.register(handle, events)
            elif self.wanted[handle] != events:
                self.selector.modify(handle, events)
        self.wanted = wanted

    def close(self, handle: int) -> None:
        """Close a pipe."""
        if self.wanted.pop(handle, None):
            self.selector.unregister(handle)
        os.close(handle)

    def reap(self) -> None:
        """Take in the children that have ended, orphans among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for command in self.commands.values():
                if command.pid == pid:
                    command.status = os.waitstatus_to_exitcode(status)

    def read_port(self) -> None:
        """Do what has come in."""
        with contextlib.suppress(BlockingIOError):
            self.received += os.read(self.port, frames.BLOCK)
        for channel, kind, content in frames.take(self.received):
            if kind == frames.CALL:
                self.commands[channel] = Command(json.loads(content))
                continue
            command = self.commands.get(channel)
            if command is None:
                continue  # it has ended meanwhile
            if kind == frames.INPUT:
                command.pending += content
                command.no_more = command.no_more or not content
            elif kind == frames.HANGUP:
                self.kill(channel, command)

    def kill(self, channel: int, command: Command) -> None:
        """End a command that nobody waits for, with what it has started."""
        if command.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)
        self.forget(channel, command)

    def feed(self, command: Command) -> None:
        """Give a command of its input what it takes."""
        assert command.stdin is not None
        try:
            if command.pending:
                del command.pending[: os.write(command.stdin, command.pending[: frames.BLOCK])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            command.pending.clear()
            command.no_more = True
        if command.no_more and not command.pending:
            self.close(command.stdin)
            command.stdin = None

    def collect(self, channel: int, command: Command, end: int) -> None:
        """Pass on what a command has written."""
        try:
            data = os.read(end, frames.BLOCK)
        except BlockingIOError:
            return
        if data:
            self.unsent += frames.pack(channel, command.outputs[end], data)
        else:
            del command.outputs[end]
            self.close(end)

    def finish(self, channel: int, command: Command) -> None:
        """Tell the end of a command."""
        self.unsent += frames.pack(channel, frames.ENDED, str(command.status).encode())
        self.forget(channel, command)

    def forget(self, channel: int, command: Command) -> None:
        """Drop what is left of a command."""
        del self.commands[channel]
        if command.stdin is not None:
            self.close(command.stdin)
        for end in command.outputs:
            self.close(end)

    def send(self) -> None:
        """Send as much as the port takes."""
        try:
            while self.unsent:
                del self.unsent[: os.write(self.port, self.unsent[: frames.BLOCK])]
        except BlockingIOError:
            pass


def main() -> None:
    """Serve as pid 1."""
    with open("/etc/hostname") as file:
        socket.sethostname(file.read().strip())
    Init().run()


if __name__ == "__main__":
    main()
