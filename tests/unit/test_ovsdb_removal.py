# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read of ports in order to remove them, and how that is done, on a real ovsdb-server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import ovsdb
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.host.ovsdb_rows import PortRows

from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer

TAP = f"tap{VNIC_ID[:11]}"
IDS = {"attached-mac": MAC, "iface-id": VNIC_ID, "iface-status": "active", "vm-id": VM_ID}
NOTHING: Mapping[str, list[str]] = {}

Scenario = Callable[[Ovsdb], Awaitable[Any]]
Connected = Callable[[Scenario], Any]


@pytest.fixture
def connected(ovsdb_server: OvsdbServer) -> Connected:
    """Run a scenario on a connection to the server."""

    def run(scenario: Scenario) -> Any:
        async def main() -> Any:
            database = Ovsdb(ovsdb_server.socket)
            database.replica.open()
            try:
                await database.replica.wait_connected()
                return await asyncio.wait_for(scenario(database), 30)
            finally:
                database.replica.close()

        return asyncio.run(main())

    return run


async def add(database: Ovsdb, name: str = TAP, **port: Any) -> PortRows:
    """Add a port as libvirt does, and read it back."""
    await database.add_port("br-int", name, port=port, interface={"external_ids": IDS})
    (rows,) = database.whole(name)
    return rows


def always(_port: PortRows) -> bool:
    return True


def names(database: Ovsdb) -> set[str]:
    return database.names("br-int") - {"br-int"}


def add_qos(server: OvsdbServer, *more: str, queue: bool = True) -> list[str]:
    """Add a row of QoS, and one of Queue that it uses; give their uuids."""
    ids = f"external_ids:vm-id={VM_ID}"
    if not queue:
        return server.vsctl("create", "QoS", "type=linux-htb", ids, *more).split()
    command = ["--id=@u", "create", "Queue", ids, "--", "--id=@q", "create", "QoS"]
    queue_id, qos_id = server.vsctl(*command, "type=linux-htb", "queues:0=@u", ids, *more).split()
    return [qos_id, queue_id]


# ---- what is read --------------------------------------------------------------------------------


