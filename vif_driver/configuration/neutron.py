# SPDX-License-Identifier: GPL-2.0-or-later
"""A host of Neutron's: what one of its agents is told, and what that needs of the host.

Judged here, without touching anything: :func:`decide` takes what is wanted, the files and what
there is on the host, and says what is to be so, or why not.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from vif_driver.configuration import neutron_mappings
from vif_driver.configuration.files import content_of
from vif_driver.configuration.message_queue import MessageQueue
from vif_driver.configuration.option_file import OptionFile
from vif_driver.errors import ConfigError, HostError
from vif_driver.host import neutron_agent
from vif_driver.host.addresses import Ip
from vif_driver.host.neutron_agent import Underlay
from vif_driver.host.snapshot import Snapshot
from vif_driver.host.switch import Switch
from vif_driver.protection.foundation import Foundation
from vif_driver.tunnels import words

#: What is said to all of Neutron's services, below ``/etc/neutron``.
COMMON_FILE = "neutron.conf"

#: Neutron's own default.
INTEGRATION_BRIDGE = "br-int"

# What oslo.config has for true.
_YES = ("1", "true", "yes", "on")


@dataclasses.dataclass(frozen=True)
class Agent:
    """One of Neutron's agents; units and files have the same names on EL (RDO) and Debian.

    Attributes:
        name: as ``--agent`` has it.
        title: for people.
        unit: of systemd.
        file: its own configuration, below ``/etc/neutron``.
        reads: what it reads, later ones win.
        tunnel_types: what it can make.
    """

    name: str
    title: str
    unit: str
    file: str
    reads: Sequence[str]
    tunnel_types: Sequence[str]


OPEN_VSWITCH = Agent(
    "openvswitch",
    "Neutron's Open vSwitch agent",
    "neutron-openvswitch-agent.service",
    "plugins/ml2/openvswitch_agent.ini",
    neutron_agent.CONFIG,
    neutron_mappings.TUNNEL_TYPES,
)
LINUX_BRIDGE = Agent(
    "linuxbridge",
    "Neutron's Linux bridge agent",
    "neutron-linuxbridge-agent.service",
    "plugins/ml2/linuxbridge_agent.ini",
    neutron_agent.LINUX_BRIDGE,
    ("vxlan",),
)
AGENTS = {agent.name: agent for agent in (OPEN_VSWITCH, LINUX_BRIDGE)}


@dataclasses.dataclass(frozen=True)
class Wish:
    """What somebody wants of an agent; None where it is to stay as it is.

    Attributes:
        queue: the message queue.
        interfaces: of the Linux bridge agent, a device by its physical network.
        bridges: of the Open vSwitch agent, a bridge by its physical network.
        integration_bridge: of the latter.
        uplinks: which device is to be a port of which bridge.
        tunnel_ip: where this host's tunnels end.
        tunnel_types: of which kinds they are.
    """

    queue: MessageQueue | None = None
    interfaces: Mapping[str, str] | None = None
    bridges: Mapping[str, str] | None = None
    integration_bridge: str | None = None
    uplinks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tunnel_ip: Ip | None = None
    tunnel_types: Sequence[str] | None = None

    @property
    def needs(self) -> Agent | None:
        """The agent that alone knows what is wanted; None if either does."""
        if self.interfaces is not None:
            return LINUX_BRIDGE
        if self.bridges is not None or self.integration_bridge is not None or self.uplinks:
            return OPEN_VSWITCH
        return None


@dataclasses.dataclass(frozen=True)
class Setting:
    """An option of a file.

    Attributes:
        file: below ``/etc/neutron``.
        section, option, value: as they stand there.
        shown: its value for people, where that is a secret.
    """

    file: str
    section: str
    option: str
    value: str = dataclasses.field(repr=False)
    shown: str | None = None

    def __str__(self) -> str:
        shown = self.value if self.shown is None else self.shown
        return f"{self.file}: [{self.section}] {self.option} = {shown}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be so.

    Attributes:
        settings: of the files.
        bridges: of Open vSwitch, the integration bridge first.
        integration_bridge: which of them that is; None of the Linux bridge agent.
        datapath_type: of bridges that are made; an empty text is Open vSwitch's default.
        transport_url: where the agent is to connect to; a secret.
    """

    settings: Sequence[Setting]
    bridges: Sequence[str] = ()
    integration_bridge: str | None = None
    datapath_type: str = ""
    transport_url: str = dataclasses.field(default="", repr=False)


