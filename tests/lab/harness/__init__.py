# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab of hypervisors on one computer.

Every host has namespaces and a root of its own and runs the real parts: Open vSwitch, OVN,
libvirt and QEMU.  See :class:`harness.lab.Lab` for where to start.
"""
