# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon on a machine whose pid 1 is systemd."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from .deadline import wait_until
from .machine import Machine


class Unit:
    """A systemd service; the same face as :class:`Service`.

    Args:
        machine: where it runs.
        unit: its name, like ``ovsdb-server.service``.
        ready: a question asked until it is true, after the start.
        sockets: units of sockets that would start it again; stopped and started with it.
        ready_timeout: seconds it may take to get ready.
    """

    def __init__(
        self,
        machine: Machine,
        unit: str,
        *,
        ready: Callable[[], object] | None = None,
        sockets: Sequence[str] = (),
        ready_timeout: float = 20.0,
    ) -> None:
        self.machine = machine
        self.name = unit
        self.ready = ready
        self.sockets = list(sockets)
        self.ready_timeout = ready_timeout

    def start(self) -> None:
        """Start it and wait until it is ready; one that runs already goes on.

        Raises:
            CommandError: systemd could not start it.
            TimeoutError: it did not get ready in time.
        """
        self._systemctl("start", *self.sockets, self.name)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it runs and is ready, whoever starts it."""
        what = f"{self.machine.name}: {self.name} ready"
        ready = self.ready
        wait_until(
            lambda: self.state == "active" and (ready is None or ready()),
            self.ready_timeout,
            what,
        )

    def stop(self, timeout: float = 20.0) -> None:
        """Stop it, and wait for its end."""
        # Its sockets first: else whoever knocks in between would have it started again.
        if self.sockets:
            self._systemctl("stop", *self.sockets, timeout=timeout)
        self._systemctl("stop", self.name, timeout=timeout)

    def kill(self) -> None:
        """End it with SIGKILL, and wait for its end; ``Restart=`` may bring it back at once."""
        pid = self.pid
        started = self.machine.process_start(pid) if pid else None
        if started is None:
            return
        self.machine.signal_process(pid, signal.SIGKILL)
        what = f"{self.machine.name}: end of {self.name}"
        wait_until(lambda: self.machine.process_start(pid) != started, 10, what, interval=0.005)

    def restart(self) -> None:
        """Stop and start."""
        self._systemctl("restart", self.name)
        self.wait_ready()

    def suspend(self) -> None:
        """Freeze it (SIGSTOP), as if it hung."""
        self.machine.signal_process(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self.machine.signal_process(self.pid, signal.SIGCONT)

    # ---- questions ---------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Its main process in the machine's numbering; 0 if it has none."""
        return int(self.property("MainPID") or 0) if self.machine.powered else 0

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.machine.powered and self.state == "active"

    @property
    def state(self) -> str:
        """Its ActiveState, like ``active`` or ``failed``."""
        return self.property("ActiveState")

    def property(self, name: str) -> str:
        """A property of the unit's, as ``systemctl show`` tells it."""
        return self.machine.output(["systemctl", "show", "--value", "-p", name, self.name])

    def wait_new(self, pid: int, timeout: float = 20.0) -> int:
        """Wait until it runs as another process than ``pid``, and return that."""

        def another() -> int:
            now = self.pid
            return now if now != pid and self.state == "active" else 0

        return wait_until(another, timeout, f"{self.machine.name}: {self.name} anew")

    def configure(self, name: str, text: str) -> None:
        """Add a drop-in that the next boot forgets, or remove it with an empty text."""
        path = f"/run/systemd/system/{self.name}.d/{name}.conf"
        if text:
            self.machine.write(path, text)
        else:
            self.machine.path(path).unlink(missing_ok=True)
        self._systemctl("daemon-reload")

    def _systemctl(self, verb: str, *arguments: str, timeout: float = 60.0) -> None:
        self.machine.run(["systemctl", verb, *arguments], timeout=timeout)
