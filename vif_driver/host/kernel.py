# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel shows and takes through files below /sys and /proc."""

from __future__ import annotations

from pathlib import Path

from vif_driver.errors import HostError


def has_device(name: str) -> bool:
    """Tell whether there is a network device of that name; needs no privilege."""
    return Path("/sys/class/net", name).exists()


def has_bridge_netfilter() -> bool:
    """Tell whether bridged frames can be passed through iptables (module br_netfilter)."""
    return Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()


def write_sysctl(name: str, value: int) -> None:
    """Set one kernel parameter below ``net``; one that this kernel was built without is skipped.

    Args:
        name: path below /proc/sys/net, such as ``ipv4/conf/br0/arp_ignore``.
        value: the number to write.

    Raises:
        HostError: it could not be written.
    """
    path = Path("/proc/sys/net", name)
    family = Path("/proc/sys/net", name.split("/", maxsplit=1)[0])
    if not family.exists():
        # IPv6 can be disabled altogether (ipv6.disable=1); then there is nothing to set.
        return
    try:
        path.write_text(f"{value}\n", encoding="ascii")
    except OSError as error:
        raise HostError(
            f"{path} cannot be written ({error.strerror})", "run the agent with CAP_NET_ADMIN"
        ) from error
