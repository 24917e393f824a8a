# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that moves, and the agent's part in it.

OVN's databases are real; libvirt, Open vSwitch and the ways in which vNICs are connected are
stand-ins that do what a test says.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from vif_driver.agent import abandoned, departures, ovn, switchover
from vif_driver.agent.switchover import Switchover
from vif_driver.attachments.base import Attachment, Undo
from vif_driver.config import Config
from vif_driver.errors import HostError, Unavailable
from vif_driver.host import Host, link_events, ovn_controller, southbound
from vif_driver.host.northbound import Northbound
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.host.southbound import Standing
from vif_driver.host.starts import Start, Starts
from vif_driver.interface_xml import Connection
from vif_driver.switchover import NOTE
from vif_driver.vnic import Plugin, Vnic, VnicIdentity

from .conftest import MAC, VM_ID, VNIC_ID
from .database_server import free_port
from .northbound_server import NorthboundServer
from .southbound_server import SouthboundServer
from .vms import Vms

#: Names of hosts at OVN.
SOURCE, HERE, ELSEWHERE = "hv1", "hv2", "hv3"

FIRST = Vnic(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, VM_ID, MAC)
SECOND = dataclasses.replace(FIRST, id="4d2be2fa" + VNIC_ID[8:])
#: Of which OVN's databases know nothing, and one of them.
STRANGER = dataclasses.replace(FIRST, id="5e3cf30b" + VNIC_ID[8:])
UNBOUND = dataclasses.replace(FIRST, id="6f4d041c" + VNIC_ID[8:])
#: Of which VDSM's hook has said no address.
NEUTRONS = VnicIdentity(VNIC_ID, Plugin.OPEN_VSWITCH, VM_ID)

XML = f'<interface type="bridge"><mac address="{MAC}"/><mtu size="1442"/></interface>'.encode()

#: What the provider wrote.
BEFORE = {"mcast_flood": "true"}

AWAY = Unavailable("libvirt does not answer", "start libvirtd")

Row = tuple[dict[str, str], bool]


class Provider:
    """OVN's databases: the ports are bound to the source."""

    def __init__(self, folder: Path) -> None:
        self.southbound = SouthboundServer(folder)
        self.northbound = NorthboundServer(folder)
        for number, chassis in enumerate((SOURCE, HERE, ELSEWHERE)):
            self.southbound.add_chassis(chassis, f"192.0.2.{number + 1}")
        for vnic in (FIRST, SECOND):
            self.southbound.add_port(vnic.id, chassis=SOURCE)
        self.southbound.add_port(UNBOUND.id)
        self.northbound.add_ports([FIRST.id, SECOND.id, UNBOUND.id], BEFORE)

    def reset(self, options: dict[str, str] | None = None) -> None:
        """Have the ports be as the provider made them."""
        for vnic in (FIRST, SECOND, UNBOUND):
            self.northbound.write(vnic.id, options=options or BEFORE, external_ids={})

    def stop(self) -> None:
        self.southbound.stop()
        self.northbound.stop()

    def options(self, vnic: VnicIdentity = FIRST) -> dict[str, str]:
        return self.northbound.read(vnic.id, "options")

    def row(self, vnic: VnicIdentity = FIRST) -> Row:
        """Give the options of a port, and whether there is a note of ours."""
        return self.options(vnic), NOTE in self.northbound.read(vnic.id, "external_ids")


ANNOUNCED: Row = (
    {**BEFORE, "requested-chassis": f"{SOURCE},{HERE}", "activation-strategy": "rarp"},
    True,
)
SWITCHED: Row = {**BEFORE, "requested-chassis": HERE}, True
UNTOUCHED: Row = BEFORE, False


class Switch:
    """Stands in for host.ovsdb.Ovsdb.

    Attributes:
        external_ids: of the host.
        ports: the taps that are ports.
        hidden: those of them that OVN is not to have.
        refusals: what it says to the next requests.
        away: it does not answer.
    """

    def __init__(self, remote: str) -> None:
        self.external_ids = {"ovn-remote": remote, "system-id": HERE}
        self.ports: set[str] = set()
        self.hidden: set[str] = set()
        self.refusals: list[HostError] = []
        self.away = False

    async def wait_connected(self) -> None:
        if self.away:
            raise Unavailable("Open vSwitch's database does not answer", "start it")

    def settings(self) -> dict[str, str]:
        return self.external_ids

    async def hold(self, name: str, _iface_id: str, _timeout: float) -> None:
        await self._answer()
        while name not in self.ports:
            await asyncio.sleep(0.002)
        self.hidden.add(name)

    async def release(self, name: str, _iface_id: str) -> None:
        await self._answer()
        self.hidden.discard(name)

    async def _answer(self) -> None:
        await self.wait_connected()
        if self.refusals:
            raise self.refusals.pop(0)


class Way:
    """Stands in for the attachment of a vNIC.

    Attributes:
        done: what was done with whole vNICs.
        refusals: what the next attempts to connect one fail with.
        finished: the vNICs whose tap was looked at early.
    """

    name = "a way"

    def __init__(self, *, finishes_early: bool = False) -> None:
        self.finishes_early = finishes_early
        self.done: list[tuple[str, Vnic]] = []
        self.refusals: list[HostError] = []
        self.finished: list[VnicIdentity] = []

    @property
    def attachment(self) -> Attachment:
        return cast(Attachment, self)

    def connection(self, vnic: VnicIdentity) -> Connection:
        return Connection("br-int", vnic.tap)

    async def adapt(self, vnic: Vnic) -> None:
        self.done.append(("adapt", vnic))

    async def connect(self, vnic: Vnic, _undo: Undo) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.done.append(("connect", vnic))

    async def finish(self, vnic: VnicIdentity) -> None:
        self.finished.append(vnic)


