# SPDX-License-Identifier: GPL-2.0-or-later
"""What VDSM writes down of the networks that it has set up, as it writes it.

With every change a folder of a new name is made, to which a link leads from then on
(lib/vdsm/network/netconfpersistence.py).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from .machine import Machine

NETCONF = "/var/lib/vdsm/staging/netconf"
#: The networks, a file each.
NETS = f"{NETCONF}/nets"


def save(
    host: Machine, networks: Mapping[str, Any], bonds: Mapping[str, Any] | None = None
) -> None:
    """Write everything anew.

    Args:
        host: whose VDSM.
        networks: all that there are, by their names.
        bonds: all of them.
    """
    before, folder = host.path(NETCONF), f"{NETCONF}.{secrets.token_hex(4)}"
    for kind, notes in (("nets", networks), ("bonds", bonds or {})):
        host.path(f"{folder}/{kind}").mkdir(parents=True)
        for name, attributes in notes.items():
            host.write(f"{folder}/{kind}/{name}", json.dumps(attributes))
    host.run(["ln", "-s", folder, f"{folder}.ln"])
    host.run(["mv", "-T", f"{folder}.ln", NETCONF])
    if before.name != "netconf":
        host.run(["rm", "-rf", f"{NETCONF}{before.suffix}"])
