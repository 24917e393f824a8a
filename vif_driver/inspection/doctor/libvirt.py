# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of libvirt, as the agent needs it."""

from __future__ import annotations

from vif_driver.errors import Unavailable
from vif_driver.inspection.doctor import floors
from vif_driver.inspection.finding import Finding, ok
from vif_driver.inspection.sight import Sight


async def connection(sight: Sight) -> list[Finding]:
    """Look whether libvirt answers."""
    domains = await sight.domains()
    return [ok("libvirt", f"answers, {len(domains)} VMs")]


async def version(sight: Sight) -> list[Finding]:
    """Compare libvirt's version with what is known of earlier ones."""
    known = sight.host.domains
    if known is None:
        raise Unavailable("libvirt was not asked", "run vifctl")
    # virConnectGetLibVersion: 1,000,000 * major + 1,000 * minor + release.
    number = await sight.once("libvirt version", known.version)
    text = f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
    return [floors.compare("libvirt", text, floors.LIBVIRT)]
