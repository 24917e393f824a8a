# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that stand still although an agent, or VDSM's hook, was cut off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vif_driver.host.domains import State
from vif_driver.host.starts import Start

from .conftest import VM_ID, VNIC_ID
from .stage import HASTY, VNIC, OnStage, Stage, a_moment

# ---- an agent that ends, and the next one ----------------------------------------------------


def test_an_agent_that_ends_leaves_the_vm_to_the_next_one(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        task = stage.started()
        await a_moment()
        await stage.close()
        await asyncio.wait([task])
        return task.cancelled(), stage.state, [start.started for start in stage.starts.all()]

    assert on_stage(scenario) == (True, State.PAUSED, [True])


def test_an_agent_that_has_ended_does_nothing_more(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.begin()
        stage.way.connect(VNIC)
        await stage.close()
        stage.vms.tell(VM_ID)
        await asyncio.sleep(2 * HASTY.start_deadline)
        return stage.state

    assert on_stage(scenario, config=HASTY) is State.PAUSED


def test_the_next_agent_resumes_what_an_earlier_one_was_told_of(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.starts.put(Start(VM_ID, (VNIC,), started=True))
        stage.readiness.recover()
        await a_moment()
        before = stage.state
        stage.way.connect(VNIC)
        await a_moment()
        return before, stage.state, stage.starts.all()

    assert on_stage(scenario) == (State.PAUSED, State.RUNNING, [])


def test_a_vm_that_ended_while_there_was_no_agent_is_forgotten(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.vms.states.clear()
        stage.starts.put(Start(VM_ID, (VNIC,), started=True))
        stage.readiness.recover()
        await a_moment()
        return stage.starts.all()

    assert on_stage(scenario) == []


def test_the_next_agent_leaves_a_vm_alone_that_libvirt_does_not_have_yet(
    on_stage: OnStage,
) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.vms.states.clear()
        start = stage.begin()
        stage.readiness.recover()
        stage.vms.tell(None)
        await asyncio.sleep(2 * HASTY.start_deadline)
        return stage.starts.all() == [start]

    assert on_stage(scenario, config=HASTY) is True


def test_the_hook_of_a_start_that_an_earlier_agent_began_is_answered(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> State | None:
        start = stage.begin()
        stage.readiness.recover()
        stage.way.connect(VNIC)
        await stage.readiness.started(start)
        return stage.state

    assert on_stage(scenario) is State.RUNNING


# ---- a hook that does not come ---------------------------------------------------------------


def test_a_vm_whose_hook_does_not_come_runs_all_the_same(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.begin()
        stage.way.connect(VNIC)
        stage.vms.tell(VM_ID)
        before = stage.state
        await asyncio.sleep(3 * HASTY.start_deadline)
        return before, stage.state, stage.starts.all()

    assert on_stage(scenario, config=HASTY) == (State.PAUSED, State.RUNNING, [])
    assert "hook after_vm_start did not come" in caplog.text


def test_a_connection_to_libvirt_that_is_there_again_is_as_good_as_an_event(
    on_stage: OnStage,
) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.begin()
        stage.way.connect(VNIC)
        stage.vms.tell(None)
        await asyncio.sleep(3 * HASTY.start_deadline)
        return stage.state

    assert on_stage(scenario, config=HASTY) is State.RUNNING


def test_another_vms_event_says_nothing_of_this_one(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.begin()
        stage.way.connect(VNIC)
        stage.vms.tell(VNIC_ID)
        await asyncio.sleep(3 * HASTY.start_deadline)
        return stage.state

    assert on_stage(scenario, config=HASTY) is State.PAUSED


def test_no_hook_is_missed_for_a_vm_that_somebody_else_wants_paused(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.begin(resume=False)
        stage.way.connect(VNIC)
        stage.vms.tell(VM_ID)
        await asyncio.sleep(3 * HASTY.start_deadline)
        return stage.state

    assert on_stage(scenario, config=HASTY) is State.PAUSED
    assert caplog.text == ""


def test_a_hook_that_comes_meanwhile_is_not_overtaken(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.begin()
        stage.vms.tell(VM_ID)
        start = stage.starts.get(VM_ID)
        assert start is not None
        hook = asyncio.ensure_future(stage.readiness.started(start))
        stage.way.connect(VNIC)
        await hook
        await asyncio.sleep(2 * HASTY.start_deadline)
        return stage.state

    assert on_stage(scenario, config=HASTY) is State.RUNNING
    assert "did not come" not in caplog.text


def test_a_later_start_of_the_vm_is_not_taken_for_the_one_whose_hook_is_missing(
    on_stage: OnStage,
) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.begin()
        stage.vms.tell(VM_ID)
        stage.begin()
        stage.way.connect(VNIC)
        await asyncio.sleep(3 * HASTY.start_deadline)
        return stage.state

    assert on_stage(scenario, config=HASTY) is State.PAUSED


def test_the_hook_of_a_later_start_is_expected_too(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.begin()
        stage.vms.tell(VM_ID)
        stage.begin()
        stage.vms.tell(VM_ID)
        stage.way.connect(VNIC)
        await asyncio.sleep(5 * HASTY.start_deadline)
        return stage.state

    assert on_stage(scenario, config=HASTY) is State.RUNNING


# ---- a VM that arrives -----------------------------------------------------------------------


def test_a_vm_that_arrives_is_not_taken_up(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        start = Start(VM_ID, (VNIC,), started=True, arrives=True)
        stage.starts.put(start)
        stage.way.connect(VNIC)
        stage.readiness.recover()
        await a_moment()
        return stage.state, stage.starts.all() == [start]

    assert on_stage(scenario) == (State.PAUSED, True)


def test_no_hook_is_missed_for_a_vm_that_arrives(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.starts.put(Start(VM_ID, (VNIC,), resume=False, arrives=True))
        stage.way.connect(VNIC)
        stage.vms.tell(VM_ID)
        await asyncio.sleep(3 * HASTY.start_deadline)
        return stage.state

    assert on_stage(scenario, config=HASTY) is State.PAUSED
    assert caplog.text == ""
