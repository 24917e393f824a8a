# SPDX-License-Identifier: GPL-2.0-or-later
"""vif-driver on a host: installed by ``make install``, its daemon started and stopped."""

from __future__ import annotations

import threading
from pathlib import Path

from .command import run_command
from .hypervisor import Hypervisor
from .machine import PROJECT
from .service import Service

AGENT = "/usr/sbin/vif-agent"
SOCKET = "/run/vif-driver/agent.sock"
RUNTIME = "/run/vif-driver"
PATHS = {"PREFIX": "/usr"}
_BUILDING = threading.Lock()


def install_into(directory: Path, python: Path | None = None) -> None:
    """Run ``make install`` with ``directory`` as DESTDIR.

    Args:
        directory: the root to install below.
        python: the interpreter it is installed for; None is this computer's.

    Raises:
        CommandError: make failed.
    """
    values = {**PATHS, "DESTDIR": str(directory)}
    if python is not None:
        values["PYTHON"] = str(python)
    settings = [f"{key}={value}" for key, value in values.items()]
    command = ["make", "--no-print-directory", "-C", str(PROJECT), "install", *settings]
    run_command("here", command, timeout=120)


class Product:
    """The product on one host.

    Args:
        host: where.

    Attributes:
        agent: the daemon.
    """

    def __init__(self, host: Hypervisor) -> None:
        self.host = host
        self.agent = Service(
            host,
            "vif-agent",
            [AGENT],
            log="/var/log/vif-agent.log",
            ready=lambda: host.exists(SOCKET),
        )

    def install(self) -> None:
        """Install the checkout's state into the host; its disk keeps it over power cuts."""
        own = self.host.interpreter
        with _BUILDING:  # setup.py builds in one place
            install_into(self.host.path("/"), None if own is None else own.executable)

    def start(self) -> None:
        """Start the daemon; returns when its socket is there."""
        # As its unit's RuntimeDirectory= has it; a stale socket would look like a ready daemon.
        self.host.make_directory(RUNTIME)
        self.host.path(SOCKET).unlink(missing_ok=True)
        self.agent.start()

    def stop(self) -> None:
        """Stop the daemon."""
        self.agent.stop()

    def kill(self) -> None:
        """Kill the daemon."""
        self.agent.kill()

    def log(self, tail: int | None = None) -> str:
        """What the daemon has written, or its last ``tail`` characters."""
        text = self.host.read(self.agent.log)
        return text if tail is None else text[-tail:]
