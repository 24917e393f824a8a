# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch as plain values, read in both ways from a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from vif_driver.errors import Unavailable
from vif_driver.host import switch
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.host.switch import Switch, SwitchInterface

from .conftest import OvsdbServer

Read = Callable[[OvsdbServer], Switch]


def by_replica(server: OvsdbServer) -> Switch:
    async def main() -> Switch:
        ovsdb = Ovsdb(server.socket)
        ovsdb.replica.open()
        try:
            await ovsdb.replica.wait_connected()
            return ovsdb.switch()
        finally:
            ovsdb.replica.close()

    return asyncio.run(main())


def once(server: OvsdbServer) -> Switch:
    return switch.read_once(5.0, server.socket)


@pytest.fixture(params=[by_replica, once])
def read(request: pytest.FixtureRequest) -> Read:
    """Each of the ways to read it."""
    way: Read = request.param
    return way


def test_settings_and_interfaces_are_read(ovsdb_server: OvsdbServer, read: Read) -> None:
    ovsdb_server.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-encap-ip=192.0.2.1")
    ovsdb_server.vsctl("add-br", "br-ex", "--", "add-port", "br-ex", "eth0", "tag=7")
    ovsdb_server.vsctl("add-bond", "br-ex", "bond0", "eth1", "eth2")

    found = read(ovsdb_server)

    assert found.settings["ovn-encap-ip"] == "192.0.2.1"
    assert set(found.by_name) == {"br-int", "br-ex", "eth0", "eth1", "eth2"}
    assert found.by_name["eth0"] == SwitchInterface("eth0", "", "eth0", "br-ex", 7, {}, None)
    assert found.by_name["br-ex"].type == "internal"
    assert {member.name for member in found.bonds["bond0"]} == {"eth1", "eth2"}


def test_options_and_vnics_are_read(ovsdb_server: OvsdbServer, read: Read) -> None:
    ovsdb_server.vsctl(
        *("add-port", "br-int", "vx0", "--", "set", "Interface", "vx0", "type=vxlan"),
        *("options:local_ip=192.0.2.1", "options:remote_ip=192.0.2.2"),
        *("--", "add-port", "br-int", "tap0"),
        *("--", "set", "Interface", "tap0", "external_ids:iface-id=abc"),
    )

    found = read(ovsdb_server)

    assert found.by_name["vx0"].options == {"local_ip": "192.0.2.1", "remote_ip": "192.0.2.2"}
    assert (found.by_name["vx0"].is_of_system, found.by_name["tap0"].is_of_system) == (False, False)
    assert found.by_name["tap0"].vnic_id == "abc"


def test_a_database_that_is_empty_has_nothing(ovsdb_server: OvsdbServer, read: Read) -> None:
    ovsdb_server.vsctl("del-br", "br-int")

    assert read(ovsdb_server) == Switch()


def test_a_change_is_seen_at_the_next_look(ovsdb_server: OvsdbServer) -> None:
    async def main() -> list[set[str]]:
        ovsdb = Ovsdb(ovsdb_server.socket)
        ovsdb.replica.open()
        await ovsdb.replica.wait_connected()
        seen = [set(ovsdb.switch().by_bridge)]
        await asyncio.to_thread(ovsdb_server.vsctl, "add-br", "br-ex")
        await ovsdb.replica.wait(lambda: ovsdb.has_bridge("br-ex"), 5.0)
        seen.append(set(ovsdb.switch().by_bridge))
        ovsdb.replica.close()
        return seen

    assert asyncio.run(main()) == [{"br-int"}, {"br-int", "br-ex"}]


def test_a_replica_whose_server_is_gone_tells_what_it_had(ovsdb_server: OvsdbServer) -> None:
    async def main() -> set[str]:
        ovsdb = Ovsdb(ovsdb_server.socket)
        ovsdb.replica.open()
        await ovsdb.replica.wait_connected()
        await asyncio.to_thread(ovsdb_server.stop)
        await ovsdb.replica.wait(lambda: not ovsdb.replica.connected, 5.0)
        with pytest.raises(Unavailable):
            ovsdb.switch()
        bridges = set(ovsdb.last_switch().by_bridge)
        ovsdb.replica.close()
        return bridges

    assert asyncio.run(main()) == {"br-int"}


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        switch.read_once(1.0, tmp_path / "db.sock")
