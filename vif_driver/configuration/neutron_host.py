# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes this host one of Neutron's, and undoes it: ``vifctl configure neutron``."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vif_driver import config
from vif_driver.configuration import (
    bridges,
    message_queue,
    neutron,
    neutron_connected,
    neutron_past,
    neutron_vms,
    record,
    services,
)
from vif_driver.configuration.bridges import BridgeThere, UplinkThere
from vif_driver.configuration.change import Fact
from vif_driver.configuration.files import FileContent, content_of
from vif_driver.configuration.neutron import AGENTS, OPEN_VSWITCH, Agent, Files, Plan, Wish
from vif_driver.configuration.neutron_past import Past, PastOption, PastService
from vif_driver.configuration.option_file import OptionFile
from vif_driver.configuration.services import Restart, ServiceState
from vif_driver.configuration.transaction import Transaction
from vif_driver.errors import ConfigError, HostError, Unavailable
from vif_driver.host import (
    kernel,
    neutron_agent,
    ovs_bridges,
    processes,
    snapshot,
    switch,
    units,
    whole_files,
)
from vif_driver.host.switch import Switch
from vif_driver.host.units import Unit

# Seconds for Open vSwitch's database.
_TIMEOUT = 10.0

_NOTED = "what the host was before is noted"


class OptionsSet(FileContent):
    """A file of Neutron's has certain options.

    Args:
        path: which.
        content: what it is to have.
        facts: its options, one by one.
    """

    def __init__(self, path: Path, content: bytes, facts: Sequence[Fact]) -> None:
        super().__init__(path, content, str(path))
        self.path, self.content = path, content
        self._facts = facts

    def facts(self) -> Sequence[Fact]:
        """See :class:`Change`."""
        return self._facts


def configure(
    changes: Transaction,
    wish: Wish,
    agent_name: str | None,
    wait: float | None,
    folder: Path | None = None,
    *,
    force: bool,
) -> list[str]:
    """Have an agent of Neutron's serve this host.

    Args:
        changes: what makes the changes.
        wish: what is wanted.
        agent_name: which agent; None for the one that is installed.
        wait: seconds that an agent that is started has to connect to the message queue; None if
            nobody waits for it, which in a rehearsal nobody may.
        folder: where it is noted what was before; that of the host if not given.
        force: whichever VMs lose their networks by it.

    Returns:
        What else is to be said.

    Raises:
        ConfigError: what is wanted makes no sense.
        HostError: the host isn't fit for it, or a change failed.
    """
    folder = record.FOLDER if folder is None else folder
    agent, unit = _find_agent(wish, agent_name)
    files = Files(agent, neutron_agent.FOLDER)
    there = _switch(agent)
    before = neutron_vms.ways_out(agent, files)
    plan = neutron.decide(wish, agent, files, snapshot.take(), there)
    edits, options = _edit(plan, files)
    restart = Restart(agent.unit) if options and unit.is_active else None
    if not force:
        neutron_vms.refuse_loss(before, neutron_vms.ways_out(agent, files))
        if restart is not None:
            neutron_vms.refuse_restart(agent, files)
    if restart is not None:
        changes.note(restart)
    made = [name for name in dict.fromkeys(plan.bridges) if name not in there.by_bridge]
    uplinks = [(bridge, device) for bridge, device in wish.uplinks.items()]
    added = [pair for pair in uplinks if not _is_port(there, *pair)]
    past = (neutron_past.load(folder) or Past()).followed_by(
        options, [PastService(unit.name, unit.is_active, unit.is_enabled)], made, added
    )
    changes.make(FileContent(folder / neutron_past.NAME, past.content(), _NOTED, mode=0o600))
    for name in dict.fromkeys(plan.bridges):
        changes.make(BridgeThere(name, _bridge(name, plan)))
    for bridge, device in uplinks:
        changes.make(UplinkThere(bridge, device))
    for edit in edits:
        changes.make(edit)
    switch_unit = units.first(*services.OPEN_VSWITCH) if agent is OPEN_VSWITCH else None
    if switch_unit is not None:
        changes.make(ServiceState(switch_unit.name, enabled=True))
    started = changes.make(ServiceState(agent.unit, active=True, enabled=True))
    if restart is not None:
        changes.make(restart)
        started = True
    ports = message_queue.ports(plan.transport_url)
    if started and wait is not None and ports:
        neutron_connected.wait(agent, ports, wait)
    dead_ends = [*_dead_ends(plan, there, wish), *_down(wish)]
    return [*dead_ends, *_other_bridge(plan), *_readable(wish)]


