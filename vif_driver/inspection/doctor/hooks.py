# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the hooks that VDSM is to run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vif_driver.inspection.finding import Finding, bad, ok

_NAME = "hooks"

#: Where VDSM looks for them (P_VDSM_HOOKS of its configuration).
FOLDER = Path("/usr/libexec/vdsm/hooks")

HOOK = "50_vif_driver"

# Parts of the names of the hooks that ovirt-provider-ovn-driver and vdsm-hook-openstacknet install;
# they rewrite the same XML in another way.
_OTHERS = {
    "ovirt_provider_ovn": "ovirt-provider-ovn-driver",
    "openstacknet": "vdsm-hook-openstacknet",
}


def check(events: Sequence[str], folder: Path = FOLDER) -> list[Finding]:
    """Look whether our hook, and no other that does the same work, is there for every event.

    Args:
        events: their names.
        folder: where VDSM looks for hooks.
    """
    findings = [finding for event in events for finding in _check_event(folder / event)]
    return findings or [ok(_NAME, f"{HOOK} is there for all {len(events)} events")]


def _check_event(folder: Path) -> list[Finding]:
    hook = folder / HOOK
    findings = []
    if not hook.is_file():
        findings.append(
            bad(_NAME, f"{hook} is not there: VDSM does not call us", "install vif-driver again")
        )
    elif hook.stat().st_mode & 0o555 != 0o555:
        findings.append(
            bad(_NAME, f"{hook} is not executable: VDSM does not run it", f"chmod 555 {hook}")
        )
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        names = []
    for part, package in _OTHERS.items():
        theirs = [name for name in names if part in name and (folder / name).is_file()]
        if theirs and os.access(folder / theirs[0], os.X_OK):
            findings.append(
                bad(
                    _NAME,
                    f"{folder / theirs[0]} rewrites the same XML as we do",
                    f"remove the package: dnf remove {package}",
                )
            )
    return findings