class Files:
    """The files that an agent reads, in its order.

    Args:
        agent: which.
        folder: ``/etc/neutron``.
        instead: what some of them are taken to have.

    Raises:
        ConfigError: one cannot be understood.
        HostError: one cannot be read, or the agent has none.
    """

    def __init__(
        self, agent: Agent, folder: Path, instead: Mapping[Path, bytes] | None = None
    ) -> None:
        self.folder = folder
        self.paths = neutron_agent.files(agent.reads, folder)
        for name in (COMMON_FILE, agent.file):
            if folder / name not in self.paths:
                raise HostError(f"there is no {folder / name}", f"install {agent.title} anew")
        given = instead or {}
        self._files = {
            path: OptionFile(given[path] if path in given else _read(path), path)
            for path in self.paths
        }

    def content(self, name: str) -> OptionFile:
        """Give a file, by its name below ``/etc/neutron``."""
        return self._files[self.folder / name]

    def get(self, section: str, option: str) -> str:
        """Give what the agent finds; an empty text if it isn't set."""
        values = (self._files[path].get(section, option) for path in self.paths)
        return ([""] + [value for value in values if value is not None])[-1].strip()

    def overruled(self, setting: Setting) -> Path | None:
        """Give the file that has the last word on an option and says something else, if any."""
        later = self.paths[self.paths.index(self.folder / setting.file) + 1 :]
        said = [(path, self._files[path].get(setting.section, setting.option)) for path in later]
        last = ([(None, None)] + [(path, value) for path, value in said if value is not None])[-1]
        return last[0] if last[1] != setting.value else None


def decide(wish: Wish, agent: Agent, files: Files, snapshot: Snapshot, switch: Switch) -> Plan:
    """Say what is to be so.

    Args:
        wish: what is wanted.
        agent: of which agent.
        files: what it reads now.
        snapshot: the kernel's devices and addresses.
        switch: Open vSwitch; an empty one where there is none.

    Raises:
        ConfigError: that makes no sense for this agent.
        HostError: the host isn't fit for it.
    """
    _check_agent(wish, agent)
    settings = [_queue(wish.queue)] if wish.queue is not None else []
    transport_url = files.get("DEFAULT", "transport_url")
    if wish.queue is not None:
        transport_url = wish.queue.url
    elif transport_url in ("", "rabbit://"):
        raise ConfigError("no message queue is configured", "give it with --message-queue")
    if wish.tunnel_ip is not None and not any(
        address.ip == wish.tunnel_ip for address in snapshot.addresses
    ):
        raise HostError(
            f"{wish.tunnel_ip} is no address of this host",
            "give --tunnel-ip an address that ip address shows",
        )
    decide_agent = _open_vswitch if agent is OPEN_VSWITCH else _linux_bridge
    plan = decide_agent(wish, agent, files, snapshot, switch)
    plan = dataclasses.replace(
        plan, settings=[*settings, *plan.settings], transport_url=transport_url
    )
    for setting in plan.settings:
        other = files.overruled(setting)
        if other is not None:
            raise HostError(
                f"{other} sets [{setting.section}] {setting.option}, and has the last word on it",
                "remove it there",
            )
    return plan


def would_cut(files: Files) -> str | None:
    """Tell why a restart of the Open vSwitch agent would cut VMs off; None if it wouldn't."""
    if files.get("agent", "drop_flows_on_start").lower() in _YES:
        return "[agent] drop_flows_on_start is true"
    return None


def is_of_ovn(bridge: str, switch: Switch) -> bool:
    """Tell whether a bridge is the integration bridge of OVN on this host."""
    settings = switch.settings
    return "ovn-remote" in settings and settings.get("ovn-bridge", INTEGRATION_BRIDGE) == bridge


