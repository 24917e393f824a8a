# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from vif_driver import config
from vif_driver.config import AfterDeadline, Config, FirewallDriver, LinuxBridgePlug
from vif_driver.errors import ConfigError
from vif_driver.vnic import SecurityGroups


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file that doesn't exist yet."""
    return tmp_path / "vif-driver.conf"


def test_without_a_file_the_defaults_hold(file: Path) -> None:
    assert config.load(file) == Config()


def test_the_file_that_is_installed_says_nothing_but_the_defaults() -> None:
    installed = Path(__file__).parents[2] / "packaging/vif-driver.conf"

    assert config.load(installed) == Config()


def test_every_default_that_the_installed_file_shows_is_the_default(file: Path) -> None:
    installed = Path(__file__).parents[2] / "packaging/vif-driver.conf"
    lines = installed.read_text().splitlines()
    shown = [line[1:] if line.startswith("#") and " = " in line else line for line in lines]

    file.write_text("\n".join(line for line in shown if " = " in line or line.startswith("[")))

    assert config.load(file) == Config()


def test_what_is_set_replaces_the_default(file: Path) -> None:
    file.write_text(
        "[host]\nintegration_bridge = br-ovn\n"
        "[neutron]\nfirewall_driver = openvswitch\nhybrid_security_groups = listed\n"
        "linux_bridge_plug = dummy_bridge\n"
        "[start]\ndeadline = 7.5\nafter_deadline = keep_paused\n"
        "[reconcile]\ngrace = 2.5\n"
        "[protection]\nenabled = no\nallow = eth3, bond0.100\n"
    )

    assert config.load(file) == Config(
        integration_bridge="br-ovn",
        firewall_driver=FirewallDriver.OPENVSWITCH,
        hybrid_security_groups=frozenset([SecurityGroups.LISTED]),
        linux_bridge_plug=LinuxBridgePlug.DUMMY_BRIDGE,
        start_deadline=7.5,
        after_deadline=AfterDeadline.KEEP_PAUSED,
        grace=2.5,
        protects=False,
        allowed=frozenset(("eth3", "bond0.100")),
    )


def test_no_state_of_the_security_groups_may_be_named(file: Path) -> None:
    file.write_text("[neutron]\nhybrid_security_groups =\n")

    assert config.load(file).hybrid_security_groups == frozenset()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("integration_bridge = br-int\n", "cannot be read"),
        ("[host]\nintegration_brigde = br-int\n", "integration_brigde is not a setting"),
        ("[host]\nintegration_bridge = br/int\n", "has no meaning"),
        ("[protection]\nenabled = maybe\n", "has no meaning"),
        ("[protection]\nallow = eth3, a/b\n", "has no meaning"),
        ("[host]\nintegration_bridge = abcdefghijklmnop\n", "15 characters"),
        ("[neutron]\nfirewall_driver = iptables\n", "auto, iptables_hybrid, openvswitch"),
        ("[neutron]\nhybrid_security_groups = defalt\n", "default, none, listed"),
        ("[neutron]\nlinux_bridge_plug = yes\n", "private_bridge"),
        ("[DEFAULT]\nfirewall_driver = auto\n", "is not a setting"),
        ("[nova]\nfirewall_driver = auto\n", "is not a setting"),
        ("[start]\nstart_deadline = 5\n", "start_deadline is not a setting"),
        ("[start]\nafter_deadline = pause\n", "resume, keep_paused"),
        ("[start]\ngrace = 5\n", "grace is not a setting"),
    ],
)
def test_a_setting_without_meaning_is_refused_with_what_would_have_one(
    file: Path, text: str, complaint: str
) -> None:
    file.write_text(text)

    with pytest.raises(ConfigError, match=complaint):
        config.load(file)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("0.5", 0.5), ("300", 300)])
def test_the_deadline_of_a_start_is_a_number_of_seconds(
    file: Path, text: str, seconds: float
) -> None:
    file.write_text(f"[start]\ndeadline = {text}\n")

    assert config.load(file).start_deadline == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "301", "300.001", "15s", "1e2", "nan", "inf", "0x10", "1.", "\u0661"]
)
def test_a_deadline_that_no_hook_would_wait_for_is_refused(file: Path, text: str) -> None:
    file.write_text(f"[start]\ndeadline = {text}\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"from 0 .* to 300"):
        config.load(file)


@pytest.mark.parametrize(("text", "seconds"), [("1", 1), ("2.25", 2.25), ("600", 600)])
def test_the_grace_period_is_a_number_of_seconds(file: Path, text: str, seconds: float) -> None:
    file.write_text(f"[reconcile]\ngrace = {text}\n")

    assert config.load(file).grace == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0.999", "-1", "601", "600.1", "10s", "1e2", "nan", "inf", "1.", "\u0661"]
)
def test_a_grace_period_in_which_nobody_would_come_back_or_that_nobody_would_wait_for_is_refused(
    file: Path, text: str
) -> None:
    file.write_text(f"[reconcile]\ngrace = {text}\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"from 1 to 600"):
        config.load(file)


def test_a_file_that_may_not_be_read_is_no_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ()),
        ("off", None),
        ("ssl:engine.example.com:6641", ("ssl:engine.example.com:6641",)),
        ("tcp:192.0.2.1:16641", ("tcp:192.0.2.1:16641",)),
        ("ssl:[2001:db8::1]:6641", ("ssl:[2001:db8::1]:6641",)),
        ("ssl:a:6641, ssl:b:6641 ,ssl:c:6641", ("ssl:a:6641", "ssl:b:6641", "ssl:c:6641")),
    ],
)
def test_where_the_northbound_database_listens(
    file: Path, text: str, expected: tuple[str, ...] | None
) -> None:
    file.write_text(f"[migration]\nnorthbound = {text}\n")

    assert config.load(file).northbound == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "on",
        "Auto",
        "engine.example.com",
        "engine:6641",
        "ssl:engine",
        "ssl:engine:",
        "ssl:2001:db8::1:6641",
        "unix:/run/ovn/ovnnb_db.sock",
        "auto, ssl:a:6641",
        "ssl:a:6641,",
        "ssl:a b:6641",
    ],
)
def test_a_northbound_database_that_cannot_be_found_is_refused(file: Path, text: str) -> None:
    file.write_text(f"[migration]\nnorthbound = {text}\n")

    with pytest.raises(ConfigError, match="auto, off, or addresses like ssl:engine"):
        config.load(file)
