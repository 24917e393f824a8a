# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM is started after both hosts of its migration have died: nothing of that is in its way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vif_driver.agent import abandoned, ovn
from vif_driver.config import Config
from vif_driver.host.domains import State
from vif_driver.host.starts import Start
from vif_driver.vnic import VnicIdentity

from .conftest import VM_ID
from .moving_vm import (
    ANNOUNCED,
    BEFORE,
    ELSEWHERE,
    FIRST,
    NEUTRONS,
    SECOND,
    UNTOUCHED,
    Moving,
    Play,
    a_moment,
    unreachable,
    until,
)


async def both_died(moving: Moving, *vnics: VnicIdentity) -> None:
    """Have a move be announced, and both hosts die; this is a third one from then on."""
    moving.vms.states.clear()
    await moving.announces(*vnics)
    await moving.agent.close()
    moving.starts.forget(VM_ID)
    moving.switch.external_ids["system-id"] = ELSEWHERE
    moving.another_agent()


async def starts_here(moving: Moving, *vnics: VnicIdentity) -> None:
    """Have VDSM say that it has started the VM here, paused, and wait for what comes of it."""
    moving.vms.states[VM_ID] = State.PAUSED
    moving.agent.started(Start(VM_ID, vnics or (FIRST,), resume=True))
    await until(lambda: not moving.agent._abandoned._looks)


def test_what_the_move_left_is_taken_back(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await both_died(moving, FIRST, SECOND)
        await starts_here(moving, FIRST, SECOND)
        return moving.row(FIRST), moving.row(SECOND), moving.no_connection_is_open

    assert play(scenario) == (UNTOUCHED, UNTOUCHED, True)


def test_it_is_told_in_the_log(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(moving: Moving) -> None:
        await both_died(moving)
        await starts_here(moving)

    play(scenario)

    assert f"VM {VM_ID} was started here; what a move of it had left" in caplog.text


def test_where_nothing_was_left_nothing_is_told(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(moving: Moving) -> Any:
        await starts_here(moving)
        return moving.row()

    assert play(scenario) == UNTOUCHED
    assert "was started here" not in caplog.text


def test_what_the_provider_has_written_since_stays(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await both_died(moving)
        options = {**moving.provider.options(), "requested-chassis": ELSEWHERE}
        moving.provider.northbound.write(FIRST.id, options=options)
        await starts_here(moving)
        return moving.row()

    assert play(scenario) == ({**BEFORE, "requested-chassis": ELSEWHERE}, False)


def test_a_vm_that_libvirt_does_not_have_is_left_alone(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await both_died(moving)
        moving.agent.started(Start(VM_ID, (FIRST,), resume=True))
        await until(lambda: not moving.agent._abandoned._looks)
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_a_vm_that_is_about_to_leave_again_is_left_alone(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await both_died(moving)
        moving.vms.states[VM_ID] = State.RUNNING
        moving.vms.migrating = {VM_ID}
        moving.agent.leaving(FIRST)
        await starts_here(moving)
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_vnics_that_are_not_ovns_are_none_of_its_business(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await starts_here(moving, NEUTRONS)
        return moving.opened

    assert play(scenario) == []


def test_without_the_northbound_database_nothing_is_looked_at(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await starts_here(moving)
        return moving.opened

    assert play(scenario, config=Config(northbound=None)) == []


def test_a_database_that_comes_back_later_is_waited_for(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = ovn.PATIENCE

    async def scenario(moving: Moving) -> Any:
        await both_died(moving)
        used = moving.config
        monkeypatch.setattr(ovn, "PATIENCE", 0.05)
        moving.configure(unreachable())
        moving.vms.states[VM_ID] = State.PAUSED
        moving.agent.started(Start(VM_ID, (FIRST,), resume=True))
        await until(lambda: len(moving.opened) > 1)
        monkeypatch.setattr(ovn, "PATIENCE", patience)
        moving.configure(used)
        await until(lambda: not moving.agent._abandoned._looks)
        return moving.row()

    assert play(scenario) == UNTOUCHED


def test_a_database_that_never_answers_is_given_up(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ovn, "PATIENCE", 0.05)

    async def scenario(moving: Moving) -> int:
        await starts_here(moving)
        return len(moving.opened)

    assert play(scenario, config=unreachable()) == abandoned.ATTEMPTS
    assert not caplog.records


def test_an_agent_that_ends_does_not_wait_for_it(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abandoned, "DELAY", 60.0)

    async def scenario(moving: Moving) -> bool:
        moving.agent.started(Start(VM_ID, (FIRST,), resume=True))
        await a_moment()
        await asyncio.wait_for(moving.agent.close(), 10)
        return not moving.agent._abandoned._looks

    assert play(scenario)