def _check_agent(wish: Wish, agent: Agent) -> None:
    if wish.needs not in (None, agent):
        option = "--interface-mapping is"
        if wish.interfaces is None:
            option = "--bridge-mapping, --integration-bridge and --uplink are"
        raise ConfigError(f"{option} not for {agent.title}", "leave it out or name another --agent")
    for kind in wish.tunnel_types or ():
        if kind not in agent.tunnel_types:
            raise ConfigError(
                f"{agent.title} makes no {kind} tunnels",
                f"it can make {', '.join(agent.tunnel_types)}",
            )


class _Wanted:
    """What is said to an agent in its own file, and what it finds of what isn't.

    Attributes:
        settings: what is said.
    """

    def __init__(self, agent: Agent, files: Files) -> None:
        self.settings: list[Setting] = []
        self._agent = agent
        self._files = files

    def __call__(self, section: str, option: str, value: str | None) -> str:
        """Say an option's value, or None to leave it; gives the value that is in force then."""
        if value is None:
            return self._files.get(section, option)
        self.settings.append(Setting(self._agent.file, section, option, value))
        return value


def _queue(queue: MessageQueue) -> Setting:
    return Setting(COMMON_FILE, "DEFAULT", "transport_url", queue.url, f"(to {queue})")


# ---- Open vSwitch ----------------------------------------------------------------------------


def _open_vswitch(
    wish: Wish, agent: Agent, files: Files, snapshot: Snapshot, switch: Switch
) -> Plan:
    want = _Wanted(agent, files)
    integration = want("ovs", "integration_bridge", wish.integration_bridge) or INTEGRATION_BRIDGE
    wanted = None if wish.bridges is None else neutron_mappings.text(wish.bridges)
    mappings = neutron_mappings.pairs(
        [want("ovs", "bridge_mappings", wanted)], "bridge_mappings", "a bridge"
    )
    address = want("ovs", "local_ip", None if wish.tunnel_ip is None else str(wish.tunnel_ip))
    types = None if wish.tunnel_types is None else ",".join(wish.tunnel_types)
    kinds = words(want("agent", "tunnel_types", types))
    _check_tunnels(kinds, address)
    own = files.get("ovs", "tunnel_bridge") or "br-tun"
    for bridge in mappings.values():
        if bridge in (integration, own):
            raise ConfigError(
                f"{bridge} is the agent's own bridge and leads to no physical network",
                "map another bridge",
            )
        _check_bridge(bridge, snapshot, switch)
    _check_bridge(neutron_mappings.device(integration, "the integration bridge"), snapshot, switch)
    if is_of_ovn(integration, switch):
        raise HostError(
            f"{integration} is the integration bridge of OVN on this host",
            "take OVN away from the host with vifctl configure ovn --undo, or give Neutron another "
            "bridge with --integration-bridge",
        )
    ends = {address: tuple(kinds)} if kinds else {}
    foundation = Foundation(snapshot, switch, Underlay(tunnel_ends=ends), integration)
    for bridge, device in wish.uplinks.items():
        if bridge not in mappings.values():
            raise ConfigError(
                f"--uplink: no physical network is mapped to {bridge}",
                "map one with --bridge-mapping",
            )
        _check_uplink(bridge, device, foundation)
    return Plan(
        want.settings,
        (integration, *mappings.values()),
        integration,
        files.get("ovs", "datapath_type"),
    )


def _check_tunnels(kinds: Sequence[str], address: str) -> None:
    if kinds and not address:
        raise ConfigError(
            f"tunnels ({', '.join(kinds)}) need this host's address for them",
            "give it with --tunnel-ip, or have no tunnels with --tunnel-types ''",
        )


def _check_bridge(name: str, snapshot: Snapshot, switch: Switch) -> None:
    if name in switch.by_bridge:
        return
    port = switch.by_name.get(name)
    if port is not None:
        raise HostError(
            f"{name} is a port of the bridge {port.bridge} and no bridge", "map another name"
        )
    device = snapshot.devices.get(name)
    if device is not None:
        kind = f" ({device.kind})" if device.kind else ""
        raise HostError(
            f"{name} is a device of this host{kind} and no bridge of Open vSwitch's",
            "map another name",
        )


