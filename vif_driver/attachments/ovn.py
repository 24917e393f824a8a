# SPDX-License-Identifier: GPL-2.0-or-later
"""The tap as a port of the integration bridge, for ovn-controller."""

from __future__ import annotations

from vif_driver.attachments.ovs import OvsAttachment


class OvnAttachment(OvsAttachment):
    """As with Neutron's agent, but without the dead VLAN.

    ovn-controller forwards nothing of a port that it has not claimed: the integration bridge is
    in secure mode.  It never takes a VLAN tag away either.
    """

    name = "ovn"
    _dead_vlan = False
