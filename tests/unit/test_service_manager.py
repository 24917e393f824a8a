# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd says to the agent and hears from it, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vif_driver import journal
from vif_driver.agent import service_manager

from . import virtual_time

# As systemd hands a socket over: it is descriptor 3, and the process is named.
_CHILD = """
import os, sys

for number, descriptor in enumerate(sys.argv[2:]):
    os.dup2(int(descriptor), 3 + number)
os.environ.update(LISTEN_PID=sys.argv[1] or str(os.getpid()), LISTEN_FDS=str(len(sys.argv[2:])))
from vif_driver import journal
from vif_driver.agent import service_manager
from vif_driver.errors import VifError

try:
    listener = service_manager.listener()
except VifError as error:
    print("refused:", error)
else:
    print("nothing" if listener is None else (listener.getsockname(), listener.getblocking()))
"""


def handed_over(*sockets: socket.socket, to: str = "") -> str:
    """Say what a process makes of sockets that systemd hands over."""
    # Beyond those that a child's own start uses.
    descriptors = [os.dup2(item.fileno(), 100 + n) for n, item in enumerate(sockets)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, to, *map(str, descriptors)],
            check=True,
            capture_output=True,
            text=True,
            pass_fds=descriptors,
            cwd=Path(__file__).parents[2],
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return done.stdout.strip()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that vif-agent.socket makes."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "agent.sock"))
        listening.listen()
        yield listening


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which systemd listens to its services."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hearing:
        hearing.bind(str(tmp_path / "notify"))
        hearing.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield hearing


def heard(manager: socket.socket) -> list[bytes]:
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(manager.recv(4096))
    return messages


def feed_for(seconds: float) -> None:
    async def main() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(service_manager.feed_watchdog(), seconds)

    virtual_time.run(main())


def test_the_socket_that_systemd_made_is_used(listener: socket.socket) -> None:
    assert handed_over(listener) == str((listener.getsockname(), False))


def test_without_systemd_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)

    assert service_manager.listener() is None


def test_what_was_handed_to_another_process_is_left_alone(listener: socket.socket) -> None:
    assert handed_over(listener, to="1") == "nothing"


def test_two_sockets_are_refused_with_what_to_do(listener: socket.socket) -> None:
    told = handed_over(listener, listener)

    assert told.startswith("refused: ") and "systemctl revert vif-agent.socket" in told


def test_a_socket_that_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "agent.sock"))

        assert handed_over(bound).startswith("refused: ")


def test_a_socket_of_another_kind_is_refused() -> None:
    with socket.socket(socket.AF_INET) as inet:
        inet.bind(("127.0.0.1", 0))
        inet.listen()

        assert handed_over(inet).startswith("refused: ")


def test_systemd_is_told_that_the_agent_is_ready(manager: socket.socket) -> None:
    service_manager.notify("READY=1")

    assert heard(manager) == [b"READY=1"]


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    service_manager.notify("READY=1")


@pytest.mark.parametrize("process", [None, os.getpid()], ids=["nobody named", "us"])
def test_the_watchdog_is_fed_in_half_of_its_time(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, process: int | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if process is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(process))

    feed_for(0.15)

    messages = heard(manager)
    assert set(messages) == {b"WATCHDOG=1"}
    assert len(messages) >= 3


@pytest.mark.parametrize(
    ("microseconds", "process"),
    [(None, None), ("", None), ("x", None), ("1000", "1")],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    microseconds: str | None,
    process: str | None,
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", process)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    feed_for(0.02)

    assert heard(manager) == []


def test_stderr_is_known_for_a_stream_of_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")

    assert journal.stderr_is_journal()


@pytest.mark.parametrize("value", ["", ":", "1", "a:b", "8:1", "-1:-1"])
def test_stderr_that_is_something_else_is_no_stream_of_the_journal(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", value)

    assert not journal.stderr_is_journal()
