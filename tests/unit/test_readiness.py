# SPDX-License-Identifier: GPL-2.0-or-later
"""When a VM that stood still for its vNICs is let run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import Any

import pytest

from vif_driver.config import AfterDeadline, Config
from vif_driver.errors import HostError, Unavailable
from vif_driver.host.domains import State
from vif_driver.host.starts import Start
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import VM_ID, VNIC_ID
from .stage import HASTY, PATIENT, REASON, SECOND, VNIC, OnStage, Stage, a_moment


def test_a_vm_runs_once_the_last_of_its_vnics_is_ready(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        task = stage.started(VNIC, SECOND)
        stage.way.connect(VNIC)
        await a_moment()
        before = stage.state
        stage.way.connect(SECOND)
        message = await task
        return before, stage.state, message, stage.starts.all()

    assert on_stage(scenario) == (State.PAUSED, State.RUNNING, "", [])


def test_a_vm_whose_vnics_are_ready_already_runs_at_once(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.way.connect(VNIC)
        await stage.started()
        return stage.state

    assert on_stage(scenario) is State.RUNNING


def test_that_a_vm_runs_is_logged_with_how_long_it_took(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(stage: Stage) -> None:
        stage.way.connect(VNIC)
        await stage.started()

    on_stage(scenario)

    assert re.search(rf"{VNIC}: ready after \d+ ms", caplog.text)
    assert re.search(rf"VM {VM_ID} was resumed, 0\.\d{{3}} s after its start began", caplog.text)


def test_libvirts_work_is_finished_before_the_vm_runs(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.way.connect(VNIC)
        await stage.started()
        return stage.way.finished

    assert on_stage(scenario) == [VNIC_ID]


def test_work_that_cannot_be_finished_keeps_no_vm_from_running(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.way.refusal = HostError("the tap is elsewhere", "see libvirtd's log")
        stage.way.connect(VNIC)
        await stage.started()
        return stage.state

    assert on_stage(scenario) is State.RUNNING
    assert "the tap is elsewhere" in caplog.text


def test_after_the_deadline_a_vm_runs_and_its_user_is_told_why_it_is_not_connected(
    on_stage: OnStage,
) -> None:
    async def scenario(stage: Stage) -> Any:
        message = await stage.started()
        return stage.state, message, stage.starts.all()

    assert on_stage(scenario, config=HASTY) == (
        State.RUNNING,
        f"{VNIC} is not ready after 0 s: {REASON}; VM {VM_ID} was resumed",
        [],
    )


def test_every_vnic_that_is_late_is_told_and_no_other(on_stage: OnStage) -> None:
    third = VnicIdentity("5e3cf30b-4d6a-4f0e-9f5b-0d6c2a7b1e11", Plugin.OPEN_VSWITCH, VM_ID)

    async def scenario(stage: Stage) -> str:
        stage.way.connect(SECOND)
        return await stage.started(VNIC, SECOND, third)

    message = on_stage(scenario, config=HASTY)

    assert VNIC.id in message and third.id in message
    assert SECOND.id not in message


def test_a_vnic_of_which_nothing_is_there_is_not_waited_for(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.way.missing.add(VNIC_ID)
        message = await stage.started()
        return stage.state, "is not ready" in message

    assert on_stage(scenario, config=PATIENT) == (State.RUNNING, True)


def test_an_administrator_may_want_a_vm_without_network_to_stay_paused(on_stage: OnStage) -> None:
    config = Config(start_deadline=0.05, after_deadline=AfterDeadline.KEEP_PAUSED)

    async def scenario(stage: Stage) -> Any:
        message = await stage.started()
        await a_moment()
        return stage.state, message, stage.starts.all()

    state, message, left = on_stage(scenario, config=config)

    assert (state, left) == (State.PAUSED, [])
    assert "stays paused" in message and "resume it in the engine" in message


def test_where_late_vms_stay_paused_one_in_time_runs(on_stage: OnStage) -> None:
    config = Config(start_deadline=60.0, after_deadline=AfterDeadline.KEEP_PAUSED)

    async def scenario(stage: Stage) -> State | None:
        stage.way.connect(VNIC)
        await stage.started()
        return stage.state

    assert on_stage(scenario, config=config) is State.RUNNING


def test_a_vm_that_somebody_else_wants_paused_stays_so(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.way.connect(VNIC)
        message = await stage.readiness.started(stage.begin(resume=False))
        await a_moment()
        return stage.state, message, stage.starts.all()

    assert on_stage(scenario) == (State.PAUSED, "", [])


def test_a_vm_that_runs_already_needs_nothing(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.vms.states[VM_ID] = State.RUNNING
        stage.way.connect(VNIC)
        return await stage.started(), stage.state, stage.starts.all()

    assert on_stage(scenario) == ("", State.RUNNING, [])


def test_a_vm_that_ends_is_not_waited_for_any_longer(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(stage: Stage) -> Any:
        task = stage.started()
        await a_moment()
        stage.vms.change(VM_ID, None)
        return await task, stage.starts.all(), stage.readiness.waiting

    assert on_stage(scenario) == ("", [], [])
    assert f"VM {VM_ID} ended before it ran" in caplog.text


def test_while_libvirt_is_away_the_vm_waits_and_runs_when_it_is_back(on_stage: OnStage) -> None:
    away = Unavailable("libvirt does not answer", "start libvirtd")

    async def scenario(stage: Stage) -> State | None:
        stage.vms.refusals = [away, away, away]
        stage.way.connect(VNIC)
        await stage.started()
        return stage.state

    assert on_stage(scenario) is State.RUNNING


def test_a_refusal_of_libvirts_is_logged_once_and_tried_again(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.vms.refusals = [HostError("libvirt refuses (locked)", "see its log")] * 3
        stage.way.connect(VNIC)
        await stage.started()
        return stage.state

    assert on_stage(scenario) is State.RUNNING
    assert caplog.text.count("libvirt refuses (locked)") == 1


def test_a_fault_while_waiting_keeps_no_vm_from_running(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.way.fault = ZeroDivisionError("a fault")
        message = await stage.started(VNIC, SECOND)
        return stage.state, message

    state, message = on_stage(scenario)

    assert state is State.RUNNING
    assert "internal error (ZeroDivisionError('a fault'))" in message
    assert "ZeroDivisionError" in caplog.text


def test_a_caller_who_goes_takes_nothing_with_him(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> State | None:
        task = stage.started()
        await a_moment()
        task.cancel()
        await asyncio.wait([task])
        stage.way.connect(VNIC)
        await a_moment()
        return stage.state

    assert on_stage(scenario) is State.RUNNING


def test_a_hook_that_asks_again_waits_for_the_same_end(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        first = stage.started()
        await a_moment()
        start = stage.starts.get(VM_ID)
        assert start is not None
        second = asyncio.ensure_future(stage.readiness.started(start))
        await a_moment()
        waiting = len(stage.readiness.waiting)
        stage.way.connect(VNIC)
        await asyncio.gather(first, second)
        return waiting, stage.way.finished, stage.state

    assert on_stage(scenario) == (1, [VNIC_ID], State.RUNNING)


def test_a_full_disk_keeps_no_vm_from_running(
    on_stage: OnStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> State | None:
        def full(_start: Start) -> None:
            raise HostError("/run is full", "make room")

        start = stage.begin()
        monkeypatch.setattr(stage.starts, "put", full)
        stage.way.connect(VNIC)
        with contextlib.suppress(HostError):
            await stage.readiness.started(start)
        await a_moment()
        return stage.state

    assert on_stage(scenario) is State.RUNNING


def test_a_fault_while_watching_for_the_vms_end_keeps_it_from_running_no_more(
    on_stage: OnStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> State | None:
        async def fail(_vm_id: str) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(stage.vms, "wait_gone", fail)
        task = stage.started()
        await a_moment()
        stage.way.connect(VNIC)
        with contextlib.suppress(RuntimeError):
            await task
        return stage.state

    assert on_stage(scenario) is State.RUNNING


def test_a_fault_while_resuming_is_tried_again(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> State | None:
        stage.vms.refusals = [RuntimeError("can't start new thread")]
        stage.way.connect(VNIC)
        with contextlib.suppress(RuntimeError):
            await stage.started()
        return stage.state

    assert on_stage(scenario) is State.RUNNING
