# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's note of what is protected, with a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from vif_driver.agent.keeper import Keeper
from vif_driver.config import Config
from vif_driver.host import Host, neutron_agent, snapshot, vdsm_config
from vif_driver.host.neutron_agent import Underlay
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.protection.guard import Guard
from vif_driver.protection.known import Known, Protected

from .conftest import OvsdbServer
from .underlay import PaperHost

ENCAP = ("set", "Open_vSwitch", ".", "external_ids:ovn-encap-ip=192.0.2.1")
Scenario = Callable[[Ovsdb, Callable[[Callable[[], bool]], Awaitable[None]]], Awaitable[None]]


class Note:
    """Where it is, and the host that it is of."""

    def __init__(self, path: Path, server: OvsdbServer, host: PaperHost) -> None:
        self.path = path
        self.server = server
        self.host = host

    @property
    def devices(self) -> set[str]:
        return set(Known(None, (self.path,)).get().devices)

    def keep(
        self, scenario: Callable[[Ovsdb], Awaitable[None]], config: Config | None = None
    ) -> None:
        """Run a keeper while a scenario takes place."""

        async def main() -> None:
            ovsdb = Ovsdb(self.server.socket)
            ovsdb.replica.open()
            settings, host = config or Config(), Host(ovsdb=ovsdb)
            keeper = Keeper(settings, host, Guard(settings, host, Known(self.path, (self.path,))))
            keeper.start()
            await scenario(ovsdb)
            await keeper.close()
            ovsdb.replica.close()

        asyncio.run(main())

    async def wait(self, devices: set[str]) -> None:
        for _ in range(500):
            if self.devices == devices:
                return
            await asyncio.sleep(0.01)
        assert self.devices == devices


@pytest.fixture
def note(tmp_path: Path, ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> Note:
    """A host whose tunnels begin on eth0."""
    host = PaperHost()
    host.address(host.nic("eth0"), "192.0.2.1/24")
    path = tmp_path / "protected" / "known"
    monkeypatch.setattr(snapshot, "take", lambda: host.foundation().snapshot)
    # What is on paper changes without the kernel's word.
    monkeypatch.setattr(snapshot.Snapshots, "_has_changed", lambda _self: True)
    monkeypatch.setattr(neutron_agent, "files", lambda *_: [])
    monkeypatch.setattr(neutron_agent, "underlay", lambda *_: Underlay())
    defaults: Any = (tmp_path / "netconf",)
    monkeypatch.setattr(vdsm_config.Entries.__init__, "__defaults__", defaults)
    return Note(path, ovsdb_server, host)


def test_what_is_protected_is_noted_when_the_database_answers(note: Note) -> None:
    note.server.vsctl(*ENCAP)

    async def scenario(_ovsdb: Ovsdb) -> None:
        await note.wait({"eth0", "br-int"})

    note.keep(scenario)


def test_and_again_when_it_says_something_else(note: Note) -> None:
    async def scenario(_ovsdb: Ovsdb) -> None:
        await note.wait({"br-int"})
        await asyncio.to_thread(note.server.vsctl, *ENCAP)
        await note.wait({"eth0", "br-int"})

    note.keep(scenario)


def test_what_changed_meanwhile_is_noted_when_the_database_goes(note: Note) -> None:
    note.server.vsctl(*ENCAP)

    async def scenario(_ovsdb: Ovsdb) -> None:
        await note.wait({"eth0", "br-int"})
        note.host.bond("bond0", "eth0")
        note.host.address("bond0", "192.0.2.1/24")
        await asyncio.to_thread(note.server.stop)
        await note.wait({"eth0", "bond0", "br-int"})

    note.keep(scenario)


def test_or_when_the_agent_ends(note: Note) -> None:
    note.server.vsctl(*ENCAP)

    async def scenario(_ovsdb: Ovsdb) -> None:
        await note.wait({"eth0", "br-int"})
        note.host.vlan("eth0", 5)
        note.host.address("eth0.5", "192.0.2.1/24")

    note.keep(scenario)

    assert note.devices == {"eth0", "eth0.5", "br-int"}


def test_while_the_database_has_never_answered_an_older_note_stays(note: Note) -> None:
    Known(note.path).put(Protected({"eth9": "carries tunnels"}))
    note.server.stop()

    async def scenario(_ovsdb: Ovsdb) -> None:
        await asyncio.sleep(0.2)

    note.keep(scenario)

    assert note.devices == {"eth9"}


def test_while_vdsms_notes_cannot_be_read_its_networks_stay_noted(note: Note) -> None:
    note.server.vsctl(*ENCAP)
    known = Protected({"eth0": "carries tunnels"}, {"tun": "eth0"})
    Known(note.path).put(known)
    (note.path.parents[1] / "netconf").write_text("no folder")

    async def scenario(_ovsdb: Ovsdb) -> None:
        await note.wait({"eth0", "br-int"})

    note.keep(scenario)

    assert Known(None, (note.path,)).get().networks == {"tun": "eth0"}


def test_where_protection_is_switched_off_nothing_is_noted(note: Note) -> None:
    async def scenario(ovsdb: Ovsdb) -> None:
        await ovsdb.replica.wait_connected()
        await asyncio.sleep(0.1)

    note.keep(scenario, Config(protects=False))

    assert not note.path.exists()
