# SPDX-License-Identifier: GPL-2.0-or-later
"""The anchor: the one process that everything in a lab hangs from.

It has mount, network, ipc and pid namespaces of its own.  Every machine's pid namespace is a
child of its, every cable and bridge is in its network namespace or a machine's, every disk on a
tmpfs of its mount namespace.  When it dies, the kernel removes them all; it dies with the process
that started it, however that one ends.  The computer's own namespaces get nothing: no named
network namespace, no device, no mount.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from .cgroups import Cgroups
from .command import run_command

INSIDE = Path(__file__).resolve().parent / "inside"
# The interpreter for programs inside: the real one, as a virtual environment adds nothing there.
INTERPRETER = os.path.realpath(sys.executable)
CREDENTIALS = struct.Struct("3i")
CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}


class ReportSocket:
    """A socket on which a program in other namespaces reports; the kernel adds who it is."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def receive(self, timeout: float) -> tuple[str, int]:
        """Return the next message and the sender's pid, as this process's namespace numbers it.

        Raises:
            EOFError: the other side ended without a word.
            TimeoutError: nothing came within ``timeout`` seconds.
        """
        self.theirs.close()
        self.ours.settimeout(timeout)
        try:
            message, ancillary, _, _ = self.ours.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
        except socket.timeout:
            raise TimeoutError(f"no report within {timeout:g} s") from None
        if not message:
            raise EOFError("ended without a report")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid, _, _ = CREDENTIALS.unpack(data)
                return message.decode(errors="replace"), pid
        raise EOFError("report without credentials")

    def send(self, message: str) -> None:
        """Send a message to the other side."""
        self.ours.send(message.encode())

    def close(self) -> None:
        """Close both ends."""
        self.ours.close()
        self.theirs.close()


class Anchor:
    """The namespaces that hold a lab.

    Attributes:
        pid: of the process in them that is pid 1, as seen from here.
        cgroups: control groups for machines.
        standing: all that are started and not stopped.
    """

    standing: ClassVar[set[Anchor]] = set()

    def __init__(self) -> None:
        self.pid = 0
        self.cgroups = Cgroups(self)
        self._keeper: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the namespaces.

        Raises:
            RuntimeError: not root, or the kernel refused; or not called from the main thread (the
                kernel would end the anchor with the calling *thread*).
        """
        if os.geteuid() != 0:
            raise RuntimeError("the lab needs root")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the lab must be started from the main thread")
        report = ReportSocket()
        handle = report.theirs.fileno()
        # Killed with us (pdeathsig), and taking its child with it (kill-child).
        keeper = ["setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child=KILL", "--fork"]
        spaces = ["--mount", "--net", "--ipc", "--pid", "--mount-proc", "--propagation", "private"]
        program = [INTERPRETER, "-I", "-S", str(INSIDE / "anchor_boot.py"), str(handle)]
        with tempfile.TemporaryFile("w+") as complaints:
            self._keeper = subprocess.Popen(
                [*keeper, *spaces, *program],
                stdin=subprocess.DEVNULL,
                stderr=complaints,
                env=CLEAN_ENVIRONMENT,
                cwd="/",
                pass_fds=[handle],
                start_new_session=True,
            )
            try:
                message, self.pid = report.receive(timeout=20)
            except (EOFError, TimeoutError) as error:
                message = str(error)
            finally:
                report.close()
            if message != "up":
                self.stop()
                complaints.seek(0)
                raise RuntimeError(f"anchor: {message}\n{complaints.read()}")
        self.standing.add(self)

    def stop(self) -> None:
        """Kill the anchor; returns when everything in it is gone."""
        if self._keeper is None:
            return
        self.standing.discard(self)
        if self.pid:
            self.cut()
        else:
            self._keeper.kill()
        # pid 1 of a namespace is only reaped when everything below has been.
        self._keeper.wait(timeout=30)
        self._keeper = None
        self.pid = 0

    def cut(self) -> None:
        """Kill the anchor, if it stands, without waiting for what is in it."""
        pid = self.pid  # which another thread may be about to forget; 0 would be ourselves
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Anchor:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the anchor stands."""
        return self._keeper is not None and self._keeper.poll() is None

    def enter(self) -> list[str]:
        """The command prefix that brings a command into the anchor's namespaces."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-i", "-p"]

    def start_survivor(
        self, script: str, arguments: Sequence[str], handles: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        """Start a program that does not end with the anchor, nor with this process.

        Args:
            script: its file in ``inside``.
            arguments: of it; the number of a pidfd of the anchor is added.
            handles: open files it is given, under the numbers they have here.
        """
        anchor = os.pidfd_open(self.pid)
        program = [INTERPRETER, "-I", "-S", str(INSIDE / script), *arguments, str(anchor)]
        try:
            return subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=CLEAN_ENVIRONMENT,
                cwd="/",
                pass_fds=[*handles, anchor],
                start_new_session=True,
            )
        finally:
            os.close(anchor)

    def ip(self, lines: Iterable[str]) -> None:
        """Run ip(8) commands, one a line, in the anchor's network.

        Only its network is entered, so that a ``netns PID`` in a line is a pid as seen from here.
        """
        self._batch("anchor", self.pid, lines)

    def ip_in(self, name: str, pid: int, lines: Iterable[str]) -> None:
        """The same in the network namespace of the process ``pid``."""
        self._batch(name, pid, lines)

    def _batch(self, name: str, pid: int, lines: Iterable[str]) -> None:
        prefix = ["nsenter", "-t", str(pid), "-n"]
        text = "".join(f"{line}\n" for line in lines)
        run_command(name, ["ip", "-batch", "-"], prefix=prefix, input=text, env=CLEAN_ENVIRONMENT)

    def outside(self, path: str) -> Path:
        """The path by which this process reaches a file of the anchor's mount namespace."""
        return Path(f"/proc/{self.pid}/root{path}")

    def add_bridge(self, name: str, mtu: int = 1500) -> None:
        """Add a Linux bridge to the anchor's network: a segment to plug machines in."""
        self.ip(
            [
                f"link add {name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
                f"link set {name} mtu {mtu} up",
            ]
        )


def namespaces_of(pid: int) -> set[str]:
    """The namespaces of a process that are not this process's, like ``net:[4026532010]``."""
    found = set()
    for kind in ("mnt", "net", "pid", "uts", "ipc"):
        theirs = os.readlink(f"/proc/{pid}/ns/{kind}")
        if theirs != os.readlink(f"/proc/self/ns/{kind}"):
            found.add(theirs)
    return found


def processes_in(namespaces: Sequence[str] | set[str]) -> dict[int, str]:
    """pid and command line of every process that is in one of the namespaces."""
    wanted = set(namespaces)
    found: dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            inside = {
                os.readlink(f"/proc/{entry}/ns/{kind}") for kind in ("mnt", "net", "pid", "ipc")
            }
            if inside & wanted:
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry)] = command.decode(errors="replace").strip()
        except OSError:
            continue  # ended meanwhile
    return found
