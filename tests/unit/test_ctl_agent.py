# SPDX-License-Identifier: GPL-2.0-or-later
"""What vifctl finds out about the agent."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vif_driver import wire
from vif_driver.ctl import agent, service
from vif_driver.errors import BadRequest, Unavailable

PACKAGING = Path(__file__).parents[2] / "packaging"
COMMANDS = ("status", "list", "trace", "doctor")


@contextlib.contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """An agent that answers one question."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)


def reply(state: object) -> bytes:
    return wire.encode_reply(wire.Reply(data=json.dumps(state).encode()))


def test_the_agents_state_is_read(tmp_path: Path) -> None:
    with answering(tmp_path / "s", reply({"pid": 7})):
        assert agent.ask_status(str(tmp_path / "s")) == {"pid": 7}


def test_an_agent_that_hangs_up_does_not_talk_to_this_user(tmp_path: Path) -> None:
    with answering(tmp_path / "s", b""), pytest.raises(agent.NotAdmitted):
        agent.ask_status(str(tmp_path / "s"))


def test_no_agent_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="systemctl start vif-agent"):
        agent.ask_status(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "answer",
    [
        b"something else\n",
        reply([1]),
        wire.encode_reply(wire.Reply(data=b"{")),
        wire.encode_reply(wire.Reply(2, "no such event")),
    ],
)
def test_an_agent_of_another_version_is_told(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "s", answer), pytest.raises(BadRequest, match="restart vif-agent"):
        agent.ask_status(str(tmp_path / "s"))


def test_an_agent_that_does_not_run_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_is_there", lambda: False)

    (found,) = service.check(str(tmp_path / "none"))

    assert (found.name, found.is_bad) == ("agent", True)
    assert "vif-agent does not run" in found.detail


def test_an_agent_that_runs_and_does_not_answer_is_another_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_is_there", lambda: True)

    (found,) = service.check(str(tmp_path / "none"))

    assert found.is_bad and found.remedy == "restart it: systemctl restart vif-agent"


@pytest.mark.parametrize(
    ("mode", "user", "words"),
    [
        (0o600, "root", "belongs to root"),
        (0o660, "root", "lets others than root connect"),
        (0o600, "nobody", "does not belong to nobody"),
        (0o600, "no-such-user", "has no user no-such-user"),
    ],
)
def test_the_socket_is_checked(tmp_path: Path, mode: int, user: str, words: str) -> None:
    with answering(tmp_path / "s", reply({"pid": 7, "version": "1"})):
        (tmp_path / "s").chmod(mode)
        answers, found = service.check(str(tmp_path / "s"), user)

    assert answers.detail == "vif-agent 1 answers, process 7"
    assert words in found.detail


def test_an_agent_without_libvirt_is_told(tmp_path: Path) -> None:
    with answering(tmp_path / "s", reply({"libvirt_connected": False})):
        found = service.check(str(tmp_path / "s"), "root")

    assert "not connected to libvirt" in found[1].detail and found[1].is_bad
