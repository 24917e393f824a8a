# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that leaves: its host undoes what a destination that died would leave."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vif_driver.agent import departures, ovn
from vif_driver.config import Config
from vif_driver.host.domains import State
from vif_driver.vnic import Vnic, VnicIdentity

from .conftest import VM_ID
from .moving_vm import (
    ANNOUNCED,
    AWAY,
    FIRST,
    HERE,
    NEUTRONS,
    SECOND,
    SOURCE,
    SWITCHED,
    UNTOUCHED,
    Moving,
    Play,
    Provider,
    a_moment,
    unreachable,
    until,
)


async def announced_elsewhere(moving: Moving) -> None:
    """Have another host announce a move from here, and its agent die."""
    moving.vms.states.clear()
    await moving.announces(FIRST, SECOND)
    await dies_elsewhere(moving)


async def switched_elsewhere(moving: Moving) -> None:
    """The same, but it dies when the VM runs there."""
    moving.vms.states.clear()
    await moving.announces(FIRST, SECOND)
    moving.vms.migrating = {VM_ID}
    moving.libvirt(State.RUNNING)
    for vnic in (FIRST, SECOND):
        await moving.becomes(SWITCHED, vnic)
    await dies_elsewhere(moving)


async def dies_elsewhere(moving: Moving) -> None:
    """Have the agent of the other host die; this is the source from then on."""
    await moving.agent.close()
    moving.starts.forget(VM_ID)
    moving.switch.external_ids["system-id"] = SOURCE
    moving.vms.states[VM_ID], moving.vms.migrating = State.RUNNING, set()
    moving.another_agent()


async def leaves(moving: Moving) -> None:
    """Have VDSM say that the VM is about to leave, and libvirt that it is gone."""
    moving.agent.leaving(FIRST)
    moving.agent.leaving(SECOND)
    await asyncio.sleep(0)  # it is here when it is looked at first
    moving.vms.states.clear()


# ---- it stays ------------------------------------------------------------------------------------


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


def test_vdsms_word_that_it_is_gone_does_not_make_it_stay_sooner(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "LEAVING_LOOK", 60.0)

    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        moving.agent.leaving(FIRST)
        for _ in range(2 * departures.LEAVING_LOOKS):
            moving.agent.left(FIRST)
            await asyncio.sleep(0.005)
        return moving.row(), list(moving.departures)

    assert play(scenario) == (ANNOUNCED, [VM_ID])


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
    monkeypatch.setattr(ovn, "PATIENCE", 0.05)

    async def scenario(moving: Moving) -> Any:
        moving.vms.states[VM_ID] = State.RUNNING
        moving.agent.leaving(FIRST)
        await moving.ends()
        return len(moving.opened), moving.is_at_rest

    # One more is there in case that the VM stands still, for as long as it is about to leave.
    assert play(scenario, config=unreachable()) == (departures.LEAVING_LOOKS + 1, True)
    assert f"VM {VM_ID} has stayed; OVN's northbound database does not answer" in caplog.text


def test_a_fault_of_ours_ends_the_watch_and_is_logged(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(moving: Moving) -> bool:
        moving.vms.states[VM_ID] = State.RUNNING
        moving.agent.leaving(FIRST)
        moving.vms.fault = ZeroDivisionError("a fault")
        await moving.ends()
        return moving.is_at_rest

    assert play(scenario) is True
    assert "its move is not followed" in caplog.text


# ---- it leaves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", [announced_elsewhere, switched_elsewhere])
def test_what_a_destination_that_died_has_not_finished_is_finished(
    play: Play, dies: Callable[[Moving], Awaitable[None]]
) -> None:
    async def scenario(moving: Moving) -> Any:
        await dies(moving)
        await leaves(moving)
        await moving.ends()
        return moving.row(FIRST), moving.row(SECOND), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, UNTOUCHED, True)


