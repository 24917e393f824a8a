# SPDX-License-Identifier: GPL-2.0-or-later
"""vNICs of VMs that run: plugged, ready or not, unplugged."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from vif_driver.agent import readiness
from vif_driver.config import Config
from vif_driver.host.domains import State
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import VNIC_ID
from .stage import HASTY, REASON, SECOND, VNIC, OnStage, Stage, a_moment


def test_a_hot_plugged_vnic_that_becomes_ready_is_logged(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(stage: Stage) -> Any:
        stage.readiness.watch(VNIC, hot_plug=True)
        await a_moment()
        waiting = [(each.vnic, each.purpose) for each in stage.readiness.waiting]
        stage.way.connect(VNIC)
        await a_moment()
        return waiting, stage.readiness.waiting

    assert on_stage(scenario) == ([(VNIC, readiness.HOT_PLUG)], [])
    assert f"{VNIC}: ready after" in caplog.text


def test_a_hot_plugged_vnic_that_does_not_become_ready_is_logged_with_the_reason(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> None:
        stage.readiness.watch(VNIC, hot_plug=True)
        await asyncio.sleep(2 * HASTY.start_deadline)

    on_stage(scenario, config=HASTY)

    assert f"{VNIC} is not ready after 0 s: {REASON}" in caplog.text


def test_a_vnic_that_is_ready_when_it_is_plugged_is_logged(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(stage: Stage) -> None:
        stage.way.connect(VNIC)
        stage.readiness.watch(VNIC, hot_plug=True)
        await a_moment()

    on_stage(scenario)

    assert f"{VNIC}: ready after" in caplog.text


def test_a_vnic_that_its_vms_start_has_waited_for_is_not_logged_again(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(stage: Stage) -> None:
        stage.way.connect(VNIC)
        stage.readiness.watch(VNIC, hot_plug=False)
        await a_moment()

    on_stage(scenario)

    assert caplog.text == ""


def test_a_vnic_whose_vm_is_being_started_is_not_watched_besides(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.started()
        await a_moment()
        stage.readiness.watch(VNIC, hot_plug=True)
        await a_moment()
        return [waiting.purpose for waiting in stage.readiness.waiting]

    assert on_stage(scenario) == [readiness.START]


def test_a_vnic_that_is_unplugged_is_not_watched_any_longer(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.readiness.watch(VNIC, hot_plug=True)
        await a_moment()
        stage.readiness.unplugged(VNIC)
        await a_moment()
        return stage.readiness.waiting

    assert on_stage(scenario) == []
    assert caplog.text == ""


def test_a_vnic_that_is_unplugged_leaves_the_start_of_its_vm(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.begin(VNIC, SECOND)
        stage.readiness.unplugged(VNIC)
        first = [start.vnics for start in stage.starts.all()]
        stage.readiness.unplugged(SECOND)
        return first, stage.starts.all()

    assert on_stage(scenario) == ([(SECOND,)], [])


@pytest.mark.parametrize(
    "vnic",
    [
        VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, VNIC_ID),
        VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, None),
        SECOND,
    ],
    ids=["in another VM", "in no VM that is known", "another vNIC"],
)
def test_what_does_not_belong_to_a_start_does_not_change_it(
    on_stage: OnStage, vnic: VnicIdentity
) -> None:
    async def scenario(stage: Stage) -> bool:
        start = stage.begin(VNIC)
        stage.readiness.unplugged(vnic)
        return stage.starts.all() == [start]

    assert on_stage(scenario) is True


def test_while_a_vm_is_waited_for_libvirt_says_whether_it_is_gone(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> State | None:
        task = stage.started()
        await a_moment()
        stage.readiness.unplugged(VNIC)
        stage.way.connect(VNIC)
        await task
        return stage.state

    assert on_stage(scenario) is State.RUNNING


def test_who_has_waited_longest_is_told_first(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        for vnic in (SECOND, VNIC):
            stage.readiness.watch(vnic, hot_plug=True)
            await a_moment()
        return [waiting.vnic for waiting in stage.readiness.waiting]

    assert on_stage(scenario) == [SECOND, VNIC]


def test_without_waiting_at_starts_a_hot_plug_has_the_usual_time(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.readiness.watch(VNIC, hot_plug=True)
        await a_moment()
        return len(stage.readiness.waiting)

    assert on_stage(scenario, config=Config(start_deadline=0.0)) == 1
