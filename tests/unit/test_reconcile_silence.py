# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever cannot answer makes nothing stale, and whoever comes in between wins."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from vif_driver.agent.reconcile import BATCH, RETRY, SETTLE, Reconciler
from vif_driver.host.domains import Domain
from vif_driver.host.ovsdb_rows import PortRows
from vif_driver.host.starts import START_TIME

from .conftest import VM_ID, VNIC_ID
from .inspected_host import a_vm
from .paper_host import (
    AWAY,
    DAY,
    GRACE,
    OURS,
    QVO,
    SOON,
    TAP,
    OnPaper,
    PaperHost,
    a_port,
    fields,
)

# ---- who is silent -------------------------------------------------------------------------------


def test_while_libvirt_does_not_answer_nothing_goes(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        paper.libvirt.deaf = AWAY
        await asyncio.sleep(DAY)
        return paper.ports, paper.database.transactions

    assert with_reconciler(scenario) == ({TAP}, [])


def test_once_libvirt_is_back_the_grace_period_begins_anew(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        paper.libvirt.deaf = AWAY
        await asyncio.sleep(GRACE)
        paper.libvirt.deaf = None
        paper.libvirt.tell(None)
        await asyncio.sleep(SETTLE + GRACE - 0.1)
        before = paper.ports
        await asyncio.sleep(0.2)
        return before, paper.ports

    assert with_reconciler(scenario) == ({TAP}, set())


def test_a_libvirt_that_was_away_for_a_moment_between_two_looks_begins_it_anew(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.database.add(a_port())
        await asyncio.sleep(GRACE)
        paper.libvirt.tell(None)  # the connection broke
        paper.libvirt.tell(None)  # and is there again
        await asyncio.sleep(SETTLE + GRACE - 0.1)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_while_the_database_does_not_answer_nothing_goes(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        paper.database.connect(False)
        await asyncio.sleep(DAY)
        return paper.ports, paper.database.transactions

    assert with_reconciler(scenario) == ({TAP}, [])


def test_a_database_that_was_away_for_a_moment_between_two_looks_begins_it_anew(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(GRACE)
        paper.database.connect(False)
        paper.database.connect(True)
        await asyncio.sleep(SETTLE + GRACE - 0.1)
        before = paper.ports
        await asyncio.sleep(0.2)
        return before, paper.ports

    assert with_reconciler(scenario) == ({TAP}, set())


def test_a_database_that_comes_back_in_the_middle_of_a_removal_keeps_the_port(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        def away_for_a_moment() -> None:
            paper.database.connect(False)
            paper.database.connect(True)

        paper.database.meanwhile = away_for_a_moment
        paper.database.add(a_port())
        await asyncio.sleep(GRACE + SOON)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_a_database_that_goes_in_the_middle_of_many_removals_is_not_asked_for_the_others(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(*(a_port(f"tap{number}") for number in range(3 * BATCH)))
        paper.database.meanwhile = lambda: paper.database.connect(False)
        await asyncio.sleep(GRACE + SOON)
        return len(paper.ports), len(paper.database.transactions)

    assert with_reconciler(scenario) == (3 * BATCH, 1)
    assert len(fields(caplog)) == BATCH
    assert f"{BATCH} stale rows were not removed" in caplog.text


def test_a_libvirt_that_hung_and_says_nothing_of_it_is_asked_again(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.libvirt.deaf = AWAY
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        paper.libvirt.deaf = None
        await asyncio.sleep(RETRY + GRACE)
        return paper.ports

    assert with_reconciler(scenario) == set()


@pytest.mark.parametrize("fault", [AWAY, ZeroDivisionError("a fault")], ids=["silence", "fault"])
def test_a_look_that_failed_begins_the_grace_period_anew_even_if_nothing_is_heard_of_it(
    with_reconciler: OnPaper, fault: Exception
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        paper.libvirt.deaf = fault
        paper.database.tell()
        await asyncio.sleep(SOON)
        paper.libvirt.deaf = None
        paper.database.tell()
        await asyncio.sleep(SETTLE + GRACE - 0.1)
        before = paper.ports
        await asyncio.sleep(0.2)
        return before, paper.ports

    assert with_reconciler(scenario) == ({TAP}, set())


def test_a_silence_that_lasts_is_not_asked_into_all_the_time(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        paper.libvirt.deaf = AWAY
        paper.database.add(a_port())
        await asyncio.sleep(100 * RETRY)
        return paper.libvirt.asked

    assert with_reconciler(scenario) <= 101


def test_a_fault_removes_nothing_is_logged_and_does_not_end_the_looks(
    with_reconciler: OnPaper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        async def broken() -> list[Domain]:
            raise ZeroDivisionError("a fault")

        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        with monkeypatch.context() as patch:
            patch.setattr(paper.libvirt, "all", broken)
            await asyncio.sleep(GRACE)
        kept = paper.ports
        await asyncio.sleep(RETRY + GRACE + SOON)
        return kept, paper.ports

    assert with_reconciler(scenario) == ({TAP}, set())
    assert "ZeroDivisionError: a fault" in caplog.text


# ---- who comes in between ------------------------------------------------------------------------


def test_a_plug_that_began_meanwhile_wins(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        async with paper.turns.of(TAP):
            await asyncio.sleep(GRACE + SOON)
            return paper.ports, paper.database.transactions

    assert with_reconciler(scenario) == ({TAP}, [])


def test_a_plug_of_a_hybrid_vnic_that_began_meanwhile_wins(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.database.add(a_port(QVO, OURS))
        async with paper.turns.of(TAP):
            await asyncio.sleep(GRACE + SOON)
            return paper.ports

    assert with_reconciler(scenario) == {QVO}


def test_a_plug_that_begins_while_the_request_is_made_wins(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        plugging = asyncio.Event()

        async def plug() -> None:
            async with paper.turns.of(TAP):
                plugging.set()
                await asyncio.sleep(DAY)

        paper.database.add(a_port(), a_port("tap2"))
        await asyncio.sleep(SOON)
        task = asyncio.ensure_future(asyncio.sleep(0))
        remove = paper.database.remove

        async def late(*arguments: Any) -> list[PortRows]:
            nonlocal task
            task = asyncio.ensure_future(plug())
            await plugging.wait()
            return await remove(*arguments)

        paper.database.remove = late  # type: ignore[assignment, method-assign]
        await asyncio.sleep(GRACE)
        task.cancel()
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_a_plug_that_is_over_and_left_nothing_does_not_protect_for_ever(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.database.add(a_port())
        async with paper.turns.of(TAP):
            await asyncio.sleep(GRACE + SOON)
        await asyncio.sleep(RETRY + SOON)
        return paper.ports

    assert with_reconciler(scenario) == set()


def test_a_device_that_appears_while_the_request_is_made_keeps_its_port(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        paper.database.meanwhile = lambda: paper.kernel.add(TAP)
        await asyncio.sleep(GRACE + SOON)
        return paper.ports, reconciler.counts.removed

    assert with_reconciler(scenario) == ({TAP}, 0)
    assert f"port {TAP} of br-int (VM {VM_ID}, vNIC {VNIC_ID}) was not removed" in caplog.text


def test_a_vm_that_appears_meanwhile_keeps_its_port(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        paper.libvirt.vms = [a_vm()]  # and no word of it
        await asyncio.sleep(GRACE + SOON)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_a_start_that_is_under_way_keeps_the_port(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.begin()
        paper.database.add(a_port())
        await asyncio.sleep(START_TIME - 0.1)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_a_start_that_came_to_nothing_keeps_no_port_after_its_time(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.begin(age=START_TIME / 2)
        paper.database.add(a_port())
        await asyncio.sleep(START_TIME / 2 + GRACE + SOON)
        return paper.ports

    assert with_reconciler(scenario) == set()
