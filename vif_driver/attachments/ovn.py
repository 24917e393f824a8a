# SPDX-License-Identifier: GPL-2.0-or-later
"""The tap as a port of the integration bridge, for ovn-controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vif_driver.attachments.ovs import OvsAttachment

if TYPE_CHECKING:
    from vif_driver.host.ovsdb import Port


class OvnAttachment(OvsAttachment):
    """As with Neutron's agent, but without the dead VLAN.

    ovn-controller forwards nothing of a port that it has not claimed: the integration bridge is
    in secure mode.  It never takes a VLAN tag away either.
    """

    name = "ovn"
    _dead_vlan = False

    def _is_wired(self, port: Port) -> bool:
        """Tell whether ovn-controller says that the port's flows are in place.

        ``ovn-installed`` is of the Interface row (ovn-controller(8)); the row is new with each
        plug, see :meth:`claim_tap_name`.
        """
        return port.external_ids.get("ovn-installed") == "true"
