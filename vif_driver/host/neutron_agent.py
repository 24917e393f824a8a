# SPDX-License-Identifier: GPL-2.0-or-later
"""What Neutron's agent on this host is configured to do."""

from __future__ import annotations

import configparser
import logging
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

#: Where the Open vSwitch agent's services read their settings on EL and Debian; later ones win.
CONFIG_FILES = (
    Path("/etc/neutron/plugins/ml2/ml2_conf.ini"),
    Path("/etc/neutron/plugins/ml2/openvswitch_agent.ini"),
)


def firewall_driver(files: Sequence[Path] = CONFIG_FILES) -> str | None:
    """Give the ``[securitygroup] firewall_driver`` of Neutron's Open vSwitch agent.

    Returns:
        The alias or class path as it is written there, or None where it isn't set or may not
        be read.
    """
    driver: str | None = None
    for path in files:
        # oslo.config allows repeated keys and ignores what it doesn't know.
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            with path.open(encoding="utf-8") as file:
                parser.read_file(file)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            log.warning("%s cannot be read: %s", path, error)
            continue
        driver = parser.get("securitygroup", "firewall_driver", fallback=None) or driver
    return driver.strip() if driver else None
