# SPDX-License-Identifier: GPL-2.0-or-later
"""vif-agent, the daemon that does for the hooks what needs privilege or warm libraries."""
