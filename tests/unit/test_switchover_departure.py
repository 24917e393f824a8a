# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that leaves: its host undoes what a destination that died would leave."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest

from vif_driver.agent import departures
from vif_driver.config import Config
from vif_driver.host.domains import State
from vif_driver.vnic import VnicIdentity

from . import moving_vm
from .conftest import VM_ID
from .moving_vm import (
    ANNOUNCED,
    AWAY,
    FIRST,
    NEUTRONS,
    SECOND,
    SOURCE,
    UNTOUCHED,
    Moving,
    Play,
    Provider,
    a_moment,
    unreachable,
    until,
)


@pytest.fixture
def play(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a scenario in which a VM moves."""
    (tmp_path / "released").mkdir()
    moving_vm.hurry(monkeypatch)
    return functools.partial(moving_vm.play, folder=tmp_path, patch=monkeypatch, provider=provider)


async def announced_elsewhere(moving: Moving) -> None:
    """Have another host announce a move from here, and its agent die."""
    moving.vms.states.clear()
    await moving.announces(FIRST, SECOND)
    await moving.agent.close()
    moving.starts.forget(VM_ID)
    moving.switch.external_ids["system-id"] = SOURCE
    moving.vms.states[VM_ID] = State.RUNNING
    moving.another_agent()


def test_a_vm_that_stays_is_undone(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        moving.agent.leaving(FIRST)
        moving.agent.leaving(SECOND)
        await moving.ends()
        return moving.row(FIRST), moving.row(SECOND), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, UNTOUCHED, True)


def test_a_vm_that_is_being_migrated_is_not(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        moving.vms.migrating = {VM_ID}
        moving.agent.leaving(FIRST)
        await a_moment()
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_a_vm_that_is_gone_is_not(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        moving.agent.leaving(FIRST)
        moving.vms.states.clear()
        await moving.ends()
        return moving.row(), moving.is_at_rest

    assert play(scenario) == (ANNOUNCED, True)


def test_a_vm_that_vdsm_says_has_left_is_not_looked_at_any_more(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        moving.agent.leaving(FIRST)
        moving.agent.left(FIRST)
        await moving.ends()
        return moving.row(), moving.is_at_rest

    assert play(scenario) == (ANNOUNCED, True)


def test_a_vm_that_is_to_leave_again_is_looked_at_anew(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "LEAVING_LOOK", 0.02)

    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        for _ in range(8):
            moving.agent.leaving(FIRST)
            await asyncio.sleep(0.012)
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_however_often_it_is_to_leave_it_is_looked_at_once(play: Play) -> None:
    async def scenario(moving: Moving) -> int:
        moving.vms.states[VM_ID], moving.vms.migrating = State.RUNNING, {VM_ID}
        for _ in range(3):
            moving.agent.leaving(FIRST)
        await a_moment()
        return len(moving.tasks)

    assert play(scenario) == 1


def test_what_libvirt_cannot_tell_is_asked_again(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        moving.vms.deaf = AWAY
        moving.agent.leaving(FIRST)
        await a_moment()
        during = moving.row()
        moving.vms.deaf = None
        await moving.ends()
        return during, moving.row()

    assert play(scenario) == (ANNOUNCED, UNTOUCHED)


def test_the_arrival_of_the_same_vm_here_is_left_alone(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.vms.states[VM_ID] = State.RUNNING
        moving.agent.leaving(FIRST)
        await until(lambda: not moving.departures)
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_a_database_that_cannot_be_reached_is_told_and_given_up(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(departures, "PATIENCE", 0.05)

    async def scenario(moving: Moving) -> bool:
        moving.vms.states[VM_ID] = State.RUNNING
        moving.agent.leaving(FIRST)
        await moving.ends()
        return moving.is_at_rest

    assert play(scenario, config=unreachable()) is True
    assert f"VM {VM_ID} has stayed; OVN's northbound database does not answer" in caplog.text


@pytest.mark.parametrize(
    ("subject", "config"),
    [
        (NEUTRONS, None),
        (dataclasses.replace(FIRST, vm_id=None), None),
        (FIRST, Config(northbound=None)),
    ],
    ids=["not OVN's", "no VM", "no northbound database"],
)
def test_of_no_other_vnic_anything_is_noted(
    play: Play, subject: VnicIdentity, config: Config | None
) -> None:
    async def scenario(moving: Moving) -> bool:
        moving.agent.leaving(subject)
        moving.agent.left(subject)
        return moving.is_at_rest

    assert play(scenario, config=config) is True
