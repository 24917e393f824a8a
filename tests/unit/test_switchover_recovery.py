# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent that was killed while a VM arrived, and the next one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vif_driver.agent import switchover
from vif_driver.config import Config
from vif_driver.host.domains import State
from vif_driver.host.starts import START_TIME, uptime
from vif_driver.switchover import NOTE, note_of

from .conftest import VM_ID
from .moving_vm import (
    ANNOUNCED,
    AWAY,
    ELSEWHERE,
    FIRST,
    HERE,
    SECOND,
    SOURCE,
    SWITCHED,
    UNTOUCHED,
    Moving,
    Play,
    Provider,
    a_moment,
    until,
)


async def killed(moving: Moving) -> None:
    """Have the agent end, and the next one begin."""
    await moving.agent.close()
    moving.another_agent().recover()


def test_a_vm_that_comes_later_is_switched_and_finished(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(FIRST, SECOND)
        await killed(moving)
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return moving.row(FIRST), moving.row(SECOND), moving.starts.all(), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, UNTOUCHED, [], True)


def test_a_vm_that_came_meanwhile_is_switched(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> None:
        await moving.announces()
        await moving.agent.close()
        moving.libvirt(State.RUNNING)
        moving.another_agent().recover()
        await moving.becomes(SWITCHED)

    play(scenario)


def test_a_vm_that_ran_already_is_finished_without_vdsms_word(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        await moving.becomes(SWITCHED)
        monkeypatch.setattr(switchover, "SETTLE", 0.01)
        await killed(moving)
        await moving.ends()
        return moving.row(), moving.starts.all()

    assert play(scenario) == (UNTOUCHED, [])


def test_a_vm_that_came_and_went_is_finished_not_undone(
    play: Play, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.reset({"requested-chassis": SOURCE})
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        await until(lambda: moving.row() == ({"requested-chassis": HERE}, True))
        await moving.agent.close()
        moving.libvirt(None)
        monkeypatch.setattr(switchover, "SETTLE", 0.01)
        moving.another_agent().recover()
        await moving.ends()
        return moving.row()

    assert play(scenario) == ({"requested-chassis": HERE}, False)


def test_a_vm_that_has_gone_on_to_another_host_is_that_hosts_business(
    play: Play, provider: Provider
) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.agent.close()
        # It ran here, which nobody has noted, and is announced there.
        note = note_of(provider.northbound.read(FIRST.id, "external_ids"))
        assert note is not None
        theirs = dataclasses.replace(note, source=HERE, destination=ELSEWHERE)
        provider.northbound.write(FIRST.id, external_ids={NOTE: theirs.encode()})
        before = moving.row()
        moving.expect(FIRST, since=uptime() - 2 * START_TIME)
        moving.another_agent().recover()
        await moving.ends()
        return moving.row() == before, moving.starts.all()

    assert play(scenario) == (True, [])


def test_a_vm_that_libvirt_has_no_more_is_undone(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.PAUSED)
        await killed(moving)
        await a_moment()
        moving.libvirt(None)
        await moving.ends()
        return moving.row(), moving.starts.all()

    assert play(scenario) == (UNTOUCHED, [])


def test_a_vm_of_which_nothing_was_heard_for_too_long_is_undone_at_once(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.agent.close()
        moving.expect(FIRST, since=uptime() - START_TIME)
        moving.another_agent().recover()
        await moving.ends()
        return moving.row(), moving.starts.all()

    assert play(scenario) == (UNTOUCHED, [])


def test_a_vm_that_may_still_come_is_waited_for(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await killed(moving)
        await a_moment()
        return moving.row(), len(moving.starts.all())

    assert play(scenario) == (ANNOUNCED, 1)


def test_a_libvirt_that_is_not_there_yet_is_waited_for(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.agent.close()
        moving.vms.deaf = AWAY
        moving.another_agent().recover()
        await a_moment()
        moving.vms.deaf, moving.vms.states = None, {VM_ID: State.RUNNING}
        moving.vms.tell(None)
        await moving.ends()
        return moving.row()

    assert play(scenario) == UNTOUCHED


def test_vdsm_goes_on_with_the_next_agent(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(FIRST)
        await killed(moving)
        moving.starts.put(moving.starts.all()[0].with_vnic(SECOND))
        await moving.agent.arriving(SECOND, moving.way.attachment)
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return moving.row(FIRST), moving.row(SECOND), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, UNTOUCHED, True)


def test_a_port_that_was_kept_from_ovn_is_given_back(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        moving.switch.hidden = {FIRST.tap}
        moving.expect(FIRST)
        moving.another_agent().recover()
        moving.libvirt(State.RUNNING)
        await until(lambda: not moving.switch.hidden)

    play(scenario)


def off(moving: Moving) -> None:
    moving.configure(Config(northbound=None))


def no_remote(moving: Moving) -> None:
    del moving.switch.external_ids["ovn-remote"]


def no_certificate(moving: Moving) -> None:
    moving.configure(Config(northbound=("ssl:127.0.0.1:6641",)))


def no_name(moving: Moving) -> None:
    moving.configure(Config(northbound=("tcp:none.invalid:6641",)))


@pytest.mark.parametrize("change", [off, no_remote, no_certificate, no_name])
def test_it_is_given_back_whatever_is_wrong_with_the_northbound_database(
    play: Play, change: Any
) -> None:
    async def scenario(moving: Moving) -> Any:
        moving.switch.hidden = {FIRST.tap}
        moving.expect(FIRST)
        change(moving)
        moving.agent.recover()
        moving.libvirt(State.RUNNING)
        await until(lambda: not moving.switch.hidden)

    play(scenario)


@pytest.mark.parametrize("change", [off, no_remote, no_certificate])
def test_where_there_is_no_northbound_database_any_more_the_arrival_ends(
    play: Play, change: Any
) -> None:
    async def scenario(moving: Moving) -> Any:
        moving.expect(FIRST)
        change(moving)
        moving.agent.recover()
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return moving.starts.all(), moving.is_at_rest

    assert play(scenario) == ([], True)


def test_an_open_vswitch_that_is_just_restarting_is_waited_for(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.switch.away = True
        await killed(moving)
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await a_moment()
        moving.switch.away = False
        await moving.ends()
        return moving.row()

    assert play(scenario) == UNTOUCHED


def test_what_is_being_started_here_is_not_its_business(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        moving.starts.put(dataclasses.replace(moving.expect(FIRST), arrives=False))
        moving.agent.recover()
        return moving.is_at_rest, len(moving.starts.all())

    assert play(scenario) == (True, 1)


def test_a_vm_that_libvirt_had_and_that_is_gone_is_undone_at_once(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.PAUSED)
        await until(lambda: moving.starts.all()[0].seen)
        await moving.agent.close()
        moving.libvirt(None)
        moving.another_agent().recover()
        await moving.ends()
        return moving.row(), moving.starts.all()

    assert play(scenario) == (UNTOUCHED, [])