def test_names_are_those_of_the_interfaces_on_one_bridge(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    ovsdb_server.vsctl("add-bond", "br-int", "bond0", "eth1", "eth2")
    ovsdb_server.vsctl("add-br", "br-ex", "--", "add-port", "br-ex", "eth3")

    async def scenario(database: Ovsdb) -> Any:
        return [database.names(bridge) for bridge in ("br-int", "br-ex", "br-none")]

    assert connected(scenario) == [{"br-int", "eth1", "eth2"}, {"br-ex", "eth3"}, set()]


def test_a_port_is_read_with_all_that_is_needed_to_put_it_back(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    ovsdb_server.vsctl("add-port", "br-int", TAP, "tag=7", "external_ids:a=b")
    ovsdb_server.vsctl("set", "Interface", TAP, "mtu_request=1442", "external_ids:vm-id=x")
    qos_id, queue_id = add_qos(ovsdb_server)
    ovsdb_server.vsctl("set", "Port", TAP, f"qos={qos_id}")
    port_id = ovsdb_server.vsctl("get", "Port", TAP, "_uuid")
    interface_id = ovsdb_server.vsctl("get", "Interface", TAP, "_uuid")

    async def scenario(database: Ovsdb) -> list[PortRows]:
        return database.whole(TAP)

    (rows,) = connected(scenario)

    assert rows.uuid == port_id
    assert json.loads(json.dumps(rows.record())) == {
        "bridge": "br-int",
        "Port": {
            "name": TAP,
            "interfaces": interface_id,
            "external_ids": {"a": "b"},
            "other_config": {},
            "tag": 7,
            "trunks": [],
            "vlan_mode": [],
            "qos": qos_id,
        },
        "Interface": {
            "name": TAP,
            "type": "",
            "options": {},
            "external_ids": {"vm-id": "x"},
            "other_config": {},
            "mtu_request": 1442,
        },
        "QoS": {
            "type": "linux-htb",
            "queues": {"0": queue_id},
            "external_ids": {"vm-id": VM_ID},
            "other_config": {},
        },
        "Queue": {queue_id: {"dscp": [], "external_ids": {"vm-id": VM_ID}, "other_config": {}}},
    }


def test_a_bond_is_no_port_of_a_vm(connected: Connected, ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-bond", "br-int", "bond0", TAP, "eth2")

    async def scenario(database: Ovsdb) -> Any:
        return database.whole(TAP), database.whole("bond0")

    assert connected(scenario) == ([], [])


def test_a_port_is_found_by_the_name_of_its_interface(connected: Connected) -> None:
    async def scenario(database: Ovsdb) -> Any:
        await add_named_otherwise(database)
        return [(rows.name, rows.port["name"]) for rows in database.whole(TAP)], database.whole("p")

    assert connected(scenario) == ([(TAP, "p")], [])


async def add_named_otherwise(database: Ovsdb) -> PortRows:
    """Add a port whose Port row has another name than its Interface row."""

    def build(transaction: Any) -> None:
        interface = transaction.insert(database.replica.table("Interface"))
        interface.name, interface.external_ids = TAP, IDS
        port = transaction.insert(database.replica.table("Port"))
        port.name, port.interfaces = "p", [interface]
        next(database.replica.rows("Bridge")).addvalue("ports", port)

    await database.replica.transact("add a port", build)
    return database.whole(TAP)[0]


def test_rows_of_qos_that_nothing_uses_are_found_with_the_queues_of_those(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    used, _ = add_qos(ovsdb_server)
    unused, its_queue = add_qos(ovsdb_server)
    ovsdb_server.vsctl("add-port", "br-int", TAP, f"qos={used}")

    async def scenario(database: Ovsdb) -> Any:
        return {table: list(rows) for table, rows in database.unused_qos().items()}

    assert connected(scenario) == {"QoS": [unused], "Queue": [its_queue]}


def test_a_database_without_qos_has_none_that_is_unused(connected: Connected) -> None:
    async def scenario(database: Ovsdb) -> Any:
        return database.unused_qos()

    assert connected(scenario) == {}


def test_what_is_unused_is_not_told_once_the_server_is_away(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    async def scenario(database: Ovsdb) -> None:
        ovsdb_server.stop()
        await database.replica.wait(lambda: not database.replica.connected, 5)
        database.unused_qos()

    with pytest.raises(Unavailable):
        connected(scenario)


# ---- what is removed -----------------------------------------------------------------------------


def test_a_port_goes_with_its_interface_in_one_transaction(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    async def scenario(database: Ovsdb) -> Any:
        first, second = await add(database), await add(database, "tap2")
        seen: list[set[str]] = []
        database.replica.subscribe(lambda: seen.append(names(database)))
        return await database.remove([first, second], always, NOTHING) == [first, second], seen

    assert connected(scenario) == (True, [set()])
    assert ovsdb_server.vsctl("--bare", "--columns=name", "list", "Interface") == "br-int"


def test_a_port_whose_rows_have_two_names_goes(connected: Connected) -> None:
    async def scenario(database: Ovsdb) -> Any:
        port = await add_named_otherwise(database)
        return await database.remove([port], always, NOTHING) == [port], names(database)

    assert connected(scenario) == (True, set())


def test_a_port_that_is_not_stale_any_more_stays(connected: Connected) -> None:
    async def scenario(database: Ovsdb) -> Any:
        first, second = await add(database), await add(database, "tap2")
        removed = await database.remove([first, second], lambda port: port != first, NOTHING)
        return removed == [second], names(database)

    assert connected(scenario) == (True, {TAP})


def test_a_port_that_was_made_anew_under_the_same_name_stays(connected: Connected) -> None:
    async def scenario(database: Ovsdb) -> Any:
        seen = await add(database)
        await database.delete_port(TAP, {})
        await add(database)
        return await database.remove([seen], always, NOTHING), names(database)

    assert connected(scenario) == ([], {TAP})


CHANGES = {
    "another VM's now": ("set", "Interface", TAP, "external_ids:vm-id=x"),
    "spared now": ("set", "Interface", TAP, "external_ids:skip_cleanup=true"),
    "spared by its Port now": ("set", "Port", TAP, "external_ids:skip_cleanup=true"),
    "of another type now": ("set", "Interface", TAP, "type=internal"),
    "in another VLAN now": ("set", "Port", TAP, "tag=9"),
    "a bond now": tuple(
        f"--id=@i create Interface name=eth9 -- add Port {TAP} interfaces @i".split()
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_port_that_has_changed_since_it_was_seen_stays(
    connected: Connected, ovsdb_server: OvsdbServer, change: tuple[str, ...]
) -> None:
    async def scenario(database: Ovsdb) -> Any:
        seen = await add(database)
        generation = database.replica.generation
        ovsdb_server.vsctl(*change)
        await database.replica.wait(lambda: database.replica.generation != generation, 5)
        return await database.remove([seen], always, NOTHING), TAP in names(database)

    assert connected(scenario) == ([], True)


@pytest.mark.parametrize("who", ["another VM's now", "spared by its Port now"])
def test_a_port_that_changes_while_the_request_is_made_stays_and_the_others_go(
    connected: Connected, ovsdb_server: OvsdbServer, who: str
) -> None:
    asked: list[str] = []

    async def scenario(database: Ovsdb) -> Any:
        first, second = await add(database), await add(database, "tap2")

        def is_stale(port: PortRows) -> bool:
            asked.append(port.name)
            if asked == [TAP]:
                # The replica learns of it after the request was sent.
                ovsdb_server.vsctl(*CHANGES[who])
            return True

        removed = await database.remove([first, second], is_stale, NOTHING)
        return removed == [second], names(database)

    assert connected(scenario) == (True, {TAP})
    assert asked == [TAP, "tap2", "tap2"]


def test_a_port_that_somebody_removes_while_the_request_is_made_is_no_error(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    async def scenario(database: Ovsdb) -> Any:
        port = await add(database)

        def is_stale(_port: PortRows) -> bool:
            ovsdb_server.vsctl("del-port", TAP)
            return True

        return await database.remove([port], is_stale, NOTHING), names(database)

    assert connected(scenario) == ([], set())


def test_a_port_that_another_vm_takes_while_it_is_deleted_stays(
    connected: Connected, ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(database: Ovsdb) -> Any:
        await add(database)
        carries = ovsdb._carries

        def late(row: Any, external_ids: Mapping[str, str]) -> bool:
            if carried := carries(row, external_ids):
                ovsdb_server.vsctl(*CHANGES["another VM's now"])
            return carried

        monkeypatch.setattr(ovsdb, "_carries", late)
        return await database.delete_port(TAP, {"vm-id": VM_ID}), names(database)

    assert connected(scenario) == (False, {TAP})


def test_a_server_that_goes_away_while_the_request_is_made_keeps_what_the_caller_wants_kept_then(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    was_away: list[bool] = []

    async def scenario(database: Ovsdb) -> Any:
        port = await add(database)

        def listen() -> None:
            was_away.append(not database.replica.connected)

        def is_stale(_port: PortRows) -> bool:
            if not was_away:
                ovsdb_server.stop()
                ovsdb_server.start()
            return not any(was_away)

        unsubscribe = database.replica.subscribe(listen)
        removed = await database.remove([port], is_stale, NOTHING)
        unsubscribe()
        return removed, names(database)

    assert connected(scenario) == ([], {TAP})


def test_qos_that_nothing_uses_goes_with_its_queue(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    qos_id, queue_id = add_qos(ovsdb_server)

    async def scenario(database: Ovsdb) -> Any:
        await database.remove([], always, {"Queue": [queue_id], "QoS": [qos_id]})
        return database.unused_qos()

    assert connected(scenario) == {}


def test_qos_of_a_port_that_goes_is_unused_afterwards(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    qos_id, queue_id = add_qos(ovsdb_server)
    ovsdb_server.vsctl("add-port", "br-int", TAP, f"qos={qos_id}")

    async def scenario(database: Ovsdb) -> Any:
        await database.remove(database.whole(TAP), always, NOTHING)
        return {table: list(rows) for table, rows in database.unused_qos().items()}

    assert connected(scenario) == {"QoS": [qos_id], "Queue": [queue_id]}


def test_qos_that_is_used_by_now_stays(connected: Connected, ovsdb_server: OvsdbServer) -> None:
    qos_id, queue_id = add_qos(ovsdb_server)
    ovsdb_server.vsctl("add-port", "br-int", TAP, f"qos={qos_id}")

    async def scenario(database: Ovsdb) -> None:
        await database.remove([], always, {"QoS": [qos_id], "Queue": [queue_id]})

    connected(scenario)

    assert ovsdb_server.vsctl("get", "QoS", qos_id, "queues") == f"{{0={queue_id}}}"


def test_qos_that_is_gone_already_is_no_error(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    (qos_id,) = add_qos(ovsdb_server, queue=False)

    async def scenario(database: Ovsdb) -> None:
        await database.remove([], always, {"QoS": [qos_id], "Queue": [VNIC_ID]})
        await database.remove([], always, {"QoS": [qos_id], "Queue": [VNIC_ID]})

    connected(scenario)


def test_a_queue_that_stays_in_use_by_the_databases_own_rules_fails_the_request_whole(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    _, queue_id = add_qos(ovsdb_server)

    async def scenario(database: Ovsdb) -> None:
        port = await add(database)
        await database.remove([port], always, {"Queue": [queue_id]})

    with pytest.raises(HostError, match="referential integrity"):
        connected(scenario)
    assert ovsdb_server.vsctl("list-ports", "br-int") == TAP


# ---- the word of a change ------------------------------------------------------------------------


def test_whoever_wants_to_know_is_told_of_every_change_of_the_contents(
    connected: Connected,
) -> None:
    told: list[bool] = []

    async def scenario(database: Ovsdb) -> None:
        database.replica.subscribe(lambda: told.append(TAP in names(database)))
        await add(database)
        await database.delete_port(TAP, {})

    connected(scenario)

    assert told == [True, False]


def test_whoever_wants_to_know_is_told_when_the_server_goes_and_when_it_is_back(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    told: list[bool] = []

    async def scenario(database: Ovsdb) -> None:
        database.replica.subscribe(lambda: told.append(database.replica.connected))
        ovsdb_server.stop()
        await database.replica.wait(lambda: not database.replica.connected, 5)
        ovsdb_server.start()
        await database.replica.wait(lambda: database.replica.connected, 5)

    connected(scenario)

    assert told[0] is False and told[-1] is True


def test_a_server_that_is_away_for_a_moment_only_is_told_too(
    connected: Connected, ovsdb_server: OvsdbServer
) -> None:
    told: list[bool] = []

    async def scenario(database: Ovsdb) -> None:
        database.replica.subscribe(lambda: told.append(database.replica.connected))
        # As quickly as it can be; the loop has no turn meanwhile.
        ovsdb_server.stop()
        ovsdb_server.start()
        await database.replica.wait(lambda: bool(told) and told[-1], 5)

    connected(scenario)

    assert told[0] is False


def test_whoever_does_not_want_to_know_any_more_is_not_told(connected: Connected) -> None:
    told: list[bool] = []

    async def scenario(database: Ovsdb) -> None:
        unsubscribe = database.replica.subscribe(lambda: told.append(True))
        unsubscribe()
        await add(database)

    connected(scenario)

    assert told == []


def test_while_the_database_is_quiet_nobody_is_told_anything(connected: Connected) -> None:
    told: list[bool] = []

    async def scenario(database: Ovsdb) -> None:
        database.replica.subscribe(lambda: told.append(True))
        await asyncio.sleep(0.05)

    connected(scenario)

    assert told == []
