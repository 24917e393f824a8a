# SPDX-License-Identifier: GPL-2.0-or-later
"""Daemons of the host: whether they run, and what they answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vif_driver.errors import HostError
from vif_driver.host import accounts, json_rpc, ovn_controller, processes
from vif_driver.host.accounts import Account
from vif_driver.host.ovn_controller import Controller

# ---- processes -----------------------------------------------------------------------------------


def process(proc: Path, number: int, cmdline: bytes, comm: str = "") -> None:
    (proc / str(number)).mkdir()
    (proc / f"{number}/cmdline").write_bytes(cmdline)
    (proc / f"{number}/comm").write_text(f"{comm}\n")


@pytest.mark.parametrize(
    "cmdline",
    [
        b"neutron-openvswitch-agent\0--config-file=/etc/x\0",
        b"/usr/bin/python3\0/usr/bin/neutron-openvswitch-agent\0",
        b"/usr/bin/python3\0-I\0/usr/bin/neutron-openvswitch-agent\0",
        # As Neutron's agents rename themselves.
        b"neutron-openvswitch-agent (/usr/bin/python3 /usr/bin/neutron-openvswitch-agent)\0",
        b"/usr/bin/python3 /usr/bin/neutron-openvswitch-agent --config-file=/etc/x\0",
    ],
)
def test_a_daemon_is_found_by_its_name(tmp_path: Path, cmdline: bytes) -> None:
    process(tmp_path, 12, b"/sbin/init\0")
    process(tmp_path, 34, cmdline)

    assert processes.find("neutron-openvswitch-agent", tmp_path) == 34


@pytest.mark.parametrize(
    "cmdline",
    [
        b"",  # a thread of the kernel
        b"vi\0one\0two\0three\0/usr/bin/vif-agent\0",
        b"/usr/bin/vif-agent-other\0",
        b"tail\0-f\0/var/log/vif-agent.log\0",
    ],
)
def test_something_else_is_not_taken_for_it(tmp_path: Path, cmdline: bytes) -> None:
    process(tmp_path, 34, cmdline)

    assert processes.find("vif-agent", tmp_path) is None


def test_a_number_that_another_program_has_now_is_not_the_daemon(tmp_path: Path) -> None:
    process(tmp_path, 34, b"", "neutron-openvsw")
    process(tmp_path, 35, b"", "bash")

    runs = [processes.runs(n, "neutron-openvswitch-agent", tmp_path) for n in (34, 35, 36)]

    assert runs == [True, False, False]


# ---- users ---------------------------------------------------------------------------------------


def test_a_user_may_read_what_the_bits_say(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o750)
    file = folder / "neutron.conf"
    file.touch(mode=0o640)
    os.chown(folder, 0, 4242)
    os.chown(file, 0, 4242)
    for parent in folder.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o001)

    allowed = [
        Account(uid, frozenset(groups)).may_read(file)
        for uid, groups in ((0, ()), (1000, (4242,)), (1000, (1000,)))
    ]

    assert allowed == [True, True, False]


def test_the_user_of_a_process_is_told_with_its_groups() -> None:
    own = accounts.of_process(os.getpid())

    assert own is not None
    assert own.uid == os.geteuid()
    assert own.groups >= {os.getegid(), *os.getgroups()}


# ---- JSON-RPC ------------------------------------------------------------------------------------

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def daemon(path: Path, talk: Talk) -> Iterator[None]:
    """A daemon on a unix socket that talks to one caller."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        done = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as peer:
                talk(peer)
            done.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        assert done.wait(5)


def answering(result: object, error: object = None) -> Talk:
    def talk(peer: socket.socket) -> None:
        request = json.loads(peer.recv(4096))
        peer.sendall(json.dumps({"id": request["id"], "result": result, "error": error}).encode())

    return talk


def test_an_answer_in_pieces_is_put_together(tmp_path: Path) -> None:
    result = {"text": "ä}" * 50_000}

    with daemon(tmp_path / "ctl", answering(result)):
        assert json_rpc.ask_unix(str(tmp_path / "ctl"), "list", [], 3) == result


def test_an_error_is_told_in_the_daemons_words(tmp_path: Path) -> None:
    refuse = answering(None, {"error": "constraint violation", "details": "too long"})

    with (
        daemon(tmp_path / "ctl", refuse),
        pytest.raises(json_rpc.Refused, match="constraint violation: too long"),
    ):
        json_rpc.ask_unix(str(tmp_path / "ctl"), "list", [], 3)


def test_an_echo_request_is_answered_in_between(tmp_path: Path) -> None:
    echoed = []

    def talk(peer: socket.socket) -> None:
        request = json.loads(peer.recv(4096))
        peer.sendall(b'{"id":"echo","method":"echo","params":["x"]}')
        echoed.append(json.loads(peer.recv(4096)))
        peer.sendall(json.dumps({"id": request["id"], "result": 1, "error": None}).encode())

    with daemon(tmp_path / "ctl", talk):
        assert json_rpc.ask_unix(str(tmp_path / "ctl"), "list", [], 3) == 1
    assert echoed == [{"id": "echo", "result": ["x"], "error": None}]


def test_a_daemon_that_hangs_up_is_told(tmp_path: Path) -> None:
    with daemon(tmp_path / "ctl", lambda peer: None), pytest.raises(ConnectionError):
        json_rpc.ask_unix(str(tmp_path / "ctl"), "list", [], 3)


# ---- ovn-controller ------------------------------------------------------------------------------


def test_it_is_found_by_its_pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ovn-controller.pid").write_text("34\n")
    monkeypatch.setattr(processes, "runs", lambda pid, name: (pid, name) == (34, "ovn-controller"))

    assert ovn_controller.find((tmp_path,)) == Controller(34, tmp_path / "ovn-controller.34.ctl")


def test_the_pid_file_of_one_that_is_gone_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ovn-controller.pid").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(processes, "find", lambda name: None)

    assert ovn_controller.find((tmp_path,)) is None


@pytest.mark.parametrize(("said", "connected"), [("connected", True), ("not connected", False)])
def test_it_tells_whether_it_is_connected(tmp_path: Path, said: str, connected: bool) -> None:
    with daemon(tmp_path / "ctl", answering(f"{said}\n")):
        assert asyncio.run(Controller(1, tmp_path / "ctl").connected()) is connected


def test_it_tells_its_version(tmp_path: Path) -> None:
    text = "ovn-controller 24.03.4\nOpen vSwitch Library 3.3.1\n"

    with daemon(tmp_path / "ctl", answering(text)):
        assert asyncio.run(Controller(1, tmp_path / "ctl").version()) == "24.03.4"


def test_one_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    begun = time.monotonic()

    def until_the_caller_goes(peer: socket.socket) -> None:
        while peer.recv(4096):
            pass

    with (
        daemon(tmp_path / "ctl", until_the_caller_goes),
        pytest.raises(HostError, match=r"does not answer on .*timed out"),
    ):
        asyncio.run(Controller(1, tmp_path / "ctl").connected(timeout=0.1))

    assert time.monotonic() - begun < 10


def test_a_file_goes_before_the_name_in_the_database(tmp_path: Path) -> None:
    override = tmp_path / "system-id-override"
    names = [ovn_controller.chassis_name("hv1", override)]
    override.write_text("hv1-b\n")

    names.append(ovn_controller.chassis_name("hv1", override))

    assert names == ["hv1", "hv1-b"]
