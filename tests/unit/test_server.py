# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vif_driver import wire
from vif_driver.agent import server
from vif_driver.agent.server import Callers, Server
from vif_driver.errors import VifError
from vif_driver.wire import Reply, Request

from . import virtual_time

ME = Callers(users=frozenset([os.getuid()]), owner=os.getuid())
NOBODY = Callers(users=frozenset(), owner=os.getuid())
REQUEST = Request("before_device_create", {"vnic_id": "x"}, b"<interface/>")

Scenario = Callable[[Path], Awaitable[Any]]


async def echo(request: Request) -> Reply:
    return Reply(data=request.data)


class Answering:
    """A service that answers with a function, and keeps what it is to take back."""

    def __init__(self, answer: Any = echo) -> None:
        self.handle = answer
        self.withdrawn: list[Request] = []

    async def withdraw(self, request: Request) -> None:
        self.withdrawn.append(request)


def serving(
    path: Path,
    scenario: Scenario,
    callers: Callers = ME,
    answer: Any = echo,
    patience: Mapping[str, float] | None = None,
) -> Any:
    """Run a scenario against a server on ``path``."""

    async def main() -> Any:
        with server.listen(path, callers) as listener:
            serving = Server(Answering(answer), callers, patience).serve(listener)
            task = asyncio.ensure_future(serving)
            try:
                return await asyncio.wait_for(scenario(path), 10)
            finally:
                task.cancel()
                await asyncio.wait([task])

    return virtual_time.run(main())


async def exchange(path: Path, sent: bytes, hang_up: bool = False) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(sent)
        if hang_up:
            writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the agent's socket will be."""
    return tmp_path / "agent.sock"


def test_a_request_is_answered(path: Path) -> None:
    frame = serving(path, lambda path: exchange(path, wire.encode_request(REQUEST)))

    assert wire.decode_reply(frame) == Reply(data=REQUEST.data)


def test_who_is_not_admitted_gets_no_answer(path: Path) -> None:
    asked: list[Request] = []

    async def answer(request: Request) -> Reply:
        asked.append(request)
        return Reply()

    frame = serving(path, lambda path: exchange(path, wire.encode_request(REQUEST)), NOBODY, answer)

    assert frame == b"" and not asked


def test_a_request_that_is_declined_gets_no_answer(path: Path) -> None:
    async def answer(_request: Request) -> Reply:
        raise wire.Declined

    assert (
        serving(path, lambda path: exchange(path, wire.encode_request(REQUEST)), ME, answer) == b""
    )


@pytest.mark.parametrize(
    ("event", "uid", "status"),
    [("reconcile", 0, 0), ("reconcile", 36, 1), ("status", 36, 0)],
)
def test_what_is_for_root_is_refused_to_anybody_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, event: str, uid: int, status: int
) -> None:
    monkeypatch.setattr(server, "_peer", lambda _connection: (1, uid, uid))
    asked: list[Request] = []

    async def answer(request: Request) -> Reply:
        asked.append(request)
        return Reply()

    async def main() -> bytes:
        callers = Callers(users=frozenset((0, 36)), owner=0)
        with server.listen(path, callers) as listener:
            serves = Server(Answering(answer), callers, for_root=("reconcile",))
            task = asyncio.ensure_future(serves.serve(listener))
            frame = await exchange(path, wire.encode_request(Request(event, {}, b"")))
            task.cancel()
            await asyncio.wait([task])
        return frame

    reply = wire.decode_reply(virtual_time.run(main()))

    assert (reply.status, "for root only" in reply.message) == (status, status == 1)
    assert len(asked) == (0 if status else 1)


def test_the_socket_is_for_vdsms_user_alone(path: Path) -> None:
    with server.listen(path, Callers(frozenset(), owner=36)):
        status = path.stat()

    assert stat.S_IMODE(status.st_mode) == 0o600
    assert (status.st_uid, status.st_gid) == (36, 0)


