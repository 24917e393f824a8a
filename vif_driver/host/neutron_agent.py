# SPDX-License-Identifier: GPL-2.0-or-later
"""What Neutron's agent on this host is configured to do."""

from __future__ import annotations

import configparser
import logging
from pathlib import Path

log = logging.getLogger(__name__)

#: What the Open vSwitch agent's services read on Debian and EL; later ones win.
CONFIG = (
    "neutron.conf",
    "plugins/ml2/ml2_conf.ini",
    "plugins/ml2/openvswitch_agent.ini",
    "conf.d/common/*.conf",
    "conf.d/neutron-openvswitch-agent/*.conf",
)


#: What the Linux bridge agent's services read; later ones win.
LINUX_BRIDGE = (
    "neutron.conf",
    "plugins/ml2/ml2_conf.ini",
    "plugins/ml2/linuxbridge_agent.ini",
    "conf.d/common/*.conf",
    "conf.d/neutron-linuxbridge-agent/*.conf",
)


def firewall_driver(folder: Path = Path("/etc/neutron")) -> str | None:
    """Give the ``[securitygroup] firewall_driver`` of Neutron's Open vSwitch agent.

    Returns:
        The alias or class path as it is written there, or None where it isn't set or where one
        of the files, which may say something else, cannot be read.
    """
    driver: str | None = None
    for path in (path for pattern in CONFIG for path in sorted(folder.glob(pattern))):
        # oslo.config allows repeated keys and ignores what it doesn't know.
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            with path.open(encoding="utf-8") as file:
                parser.read_file(file)
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            log.warning("%s cannot be read: %s", path, error)
            return None
        driver = parser.get("securitygroup", "firewall_driver", fallback=None) or driver
    return driver.strip() if driver else None


def linux_bridges(folder: Path = Path("/etc/neutron")) -> frozenset[str]:
    """Give the bridges that Neutron's Linux bridge agent was told to use instead of its own.

    They are the values of ``[linux_bridge] bridge_mappings``, pairs of a physical network and a
    bridge; none where the files cannot be read.
    """
    mappings = ""
    for path in (path for pattern in LINUX_BRIDGE for path in sorted(folder.glob(pattern))):
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            with path.open(encoding="utf-8") as file:
                parser.read_file(file)
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
        mappings = parser.get("linux_bridge", "bridge_mappings", fallback="") or mappings
    return frozenset(
        bridge.strip() for _, _, bridge in (pair.partition(":") for pair in mappings.split(","))
    ) - {""}
