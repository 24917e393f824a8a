# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on this host and should not be, and the reverse; read from all that tells of it.

The agent acts by it while the host runs, ``vifctl reconcile`` shows it.  Nothing here changes the
host.
"""
