# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: typed, documented, and complete without any file.

``/etc/vif-driver/vif-driver.conf`` is an INI file.  A key that is not known, or a value that
has no meaning, is an error: a misspelt security setting must not pass for a set one.
"""

from __future__ import annotations

import configparser
import dataclasses
import enum
import re
from pathlib import Path
from typing import Callable

from vif_driver.errors import ConfigError
from vif_driver.vnic import SecurityGroups

PATH = Path("/etc/vif-driver/vif-driver.conf")

# The kernel's rule for a device name (dev_valid_name in net/core/dev.c), less what a reader
# would stumble over.
_DEVICE_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,14}")


# Connection methods of ovsdb(7); what becomes of a name is found out when it is used.
_REMOTE = re.compile(r"(?:tcp|ssl):(?:\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:,\s]+):[0-9]{1,5}")


class FirewallDriver(enum.Enum):
    """What filters the ports of Neutron's Open vSwitch agent on this host.

    ``AUTO`` stands for what that agent's own configuration says.
    """

    AUTO = "auto"
    IPTABLES_HYBRID = "iptables_hybrid"
    OPENVSWITCH = "openvswitch"


class LinuxBridgePlug(enum.Enum):
    """How a vNIC is presented to Neutron's Linux bridge agent."""

    PRIVATE_BRIDGE = "private_bridge"
    DUMMY_BRIDGE = "dummy_bridge"


class AfterDeadline(enum.Enum):
    """What becomes of a VM whose vNICs are not ready in time."""

    RESUME = "resume"
    KEEP_PAUSED = "keep_paused"


#: Seconds; whoever takes a look by hand waits for both.
GRACE_RANGE = (1.0, 600.0)

