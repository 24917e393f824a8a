# SPDX-License-Identifier: GPL-2.0-or-later
"""The only code that touches the host: netlink, OVSDB, libvirt, files of the kernel and Neutron.

An adapter here knows how a thing is done, never whether it should be.  The adapters are imported
one by one, where they are needed: without the agent a hook wants none of the heavy ones.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vif_driver.host.domains import Domains
    from vif_driver.host.links import Links
    from vif_driver.host.ovsdb import Ovsdb


# ovs asks eventlet, where that happens to be installed, whether it has patched select(), which it
# hasn't.  On a host with OpenStack that question is nearly half of the agent's memory.
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Host:
    """What this process may use of the host it runs on.

    Attributes:
        links: network devices; None in a process that may not change them.
        ovsdb: Open vSwitch's database; None in a process that may not speak to it.
        domains: libvirt's VMs; None in a process that has had no need of them yet.
    """

    links: Links | None = None
    ovsdb: Ovsdb | None = None
    domains: Domains | None = None
