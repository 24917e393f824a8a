# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports in a real northbound database, in the clear and by TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import itertools
import json
import random
import shutil
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ovs.db.schema
import ovs.reconnect
import pytest

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import northbound, northbound_connection
from vif_driver.host.certificates import Credentials
from vif_driver.host.northbound import Northbound, remotes_from
from vif_driver.host.northbound_connection import Peer
from vif_driver.host.northbound_rows import Edit, LogicalSwitchPort
from vif_driver.host.replica import RECONNECTION_TIMEOUT
from vif_driver.host.southbound import Remote

from .database_server import create, free_port
from .northbound_server import SCHEMA, NorthboundServer
from .southbound_server import Authority, SouthboundServer

NAMES = ["port1", "port2"]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty database, to be copied."""
    database = tmp_path_factory.mktemp("empty") / "nb.db"
    create(database, SCHEMA)
    return database


@pytest.fixture
def server(tmp_path: Path, empty: Path) -> Iterator[NorthboundServer]:
    """A database with two ports, and a third."""
    shutil.copy(empty, tmp_path)
    server = NorthboundServer(tmp_path)
    server.add_ports([*NAMES, "port3"], {"requested-chassis": "hv1"}, {"neutron:name": "x"})
    yield server
    server.stop()


def connected(
    remotes: Sequence[str],
    scenario: Callable[[Northbound], Awaitable[Any]],
    *,
    credentials: Credentials | None = None,
    ports: Sequence[str] = NAMES,
    timeout: float = 5.0,
) -> Any:
    """Run a scenario on a connection."""

    async def main() -> Any:
        async with Northbound(remotes, credentials, ports) as database:
            await database.wait_connected(timeout)
            return await scenario(database)

    return asyncio.run(main())


async def ports(database: Northbound) -> dict[str, LogicalSwitchPort]:
    return database.ports()


def set_options(**options: str | None) -> Callable[[LogicalSwitchPort], Edit]:
    return lambda _port: Edit(options=options)


def idl_of(database: Northbound) -> Any:
    return database._opened._idl


def received(database: Northbound) -> int:
    number: int = idl_of(database)._session.rpc.get_received_bytes()
    return number


# ---- where it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ovn_remote", "northbound"),
    [
        ("ssl:engine.example.com:6642", ["ssl:engine.example.com:6641"]),
        ("tcp:192.0.2.1:16642", ["tcp:192.0.2.1:6641"]),
        ("ssl:[2001:db8::1]:6642", ["ssl:[2001:db8::1]:6641"]),
        ("ssl:a:6642, tcp:b:6642,ssl:c:1", ["ssl:a:6641", "tcp:b:6641", "ssl:c:6641"]),
        ("ssl:a:6642,ssl:a:6652", ["ssl:a:6641"]),
        ("unix:/run/ovn/ovnsb_db.sock", []),
        ("unix:/run/ovn/ovnsb_db.sock,ssl:a:6642", ["ssl:a:6641"]),
    ],
)
def test_it_is_where_the_southbound_database_is(ovn_remote: str, northbound: list[str]) -> None:
    assert remotes_from(ovn_remote) == northbound


@pytest.mark.parametrize("ovn_remote", ["", "engine:6642", "ssl:engine", "ssl:2001:db8::1:6642"])
def test_a_malformed_remote_of_the_southbound_database_is_told(ovn_remote: str) -> None:
    with pytest.raises(HostError, match=r"ovn-remote .*; write it like ssl:"):
        remotes_from(ovn_remote)


@pytest.mark.parametrize("remote", ["engine", "ssl:a:6641,ssl:b:6641", ""])
def test_a_malformed_address_is_told(remote: str) -> None:
    with pytest.raises(HostError, match="is no address of OVN's northbound database; write it"):
        Northbound([remote], None, NAMES)


def test_without_an_address_nothing_is_tried() -> None:
    with pytest.raises(HostError, match="knows no address of OVN's northbound database"):
        Northbound([], None, NAMES)


def test_the_columns_are_those_of_ovn() -> None:
    theirs = ovs.db.schema.DbSchema.from_json(json.loads(Path(SCHEMA).read_text()))
    ours = ovs.db.schema.DbSchema.from_json(northbound._SCHEMA)

    for name, table in ours.tables.items():
        for column in table.columns.values():
            known = theirs.tables[name].columns[column.name].type
            assert (known.is_map(), known.is_set()) == (column.type.is_map(), column.type.is_set())
            assert known.key.type == column.type.key.type
            assert (known.n_min, known.n_max) == (column.type.n_min, column.type.n_max)


# ---- what is seen --------------------------------------------------------------------------------


def test_a_port_is_seen_as_it_is(server: NorthboundServer) -> None:
    server.write("port1", up=True, type="vtep")

    assert connected([server.inet], ports)["port1"] == LogicalSwitchPort(
        name="port1",
        type="vtep",
        options={"requested-chassis": "hv1"},
        external_ids={"neutron:name": "x"},
        addresses=("56:6f:1a:2b:00:01 192.0.2.5",),
        up=True,
    )


def test_what_nobody_has_said_yet_of_a_port_is_absent(server: NorthboundServer) -> None:
    server.write("port1", options={}, external_ids={}, addresses=["set", []])

    assert connected([server.inet], ports)["port1"] == LogicalSwitchPort(
        "port1", "", {}, {}, (), None
    )


def test_a_port_that_there_is_not_is_absent(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> Any:
        return database.port("port9"), list(database.ports())

    assert connected([server.inet], scenario, ports=["port9"]) == (None, [])


def test_of_two_thousand_ports_two_are_sent(server: NorthboundServer) -> None:
    server.add_ports(f"other{number}" for number in range(2000))

    async def scenario(database: Northbound) -> Any:
        before = received(database)
        server.write("other7", options={"x": "y" * 1000})
        server.write("port1", options={"x": "y"})
        await database.wait(lambda: "x" in database.ports()["port1"].options, 5)
        return sorted(database.ports()), before, received(database) - before

    names, whole, afterwards = connected([server.inet], scenario)

    assert names == NAMES
    # Each connection is sent the database's own schema, by the server's database.
    assert whole < Path(SCHEMA).stat().st_size + 5000
    assert afterwards < 500


def test_one_more_port_can_be_asked_for_later(server: NorthboundServer) -> None:
    async def include(database: Northbound) -> bool:
        database.include(["port2"])
        return await database.wait(lambda: set(database.ports()) == {"port1", "port2"}, 5)

    assert connected([server.inet], include, ports=["port1"])


def test_what_a_port_becomes_is_waited_for(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> bool:
        waiting = asyncio.ensure_future(
            database.wait(lambda: bool(database.ports()["port1"].up), 5)
        )
        await asyncio.sleep(0.02)
        server.write("port1", up=True)
        return await waiting

    assert connected([server.inet], scenario) is True


def test_what_does_not_become_of_a_port_is_not_waited_for_longer(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> bool:
        return await database.wait(lambda: bool(database.ports()["port1"].up), 0.1)

    assert connected([server.inet], scenario) is False


def test_a_wait_outlives_the_connection(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> bool:
        waiting = asyncio.ensure_future(
            database.wait(lambda: bool(database.ports()["port1"].up), 5)
        )
        server.stop()
        await asyncio.sleep(0.05)
        server.start()
        server.write("port1", up=True)
        return await waiting

    assert connected([server.inet], scenario) is True


def test_nothing_is_told_of_a_port_while_the_server_is_away(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> None:
        server.stop()
        await asyncio.sleep(0.05)
        database.port("port1")

    with pytest.raises(Unavailable, match="does not answer"):
        connected([server.inet], scenario)


def test_a_quiet_database_wakes_nobody(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> int:
        turns = count_turns(database)
        await asyncio.sleep(0.2)
        return len(turns)

    assert connected([server.inet], scenario) <= 1


# ---- what is changed -----------------------------------------------------------------------------


def test_keys_are_set_and_removed_and_the_others_stay(server: NorthboundServer) -> None:
    server.write(
        "port1", options={"old": "1", "other": "2"}, external_ids={"mine": "3", "its": "4"}
    )

    async def scenario(database: Northbound) -> Any:
        edit = Edit(options={"old": None, "new": "5", "none": None}, external_ids={"mine": "6"})
        return await database.edit("test", lambda port: edit)

    assert connected([server.inet], scenario, ports=["port1"]) == ["port1"]
    assert server.read("port1", "options") == {"other": "2", "new": "5"}
    assert server.read("port1", "external_ids") == {"mine": "6", "its": "4"}


def test_all_ports_are_changed_in_one_transaction(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> Any:
        return await database.edit("test", set_options(x="y"))

    changed = connected([server.inet], scenario)

    last = json.loads((server.database).read_text(errors="replace").splitlines()[-1])
    assert sorted(changed) == NAMES
    assert len(last["Logical_Switch_Port"]) == 2
    assert "x" not in server.read("port3", "options")


def test_what_was_changed_is_shown_at_once(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> Any:
        await database.edit("test", set_options(x="y"))
        return database.ports()["port1"].options

    assert connected([server.inet], scenario) == {"requested-chassis": "hv1", "x": "y"}


def test_what_is_there_already_is_not_written(server: NorthboundServer) -> None:
    size = server.database.stat().st_size

    async def scenario(database: Northbound) -> Any:
        return await database.edit("test", set_options(**{"requested-chassis": "hv1", "x": None}))

    assert connected([server.inet], scenario) == []
    assert server.database.stat().st_size == size


def test_a_server_that_sends_all_ports_is_no_danger_to_the_others(
    server: NorthboundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(northbound_connection.Idl, "cond_change", lambda *_: None)

    async def scenario(database: Northbound) -> Any:
        sent = len(idl_of(database).tables["Logical_Switch_Port"].rows)
        return sent, list(database.ports()), await database.edit("test", set_options(x="y"))

    assert connected([server.inet], scenario) == (3, NAMES, NAMES)
    assert "x" not in server.read("port3", "options")


def test_a_port_that_nothing_is_to_change_of_is_left_alone(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> Any:
        return await database.edit(
            "test", lambda port: Edit({"x": "y"}) if port.name == "port2" else None
        )

    assert connected([server.inet], scenario) == ["port2"]
    assert "x" not in server.read("port1", "options")


@pytest.mark.parametrize("column", ["options", "external_ids"])
def test_a_port_that_changed_meanwhile_is_looked_at_anew(
    server: NorthboundServer, column: str
) -> None:
    seen: list[dict[str, str]] = []

    def change(port: LogicalSwitchPort) -> Edit:
        if not seen:
            server.write(port.name, **{column: {"by": "the provider"}})
        seen.append(dict(getattr(port, column)))
        return Edit(options={"number": str(len(seen))})

    async def scenario(database: Northbound) -> Any:
        return await database.edit("test", change)

    assert connected([server.inet], scenario, ports=["port1"]) == ["port1"]
    assert seen[-1] == {"by": "the provider"}
    assert server.read("port1", column)["by"] == "the provider"
    assert server.read("port1", "options")["number"] == str(len(seen))


def test_if_one_port_changed_meanwhile_none_is_written(server: NorthboundServer) -> None:
    seen: list[tuple[str, str | None]] = []

    def change(port: LogicalSwitchPort) -> Edit | None:
        if not seen:
            server.write("port2", options={"requested-chassis": "hv9"})
        seen.append((port.name, port.options.get("requested-chassis")))
        untouched = port.options.get("requested-chassis") == "hv1"
        return Edit(options={"requested-chassis": "hv1,hv2"}) if untouched else None

    async def scenario(database: Northbound) -> Any:
        return await database.edit("test", change)

    assert connected([server.inet], scenario) == ["port1"]
    assert seen.count(("port1", "hv1")) == len(seen) / 2 > 1
    assert server.read("port1", "options") == {"requested-chassis": "hv1,hv2"}
    assert server.read("port2", "options") == {"requested-chassis": "hv9"}


def test_a_port_that_is_removed_meanwhile_is_no_error(server: NorthboundServer) -> None:
    def change(_port: LogicalSwitchPort) -> Edit:
        server.remove_ports()
        return Edit(options={"x": "y"})

    async def scenario(database: Northbound) -> Any:
        return await database.edit("test", change)

    assert connected([server.inet], scenario) == []


def test_a_server_that_restarts_in_the_middle_gets_the_change(server: NorthboundServer) -> None:
    asked: list[str] = []

    async def scenario(database: Northbound) -> Any:
        def change(port: LogicalSwitchPort) -> Edit:
            if not asked:
                server.stop()
                asyncio.get_running_loop().call_later(0.05, server.start)
            asked.append(port.name)
            return Edit(options={"x": "y"})

        return await database.edit("test", change)

    assert sorted(connected([server.inet], scenario)) == NAMES
    assert sorted(asked) == sorted(NAMES * 2)
    assert server.read("port2", "options")["x"] == "y"


def test_a_change_whose_answer_is_lost_is_shown_to_whoever_made_it(
    server: NorthboundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, recv = northbound_connection._Stream.send, northbound_connection._Stream.recv
    lost: list[Any] = []

    def watched(stream: Any, text: str) -> int:
        if '"transact"' in text and not lost:
            lost.append(stream)
        return send(stream, text)

    def cut(stream: Any, size: int) -> tuple[int, bytes]:
        error, data = recv(stream, size)
        return (errno.ECONNRESET, b"") if stream in lost and data else (error, data)

    monkeypatch.setattr(northbound_connection._Stream, "send", watched)
    monkeypatch.setattr(northbound_connection._Stream, "recv", cut)
    seen: list[str] = []

    def change(port: LogicalSwitchPort) -> Edit:
        seen.append(port.options["requested-chassis"])
        return Edit(options={"requested-chassis": "hv1,hv2"})

    async def scenario(database: Northbound) -> Any:
        return await database.edit("test", change)

    assert connected([server.inet], scenario, ports=["port1"]) == []
    assert seen == ["hv1", "hv1,hv2"]
    assert server.read("port1", "options") == {"requested-chassis": "hv1,hv2"}


def test_what_cannot_be_decided_is_not_written(server: NorthboundServer) -> None:
    def change(port: LogicalSwitchPort) -> Edit:
        if port.name == "port2":
            raise HostError("no", "don't")
        return Edit(options={"x": "y"})

    async def scenario(database: Northbound) -> None:
        with pytest.raises(HostError, match="no; don't"):
            await database.edit("test", change)
        await database.edit("test", set_options(z="z"))

    connected([server.inet], scenario)

    assert server.read("port1", "options") == {"requested-chassis": "hv1", "z": "z"}


def test_a_port_that_never_rests_is_told(
    server: NorthboundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vif_driver.host.replica._PAUSE", 0.3)  # an attempt takes far less

    def change(port: LogicalSwitchPort) -> Edit:
        server.write("port1", options={"time": str(time.monotonic_ns())})
        return Edit(options={"x": "y"})

    async def scenario(database: Northbound) -> None:
        await database.edit("set the hosts of a VM", change, timeout=0.6)

    with pytest.raises(HostError, match="kept changing while trying to set the hosts of a VM"):
        connected([server.inet], scenario)


def test_a_server_that_stays_away_is_told_in_time(server: NorthboundServer) -> None:
    async def scenario(database: Northbound) -> float:
        server.stop()
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=f"does not answer on {server.inet}; check"):
            await database.edit("test", set_options(x="y"), timeout=0.3)
        return time.monotonic() - begun

    assert connected([server.inet], scenario) < RECONNECTION_TIMEOUT


# ---- members that do not answer ------------------------------------------------------------------


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of somebody who listens, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that what is sent to is lost."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in crowd:
            one.close()


def count_turns(database: Northbound) -> list[None]:
    """Count how often the loop lets the IDL do something."""
    turns: list[None] = []
    idl = idl_of(database)
    run = idl.run

    def counted() -> Any:
        turns.append(None)
        return run()

    idl.run = counted
    return turns


def nothing(_database: Northbound) -> Awaitable[None]:
    return asyncio.sleep(0)


def test_a_refused_connection_is_told() -> None:
    remote = f"tcp:127.0.0.1:{free_port()}"

    with pytest.raises(Unavailable, match=f".{remote}: Connection refused.; check ovn-remote"):
        connected([remote], nothing, timeout=0.1)


def test_where_nobody_listens_nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(northbound_connection, "REFUSED_FOR", 0.05)
    begun = time.monotonic()

    with pytest.raises(Unavailable, match="Connection refused"):
        connected([f"tcp:127.0.0.1:{free_port()}"], nothing, timeout=30)

    assert time.monotonic() - begun < 5


def test_all_members_are_tried_after_each_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    def set_backoff(reconnect: Any, _lowest: int, _highest: int) -> None:
        reconnect.min_backoff = reconnect.max_backoff = 200  # milliseconds

    monkeypatch.setattr(ovs.reconnect.Reconnect, "set_backoff", set_backoff)
    attempts: list[Exception] = []
    monkeypatch.setattr(Peer, "fail", lambda _peer, error: attempts.append(error))
    members = [f"tcp:127.0.0.1:{free_port()}" for _ in range(3)]

    with pytest.raises(Unavailable):
        connected(members, nothing, timeout=2.0)

    # Thirty, or fewer on a busy computer; one after each pause would be twelve.
    assert 15 <= len(attempts) < 100


def test_a_server_that_is_just_restarting_is_waited_for(server: NorthboundServer) -> None:
    server.stop()

    async def main() -> list[str]:
        asyncio.get_running_loop().call_later(0.3, server.start)
        async with Northbound([server.inet], None, NAMES) as database:
            await database.wait_connected()
            return sorted(database.ports())

    assert asyncio.run(main()) == NAMES


def test_who_hangs_is_waited_for_though_nobody_listens_elsewhere(
    mute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(northbound_connection, "REFUSED_FOR", 0.0)
    begun = time.monotonic()

    with pytest.raises(Unavailable, match="no answer in time"):
        connected([f"tcp:127.0.0.1:{free_port()}", f"tcp:127.0.0.1:{mute}"], nothing, timeout=0.5)

    assert time.monotonic() - begun > 0.4


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
UNREACHABLE = OSError(errno.EHOSTUNREACH, "No route to host")
HANGS = TimeoutError("no answer in time")


@pytest.mark.parametrize(
    ("failures", "deserted"),
    [
        ([], False),
        ([REFUSED], False),
        ([REFUSED, REFUSED], False),
        ([REFUSED, REFUSED, REFUSED], True),
        ([REFUSED, UNREACHABLE, REFUSED], True),
        ([REFUSED, REFUSED, HANGS], False),
        ([REFUSED, REFUSED, HANGS, REFUSED], False),
        ([HANGS, HANGS, HANGS], False),
        ([ssl.SSLWantReadError(errno.ENOENT, "The operation did not complete")] * 3, False),
    ],
)
def test_nobody_listens_where_one_attempt_after_the_other_is_refused(
    failures: list[Exception], deserted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    peer = Peer(Remote("tcp", "192.0.2.1", 6641), socket.AF_INET, ("192.0.2.1", 6641), None)

    for failure in failures:
        peer.fail(failure)

    assert peer.is_deserted is deserted


def test_every_member_is_told_of(tmp_path: Path) -> None:
    first, second = f"tcp:127.0.0.1:{free_port()}", f"unix:{tmp_path}/none"

    with pytest.raises(Unavailable, match=f"{first}: Connection refused; {second}: No such file"):
        connected([first, second], nothing, timeout=0.5)


def test_a_member_whose_turn_never_came_is_told_of(
    mute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "shuffle", lambda remotes: None)
    first, second = f"tcp:127.0.0.1:{mute}", f"tcp:127.0.0.1:{free_port()}"

    with pytest.raises(Unavailable, match=f"{first}: no answer in time; {second}: not asked in"):
        connected([first, second], nothing, timeout=0.5)


def test_another_database_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_backoff(reconnect: Any, _lowest: int, _highest: int) -> None:
        reconnect.min_backoff = reconnect.max_backoff = 60_000

    # One attempt, as the next one forgets what this one was told.
    monkeypatch.setattr(ovs.reconnect.Reconnect, "set_backoff", set_backoff)
    southbound = SouthboundServer(tmp_path)
    try:
        with pytest.raises(Unavailable, match="it has no database OVN_Northbound"):
            connected([southbound.remote], nothing, timeout=1.0)
    finally:
        southbound.stop()


def test_the_next_member_is_asked_if_one_is_down(server: NorthboundServer) -> None:
    assert "port1" in connected([f"tcp:127.0.0.1:{free_port()}", server.inet], ports)


@pytest.mark.parametrize("kind", ["tcp", "ssl"])
@pytest.mark.parametrize("hanging", ["mute", "black_hole"])
def test_who_hangs_does_not_hold_up_the_loop(
    kind: str, hanging: str, authority: Authority, request: pytest.FixtureRequest
) -> None:
    remote = f"{kind}:127.0.0.1:{request.getfixturevalue(hanging)}"

    async def main() -> tuple[float, int]:
        async with Northbound([remote], authority.sign("client"), NAMES) as database:
            turns = count_turns(database)
            waiting = asyncio.ensure_future(database.wait_connected(0.1))
            longest, before = 0.0, time.monotonic()
            while not waiting.done():
                await asyncio.sleep(0.005)
                longest, before = max(longest, time.monotonic() - before), time.monotonic()
            with pytest.raises(Unavailable, match=f"{remote}: no answer in time"):
                waiting.result()
            return longest, len(turns)

    longest, turns = asyncio.run(main())

    assert longest < 2
    assert turns < 8


def test_a_unix_socket_of_nobody_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"unix:{tmp_path}/none: No such file or directory"):
        connected([f"unix:{tmp_path}/none"], nothing, timeout=0.1)


# ---- names ---------------------------------------------------------------------------------------


def test_a_member_is_found_by_its_name(server: NorthboundServer) -> None:
    assert "port1" in connected([server.inet.replace("127.0.0.1", "localhost")], ports)


def test_a_name_that_takes_long_does_not_hold_up_the_loop(
    server: NorthboundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def slow(host: str, *arguments: Any, **flags: Any) -> Any:
        if not flags.get("flags"):
            time.sleep(0.2)
        return look_up(host, *arguments, **flags)

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def main() -> tuple[int, str]:
        remote = server.inet.replace("127.0.0.1", "localhost")
        opening = asyncio.ensure_future(Northbound([remote], None, NAMES).open(timeout=0.1))
        turns = 0
        while not opening.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns, str(opening.exception())

    turns, error = asyncio.run(main())

    assert turns > 4
    assert "localhost" in error
    assert "not resolved in time" in error


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(Unavailable, match="tcp:engine:6641: its name cannot be resolved: Name"):
        connected(["tcp:engine:6641"], nothing)


def test_the_other_members_do_without_the_one_whose_name_is_unknown(
    server: NorthboundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def unknown(host: str, *arguments: Any, **flags: Any) -> Any:
        if host == "engine":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *arguments, **flags)

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    assert "port1" in connected(["tcp:engine:6641", server.inet], ports)


# ---- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that nobody here knows."""
    return Authority.make(tmp_path_factory.mktemp("strange") / "theirs")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Credentials:
    """This host's credentials."""
    return authority.sign("client")


