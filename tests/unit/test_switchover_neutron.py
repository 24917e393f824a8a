# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM with vNICs of Neutron that arrives: what had to wait for libvirt."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from vif_driver import attachments
from vif_driver.agent import switchover
from vif_driver.errors import HostError, Unavailable
from vif_driver.host.domains import State
from vif_driver.vnic import Plugin, Vnic

from .conftest import MAC, VM_ID, VNIC_ID
from .moving_vm import (
    AWAY,
    FIRST,
    NEUTRONS,
    STRANGER,
    SWITCHED,
    XML,
    Moving,
    Play,
    Way,
    a_moment,
    has_tap,
    until,
)

WHOLE = Vnic(VNIC_ID, Plugin.OPEN_VSWITCH, VM_ID, MAC, mtu=1442)
LINUX_BRIDGES = dataclasses.replace(NEUTRONS, plugin=Plugin.LINUX_BRIDGE)
COMPLETED = [("adapt", WHOLE), ("connect", WHOLE)]


def test_the_databases_of_ovn_are_not_asked(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        moving.switch.away = True
        return await moving.announces(NEUTRONS), moving.opened

    assert play(scenario) == ([""], [])


def test_what_vdsm_has_not_said_is_done_when_libvirt_has_the_vm(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(NEUTRONS)
        moving.vms.interfaces[NEUTRONS.tap] = XML
        before = list(moving.way.done)
        moving.libvirt(State.PAUSED)
        await until(lambda: len(moving.way.done) == 2)
        return before, moving.way.done

    assert play(scenario) == ([], COMPLETED)


def test_it_is_done_once(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(NEUTRONS)
        moving.vms.interfaces[NEUTRONS.tap] = XML
        for state in (State.PAUSED, State.PAUSED, State.RUNNING):
            moving.libvirt(state)
            await asyncio.sleep(0.005)
        return moving.way.done

    assert play(scenario) == COMPLETED


def test_it_is_done_for_a_vm_that_runs_before_it_was_seen_to_stand_still(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(NEUTRONS)
        moving.vms.interfaces[NEUTRONS.tap] = XML
        moving.libvirt(State.PAUSED)
        moving.libvirt(State.RUNNING)
        await until(lambda: len(moving.way.done) == 2)
        return moving.way.done

    assert play(scenario) == COMPLETED


def test_it_is_not_done_for_a_vnic_of_which_all_is_known(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(WHOLE)
        moving.vms.interfaces[NEUTRONS.tap] = XML
        moving.libvirt(State.PAUSED)
        await a_moment()
        return moving.way.done

    assert play(scenario) == []


def test_it_is_tried_again_if_it_fails(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(NEUTRONS)
        moving.vms.interfaces[NEUTRONS.tap] = XML
        moving.way.refusals = [Unavailable("Open vSwitch does not answer", "start it")]
        moving.libvirt(State.PAUSED)
        await until(lambda: len(moving.way.done) == 3)
        return moving.way.done[-1]

    assert play(scenario) == COMPLETED[-1]


def test_it_is_tried_again_if_libvirt_does_not_answer(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(NEUTRONS)
        moving.vms.interfaces[NEUTRONS.tap] = XML
        moving.libvirt(State.RUNNING)
        moving.vms.deaf = AWAY
        await a_moment()
        moving.vms.deaf = None
        await until(lambda: len(moving.way.done) == 2)

    play(scenario)


def test_it_does_not_keep_the_ports_of_ovn_waiting(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> None:
        await moving.announces(dataclasses.replace(NEUTRONS, id=STRANGER.id), FIRST)
        moving.way.refusals = [HostError("it refuses", "see its log")] * 1000
        moving.vms.interfaces[STRANGER.tap] = XML
        moving.libvirt(State.RUNNING)
        await moving.becomes(SWITCHED)

    play(scenario)


def test_xml_that_makes_no_sense_is_logged(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(NEUTRONS)
        moving.vms.interfaces[NEUTRONS.tap] = b"<interface/>"
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(NEUTRONS)
        await moving.ends()
        return moving.way.done

    assert play(scenario) == []
    assert str(NEUTRONS) in caplog.text


def test_the_next_agent_does_it_by_what_is_there_of_the_vnic(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(moving: Moving) -> Any:
        monkeypatch.setattr(attachments, "found", lambda *_: [moving.way])
        moving.expect(NEUTRONS)
        moving.agent.recover()
        moving.vms.interfaces[NEUTRONS.tap] = XML
        moving.libvirt(State.PAUSED)
        await until(lambda: len(moving.way.done) == 2)
        return moving.way.done

    assert play(scenario) == COMPLETED


def test_the_next_agent_looks_when_open_vswitch_can_be_seen(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(moving: Moving) -> Any:
        monkeypatch.setattr(attachments, "found", lambda *_: [moving.way])
        moving.expect(NEUTRONS)
        moving.switch.away = True
        moving.agent.recover()
        moving.vms.interfaces[NEUTRONS.tap] = XML
        moving.libvirt(State.PAUSED)
        await a_moment()
        before = list(moving.way.done)
        moving.switch.away = False
        await until(lambda: len(moving.way.done) == 2)
        return before

    assert play(scenario) == []


def test_a_tap_that_somebody_else_looks_at_is_finished_the_moment_it_exists(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = has_tap(monkeypatch)
    way = Way(finishes_early=True)

    async def scenario(moving: Moving) -> Any:
        await moving.announces(LINUX_BRIDGES, way=way)
        await asyncio.sleep(0)
        before = list(way.finished)
        tap.append("it")
        await until(lambda: way.finished == [LINUX_BRIDGES])
        return before

    assert play(scenario) == []


def test_the_next_agent_finishes_it_too(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    tap = has_tap(monkeypatch)
    way = Way(finishes_early=True)
    monkeypatch.setattr(attachments, "choose", lambda *_: way)

    async def scenario(moving: Moving) -> None:
        moving.expect(LINUX_BRIDGES)
        moving.agent.recover()
        tap.append("it")
        await until(lambda: way.finished == [LINUX_BRIDGES])

    play(scenario)


def test_nobody_waits_for_the_tap_of_a_vm_that_does_not_come(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_tap(monkeypatch)
    way = Way(finishes_early=True)

    async def scenario(moving: Moving) -> Any:
        await moving.announces(LINUX_BRIDGES, way=way)
        await moving.agent.cancel(VM_ID)
        await moving.ends()
        return moving.is_at_rest

    assert play(scenario) is True
