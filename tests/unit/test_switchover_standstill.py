# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that stands still for its move: its host has the other one take part."""

from __future__ import annotations

from typing import Any

import pytest

from vif_driver.agent import departures
from vif_driver.host.domains import Happening, State

from .conftest import VM_ID
from .moving_vm import (
    ANNOUNCED,
    BEFORE,
    FIRST,
    HERE,
    NEUTRONS,
    SECOND,
    SOURCE,
    UNTOUCHED,
    Moving,
    Play,
    Row,
    a_moment,
    unreachable,
    until,
)

UNBLOCKED: Row = {**BEFORE, "requested-chassis": f"{SOURCE},{HERE}"}, True


@pytest.fixture
def play(play: Play, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a scenario in which a VM moves; nobody looks whether it stays."""
    monkeypatch.setattr(departures, "LEAVING_LOOK", 60.0)
    return play


async def about_to_leave(moving: Moving, *vnics: Any) -> None:
    """Have another host announce the move of a VM, which its own host is told of."""
    await moving.announces(*vnics)
    await moving.agent.close()
    moving.starts.forget(VM_ID)
    moving.switch.external_ids["system-id"] = SOURCE
    moving.vms.states[VM_ID] = State.RUNNING
    moving.vms.migrating = {VM_ID}
    moving.another_agent()
    for vnic in vnics:
        moving.agent.leaving(vnic)
    if vnics:
        await until(lambda: len(moving.opened) == 2)


def test_its_ports_wait_for_nothing_any_more(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await about_to_leave(moving, FIRST, SECOND)
        moving.vms.tell(VM_ID, Happening.STANDS_STILL)
        await moving.becomes(UNBLOCKED, FIRST)
        return moving.row(SECOND)

    assert play(scenario) == UNBLOCKED


def test_while_it_runs_they_wait(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await about_to_leave(moving, FIRST)
        moving.vms.tell(VM_ID, Happening.OTHER)
        await a_moment()
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_a_vm_that_is_not_about_to_leave_is_nobodys_business(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await about_to_leave(moving)
        moving.vms.tell(VM_ID, Happening.STANDS_STILL)
        await a_moment()
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_the_connection_is_dropped_when_it_is_told(play: Play) -> None:
    async def scenario(moving: Moving) -> bool:
        await about_to_leave(moving, FIRST)
        moving.vms.tell(VM_ID, Happening.STANDS_STILL)
        await moving.becomes(UNBLOCKED)
        await until(lambda: moving.no_connection_is_open)
        return moving.no_connection_is_open

    assert play(scenario)


@pytest.mark.parametrize("end", ["gone", "closed"])
def test_the_connection_is_dropped_when_it_is_over(play: Play, end: str) -> None:
    async def scenario(moving: Moving) -> bool:
        await about_to_leave(moving, FIRST)
        if end == "gone":
            moving.vms.tell(VM_ID, Happening.GONE)
        else:
            await moving.agent.close()
        await until(lambda: moving.no_connection_is_open)
        return moving.no_connection_is_open

    assert play(scenario)


def test_without_the_northbound_database_nobody_waits_for_it(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        moving.agent.leaving(FIRST)
        moving.vms.tell(VM_ID, Happening.STANDS_STILL)
        await a_moment()
        return moving.row()

    assert play(scenario, config=unreachable()) == UNTOUCHED


def test_a_vm_of_neutrons_has_no_such_ports(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        moving.agent.leaving(NEUTRONS)
        await a_moment()
        return moving.opened

    assert play(scenario) == []


def test_a_vm_that_has_arrived_and_leaves_again_has_arrived(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(FIRST)
        moving.vms.change(VM_ID, State.RUNNING)
        moving.vms.tell(VM_ID, Happening.STANDS_STILL)
        await moving.ends()
        return moving.row()

    assert play(scenario) == UNTOUCHED