def tls_server(folder: Path, empty: Path, credentials: Credentials) -> Iterator[NorthboundServer]:
    shutil.copy(empty, folder)
    server = NorthboundServer(folder, credentials)
    server.add_ports(NAMES)
    yield server
    server.stop()


@pytest.fixture
def secure(tmp_path: Path, empty: Path, authority: Authority) -> Iterator[NorthboundServer]:
    """A server with a certificate of the CA's."""
    yield from tls_server(tmp_path, empty, authority.sign("server"))


@pytest.fixture
def expired(tmp_path: Path, empty: Path, authority: Authority) -> Iterator[NorthboundServer]:
    """A server whose certificate has expired."""
    yield from tls_server(tmp_path, empty, authority.sign("expired-server", days=-1))


def test_by_tls_ports_are_seen_and_changed(secure: NorthboundServer, client: Credentials) -> None:
    async def scenario(database: Northbound) -> Any:
        return await database.edit("test", set_options(x="y" * 50_000))

    assert sorted(connected([secure.inet], scenario, credentials=client)) == NAMES
    assert len(secure.read("port1", "options")["x"]) == 50_000


def test_the_server_finds_no_fault_with_how_we_leave(
    secure: NorthboundServer, client: Credentials
) -> None:
    time.sleep(0.05)
    before = secure.log.read_text()

    connected([secure.inet], ports, credentials=client)
    time.sleep(0.05)

    assert secure.log.read_text() == before