def test_what_a_caller_who_is_gone_cannot_be_told_is_taken_back(path: Path) -> None:
    async def main() -> list[Request]:
        begun, gone = asyncio.Event(), asyncio.Event()

        async def answer(request: Request) -> Reply:
            begun.set()
            await gone.wait()
            return Reply(data=request.data)

        service = Answering(answer)
        with server.listen(path, ME) as listener:
            task = asyncio.ensure_future(Server(service, ME).serve(listener))
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(wire.encode_request(REQUEST))
            await begun.wait()
            writer.transport.abort()
            await asyncio.sleep(0.05)
            gone.set()
            task.cancel()
            await asyncio.wait([task])
        return service.withdrawn

    assert virtual_time.run(main()) == [REQUEST]


def test_a_caller_who_is_gone_before_his_turn_gets_nothing_done(path: Path) -> None:
    asked: list[Request] = []

    async def answer(request: Request) -> Reply:
        asked.append(request)
        return Reply()

    async def scenario(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            caller.sendall(wire.encode_request(REQUEST))
        # Callers are served in order: when this one has his answer, that one's turn is over.
        await exchange(path, wire.encode_request(Request("other_event", {}, b"")))

    serving(path, scenario, answer=answer)

    assert [request.event for request in asked] == ["other_event"]


def test_a_bad_request_is_refused_by_vdsms_rules(path: Path) -> None:
    frame = serving(path, lambda path: exchange(path, b"GET / HTTP/1.0\n"))

    reply = wire.decode_reply(frame)
    assert reply.status == 2 and "header" in reply.message and reply.data is None


def test_a_header_without_end_is_refused(path: Path) -> None:
    frame = serving(path, lambda path: exchange(path, b"x" * 4096))

    assert wire.decode_reply(frame).status == 2


def test_a_caller_that_sends_nothing_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RECEIVE_TIMEOUT", 0.1)

    frame = serving(path, lambda path: exchange(path, b""))

    assert "no whole request" in wire.decode_reply(frame).message


def test_a_request_that_takes_too_long_is_given_up_and_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_TIMEOUT", 0.1)

    async def answer(_request: Request) -> Reply:
        await asyncio.sleep(10)
        return Reply()

    frame = serving(path, lambda path: exchange(path, wire.encode_request(REQUEST)), answer=answer)

    reply = wire.decode_reply(frame)
    assert reply.status == 2 and "vNIC x: not done within 0.1 s" in reply.message


def test_an_event_that_may_take_longer_is_waited_for_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_TIMEOUT", 0.05)

    async def answer(_request: Request) -> Reply:
        await asyncio.sleep(0.2)
        return Reply()

    async def scenario(path: Path) -> list[Reply]:
        requests = [Request(event, {}, b"") for event in ("after_vm_start", "after_nic_hotplug")]
        frames = (exchange(path, wire.encode_request(request)) for request in requests)
        return [wire.decode_reply(frame) for frame in await asyncio.gather(*frames)]

    patient, hasty = serving(path, scenario, answer=answer, patience={"after_vm_start": 5.0})

    assert (patient.status, hasty.status) == (0, 1)
    assert "not done within 0.05 s" in hasty.message


def test_an_events_own_patience_ends_too(path: Path) -> None:
    async def answer(_request: Request) -> Reply:
        await asyncio.sleep(10)
        return Reply()

    request = wire.encode_request(Request("after_vm_start", {}, b""))

    frame = serving(
        path, lambda path: exchange(path, request), answer=answer, patience={"after_vm_start": 0.1}
    )

    reply = wire.decode_reply(frame)
    assert reply.status == 1 and "not done within 0.1 s" in reply.message


LARGE = Request("after_get_caps", {}, b"{" + b" " * 5_000_000 + b"}")


def test_a_report_of_five_megabytes_is_answered(path: Path) -> None:
    frame = serving(path, lambda path: exchange(path, wire.encode_request(LARGE)))

    assert wire.decode_reply(frame).data == LARGE.data


def test_a_user_has_one_large_request_at_a_time_and_small_ones_beside_it(path: Path) -> None:
    at_once, most, small = 0, 0, 0

    async def answer(request: Request) -> Reply:
        nonlocal at_once, most, small
        if request.event != LARGE.event:
            small += at_once
            return Reply()
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        at_once -= 1
        return Reply()

    async def scenario(path: Path) -> list[bytes]:
        frames = [wire.encode_request(request) for request in (LARGE, LARGE, LARGE)]
        large = [asyncio.ensure_future(exchange(path, frame)) for frame in frames]
        while not at_once:
            await asyncio.sleep(0.001)
        await exchange(path, wire.encode_request(REQUEST))
        return list(await asyncio.gather(*large))

    frames = serving(path, scenario, answer=answer)

    assert [wire.decode_reply(frame).status for frame in frames] == [0, 0, 0]
    assert (most, small) == (1, 1)


def test_a_large_request_that_does_not_come_holds_up_no_other_for_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RECEIVE_TIMEOUT", 0.3)

    async def scenario(path: Path) -> list[Reply]:
        slow = asyncio.ensure_future(exchange(path, b"vif1 after_get_caps 0 5000000\n{"))
        await asyncio.sleep(0.2)
        frames = [await exchange(path, wire.encode_request(LARGE)), await slow]
        return [wire.decode_reply(frame) for frame in frames]

    whole, half = serving(path, scenario)

    assert whole.data == LARGE.data
    assert half.status == 1 and "no whole request came" in half.message


def test_much_data_at_an_event_that_has_little_is_refused(path: Path) -> None:
    frame = serving(path, lambda path: exchange(path, b"vif1 before_device_create 0 5000000\n"))

    assert "too large" in wire.decode_reply(frame).message


def test_a_bad_caller_disturbs_no_other(path: Path) -> None:
    async def scenario(path: Path) -> bytes:
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(20)]
        rude = [await asyncio.open_unix_connection(str(path)) for _ in range(20)]
        for _, writer in rude:
            writer.write(b"vif1 before_device_create 5 1000000\n")
            writer.transport.abort()
        frame = await exchange(path, wire.encode_request(REQUEST))
        for _, writer in silent:
            writer.close()
        return frame

    assert wire.decode_reply(serving(path, scenario)) == Reply(data=REQUEST.data)