class Moving:
    """Everything that the agent has to do with when a VM moves."""

    def __init__(self, provider: Provider, config: Config, starts: Starts) -> None:
        self.provider = provider
        self.config = config
        self.starts = starts
        self.vms = Vms()
        self.switch = Switch(provider.southbound.remote)
        self.way = Way()
        self.opened: list[Any] = []
        self.agent = self.another_agent()

    def another_agent(self) -> Switchover:
        """Give the agent that comes after one that is no more."""
        host = Host(ovsdb=cast(Ovsdb, self.switch), domains=self.vms.domains)
        self.agent = Switchover(self.config, host, self.vms.domains, self.starts)
        return self.agent

    def configure(self, config: Config) -> None:
        """Have the agent that runs go by other settings."""
        self.agent._config = self.agent._ovn._config = config

    def expect(self, *vnics: VnicIdentity, **more: Any) -> Start:
        """Have VDSM ask about an arrival, as is noted below /run."""
        start = Start(VM_ID, vnics, resume=False, arrives=True, **more)
        self.starts.put(start)
        return start

    async def announces(self, *vnics: VnicIdentity, way: Way | None = None) -> list[str]:
        """Have VDSM ask about the vNICs of a VM that arrives; give what its log is to say."""
        vnics = vnics or (FIRST,)
        self.expect(*vnics)
        attachment = (way or self.way).attachment
        return [await self.agent.arriving(vnic, attachment) for vnic in vnics]

    def libvirt(self, state: Any) -> None:
        """Have libvirt tell that the VM does something else."""
        self.vms.change(VM_ID, state)

    def row(self, vnic: VnicIdentity = FIRST) -> Row:
        return self.provider.row(vnic)

    async def becomes(self, row: Row, vnic: VnicIdentity = FIRST) -> None:
        """Wait until a port's row is as said."""
        await until(lambda: self.row(vnic) == row)

    async def ends(self) -> None:
        """Wait until the agent has nothing to do any more."""
        await until(lambda: not self.tasks)

    @property
    def departures(self) -> Mapping[str, Any]:
        """The VMs that are watched because they are to leave."""
        return self.agent._departures._departures

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What the agent does."""
        departures = self.agent._departures
        return self.agent._tasks | departures._tasks | departures._standstill._telling

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is left in the agent, and no connection is open."""
        nothing = not self.agent._arrivals and not self.departures and not self.tasks
        return nothing and self.no_connection_is_open

    @property
    def no_connection_is_open(self) -> bool:
        """Whether all connections to the northbound database are dropped."""
        return all(one._replica is None or one._replica._closed for one in self.opened)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not condition():
        await asyncio.sleep(0.002)


async def a_moment() -> None:
    """Let everything happen that is to happen without anything else."""
    await asyncio.sleep(0.05)


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Have nothing take long."""

    async def version() -> tuple[int, ...]:
        return (23, 3)

    patch.setattr(ovn_controller, "installed_version", version)
    patch.setattr(switchover, "SETTLE", 0.03)
    patch.setattr(departures, "LEAVING_LOOK", 0.005)
    patch.setattr(abandoned, "DELAY", 0.005)
    patch.setattr(abandoned, "PAUSE", 0.005)
    patch.setattr(switchover, "_RETRY", (0.005, 0.01))


def play(
    scenario: Callable[[Moving], Awaitable[Any]],
    folder: Path,
    patch: pytest.MonkeyPatch,
    provider: Provider,
    config: Config | None = None,
) -> Any:
    """Run a scenario.

    Args:
        scenario: what happens.
        folder: for the files of the starts.
        patch: puts the stand-ins in place.
        provider: OVN's databases.
        config: the configuration; by default the northbound database is used.
    """

    async def main() -> Any:
        settings = config or Config(northbound=(provider.northbound.inet,))
        starts = Starts(folder / "starting", folder / "released")
        moving = Moving(provider, settings, starts)

        def counted(*arguments: Any) -> Any:
            moving.opened.append(Northbound(*arguments))
            return moving.opened[-1]

        patch.setattr(ovn, "Northbound", counted)
        try:
            # Below the pauses after which the agent looks once more by itself.
            return await asyncio.wait_for(scenario(moving), 12)
        finally:
            await moving.agent.close()

    try:
        return asyncio.run(main())
    finally:
        provider.reset()


def unreachable() -> Config:
    """Nobody listens where the northbound database should be."""
    return Config(northbound=(f"tcp:127.0.0.1:{free_port()}",))


def stands(patch: pytest.MonkeyPatch, standing: Standing | HostError) -> None:
    """Have the southbound database say something else."""

    async def says(*_: Any) -> Standing:
        if isinstance(standing, HostError):
            raise standing
        return standing

    patch.setattr(southbound.Southbound, "standing", says)


def has_tap(patch: pytest.MonkeyPatch) -> list[str]:
    """Give what makes the taps of all vNICs appear, once there is something in it."""
    there: list[str] = []

    async def wait(_condition: Callable[[], bool], _timeout: float) -> bool:
        await until(lambda: bool(there))
        return True

    patch.setattr(link_events, "wait", wait)
    return there


Play = Callable[..., Any]
