# SPDX-License-Identifier: GPL-2.0-or-later
"""When the agent looks at the host, and what it waits for; a day here takes no time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from vif_driver.agent.reconcile import BATCH, SETTLE, Reconciler
from vif_driver.config import Config
from vif_driver.host.domains import Domain
from vif_driver.host.ovsdb_rows import PortRows
from vif_driver.reconciliation import leftovers

from .conftest import VM_ID, VNIC_ID
from .inspected_host import a_vm, an_interface, virtualport
from .paper_host import (
    DAY,
    GRACE,
    SOON,
    TAP,
    OnPaper,
    PaperHost,
    a_port,
    fields,
)

# ---- what was left: two looks --------------------------------------------------------------------


def test_a_port_of_a_vm_that_is_gone_goes_after_the_grace_period(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(SETTLE + GRACE - 0.1)
        before = paper.ports
        await asyncio.sleep(0.2)
        return before, paper.ports

    assert with_reconciler(scenario) == ({TAP}, set())


def test_what_an_agent_finds_when_it_starts_has_its_grace_period_too(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> Any:
        paper.database.add(a_port())
        reconciler = paper.reconciler()
        reconciler.start()
        await asyncio.sleep(SETTLE + GRACE - 0.1)
        before = paper.ports
        await asyncio.sleep(0.2)
        await reconciler.close()
        return before, paper.ports

    assert on_paper(scenario) == ({TAP}, set())


def test_what_the_second_look_does_not_find_any_more_has_its_grace_period_anew(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.database.add(a_port())
        await asyncio.sleep(GRACE / 2)
        paper.kernel.add(TAP)
        paper.database.tell()
        await asyncio.sleep(GRACE / 4)
        paper.kernel.remove(TAP)
        await asyncio.sleep(SETTLE + GRACE - 0.1)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_each_leftover_has_a_grace_period_of_its_own(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(GRACE / 2)
        paper.database.add(a_port("tap2"))
        await asyncio.sleep(GRACE / 2 + SOON)
        first = paper.ports
        await asyncio.sleep(GRACE / 2)
        return first, paper.ports

    assert with_reconciler(scenario) == ({"tap2"}, set())


def test_events_without_end_keep_no_leftover_from_its_second_look(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.database.add(a_port())
        for _ in range(100):
            await asyncio.sleep((GRACE + SOON) / 100)
            paper.database.tell()
        return paper.ports

    assert with_reconciler(scenario) == set()


@pytest.mark.parametrize("grace", [1.0, 600.0])
def test_the_grace_period_is_the_one_that_is_set(with_reconciler: OnPaper, grace: float) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(SETTLE + grace - 0.1)
        before = paper.ports
        await asyncio.sleep(0.1 + SETTLE)
        return before, paper.ports

    assert with_reconciler(scenario, config=Config(grace=grace)) == ({TAP}, set())


# ---- reasons to look -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        lambda paper: paper.kernel.remove("anything"),
        lambda paper: paper.libvirt.tell(VM_ID),
        lambda paper: paper.libvirt.tell(None),
        lambda paper: paper.database.tell(),
    ],
    ids=["a device is gone", "a VM has changed", "libvirt is back", "a row has changed"],
)
def test_an_event_is_a_reason_for_one_look(
    with_reconciler: OnPaper, event: Callable[[PaperHost], None]
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        event(paper)
        await asyncio.sleep(DAY)
        return len(paper.looks)

    assert with_reconciler(scenario) == 1


def test_events_at_once_are_a_reason_for_one_look(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        for _ in range(50):
            paper.database.tell()
            paper.kernel.remove("anything")
            await asyncio.sleep(SETTLE / 100)
        await asyncio.sleep(SOON)
        return len(paper.looks)

    assert with_reconciler(scenario) == 1


def test_an_event_while_a_look_is_taken_is_a_reason_for_another(
    with_reconciler: OnPaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        find = leftovers.find

        async def disturbed(*arguments: Any, **more: Any) -> leftovers.Found:
            if not paper.looks:
                paper.database.tell()
            return await find(*arguments, **more)

        monkeypatch.setattr(leftovers, "find", disturbed)
        paper.database.tell()
        await asyncio.sleep(DAY)
        return len(paper.looks)

    assert with_reconciler(scenario) == 2


def test_a_host_where_nothing_happens_is_not_looked_at(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.libvirt.vms = [a_vm(an_interface("br-int", TAP, more=virtualport(VNIC_ID)))]
        paper.kernel.add(TAP)
        paper.database.add(a_port(), a_port("patch", {}, type="patch"))
        await asyncio.sleep(SOON)
        paper.looks.clear()
        await asyncio.sleep(DAY)
        return paper.looks

    assert with_reconciler(scenario) == []


def test_a_port_that_stays_is_not_looked_at_again(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.libvirt.vms = [a_vm()]
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        paper.looks.clear()
        await asyncio.sleep(DAY)
        return paper.looks

    assert with_reconciler(scenario) == []


def test_events_that_leave_nothing_behind_are_no_reason_to_ask_libvirt(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        for number in range(10):
            paper.kernel.add(f"veth{number}")
            paper.database.add(a_port(f"veth{number}", {}))
            await asyncio.sleep(SOON)
            paper.database.drop(f"veth{number}")
            paper.kernel.remove(f"veth{number}")
            await asyncio.sleep(SOON)
        return paper.libvirt.asked

    assert with_reconciler(scenario) == 0


def test_a_removal_is_a_reason_for_one_more_look_and_no_other(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(DAY)
        return paper.ports, len(paper.looks)

    assert with_reconciler(scenario) == (set(), 3)


# ---- the end -------------------------------------------------------------------------------------


def test_a_reconciler_that_ends_stops_listening(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        await reconciler.close()
        paper.database.add(a_port())
        await asyncio.sleep(DAY)
        return paper.looks, paper.ports, paper.listeners

    assert with_reconciler(scenario) == ([], {TAP}, 0)


def test_a_reconciler_that_was_never_started_ends_too(on_paper: OnPaper) -> None:
    on_paper(lambda paper: paper.reconciler().close())


def test_the_end_of_an_agent_waits_for_no_look(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> float:
        async def hang() -> list[Domain]:
            await asyncio.sleep(DAY)
            return []

        paper.libvirt.all = hang  # type: ignore[method-assign]
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        begun = asyncio.get_running_loop().time()
        await reconciler.close()
        return asyncio.get_running_loop().time() - begun

    assert with_reconciler(scenario) == 0


def test_what_is_being_removed_when_the_agent_ends_is_told_and_the_rest_is_left(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(paper: PaperHost, reconciler: Reconciler) -> int:
        async def hang(*_: Any) -> list[PortRows]:
            await asyncio.sleep(DAY)
            return []

        paper.database.remove = hang  # type: ignore[assignment, method-assign]
        paper.database.add(*(a_port(f"tap{number}") for number in range(BATCH + 1)))
        await asyncio.sleep(GRACE + SOON)
        await reconciler.close()
        return len(paper.ports)

    assert with_reconciler(scenario) == BATCH + 1
    assert len(fields(caplog)) == BATCH
