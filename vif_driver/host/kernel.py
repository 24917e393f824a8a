# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel shows and takes through files below /sys and /proc."""

from __future__ import annotations

import os
from pathlib import Path

from vif_driver.errors import HostError

# linux/if.h
_IFF_UP = 0x1

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def has_device(name: str) -> bool:
    """Tell whether there is a network device of that name; needs no privilege."""
    return os.path.exists(f"/sys/class/net/{name}")


def devices() -> set[str]:
    """Give the names of all network devices."""
    return set(os.listdir("/sys/class/net"))


def bridge_ports(name: str) -> set[str]:
    """Give the devices that are ports of a Linux bridge; none if there is no such bridge."""
    try:
        return set(os.listdir(Path("/sys/class/net", name, "brif")))
    except OSError:
        return set()


def alias(name: str) -> str:
    """Give the ``ifalias`` of a device; an empty text if it has none, or isn't there."""
    try:
        return Path("/sys/class/net", name, "ifalias").read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return ""


def group(name: str) -> int | None:
    """Give the device group; None if there is no such device."""
    try:
        return int(Path("/sys/class/net", name, "netdev_group").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def master(name: str) -> str | None:
    """Give the bridge (or bond) that a device is a port of; None if it is of none, or not there."""
    try:
        return os.path.basename(os.readlink(f"/sys/class/net/{name}/master"))
    except OSError:
        return None


def is_down(name: str) -> bool:
    """Tell whether a device is there and was not set up, whatever its cable says."""
    try:
        flags = Path("/sys/class/net", name, "flags").read_text(encoding="ascii")
        return not int(flags, 16) & _IFF_UP
    except (OSError, ValueError):
        return False


def ifindex(name: str) -> int | None:
    """Give the number that the kernel knows a device by; None if it isn't there."""
    try:
        with open(f"/sys/class/net/{name}/ifindex", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def boot_id() -> str:
    """Give the id of this boot as systemd writes it, without dashes."""
    return BOOT_ID.read_text(encoding="ascii").strip().replace("-", "")


def has_bridge_netfilter() -> bool:
    """Tell whether bridged frames can be passed through iptables (module br_netfilter)."""
    return Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()


def filters_bridge(name: str) -> bool:
    """Tell whether the frames on a Linux bridge pass through iptables, by its word or the host's.

    Either of the two switches it on (net/bridge/br_netfilter_hooks.c).
    """
    own = Path("/sys/class/net", name, "bridge/nf_call_iptables")
    return bool(_number(own)) or filters_all_bridges()


def filters_all_bridges() -> bool:
    """Tell whether the frames on every Linux bridge pass through iptables, by the host's word."""
    return bool(_number(Path("/proc/sys/net/bridge/bridge-nf-call-iptables")))


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


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
