# SPDX-License-Identifier: GPL-2.0-or-later
"""The replica and the transactions, on a real ovsdb-server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from vif_driver.errors import HostError, NameTaken, Unavailable
from vif_driver.host import ovsdb_socket
from vif_driver.host.ovsdb import Ovsdb, Port

from .conftest import OvsdbServer

MARK = {"owner": "test"}


def connected(server: OvsdbServer, scenario: Callable[[Ovsdb], Awaitable[Any]]) -> Any:
    """Run a scenario on a connection to the server."""

    async def main() -> Any:
        database = Ovsdb(server.socket)
        database.replica.open()
        try:
            await database.replica.wait_connected()
            return await scenario(database)
        finally:
            database.replica.close()

    return asyncio.run(main())


async def add_port(database: Ovsdb, name: str = "qvo1") -> None:
    await database.add_port(
        "br-int",
        name,
        port={"trunks": [4095], "external_ids": MARK},
        interface={"external_ids": {**MARK, "iface-id": "x"}},
    )


def test_a_bridge_is_seen(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> tuple[bool, bool]:
        return database.has_bridge("br-int"), database.has_bridge("br-ex")

    assert connected(ovsdb_server, scenario) == (True, False)


def test_a_port_is_added_whole_in_one_transaction(ovsdb_server: OvsdbServer) -> None:
    connected(ovsdb_server, add_port)

    log = (ovsdb_server.socket.parent / "conf.db").read_text(errors="replace").splitlines()
    last = json.loads(log[-1])
    interface = next(iter(last["Interface"].values()))
    port = next(row for row in last["Port"].values() if row.get("name") == "qvo1")
    assert interface["external_ids"] == ["map", [["iface-id", "x"], ["owner", "test"]]]
    assert port["trunks"] == 4095
    assert "Bridge" in last


def test_a_port_that_was_added_is_read_back(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> Any:
        await add_port(database)
        return database.port("qvo1")

    port = connected(ovsdb_server, scenario)

    assert (port.bridge, port.tag, port.external_ids) == ("br-int", None, {**MARK, "iface-id": "x"})


def test_a_name_in_use_is_refused(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-port", "br-int", "qvo1")

    with pytest.raises(NameTaken, match="qvo1"):
        connected(ovsdb_server, add_port)


def test_a_bridge_that_is_not_there_is_refused(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("del-br", "br-int")

    with pytest.raises(HostError, match="no Open vSwitch bridge br-int"):
        connected(ovsdb_server, add_port)


def test_a_port_with_our_mark_is_deleted(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> Any:
        await add_port(database)
        return await database.delete_port("qvo1", MARK)

    assert connected(ovsdb_server, scenario) is True
    assert ovsdb_server.vsctl("list-ports", "br-int") == ""


def test_a_port_without_our_mark_is_never_deleted(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-port", "br-int", "qvo1")

    async def scenario(database: Ovsdb) -> Any:
        return await database.delete_port("qvo1", MARK)

    assert connected(ovsdb_server, scenario) is False
    assert ovsdb_server.vsctl("list-ports", "br-int") == "qvo1"


def test_a_port_that_is_gone_is_no_error(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> Any:
        return await database.delete_port("qvo1", MARK)

    assert connected(ovsdb_server, scenario) is False


def test_fifty_ports_are_added_at_once(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> None:
        await asyncio.gather(*(add_port(database, f"qvo{number}") for number in range(50)))

    connected(ovsdb_server, scenario)

    assert len(ovsdb_server.vsctl("list-ports", "br-int").split()) == 50


def test_a_restart_of_the_server_is_survived(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> Any:
        await add_port(database)
        ovsdb_server.stop()
        await asyncio.sleep(0.05)
        gone = database.replica.connected
        ovsdb_server.start()
        await database.replica.wait_connected(10)
        await add_port(database, "qvo2")
        return gone, database.port("qvo1") is not None

    assert connected(ovsdb_server, scenario) == (False, True)
    assert ovsdb_server.vsctl("list-ports", "br-int").split() == ["qvo1", "qvo2"]


def test_what_changed_while_the_server_was_away_is_known_before_anything_is_answered(
    ovsdb_server: OvsdbServer,
) -> None:
    async def scenario(database: Ovsdb) -> Any:
        await add_port(database)
        ovsdb_server.stop()
        await asyncio.sleep(0.05)
        ovsdb_server.start()
        ovsdb_server.vsctl("del-port", "qvo1", "--", "add-port", "br-int", "qvo2")
        await database.replica.wait_connected(10)
        return database.port("qvo1"), database.port("qvo2") is not None

    assert connected(ovsdb_server, scenario) == (None, True)


def test_a_server_that_is_away_is_told_with_what_to_do(tmp_path: Path) -> None:
    async def main() -> None:
        database = Ovsdb(tmp_path / "db.sock")
        database.replica.open()
        try:
            await database.replica.wait_connected(0.2)
        finally:
            database.replica.close()

    with pytest.raises(Unavailable, match="systemctl start openvswitch"):
        asyncio.run(main())


def test_a_host_without_open_vswitch_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not installed"):
        Ovsdb(tmp_path / "db.sock", schema=tmp_path / "none")


def test_a_port_that_open_vswitch_does_not_take_up_is_told(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> None:
        await add_port(database)
        await database.wait_ofport("qvo1", 0.1)

    with pytest.raises(HostError, match="ovs-vswitchd did not take port qvo1 up"):
        connected(ovsdb_server, scenario)


def test_a_port_that_open_vswitch_cannot_open_is_told(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> None:
        await add_port(database)
        waiting = asyncio.ensure_future(database.wait_ofport("qvo1", 5))
        ovsdb_server.vsctl("set", "Interface", "qvo1", "ofport=-1", 'error="No such device"')
        await waiting

    with pytest.raises(HostError, match="No such device"):
        connected(ovsdb_server, scenario)


def test_a_port_that_open_vswitch_opened_is_ready(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> None:
        await add_port(database)
        waiting = asyncio.ensure_future(database.wait_ofport("qvo1", 5))
        ovsdb_server.vsctl("set", "Interface", "qvo1", "ofport=7")
        await waiting

    connected(ovsdb_server, scenario)


def test_a_quiet_database_wakes_nobody(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> int:
        turns = 0
        run = database.replica._idl.run

        def counted() -> None:
            nonlocal turns
            turns += 1
            run()

        database.replica._idl.run = counted
        await asyncio.sleep(0.5)
        return turns

    assert connected(ovsdb_server, scenario) <= 1


def test_what_a_port_shows_of_its_rows_is_read(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-port", "br-int", "tun0", "trunks=5,6", "other_config:transient=true")
    ovsdb_server.vsctl(
        "set", "Interface", "tun0", "type=geneve", "options:remote_ip=192.0.2.1", "ifindex=7"
    )
    ovsdb_server.vsctl("set", "Interface", "tun0", "ofport=3", "error=none", "external_ids:a=b")

    async def scenario(database: Ovsdb) -> Any:
        return database.port("tun0")

    assert connected(ovsdb_server, scenario) == Port(
        name="tun0",
        bridge="br-int",
        tag=None,
        external_ids={"a": "b"},
        ofport=3,
        error="none",
        ifindex=7,
        trunks=(5, 6),
        type="geneve",
        options={"remote_ip": "192.0.2.1"},
        other_config={"transient": "true"},
    )


def test_what_a_port_does_not_say_is_absent(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-port", "br-int", "tap1")

    async def scenario(database: Ovsdb) -> Any:
        return database.port("tap1")

    assert connected(ovsdb_server, scenario) == Port("tap1", "br-int", None, {}, None, None)


def test_an_interface_of_a_bond_is_found_by_its_own_name(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-bond", "br-int", "bond0", "eth1", "eth2")

    async def scenario(database: Ovsdb) -> Any:
        return [database.port(name) for name in ("eth1", "eth2", "bond0")]

    first, second, bond = connected(ovsdb_server, scenario)

    assert (first.name, second.name, bond) == ("eth1", "eth2", None)


def test_ports_are_told_by_bridge(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-br", "br-ex", "--", "add-port", "br-ex", "eth1")

    async def scenario(database: Ovsdb) -> Any:
        return [{port.name for port in database.ports(name)} for name in ("br-int", "br-ex", None)]

    inside, outside, everywhere = connected(ovsdb_server, scenario)

    assert (inside, outside) == ({"br-int"}, {"br-ex", "eth1"})
    assert everywhere == inside | outside


def test_every_change_of_a_port_is_seen_at_once(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> list[bool]:
        async def seen(shown: Callable[[], bool], *command: str) -> bool:
            before = shown()
            ovsdb_server.vsctl(*command)
            return await asyncio.wait_for(database.replica.wait(shown, 60), 5) and not before

        def port() -> Port:
            return database.port("tap1") or Port("none", "", None, {}, None, None)

        return [
            await seen(lambda: port().bridge == "br-int", "add-port", "br-int", "tap1"),
            await seen(lambda: port().tag == 5, "set", "Port", "tap1", "tag=5"),
            await seen(lambda: port().ofport == 9, "set", "Interface", "tap1", "ofport=9"),
            await seen(lambda: port().tag is None, "clear", "Port", "tap1", "tag"),
            await seen(lambda: port().name == "none", "del-port", "tap1"),
        ]

    assert connected(ovsdb_server, scenario) == [True] * 5


def test_fifty_questions_about_one_state_read_its_rows_once(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    async def scenario(database: Ovsdb) -> None:
        rows = database.replica.rows

        def counted(table: str) -> Any:
            read.append(table)
            return rows(table)

        monkeypatch.setattr(database.replica, "rows", counted)
        for number in range(50):
            database.port(f"tap{number}")

    connected(ovsdb_server, scenario)

    assert read == ["Bridge"]


def test_what_was_known_of_a_port_is_not_told_once_the_server_is_away(
    ovsdb_server: OvsdbServer,
) -> None:
    async def scenario(database: Ovsdb) -> None:
        await add_port(database)
        assert database.port("qvo1") is not None
        ovsdb_server.stop()
        await database.replica.wait(lambda: not database.replica.connected, 5)
        database.port("qvo1")

    with pytest.raises(Unavailable, match="does not answer"):
        connected(ovsdb_server, scenario)


def test_a_socket_that_nobody_listens_on_is_down(tmp_path: Path, ovsdb_server: OvsdbServer) -> None:
    assert ovsdb_socket.is_down(tmp_path / "nothing")
    assert not ovsdb_socket.is_down(ovsdb_server.socket)
    ovsdb_server.stop()
    assert ovsdb_socket.is_down(ovsdb_server.socket)


# ---- a port that is kept from OVN ----------------------------------------------------------------


def ids(server: OvsdbServer, name: str = "tap1") -> str:
    return server.vsctl("get", "Interface", name, "external_ids")


def add_tap(server: OvsdbServer, name: str = "tap1") -> None:
    row = ["--", "set", "Interface", name, "external_ids={iface-id=x,vm-id=y}"]
    server.vsctl("add-port", "br-int", name, *row)


def test_a_port_that_is_held_has_no_iface_id(ovsdb_server: OvsdbServer) -> None:
    add_tap(ovsdb_server)

    connected(ovsdb_server, lambda database: database.hold("tap1", "x", 1.0))

    assert ids(ovsdb_server) == "{vif-driver-held=x, vm-id=y}"


def test_a_port_is_held_as_soon_as_there_is_one(ovsdb_server: OvsdbServer) -> None:
    async def scenario(database: Ovsdb) -> None:
        holding = asyncio.ensure_future(database.hold("tap1", "x", 5.0))
        await asyncio.sleep(0.01)
        add_tap(ovsdb_server)
        await holding

    connected(ovsdb_server, scenario)

    assert ids(ovsdb_server) == "{vif-driver-held=x, vm-id=y}"


def test_a_port_that_does_not_come_is_not_waited_for_for_ever(ovsdb_server: OvsdbServer) -> None:
    connected(ovsdb_server, lambda database: database.hold("tap1", "x", 0.02))

    assert ovsdb_server.vsctl("list-ports", "br-int") == ""


def test_another_vnics_port_is_not_held(ovsdb_server: OvsdbServer) -> None:
    add_tap(ovsdb_server)

    connected(ovsdb_server, lambda database: database.hold("tap1", "z", 0.02))

    assert ids(ovsdb_server) == "{iface-id=x, vm-id=y}"


def test_a_port_that_is_released_has_its_iface_id_again(ovsdb_server: OvsdbServer) -> None:
    add_tap(ovsdb_server)

    async def scenario(database: Ovsdb) -> None:
        await database.hold("tap1", "x", 1.0)
        await database.release("tap1", "x")

    connected(ovsdb_server, scenario)

    assert ids(ovsdb_server) == "{iface-id=x, vm-id=y}"


@pytest.mark.parametrize("name", ["tap1", "tap2"], ids=["not held", "not there"])
def test_a_port_that_was_not_held_is_released_all_the_same(
    ovsdb_server: OvsdbServer, name: str
) -> None:
    add_tap(ovsdb_server)

    connected(ovsdb_server, lambda database: database.release(name, "x"))

    assert ids(ovsdb_server) == "{iface-id=x, vm-id=y}"


def test_another_vnics_port_is_not_released(ovsdb_server: OvsdbServer) -> None:
    add_tap(ovsdb_server)

    async def scenario(database: Ovsdb) -> None:
        await database.hold("tap1", "x", 1.0)
        await database.release("tap1", "z")

    connected(ovsdb_server, scenario)

    assert ids(ovsdb_server) == "{vif-driver-held=x, vm-id=y}"


def test_a_port_that_is_released_while_a_request_to_hold_it_is_on_its_way_is_not_held(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tap(ovsdb_server)

    async def scenario(database: Ovsdb) -> None:
        assert database.port("tap1") is not None
        holding = asyncio.ensure_future(database.hold("tap1", "x", 1.0))
        while not database.replica._idl._outstanding_txns:
            await asyncio.sleep(0)
        holding.cancel()
        await database.release("tap1", "x")
        await asyncio.sleep(0.02)

    connected(ovsdb_server, scenario)

    assert ids(ovsdb_server) == "{iface-id=x, vm-id=y}"
