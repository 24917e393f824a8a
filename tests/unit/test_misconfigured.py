# SPDX-License-Identifier: GPL-2.0-or-later
"""With a mistake in the configuration no vNIC is plugged, and everything else goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from vif_driver import config
from vif_driver.config import Config
from vif_driver.ctl.service import complaints
from vif_driver.errors import ConfigError
from vif_driver.host.domains import State

from .conftest import VM_ID
from .vdsm import FIRST, Vdsm

TROUBLE = ConfigError("vif-driver.conf: [start] deadlin is not a setting", "correct it")


@pytest.fixture
def vdsm(tmp_path: Path, devices: set[str], ovn_properties: dict[str, str]) -> Vdsm:
    """VDSM of a host whose configuration has a mistake, and an integration bridge."""
    asking = Vdsm(tmp_path, ovn_properties)
    asking.trouble = TROUBLE
    return asking


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "stand-in"])
@pytest.mark.parametrize("event", ["before_device_create", "before_nic_hotplug"])
def test_a_plug_is_refused_and_told_why(vdsm: Vdsm, event: str, agent: bool) -> None:
    reply = vdsm.says(event, FIRST, agent=agent)

    assert (reply.status, reply.data) == (2, None)
    assert str(TROUBLE) in reply.message
    assert vdsm.starts.all() == []


def test_a_vm_that_waits_is_resumed_without_an_agent(vdsm: Vdsm) -> None:
    vdsm.trouble = None
    vdsm.creates(FIRST)
    vdsm.trouble = TROUBLE
    vdsm.vms.states[VM_ID] = State.PAUSED

    reply = vdsm.says("after_vm_start", flags=None, agent=False)

    assert reply.status == 0
    assert vdsm.vms.states[VM_ID] is State.RUNNING


def test_what_was_plugged_is_released(vdsm: Vdsm) -> None:
    assert vdsm.says("after_device_destroy", FIRST, flags=None).status == 0


def test_a_file_with_a_mistake_gives_the_defaults_and_the_mistake(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("[start]\ndeadlin = 5\n")

    settings, trouble = config.load_or_defaults(tmp_path / "conf")

    assert settings == Config()
    assert trouble is not None and "deadlin is not a setting" in str(trouble)


def test_a_file_without_one_gives_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("[start]\ndeadline = 5\n")

    settings, trouble = config.load_or_defaults(tmp_path / "conf")

    assert (settings.start_deadline, trouble) == (5.0, None)


def test_the_administrator_is_told() -> None:
    (finding,) = complaints({"configuration_error": str(TROUBLE), "libvirt_connected": True})

    assert finding.is_bad and "deadlin" in finding.detail
