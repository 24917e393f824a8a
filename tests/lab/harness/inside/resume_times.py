# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes down when QEMU lets guests run: ``<name of the domain> <seconds since 1970>`` a line.

The time is QEMU's own.  The first line says ``listening``.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Listen until killed."""
    libvirt: Any = importlib.import_module("libvirt")
    libvirt_qemu: Any = importlib.import_module("libvirt_qemu")

    def resumed(
        _connection: Any, domain: Any, _event: str, seconds: int, micros: int, *_: Any
    ) -> None:
        print(f"{domain.name()} {seconds}.{micros:06}", flush=True)

    libvirt.virEventRegisterDefaultImpl()
    connection = libvirt.open("qemu:///system")
    libvirt_qemu.qemuMonitorEventRegister(connection, None, "RESUME", resumed, None)
    print("listening", flush=True)
    while True:
        libvirt.virEventRunDefaultImpl()


if __name__ == "__main__":
    main()
