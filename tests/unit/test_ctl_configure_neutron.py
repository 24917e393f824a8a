# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl configure neutron``: what it takes, and where the password comes from."""

from __future__ import annotations

import getpass
import io
import os
import sys
from pathlib import Path

import pytest

from vif_driver import ctl
from vif_driver.configuration import neutron_host
from vif_driver.configuration.neutron import Wish
from vif_driver.configuration.transaction import Transaction
from vif_driver.ctl import FINE, USAGE, WRONG

QUEUE = ("--message-queue", "mq1", "--message-queue", "mq2:5671", "--user", "neutron")


@pytest.fixture
def wishes(monkeypatch: pytest.MonkeyPatch) -> list[Wish]:
    """What the host was asked for, by root."""
    found: list[Wish] = []

    def configure(
        _changes: Transaction, wish: Wish, _agent: str | None, _wait: float | None, *, force: bool
    ) -> list[str]:
        found.append(wish)
        return []

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(neutron_host, "configure", configure)
    return found


def run(*arguments: str) -> int:
    # A dry run, which leaves this computer alone.
    return ctl.main(["configure", "neutron", "--dry-run", *arguments])


def typed(monkeypatch: pytest.MonkeyPatch, text: bytes, *, terminal: bool) -> None:
    class Input(io.TextIOWrapper):
        def isatty(self) -> bool:
            return terminal

    monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(text)))


def test_the_password_is_read_from_a_file(tmp_path: Path, wishes: list[Wish]) -> None:
    (tmp_path / "password").write_text("secret\n")

    assert run(*QUEUE, "--password-file", str(tmp_path / "password")) == FINE

    queue = wishes[0].queue
    assert queue is not None
    assert queue.url == "rabbit://neutron:secret@mq1:5672,neutron:secret@mq2:5671/"


def test_the_password_is_read_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, wishes: list[Wish]
) -> None:
    typed(monkeypatch, b"secret\n", terminal=False)

    assert run(*QUEUE, "--password-file", "-") == FINE

    assert wishes[0].queue is not None and wishes[0].queue.password == "secret"


def test_the_password_is_asked_for_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, wishes: list[Wish]
) -> None:
    typed(monkeypatch, b"", terminal=True)
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: "secret")

    assert run(*QUEUE) == FINE

    assert wishes[0].queue is not None and wishes[0].queue.password == "secret"


def test_without_a_terminal_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, wishes: list[Wish], capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, b"", terminal=False)

    assert run(*QUEUE) == WRONG

    said = capsys.readouterr().err
    assert said.startswith("vifctl: the password of neutron is not known; give a file")
    assert said.count("\n") == 1
    assert not wishes


def test_what_is_not_said_is_to_stay(wishes: list[Wish]) -> None:
    assert run("--bridge-mapping", "p1:br-1", "--bridge-mapping", "p2:br-2") == FINE

    assert wishes == [Wish(bridges={"p1": "br-1", "p2": "br-2"})]


@pytest.mark.usefixtures("wishes")
@pytest.mark.parametrize("words", [(), ("--force",)])
def test_vms_are_cut_off_only_if_that_is_said(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    told: list[bool] = []

    def undo(_changes: Transaction, *, force: bool) -> list[str]:
        told.append(force)
        return []

    monkeypatch.setattr(neutron_host, "undo", undo)

    assert run("--undo", *words) == FINE

    assert told == [bool(words)]


def test_an_empty_text_is_for_none(wishes: list[Wish]) -> None:
    assert run("--bridge-mapping", "", "--tunnel-types", "") == FINE

    assert wishes == [Wish(bridges={}, tunnel_types=())]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--undo", "--bridge-mapping", "p1:br-1"),
        ("--undo", "--user", "neutron"),
        ("--user", "neutron"),
        ("--message-queue", "mq", "--password-file", "-"),
        ("--virtual-host", "/"),
        ("--agent", "sriov"),
        ("--timeout", "0"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    wishes: list[Wish], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as raised:
        run(*arguments)

    assert raised.value.code == USAGE
    assert not wishes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--message-queue", "a b"), '"a b" is no host of a message queue'),
        (("--bridge-mapping", "p1"), '--bridge-mapping: "p1" is no pair'),
        (("--interface-mapping", "p1:a,p1:b"), "--interface-mapping: p1 is there twice"),
        (("--uplink", "a-bridge-with-a-long-name:eth0"), "cannot be the name of a bridge"),
        (("--integration-bridge", "br/x"), "cannot be the name of the integration bridge"),
        (("--tunnel-ip", "here"), '--tunnel-ip: "here" is no address'),
        (("--tunnel-ip", "127.0.0.1"), "tunnels cannot end at 127.0.0.1"),
        (("--tunnel-types", "stt"), 'no tunnels called "stt"'),
        (("--message-queue", "mq", "--user", ""), "--user has no name"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    wishes: list[Wish],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert run(*arguments) == WRONG

    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not wishes


def test_it_is_for_root(
    monkeypatch: pytest.MonkeyPatch, wishes: list[Wish], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert run("--bridge-mapping", "p1:br-1") == WRONG

    assert (
        capsys.readouterr().err == "vifctl: vifctl configure neutron needs root; run it as root\n"
    )
    assert not wishes
