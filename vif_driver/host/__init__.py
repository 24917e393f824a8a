# SPDX-License-Identifier: GPL-2.0-or-later
"""The only code that touches the host: netlink, OVSDB, libvirt, files of the kernel and Neutron.

An adapter here knows how a thing is done, never whether it should be.  The adapters are imported
one by one, where they are needed: without the agent a hook wants none of the heavy ones.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vif_driver.host.links import Links
    from vif_driver.host.ovsdb import Ovsdb


@dataclasses.dataclass(frozen=True)
class Host:
    """What this process may use of the host it runs on.

    Attributes:
        links: network devices; None in a process that may not change them.
        ovsdb: Open vSwitch's database; None in a process that may not speak to it.
    """

    links: Links | None = None
    ovsdb: Ovsdb | None = None