def test_more_callers_than_places_wait_for_their_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    at_once, most = 0, 0

    async def answer(request: Request) -> Reply:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return Reply(data=request.data)

    async def scenario(path: Path) -> list[bytes]:
        frame = wire.encode_request(REQUEST)
        return list(await asyncio.gather(*(exchange(path, frame) for _ in range(10))))

    frames = serving(path, scenario, answer=answer)

    assert [wire.decode_reply(frame).data for frame in frames] == [REQUEST.data] * 10
    assert most == 2


def test_what_was_begun_is_finished_before_the_server_ends(path: Path) -> None:
    async def main() -> bytes:
        begun = asyncio.Event()

        async def answer(request: Request) -> Reply:
            begun.set()
            await asyncio.sleep(0.05)
            return Reply(data=request.data)

        with server.listen(path, ME) as listener:
            task = asyncio.ensure_future(Server(Answering(answer), ME).serve(listener))
            asking = asyncio.ensure_future(exchange(path, wire.encode_request(REQUEST)))
            await begun.wait()
            task.cancel()
            return await asking

    frame = virtual_time.run(main())

    assert wire.decode_reply(frame).data == REQUEST.data


def test_a_socket_that_a_killed_agent_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    frame = serving(path, lambda path: exchange(path, wire.encode_request(REQUEST)))

    assert wire.decode_reply(frame).status == 0


def test_a_socket_on_which_an_agent_listens_is_left_to_it(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        with pytest.raises(VifError, match="already"):
            server.listen(path, ME)


def test_a_file_in_the_sockets_place_is_not_removed(path: Path) -> None:
    path.write_text("somebody's")

    with pytest.raises(VifError, match="cannot listen"):
        server.listen(path, ME)

    assert path.read_text() == "somebody's"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda b: b"vif1 " + b))
def test_any_bytes_are_answered_or_refused_and_the_next_caller_is_served(
    path: Path, sent: bytes
) -> None:
    async def scenario(path: Path) -> bytes:
        await exchange(path, sent, hang_up=True)
        return await exchange(path, wire.encode_request(REQUEST))

    assert wire.decode_reply(serving(path, scenario)) == Reply(data=REQUEST.data)
