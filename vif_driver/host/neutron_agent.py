# SPDX-License-Identifier: GPL-2.0-or-later
"""What Neutron's agents on this host are configured to do."""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from vif_driver.tunnels import words

log = logging.getLogger(__name__)

#: What the Open vSwitch agent's services read on Debian (its ``agent.conf.d``) and EL; later ones
#: win.
CONFIG = (
    "agent.conf.d/*.conf",
    "neutron.conf",
    "plugins/ml2/ml2_conf.ini",
    "plugins/ml2/openvswitch_agent.ini",
    "conf.d/common/*.conf",
    "conf.d/neutron-openvswitch-agent/*.conf",
)


#: What the Linux bridge agent's services read; later ones win.
LINUX_BRIDGE = (
    "agent.conf.d/*.conf",
    "neutron.conf",
    "plugins/ml2/ml2_conf.ini",
    "plugins/ml2/linuxbridge_agent.ini",
    "conf.d/common/*.conf",
    "conf.d/neutron-linuxbridge-agent/*.conf",
)


FOLDER = Path("/etc/neutron")


@dataclasses.dataclass(frozen=True)
class Underlay:
    """What Neutron's agents on this host are told of its network.

    Attributes:
        switches: the Open vSwitch bridge of each physical network, ``[ovs] bridge_mappings``.
        bridges: the same of the Linux bridge agent, ``[linux_bridge] bridge_mappings``.
        interfaces: the device of each, ``[linux_bridge] physical_interface_mappings``.
        tunnel_ends: the ``local_ip`` of each agent that makes tunnels, and of which kinds.
        integration_bridge: ``[ovs] integration_bridge``, if it is set.
    """

    switches: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bridges: Mapping[str, str] = dataclasses.field(default_factory=dict)
    interfaces: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tunnel_ends: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    integration_bridge: str | None = None


def firewall_driver(folder: Path = FOLDER) -> str | None:
    """Give the ``[securitygroup] firewall_driver`` of Neutron's Open vSwitch agent.

    Returns:
        The alias or class path as it is written there, or None where it isn't set or where one
        of the files, which may say something else, cannot be read.
    """
    driver: str | None = None
    for path in files(CONFIG, folder):
        try:
            parser = _parse(path)
        except _UNREADABLE as error:
            log.warning("%s cannot be read: %s", path, _why(error))
            return None
        driver = parser.get("securitygroup", "firewall_driver", fallback=None) or driver
    return driver.strip() if driver else None


def linux_bridges(folder: Path = FOLDER) -> frozenset[str]:
    """Give the bridges that Neutron's Linux bridge agent was told to use instead of its own.

    They are the values of ``[linux_bridge] bridge_mappings``, pairs of a physical network and a
    bridge; none where the files cannot be read.
    """
    settings = _Settings(LINUX_BRIDGE, folder)
    return frozenset(settings.pairs("linux_bridge", "bridge_mappings").values())


def underlay(folder: Path = FOLDER) -> Underlay:
    """Give what the agents are told of this host's network, as far as it can be read."""
    ovs, linux_bridge = _Settings(CONFIG, folder), _Settings(LINUX_BRIDGE, folder)
    ends: dict[str, tuple[str, ...]] = {}
    kinds = words(ovs.get("agent", "tunnel_types"))
    if kinds and ovs.get("ovs", "local_ip"):
        ends[ovs.get("ovs", "local_ip")] = tuple(kinds)
    end = linux_bridge.get("vxlan", "local_ip")
    if end and not is_false(linux_bridge.get("vxlan", "enable_vxlan")):
        ends.setdefault(end, ("vxlan",))
    return Underlay(
        switches=ovs.pairs("ovs", "bridge_mappings"),
        bridges=linux_bridge.pairs("linux_bridge", "bridge_mappings"),
        interfaces=linux_bridge.pairs("linux_bridge", "physical_interface_mappings"),
        tunnel_ends=ends,
        integration_bridge=ovs.get("ovs", "integration_bridge") or None,
    )


def files(patterns: Iterable[str], folder: Path = FOLDER) -> list[Path]:
    """Give the files of a service, in the order in which it reads them."""
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def is_false(text: str) -> bool:
    """Tell whether a value says no, in any of oslo.config's words for it; an empty one doesn't."""
    return text.lower() in ("0", "false", "no", "off")


_UNREADABLE = (OSError, UnicodeDecodeError, configparser.Error)


def _why(error: Exception) -> str:
    """Say why a file cannot be read, without a word of it: it may be a password's line."""
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno} stands before the first [section]"
    if isinstance(error, configparser.ParsingError):
        numbers = ", ".join(str(number) for number, _ in error.errors)
        return f"not understood: line {numbers}"
    if isinstance(error, configparser.Error):
        return type(error).__name__
    return str(error)


class _Settings:
    """What the files of a service say together; those that cannot be read are left out."""

    def __init__(self, patterns: Iterable[str], folder: Path) -> None:
        self._parsers = []
        for path in files(patterns, folder):
            with contextlib.suppress(*_UNREADABLE):
                self._parsers.append(_parse(path))

    def get(self, section: str, key: str) -> str:
        """Give a setting; an empty text if it isn't set."""
        value = ""
        for parser in self._parsers:
            value = parser.get(section, key, fallback="") or value
        return value.strip()

    def pairs(self, section: str, key: str) -> dict[str, str]:
        """Give a setting that is a list of pairs."""
        pairs = (pair.partition(":") for pair in words(self.get(section, key)))
        return {name.strip(): value.strip() for name, _, value in pairs if value.strip()}


def _parse(path: Path) -> configparser.ConfigParser:
    # oslo.config allows repeated keys and ignores what it doesn't know.
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    with path.open(encoding="utf-8") as file:
        parser.read_file(file)
    return parser