def undo(changes: Transaction, folder: Path | None = None, *, force: bool) -> list[str]:
    """Make the host what it was before it became one of Neutron's.

    What somebody else has changed since stays.

    Args:
        changes: as for :func:`configure`.
        folder: as there.
        force: as there.

    Returns:
        What stays, and why.

    Raises:
        HostError: VMs use it, or it cannot be undone.
    """
    folder = record.FOLDER if folder is None else folder
    past = neutron_past.load(folder)
    if past is None:
        return ["nothing here was configured by vifctl configure neutron"]
    if not force:
        neutron_vms.refuse_end(past)
    notes: list[str] = []
    edits = list(_revert(past.options, notes))
    restarts = [Restart(service.unit) for service in past.services if service.active and edits]
    if not force:
        _refuse_for_vms(past, edits)
    for restart in restarts:
        changes.note(restart)
    for service in past.services:
        if units.look(service.unit).is_there:
            changes.make(
                ServiceState(
                    service.unit,
                    active=None if service.active else False,
                    enabled=service.enabled,
                )
            )
    for edit in edits:
        changes.make(edit)
    there = ovs_bridges.look() if past.bridges or past.uplinks else {}
    kept = _kept(past, there)
    notes += [f"bridge {name} stays with its ports: {why}" for name, why in kept.items()]
    for bridge, device in past.uplinks:
        if bridge in there and bridge not in kept:
            changes.make(UplinkThere(bridge, device, is_wanted=False))
    for name in past.bridges:
        if name in there and name not in kept and bridges.MADE_FOR in there[name].external_ids:
            changes.make(BridgeThere(name, None))
    changes.make(
        FileContent(folder / neutron_past.NAME, None, "what the host was before is forgotten")
    )
    for restart in restarts:
        changes.make(restart)
    return notes


def _find_agent(wish: Wish, name: str | None) -> tuple[Agent, Unit]:
    wanted = AGENTS[name] if name is not None else wish.needs
    if wanted is not None:
        unit = units.look(wanted.unit)
        if not unit.is_there:
            raise HostError(f"{wanted.title} is not installed ({wanted.unit})", "install it")
        return wanted, unit
    found = [(agent, units.look(agent.unit)) for agent in AGENTS.values()]
    there = [(agent, unit) for agent, unit in found if unit.is_there]
    if not there:
        raise HostError(
            "this host has no agent of Neutron's",
            "install openstack-neutron-openvswitch or openstack-neutron-linuxbridge",
        )
    if len(there) > 1:
        names = " and ".join(agent.name for agent, _ in there)
        raise ConfigError(f"this host has two agents, {names}", "name one with --agent")
    return there[0]


def _switch(agent: Agent) -> Switch:
    try:
        there = switch.read_once(_TIMEOUT)
    except Unavailable:
        if agent is OPEN_VSWITCH:
            raise
        return Switch()
    if agent is OPEN_VSWITCH and processes.find("ovs-vswitchd") is None:
        raise HostError("ovs-vswitchd does not run", "start it: systemctl start openvswitch")
    return there


def _edit(plan: Plan, files: Files) -> tuple[list[OptionsSet], list[PastOption]]:
    """Say what the files are to have, and which options of theirs that changes."""
    edits, changed = [], []
    for name in dict.fromkeys(setting.file for setting in plan.settings):
        content, facts = files.content(name), []
        for setting in plan.settings:
            if setting.file != name:
                continue
            was = content.get(setting.section, setting.option)
            is_so = not content.set(setting.section, setting.option, setting.value)
            facts.append(Fact(str(setting), is_so))
            if not is_so:
                changed.append(
                    PastOption(name, setting.section, setting.option, was, setting.value)
                )
        edits.append(OptionsSet(content.path, content.raw, facts))
    return edits, changed


