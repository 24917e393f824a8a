# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl configure ovn``."""

from __future__ import annotations

import argparse

from vif_driver.errors import HostError


def run(options: argparse.Namespace, *, as_json: bool) -> int:
    """Make this host one of OVN's."""
    raise HostError("vifctl configure ovn is not complete", "wait for it")


def undo(*, force: bool, as_json: bool) -> int:
    """Take OVN away from this host."""
    raise HostError("vifctl configure ovn is not complete", "wait for it")