def test_it_is_logged(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(moving: Moving) -> None:
        await switched_elsewhere(moving)
        await leaves(moving)
        await moving.ends()

    play(scenario)

    assert f"VM {VM_ID} has left; what its move had left at OVN is gone" in caplog.text


def test_a_provider_that_assigns_hosts_finds_the_destination(
    play: Play, provider: Provider
) -> None:
    provider.reset({"requested-chassis": SOURCE})

    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        await leaves(moving)
        await moving.ends()
        return moving.row()

    assert play(scenario) == ({"requested-chassis": HERE}, False)


def test_what_the_destination_has_finished_is_left_alone(
    play: Play, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = {"requested-chassis": HERE}

    async def scenario(moving: Moving) -> Any:
        await switched_elsewhere(moving)
        provider.reset(theirs)
        await leaves(moving)
        await moving.ends()
        return moving.row()

    assert play(scenario) == (theirs, False)
    assert "what its move had left" not in caplog.text


def test_the_destination_is_given_time_to_do_so(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(moving: Moving) -> Any:
        await switched_elsewhere(moving)
        await leaves(moving)
        monkeypatch.setattr(departures, "LEAVING_LOOK", 60.0)
        moving.agent.left(FIRST)
        await asyncio.sleep(0.01)
        moving.agent.left(SECOND)
        await a_moment()
        return moving.row()

    assert play(scenario) == SWITCHED


def test_vdsms_word_that_it_is_gone_has_it_looked_at_at_once(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "LEAVING_LOOK", 60.0)

    async def scenario(moving: Moving) -> Any:
        await switched_elsewhere(moving)
        await leaves(moving)
        monkeypatch.setattr(departures, "LEAVING_LOOK", 0.005)
        moving.agent.left(FIRST)
        await moving.ends()
        return moving.row(FIRST), moving.row(SECOND)

    assert play(scenario) == (UNTOUCHED, UNTOUCHED)


def test_a_vm_that_is_here_again_by_then_is_undone(
    play: Play, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.reset({"requested-chassis": SOURCE})
    monkeypatch.setattr(departures, "LEAVING_LOOK", 0.03)

    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        await leaves(moving)
        moving.agent.left(FIRST)
        await asyncio.sleep(0.01)
        moving.vms.states[VM_ID] = State.RUNNING
        await moving.ends()
        return moving.row()

    assert play(scenario) == ({"requested-chassis": SOURCE}, False)


def test_a_vm_that_this_host_never_had_is_none_of_its_business(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await announced_elsewhere(moving)
        moving.opened.clear()
        moving.vms.states.clear()
        moving.agent.leaving(FIRST)
        await moving.ends()
        return moving.row(), moving.opened

    assert play(scenario) == (ANNOUNCED, [])


def test_a_database_that_is_away_just_then_is_asked_again(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovn, "PATIENCE", 0.05)

    async def scenario(moving: Moving) -> Any:
        await switched_elsewhere(moving)
        moving.provider.northbound.stop()
        moving.opened.clear()
        await leaves(moving)
        await until(lambda: len(moving.opened) > 1)
        monkeypatch.setattr(ovn, "PATIENCE", 5.0)
        moving.provider.northbound.start()
        await moving.ends()
        return moving.row()

    assert play(scenario) == UNTOUCHED


def test_vms_that_leave_at_once_ask_the_database_one_after_the_other(play: Play) -> None:
    async def scenario(moving: Moving) -> int:
        others = [dataclasses.replace(FIRST, vm_id=VM_ID[:-1] + digit) for digit in "abcd"]
        for vnic in others:
            moving.vms.states[vnic.vm_id or ""] = State.RUNNING
            moving.agent.leaving(vnic)
        most = 0
        while moving.tasks:
            most = max(most, sum(one.connected for one in moving.opened))
            await asyncio.sleep(0)
        return most

    # And one more for all of them, in case that they stand still.
    assert play(scenario) == 2


# ---- it is not looked at -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [SECOND, dataclasses.replace(FIRST, vm_id=FIRST.id)],
    ids=["another vNIC", "another VM"],
)
def test_more_than_a_host_can_have_are_not_watched_and_it_is_logged(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, more: Vnic
) -> None:
    monkeypatch.setattr(departures, "MAX_LEAVING", 1)

    async def scenario(moving: Moving) -> Any:
        moving.vms.states = {VM_ID: State.RUNNING, FIRST.id: State.RUNNING}
        moving.agent.leaving(FIRST)
        moving.agent.leaving(more)
        return {vm: set(one.ids) for vm, one in moving.departures.items()}

    assert play(scenario) == {VM_ID: {FIRST.id}}
    assert f"{more}: its move is not watched from here: 1 vNICs" in caplog.text


def test_more_than_a_vm_can_have_are_not_watched_and_it_is_logged(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(departures, "MAX_OF_VM", 1)

    async def scenario(moving: Moving) -> Any:
        moving.vms.states = {VM_ID: State.RUNNING}
        moving.agent.leaving(FIRST)
        moving.agent.leaving(SECOND)
        return {vm: set(one.ids) for vm, one in moving.departures.items()}

    assert play(scenario) == {VM_ID: {FIRST.id}}
    assert f"{SECOND}: its move is not watched from here: 1 vNICs" in caplog.text


def test_there_is_room_again_when_a_vm_has_left(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "MAX_LEAVING", 1)

    async def scenario(moving: Moving) -> Any:
        moving.vms.states = {VM_ID: State.RUNNING, FIRST.id: State.RUNNING}
        moving.agent.leaving(FIRST)
        await moving.ends()
        moving.agent.leaving(dataclasses.replace(FIRST, vm_id=FIRST.id))
        return list(moving.departures)

    assert play(scenario) == [FIRST.id]


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