def test_without_a_certificate_tls_is_not_even_tried() -> None:
    with pytest.raises(HostError, match=r"has no certificate for ssl:127\.0\.0\.1:1 in .*; enroll"):
        Northbound(["tcp:127.0.0.1:1", "ssl:127.0.0.1:1"], None, NAMES)


def test_files_that_cannot_be_used_are_told(client: Credentials, authority: Authority) -> None:
    mixed = dataclasses.replace(client, key=authority.sign("another").key)

    with pytest.raises(HostError, match=r"the key .* does not belong to .*; enroll"):
        connected(["ssl:127.0.0.1:1"], nothing, credentials=mixed)


def test_a_server_of_another_ca_is_never_talked_to(
    secure: NorthboundServer, client: Credentials, stranger: Authority
) -> None:
    credentials = dataclasses.replace(client, ca=stranger.certificate)

    with pytest.raises(HostError, match=r"database on .* is not accepted \(self-signed certif"):
        connected([secure.inet], nothing, credentials=credentials)


def test_an_expired_server_is_told(expired: NorthboundServer, client: Credentials) -> None:
    with pytest.raises(HostError, match=r"northbound database on .* has expired.*; see that both"):
        connected([expired.inet], nothing, credentials=client)


@pytest.mark.parametrize("days", [365, -1])
def test_a_certificate_that_the_server_refuses_is_told(
    secure: NorthboundServer, authority: Authority, stranger: Authority, days: int
) -> None:
    other = stranger if days > 0 else authority
    credentials = other.sign(f"refused{days}", days=days)
    credentials = dataclasses.replace(credentials, ca=authority.certificate)

    with pytest.raises(HostError, match=r"refuses this host's certificate \((unk|.*exp).*; enroll"):
        connected([secure.inet], nothing, credentials=credentials)


