# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process that may not talk to Open vSwitch's database can still tell of it."""

from __future__ import annotations

import socket
from pathlib import Path

SOCKET = Path("/run/openvswitch/db.sock")

#: The schema file that Open vSwitch installs; a host of Neutron's Linux bridge agent has none.
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


def is_down(path: Path = SOCKET) -> bool:
    """Tell whether certainly nobody listens.

    Permission is checked before anything else, so for a user without it the answer is no.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False