#: Seconds; the hook waits a little longer than the longest deadline.
MAX_DEADLINE = 300.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that can be set.  docs/configuration.md explains each key to administrators.

    Attributes:
        integration_bridge: ``[host] integration_bridge``, the Open vSwitch bridge that OVN or
            Neutron's agent owns.
        firewall_driver: ``[neutron] firewall_driver``.
        hybrid_security_groups: ``[neutron] hybrid_security_groups``, which states of a vNIC's
            security groups make it a hybrid one where the firewall driver needs a Linux bridge.
        linux_bridge_plug: ``[neutron] linux_bridge_plug``.
        start_deadline: ``[start] deadline``, seconds for which a VM that has been started waits
            for its vNICs; with 0 it isn't started paused.
        after_deadline: ``[start] after_deadline``.
        grace: ``[reconcile] grace``, seconds between the look that finds what a VM left behind
            and the one that removes it.
        northbound: ``[migration] northbound``, where OVN's northbound database listens, in OVSDB's
            notation; none stands for what ``ovn-remote`` suggests, None for not using it.
        protects: ``[protection] enabled``, whether changes to the host's network are refused that
            would break what external networks stand on.
        allowed: ``[protection] allow``, the devices to which anything may be done.
    """

    integration_bridge: str = "br-int"
    firewall_driver: FirewallDriver = FirewallDriver.AUTO
    hybrid_security_groups: frozenset[SecurityGroups] = frozenset(
        (SecurityGroups.DEFAULT, SecurityGroups.LISTED)
    )
    linux_bridge_plug: LinuxBridgePlug = LinuxBridgePlug.PRIVATE_BRIDGE
    start_deadline: float = 15.0
    after_deadline: AfterDeadline = AfterDeadline.RESUME
    grace: float = 10.0
    northbound: tuple[str, ...] | None = ()
    protects: bool = True
    allowed: frozenset[str] = frozenset()


def load(path: Path = PATH) -> Config:
    """Read the configuration.

    Args:
        path: the file; the defaults hold where there is none.

    Raises:
        ConfigError: the file cannot be read or understood.
    """
    # A section that no header can name: what stands in [DEFAULT] is a mistake like any other.
    parser = configparser.ConfigParser(interpolation=None, default_section="\n")
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigError(f"{path} cannot be read ({error})", "correct the file") from error
    values: dict[str, object] = {}
    for section in parser.sections():
        for key, text in parser.items(section):
            setting = _SETTINGS.get((section, key))
            if setting is None:
                raise ConfigError(
                    f"{path}: [{section}] {key} is not a setting",
                    "known are " + ", ".join(f"[{known}] {name}" for known, name in _SETTINGS),
                )
            try:
                values[setting.attribute or key] = setting.parse(text.strip())
            except ValueError as error:
                raise ConfigError(
                    f"{path}: [{section}] {key} = {text!r} has no meaning", str(error)
                ) from error
    return dataclasses.replace(Config(), **values)  # type: ignore[arg-type]


def load_or_defaults(path: Path = PATH) -> tuple[Config, ConfigError | None]:
    """Read the configuration, for a process that has something to do whatever it says.

    Returns:
        The configuration; if it cannot be understood, the defaults and what is wrong.
    """
    try:
        return load(path), None
    except ConfigError as error:
        return Config(), error


def is_device_name(text: str) -> bool:
    """Tell whether a network device can be called so."""
    return _DEVICE_NAME.fullmatch(text) is not None


def _device_name(text: str) -> str:
    if not is_device_name(text):
        raise ValueError("give the name of a network device, at most 15 characters")
    return text


def _firewall_driver(text: str) -> FirewallDriver:
    return FirewallDriver(_one_of(text, [driver.value for driver in FirewallDriver]))


def _linux_bridge_plug(text: str) -> LinuxBridgePlug:
    return LinuxBridgePlug(_one_of(text, [plug.value for plug in LinuxBridgePlug]))


def _security_group_states(text: str) -> frozenset[SecurityGroups]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = [state.value for state in SecurityGroups]
    return frozenset(SecurityGroups(_one_of(word, known)) for word in words)


def _one_of(text: str, known: list[str]) -> str:
    if text not in known:
        raise ValueError("give one of " + ", ".join(known))
    return text


def _deadline(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or float(text) > MAX_DEADLINE:
        raise ValueError(f"give a number of seconds, from 0 (do not wait) to {MAX_DEADLINE:g}")
    return float(text)


def _grace(text: str) -> float:
    lowest, highest = GRACE_RANGE
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or not lowest <= float(text) <= highest:
        raise ValueError(f"give a number of seconds, from {lowest:g} to {highest:g}")
    return float(text)


def _northbound(text: str) -> tuple[str, ...] | None:
    if text in ("auto", "off"):
        return () if text == "auto" else None
    remotes = tuple(part.strip() for part in text.split(","))
    if not all(_REMOTE.fullmatch(remote) for remote in remotes):
        raise ValueError("give auto, off, or addresses like ssl:engine.example.com:6641")
    return remotes


def _switch(text: str) -> bool:
    return _one_of(text, ["yes", "no"]) == "yes"


def _device_names(text: str) -> frozenset[str]:
    return frozenset(_device_name(word.strip()) for word in text.split(",") if word.strip())


def _after_deadline(text: str) -> AfterDeadline:
    return AfterDeadline(_one_of(text, [choice.value for choice in AfterDeadline]))


@dataclasses.dataclass(frozen=True)
class _Setting:
    """How a key's text becomes an attribute of :class:`Config`, by default that of its name."""

    parse: Callable[[str], object]
    attribute: str = ""


_SETTINGS: dict[tuple[str, str], _Setting] = {
    ("host", "integration_bridge"): _Setting(_device_name),
    ("start", "deadline"): _Setting(_deadline, "start_deadline"),
    ("start", "after_deadline"): _Setting(_after_deadline),
    ("migration", "northbound"): _Setting(_northbound),
    ("reconcile", "grace"): _Setting(_grace),
    ("protection", "enabled"): _Setting(_switch, "protects"),
    ("protection", "allow"): _Setting(_device_names, "allowed"),
    ("neutron", "firewall_driver"): _Setting(_firewall_driver),
    ("neutron", "hybrid_security_groups"): _Setting(_security_group_states),
    ("neutron", "linux_bridge_plug"): _Setting(_linux_bridge_plug),
}
