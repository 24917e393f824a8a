# SPDX-License-Identifier: GPL-2.0-or-later
"""What iptables does with frames that nothing else decides about."""

from __future__ import annotations

import subprocess

from vif_driver.errors import Unavailable

# Seconds, also for the lock that every iptables command takes.
_TIMEOUT = 2.0


def forward_policy() -> str:
    """Give the policy of the chain FORWARD, such as ``ACCEPT``; blocks.

    Raises:
        Unavailable: there is no iptables, or it does not say.
    """
    try:
        done = subprocess.run(
            ["iptables", "-w", "1", "-S", "FORWARD"],  # noqa: S607
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"iptables does not run ({error})", "run as root") from error
    words = done.stdout.split()
    if done.returncode or words[:2] != ["-P", "FORWARD"] or len(words) < 3:
        why = done.stderr.strip().splitlines()
        raise Unavailable(
            f"iptables does not tell its rules ({why[0] if why else 'nothing said'})",
            "run vifctl as root",
        )
    return words[2]
