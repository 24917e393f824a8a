# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl protect``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vif_driver import config, ctl, journal
from vif_driver.config import Config
from vif_driver.ctl import protecting
from vif_driver.protection import allowances
from vif_driver.protection.known import Protected

FOUND = Protected(
    {
        "bond0.100": "carries this host's OVN tunnels (ovn-encap-ip 192.0.2.1)",
        "tap3c1ad1e9-4d": "belongs to vNIC 3c1ad1e9",
    },
    {"tun": "bond0.100"},
)


class Host:
    """What the command finds, and what it leaves.

    Attributes:
        folder: of what is allowed.
        journal: the lines that were sent there.
        settings: the configuration.
        blind: why the host can't be looked at.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal: list[str] = []
        self.settings = Config()
        self.blind: str | None = None

    def allow(self, device: str, seconds: float = 600) -> None:
        allowances.allow(device, seconds, "root", self.folder)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Root's host with a tunnel's end on bond0.100."""
    host = Host(tmp_path)
    for function, values in [
        (allowances.all_, (tmp_path,)),
        (allowances.allow, (tmp_path,)),
        (allowances.revoke, (tmp_path,)),
    ]:
        monkeypatch.setattr(function, "__defaults__", values)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(config, "load", lambda: host.settings)
    monkeypatch.setattr(journal, "send", lambda _identifier, line: host.journal.append(line))
    found = lambda _work: (FOUND, host.blind, host.settings.protects)  # noqa: E731
    monkeypatch.setattr(protecting, "look", found)
    monkeypatch.setattr(protecting, "caller", lambda: "alice (as root)")
    return host


def run(*arguments: str) -> int:
    return ctl.main(["protect", *arguments])


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    run(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


def test_what_is_protected_is_shown_with_the_reason(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.allow("eth3")
    host.settings = Config(allowed=frozenset(("bond0.100",)))

    assert run() == ctl.FINE

    assert capsys.readouterr().out.splitlines() == [
        "DEVICE     ALLOWED      BECAUSE IT",
        "bond0.100  always       carries this host's OVN tunnels (ovn-encap-ip 192.0.2.1)",
        "eth3       10m by root  is not protected",
        "and 1 more, of vNICs",
        "VDSM's network tun is protected with bond0.100",
    ]


def test_programs_are_told_the_same(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.allow("bond0.100", 60)

    answer = told(capsys)

    assert answer["devices"][0] == {
        "device": "bond0.100",
        "does": FOUND.devices["bond0.100"],
        "allowed": True,
        "by": "root",
    }
    assert answer["networks"] == [{"network": "tun", "device": "bond0.100"}]
    assert answer["allowed"] == [{"device": "bond0.100", "seconds": 60, "by": "root"}]
    assert (answer["enabled"], answer["trouble"], answer["left_out"]) == (True, None, [])


def test_a_host_that_cannot_be_looked_at_is_shown_as_it_was(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.blind = "Open vSwitch's database does not answer"

    assert run() == ctl.WRONG
    assert "this is how it was last seen: Open vSwitch's database" in capsys.readouterr().out


def test_that_nothing_is_refused_is_said(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.settings = Config(protects=False)

    run()

    assert "nothing is refused: vif-driver.conf has [protection] enabled = no" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("options", "seconds"), [([], 600), (["--for", "90"], 90), (["--for", "2h"], 7200)]
)
def test_something_is_allowed_for_a_time(host: Host, options: list[str], seconds: float) -> None:
    assert run("--allow", "bond0.100", *options) == ctl.FINE

    (one,) = allowances.all_(host.folder)
    assert (one.device, one.by) == ("bond0.100", "alice (as root)")
    assert seconds - 5 < one.seconds <= seconds


def test_several_at_once(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    answer = told(capsys, "--allow", "bond0", "--allow", "lo", "--for", "1m")

    assert answer["allowed"] == [
        {"device": "bond0", "seconds": 60},
        {"device": "lo", "seconds": 60},
    ]


def test_the_journal_says_who_allowed_what(host: Host) -> None:
    run("--allow", "bond0", "--for", "10m")
    run("--revoke", "bond0")

    assert host.journal == [
        "anything may be done to bond0 for 10m, alice (as root) says",
        "bond0 is protected again, alice (as root) says",
    ]


def test_a_device_that_is_not_there_is_allowed_with_a_word(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--allow", "nobody0") == ctl.FINE
    assert capsys.readouterr().err == "vifctl: there is no device nobody0\n"


def test_what_was_allowed_can_be_revoked(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.allow("bond0")

    assert run("--revoke", "bond0") == ctl.FINE
    assert capsys.readouterr().out == "bond0 is protected again\n"
    assert allowances.all_(host.folder) == []


def test_what_was_not_allowed_is_not_revoked(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--revoke", "bond0") == ctl.WRONG
    assert capsys.readouterr().out == "bond0 was not allowed by vifctl\n"
    assert host.journal == []


@pytest.mark.parametrize("arguments", [[], ["--allow", "eth3"], ["--revoke", "eth3"]])
def test_it_is_for_root(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 36)

    assert run(*arguments) == ctl.WRONG
    assert capsys.readouterr().err == "vifctl: vifctl protect needs root; run it as root\n"
    assert allowances.all_(host.folder) == []


@pytest.mark.parametrize(
    ("login", "sudo", "expected"),
    [
        pytest.param("0", None, "root", id="root himself"),
        pytest.param("4294967295", None, "root", id="a service"),
        pytest.param("4294967295", "alice", "alice (as root)", id="sudo without a login"),
        pytest.param("1", "alice", "daemon (as root)", id="the kernel's word goes first"),
        pytest.param("", "a\nb", "a b (as root)", id="one line"),
    ],
)
def test_who_became_root_is_named(
    monkeypatch: pytest.MonkeyPatch, login: str, sudo: str | None, expected: str
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_arguments, **_more: login)
    monkeypatch.delenv("SUDO_USER", raising=False)
    if sudo is not None:
        monkeypatch.setenv("SUDO_USER", sudo)

    assert protecting.caller() == expected
