# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that run on a lab host, with the standard library only."""
