# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon on a machine."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .deadline import wait_until
from .machine import Machine


class Daemon(Protocol):
    """What can be done to a daemon, whoever looks after it."""

    name: str

    def start(self) -> None:
        """Start it and wait until it is ready."""

    def stop(self, timeout: float = 20.0) -> None:
        """End it properly, and wait for its end."""

    def kill(self) -> None:
        """End it with SIGKILL, and wait for its end."""

    def restart(self) -> None:
        """Stop and start."""

    def suspend(self) -> None:
        """Freeze it, as if it hung."""

    def resume(self) -> None:
        """Let it go on."""

    @property
    def pid(self) -> int:
        """Its pid in the machine's numbering; 0 if it has none."""

    @property
    def running(self) -> bool:
        """Whether it runs."""


class Service:
    """A daemon of the harness's own that can be started, stopped, killed and started again.

    Args:
        machine: where it runs.
        name: for messages.
        argv: its command.
        pidfile: a file on the machine in which it, or the harness for it, writes its pid.
        detaches: it goes to the background by itself when it is ready, and writes the pidfile.
        log: file on the machine for its output, when it does not detach.
        ready: a question asked until it is true, after the start.
        env: added to a clean environment.
        ready_timeout: seconds it may take to get ready.
    """

    def __init__(
        self,
        machine: Machine,
        name: str,
        argv: Sequence[str],
        *,
        pidfile: str | None = None,
        detaches: bool = False,
        log: str | None = None,
        ready: Callable[[], object] | None = None,
        env: Mapping[str, str] | None = None,
        ready_timeout: float = 20.0,
    ) -> None:
        self.machine = machine
        self.name = name
        self.argv = list(argv)
        self.pidfile = pidfile or f"/run/{name}.pid"
        self.detaches = detaches
        self.log = log or f"/var/log/{name}.log"
        self.ready = ready
        self.env = dict(env or {})
        self.ready_timeout = ready_timeout
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            CommandError: a detaching daemon refused to start.
            RuntimeError: it runs already, or ended while it was awaited.
            TimeoutError: it did not get ready in time.
        """
        if self.running:
            raise RuntimeError(f"{self.machine.name}: {self.name} runs already")
        if self.detaches:
            # Its output must not be a pipe of ours: the daemon would keep it open.
            quiet = 'exec "$@" >>"$LOG" 2>&1'
            env = {**self.env, "LOG": f"{self.log}.start"}
            done = self.machine.run(["sh", "-c", quiet, "sh", *self.argv], env=env, check=False)
            if done.returncode != 0:
                raise RuntimeError(
                    f"{self.machine.name}: {self.name}: exit status {done.returncode}\n"
                    + self.machine.read(f"{self.log}.start")
                )
        else:
            self._start_in_foreground()
        if self.ready is not None:
            ready = self.ready
            what = f"{self.machine.name}: {self.name} ready"
            patience = self.ready_timeout * self.machine.patience
            wait_until(lambda: self._still_running() and ready(), patience, what)

    def _start_in_foreground(self) -> None:
        self._reap()
        log = self.machine.path(self.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.machine.path(self.pidfile).unlink(missing_ok=True)
        program = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', self.pidfile, *self.argv]
        with log.open("a") as output:
            self._process = self.machine.popen(
                program, env=self.env, stdout=output, stderr=subprocess.STDOUT
            )
        patience = 10 * self.machine.patience
        wait_until(lambda: self._still_running() and self.pid, patience, f"{self.name}: pid")

    def _still_running(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(
                f"{self.machine.name}: {self.name} ended, status {self._process.returncode}\n"
                + self.machine.read(self.log)[-4000:]
            )
        return True

    def _wake(self) -> None:
        """Let what has brought it into the machine go on: nsenter stops when its command does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _reap(self) -> None:
        if self._process is not None:
            self._wake()
            self._process.wait(timeout=10)
            self._process = None

    @property
    def pid(self) -> int:
        """Its pid in the machine's numbering; 0 if it has none."""
        if not self.machine.powered:
            return 0
        text = self.machine.read(self.pidfile).strip()
        return int(text) if text.isdigit() else 0

    @property
    def running(self) -> bool:
        """Whether it runs."""
        pid = self.pid
        return bool(pid) and self.machine.process_alive(pid)

    def stop(self, timeout: float = 20.0) -> None:
        """End it with SIGTERM, and wait for its end."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """End it with SIGKILL, and wait for its end."""
        self._end(signal.SIGKILL, 10.0)

    def _end(self, number: int, timeout: float) -> None:
        pid = self.pid
        if not pid or not self.machine.process_alive(pid):
            return
        started = self.machine.process_start(pid)
        self.machine.signal_process(pid, number)
        wait_until(
            lambda: self.machine.process_start(pid) != started,
            timeout,
            f"{self.machine.name}: end of {self.name}",
            interval=0.005,
        )
        self._reap()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Freeze it (SIGSTOP), as if it hung."""
        self.machine.signal_process(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        if self._process is not None:
            # nsenter(1), which waits for it, has stopped with it, and wakes both.
            self._process.send_signal(signal.SIGCONT)
        self.machine.signal_process(self.pid, signal.SIGCONT)
        self._wake()
