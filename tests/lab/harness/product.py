# SPDX-License-Identifier: GPL-2.0-or-later
"""vif-driver on a host: installed by ``make install``, its daemon started and stopped."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from .command import run_command
from .hypervisor import Hypervisor
from .machine import PROJECT
from .service import Service
from .systemd_hypervisor import SystemdHypervisor
from .unit import Unit

AGENT = "/usr/sbin/vif-agent"
SOCKET = "/run/vif-driver/agent.sock"
RUNTIME = "/run/vif-driver"
#: Made as soon as the agent is connected with Open vSwitch.
KNOWN = f"{RUNTIME}/protected/known"
LOG = "/var/log/vif-agent.log"
SERVICE = "vif-agent.service"
BOOT_PASS = "vif-driver-boot.service"
SOCKET_UNIT = "vif-agent.socket"
#: All of them.
UNITS = (SERVICE, SOCKET_UNIT, BOOT_PASS)
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


def install_on(host: Hypervisor) -> None:
    """Install the checkout's state into the host; its disk keeps it over power cuts."""
    own = host.interpreter
    with _BUILDING:  # setup.py builds in one place
        install_into(host.path("/"), None if own is None else own.executable)
    host.notice_files()


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
            log=LOG,
            ready=lambda: host.exists(SOCKET),
        )

    def install(self) -> None:
        """Install it; see :func:`install_on`."""
        install_on(self.host)

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
        text = self.host.read(LOG)
        return text if tail is None else text[-tail:]


class SystemdProduct:
    """The product on a host whose pid 1 is systemd: its daemon is the unit that it comes with.

    Args:
        host: where.

    Attributes:
        agent: the daemon.
    """

    def __init__(self, host: SystemdHypervisor) -> None:
        self.host = host
        self.agent = Unit(host, SERVICE, sockets=[SOCKET_UNIT])

    def install(self) -> None:
        """Install the checkout's state, as a package does: with its user, folders and units."""
        install_on(self.host)
        self.host.run(["systemd-sysusers"])
        self.host.run(["systemd-tmpfiles", "--create", "vif-driver.conf"])
        self.host.run(["systemctl", "daemon-reload"])
        self.host.run(["systemctl", "enable", SERVICE, BOOT_PASS])

    def start(self) -> None:
        """Start socket and daemon; returns when it serves."""
        self.agent.start()

    def stop(self) -> None:
        """Stop socket and daemon."""
        self.agent.stop()

    def kill(self) -> None:
        """Kill the daemon; systemd brings it back."""
        self.agent.kill()

    def journal(self, *arguments: str, **fields: str) -> list[dict[str, Any]]:
        """The daemon's entries in the journal; see :meth:`SystemdHypervisor.journal`."""
        return self.host.journal(*arguments, _SYSTEMD_UNIT=SERVICE, **fields)

    def log(self, tail: int | None = None) -> str:
        """What the daemon has logged since the host was booted."""
        text = "".join(f"{entry['MESSAGE']}\n" for entry in self.journal())
        return text if tail is None else text[-tail:]