def test_a_refusal_is_told_even_if_the_server_has_hung_up_by_then(
    secure: NorthboundServer, stranger: Authority, client: Credentials, monkeypatch: Any
) -> None:
    send = northbound_connection._Stream.send

    def late(stream: Any, text: str) -> int:
        if not stream.connect():
            time.sleep(0.05)
        return send(stream, text)

    monkeypatch.setattr(northbound_connection._Stream, "send", late)
    credentials = dataclasses.replace(stranger.sign("refused"), ca=client.ca)

    with pytest.raises(HostError, match=r"refuses this host's certificate \(unknown ca\)"):
        connected([secure.inet], nothing, credentials=credentials)


def test_a_refusal_is_told_before_the_time_is_over(
    expired: NorthboundServer, client: Credentials
) -> None:
    begun = time.monotonic()

    with pytest.raises(HostError):
        connected([expired.inet], nothing, credentials=client, timeout=30)

    assert time.monotonic() - begun < 3


def test_credentials_are_of_one_connection_not_of_the_process(
    secure: NorthboundServer, client: Credentials, stranger: Authority
) -> None:
    async def main() -> Any:
        async with Northbound([secure.inet], client, NAMES) as database:
            await database.wait_connected()
            async with Northbound([secure.inet], stranger.sign("strange"), NAMES) as other:
                with pytest.raises(HostError):
                    await other.wait_connected()
            secure.stop()
            secure.start()
            await database.wait(lambda: database.connected, 5)
            return database.connected

    assert asyncio.run(main()) is True


def test_a_server_in_the_clear_is_no_tls_server(
    server: NorthboundServer, client: Credentials
) -> None:
    remote = server.inet.replace("tcp", "ssl")

    with pytest.raises(Unavailable, match=f"{remote}: it hangs up on this host, or on its certif"):
        connected([remote], nothing, credentials=client, timeout=0.8)


def test_a_tls_server_is_no_server_in_the_clear(secure: NorthboundServer) -> None:
    remote = secure.inet.replace("ssl", "tcp")

    with pytest.raises(Unavailable, match=f"{remote}: it hangs up"):
        connected([remote], nothing, timeout=0.8)
