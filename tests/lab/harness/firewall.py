# SPDX-License-Identifier: GPL-2.0-or-later
"""firewalld on a machine whose pid 1 is no systemd, and the bus that it is talked to over."""

from __future__ import annotations

from .machine import Machine
from .service import Service

BUS = "/run/dbus"
NAME = "org.fedoraproject.FirewallD1"
PROPERTY = "org.freedesktop.DBus.Properties.Get"
# What `firewall-cmd --state` asks, too, which takes seconds on an emulated processor.
STATE = [
    *("dbus-send", "--system", "--print-reply", f"--dest={NAME}", f"/{NAME.replace('.', '/')}"),
    *(PROPERTY, f"string:{NAME}", "string:state"),
]


class Firewall:
    """firewalld, as the distribution configures it: every device is in the zone ``public``.

    Args:
        machine: where; it needs a kernel with nftables.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._bus = Service(
            machine,
            "dbus-daemon",
            ["dbus-daemon", "--system", "--nofork", "--nopidfile"],
            ready=lambda: machine.exists(f"{BUS}/system_bus_socket"),
        )
        self._daemon = Service(
            machine,
            "firewalld",
            ["firewalld", "--nofork", "--nopid"],
            ready=lambda: '"RUNNING"' in machine.run(STATE, check=False).stdout,
            ready_timeout=30,
        )

    def start(self) -> None:
        """Start both; returns when its rules are in the kernel."""
        self.machine.make_directory(BUS)
        self._bus.start()
        self._daemon.start()

    def command(self, *arguments: str) -> str:
        """Run firewall-cmd and return its output."""
        return self.machine.output(["firewall-cmd", *arguments], timeout=120)
