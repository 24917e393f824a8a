# SPDX-License-Identifier: GPL-2.0-or-later
"""The host side of oVirt's external networks.

VDSM's hooks hand a vNIC over; this package rewrites its libvirt XML and prepares the host so
that OVN or OpenStack Neutron finds the vNIC where it looks for it.
"""

__version__ = "0.1.0"