def _check_uplink(bridge: str, device: str, foundation: Foundation) -> None:
    snapshot, switch = foundation.snapshot, foundation.switch
    there = switch.by_name.get(device)
    if there is not None and there.bridge == bridge and device != bridge:
        return
    found = snapshot.devices.get(device)
    if found is None:
        raise HostError(f"--uplink: there is no device {device}", "see ip link for those there are")
    why = None
    addresses = [str(one.ip) for one in snapshot.addresses if _is_given(one.ip, one.device, device)]
    if there is not None:
        why = f"is a port of Open vSwitch's bridge {there.bridge}"
    elif found.kind == "bridge":
        why = "is a bridge"
    elif found.master is not None:
        why = f"is a port of {found.master}"
    elif foundation.carried(device):
        why = foundation.describe(device)
    elif addresses:
        why = f"has the address {addresses[0]}, which would no longer be reached"
    if why is not None:
        raise HostError(f"--uplink: {device} {why}", "give a device that nothing else uses")


def _is_given(ip: Ip, device: str, wanted: str) -> bool:
    # A link-local address is there by itself, and nobody's.
    return device == wanted and not ip.is_link_local


# ---- Linux bridge ----------------------------------------------------------------------------


def _linux_bridge(
    wish: Wish, agent: Agent, files: Files, snapshot: Snapshot, switch: Switch
) -> Plan:
    want = _Wanted(agent, files)
    wanted = None if wish.interfaces is None else neutron_mappings.text(wish.interfaces)
    mappings = neutron_mappings.pairs(
        [want("linux_bridge", "physical_interface_mappings", wanted)],
        "physical_interface_mappings",
        "an interface",
    )
    address = want("vxlan", "local_ip", None if wish.tunnel_ip is None else str(wish.tunnel_ip))
    # It makes VXLAN tunnels unless it is told not to, and without an address it ends at once.
    tunnels: str | None = None
    if wish.tunnel_types is not None:
        tunnels = "true" if wish.tunnel_types else "false"
    elif wish.tunnel_ip is not None:
        tunnels = "true"
    elif not address:
        tunnels = "false"
    is_off = neutron_agent.is_false(files.get("vxlan", "enable_vxlan"))
    if tunnels is not None and is_off == (tunnels == "false"):
        tunnels = None  # it is so, in whatever words
    has_tunnels = not neutron_agent.is_false(want("vxlan", "enable_vxlan", tunnels))
    _check_tunnels(["vxlan"] if has_tunnels else [], address)
    ends = {_ip(address)} if has_tunnels else set()
    ends |= {_ip(end) for end in words(switch.settings.get("ovn-encap-ip"))}
    for device in mappings.values():
        _check_interface(device, ends, snapshot, switch)
    return Plan(want.settings)


def _check_interface(device: str, ends: set[Ip | None], snapshot: Snapshot, switch: Switch) -> None:
    found = snapshot.devices.get(device)
    if found is None:
        raise HostError(
            f"--interface-mapping: there is no device {device}", "see ip link for those there are"
        )
    why = None
    tunnels = [one.ip for one in snapshot.addresses if one.device == device and one.ip in ends]
    if found.kind == "bridge":
        why = "is a bridge; the agent makes its own"
    elif device in switch.by_bridge:
        why = "is a bridge of Open vSwitch's"
    elif device in switch.by_name:
        why = f"is a port of Open vSwitch's bridge {switch.by_name[device].bridge}"
    elif found.master is not None and snapshot.kind(found.master) == "bond":
        why = f"is a member of {found.master}"
    elif tunnels:
        why = f"has the address of this host's tunnels ({tunnels[0]}), which the agent would move"
    if why is not None:
        raise HostError(f"--interface-mapping: {device} {why}", "map another device")


def _ip(text: str) -> Ip | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _read(path: Path) -> bytes:
    # A link that leads nowhere ends the agent, too.
    content = content_of(path)
    if content is None:
        raise HostError(f"{path} leads to no file", "remove it")
    return content