def _bridge(name: str, plan: Plan) -> ovs_bridges.Bridge:
    return ovs_bridges.Bridge(
        # As the agent sets it: nothing passes before it has said what is to pass.
        fail_mode="secure" if name == plan.integration_bridge else None,
        datapath_type=plan.datapath_type,
        external_ids={bridges.MADE_FOR: "neutron"},
    )


def _is_port(there: Switch, bridge: str, device: str) -> bool:
    interface = there.by_name.get(device)
    return interface is not None and interface.bridge == bridge


def _dead_ends(plan: Plan, there: Switch, wish: Wish) -> Iterable[str]:
    for name in dict.fromkeys(plan.bridges):
        ports = there.by_bridge.get(name, ())
        leads_out = any(port.is_of_system for port in ports) or name in wish.uplinks
        if name != plan.integration_bridge and not leads_out:
            yield f"{name} leads nowhere: give it a network card with --uplink {name}:DEVICE"


def _down(wish: Wish) -> Iterable[str]:
    for device in wish.uplinks.values():
        # Whoever manages it, such as NetworkManager, has it up or not; this would not last.
        if kernel.is_down(device):
            yield (
                f"{device} is down, so nothing passes: ip link set {device} up, and see that it is "
                "at boot, too"
            )


def _other_bridge(plan: Plan) -> Iterable[str]:
    ours = config.load().integration_bridge
    if plan.integration_bridge is not None and plan.integration_bridge != ours:
        yield (
            f"{config.PATH} has [host] integration_bridge = {ours}: vNICs are plugged into that "
            f"one; set it to {plan.integration_bridge}"
        )


def _refuse_for_vms(past: Past, edits: Sequence[OptionsSet]) -> None:
    """See that no VM needs what the agents that go on would no longer be told."""
    instead = {edit.path: edit.content for edit in edits}
    going_on = {service.unit for service in past.services if service.active}
    for agent in AGENTS.values():
        if instead and agent.unit in going_on:
            now = Files(agent, neutron_agent.FOLDER)
            then = Files(agent, neutron_agent.FOLDER, instead)
            neutron_vms.refuse_loss(
                neutron_vms.ways_out(agent, now), neutron_vms.ways_out(agent, then)
            )
            neutron_vms.refuse_restart(agent, then)


def _kept(past: Past, there: Mapping[str, ovs_bridges.Bridge]) -> dict[str, str]:
    """Give the bridges that somebody else has put to use since, and how."""
    names = [name for name in dict.fromkeys([*past.bridges, *dict(past.uplinks)]) if name in there]
    kept = {}
    for name in names:
        address = bridges.address(name)
        other = bridges.foreign_port(name, past.uplinks) if name in past.bridges else None
        if address is not None:
            kept[name] = f"it has the address {address} of this host"
        elif other is not None:
            kept[name] = f"somebody else has added {other}"
    return kept


def _readable(wish: Wish) -> Iterable[str]:
    path = neutron_agent.FOLDER / neutron.COMMON_FILE
    has_secret = wish.queue is not None and wish.queue.password is not None
    if has_secret and whole_files.look(path).st_mode & stat.S_IROTH:
        yield f"everybody on this host can read {path}, which has a password: chmod o= {path}"


def _revert(options: Iterable[PastOption], notes: list[str]) -> Iterable[OptionsSet]:
    """Give the files as they are without what was set, and say what stays."""
    contents: dict[Path, tuple[OptionFile, list[Fact]]] = {}
    for one in options:
        path = neutron_agent.FOLDER / one.file
        raw = content_of(path)
        if raw is None:
            continue
        content, facts = contents.setdefault(path, (OptionFile(raw, path), []))
        now = content.get(one.section, one.option)
        what = f"{one.file}: [{one.section}] {one.option}"
        if now == one.was:
            continue
        if now != one.becomes:
            notes.append(f"{what} stays as it is: it was changed since")
        elif one.was is None:
            content.remove(one.section, one.option)
            facts.append(Fact(f"{what} is not set", False))
        else:
            content.set(one.section, one.option, one.was)
            facts.append(Fact(f"{what} is what it was", False))
    for path, (content, facts) in contents.items():
        if facts:
            yield OptionsSet(path, content.raw, facts)
