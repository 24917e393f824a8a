# SPDX-License-Identifier: GPL-2.0-or-later
"""How the agent removes what is left of a plug that was not finished."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from vif_driver.agent.reconcile import RETRY, SETTLE, Reconciler
from vif_driver.host.starts import START_TIME
from vif_driver.reconciliation import leftovers

from .conftest import VM_ID, VNIC_ID
from .inspected_host import a_vm
from .paper_host import (
    AWAY,
    DAY,
    GRACE,
    OTHER_VM,
    OURS,
    QBR,
    QTP,
    QVB,
    QVO,
    REFUSED,
    SOON,
    TAP,
    OnPaper,
    PaperHost,
    a_port,
    fields,
)


def add_hybrid(paper: PaperHost, *names: str) -> None:
    """Have a plug be there that was not finished, and its port if it came so far."""
    paper.kernel.add_ours(*(names or (QBR, QVB, QVO)))
    if not names:
        paper.database.add(a_port(QVO, OURS))
    paper.kernel.remove("anything")


@pytest.mark.parametrize(
    "names",
    [(), (QBR,), (QBR, QVB, QVO), (QVB, QVO), (QBR, QVB, TAP)],
    ids=["hybrid", "bridge alone", "hybrid without a port", "veth alone", "Linux bridge"],
)
def test_a_plug_that_was_not_finished_and_whose_vm_is_gone_goes_whole(
    with_reconciler: OnPaper, names: tuple[str, ...]
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        add_hybrid(paper, *names)
        await asyncio.sleep(SETTLE + GRACE - 0.1)
        before = len(paper.kernel.names)
        await asyncio.sleep(SOON)
        return before, paper.kernel.names, paper.ports

    assert with_reconciler(scenario) == (len(names) or 3, set(), set())


def test_devices_that_go_are_told_with_their_port_and_all_that_is_needed_to_put_it_back(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = a_port(QVO, OURS)

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> None:
        paper.kernel.add_ours(QBR, QVB, QVO)
        paper.database.add(port)
        await asyncio.sleep(GRACE + SOON)

    with_reconciler(scenario)

    (line,) = fields(caplog)
    assert (line["VIF_ROW_ID"], line["VIF_VNIC"]) == (port.uuid, VNIC_ID)
    assert json.loads(line["VIF_ROW"]) == port.record()


def test_devices_without_a_port_are_told_too(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> None:
        add_hybrid(paper, QBR)
        await asyncio.sleep(GRACE + SOON)

    with_reconciler(scenario)

    assert fields(caplog) == [{"VIF_VM": VM_ID, "VIF_VNIC": VNIC_ID, "VIF_EVENT": "reconcile"}]


@pytest.mark.parametrize(
    "ids",
    [
        {"iface-id": VNIC_ID, "vm-uuid": VM_ID},
        {**OURS, "vm-id": OTHER_VM, "iface-id": OTHER_VM},
    ],
    ids=["other software's", "another vNIC's"],
)
def test_a_port_of_that_name_that_does_not_go_with_the_devices_stays(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture, ids: dict[str, str]
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.kernel.add_ours(QBR, QVB, QVO)
        paper.libvirt.vms = [a_vm(vm_id=OTHER_VM)]
        paper.database.add(a_port(QVO, ids))
        await asyncio.sleep(GRACE + SOON)
        return paper.ports

    assert with_reconciler(scenario) == {QVO}
    assert [line for line in fields(caplog) if "VIF_ROW" in line] == []


def test_devices_that_an_agent_did_not_come_to_name_go_after_the_time_of_a_start(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.kernel.add_ours(QBR, owner="")
        paper.kernel.remove("anything")
        await asyncio.sleep(START_TIME + SETTLE - 0.1)
        before = paper.kernel.names
        await asyncio.sleep(0.2)
        return before, paper.kernel.names

    assert with_reconciler(scenario) == ({QBR}, set())


def test_a_plug_that_came_to_nothing_goes_although_nothing_happens_any_more(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> set[str]:
        paper.begin()
        paper.kernel.add_ours(QBR, QVB, TAP)
        reconciler.look_soon()
        await asyncio.sleep(START_TIME + SETTLE + GRACE + SOON)
        return paper.kernel.names

    assert with_reconciler(scenario) == set()


@pytest.mark.parametrize("tap", [TAP, QTP])
def test_devices_whose_guest_joins_them_meanwhile_stay(with_reconciler: OnPaper, tap: str) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        add_hybrid(paper)
        await asyncio.sleep(SOON)
        paper.kernel.add(tap, on=QBR)
        await asyncio.sleep(DAY)
        return paper.kernel.names

    assert with_reconciler(scenario) == {QBR, QVB, QVO, tap}


def test_devices_that_somebody_works_on_stay(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        add_hybrid(paper)
        async with paper.turns.of(TAP):
            await asyncio.sleep(GRACE + SOON)
            return paper.kernel.names

    assert with_reconciler(scenario) == {QBR, QVB, QVO}


def test_devices_that_somebody_works_on_hold_up_no_others(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        add_hybrid(paper, QBR)
        paper.kernel.add_ours("qbr8d444840-9d", owner=f"{OTHER_VM} {OTHER_VM}")
        async with paper.turns.of(TAP):
            await asyncio.sleep(GRACE + SOON)
            return paper.kernel.names

    assert with_reconciler(scenario) == {QBR}


def test_nobody_works_on_devices_while_they_are_removed(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        taken: list[bool] = []
        delete = paper.kernel.delete

        async def watched(name: str) -> bool:
            taken.append(paper.turns.is_taken(TAP))
            return await delete(name)

        paper.kernel.delete = watched  # type: ignore[method-assign]
        add_hybrid(paper)
        await asyncio.sleep(GRACE + SOON)
        return taken, paper.turns.is_taken(TAP)

    assert with_reconciler(scenario) == ([True, True, True], False)


def test_devices_that_changed_while_the_turn_was_waited_for_stay(
    with_reconciler: OnPaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        add_hybrid(paper)
        await asyncio.sleep(SOON)
        is_idle = leftovers.is_idle

        async def late(*arguments: Any) -> bool:
            paper.libvirt.vms = [a_vm()]
            return await is_idle(*arguments)

        monkeypatch.setattr(leftovers, "is_idle", late)
        await asyncio.sleep(GRACE)
        return paper.kernel.names

    assert with_reconciler(scenario) == {QBR, QVB, QVO}


def test_devices_made_anew_under_the_same_names_have_their_own_grace_period(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.kernel.add_ours(QBR)
        paper.kernel.remove("anything")
        await asyncio.sleep(GRACE)
        paper.kernel.remove(QBR)
        paper.kernel.add_ours(QBR)
        await asyncio.sleep(GRACE)
        return paper.kernel.names

    assert with_reconciler(scenario) == {QBR}


def test_devices_that_the_kernel_does_not_let_go_are_told_and_tried_again(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.kernel.refusal = REFUSED
        paper.kernel.add_ours(QBR)
        paper.kernel.remove("anything")
        await asyncio.sleep(GRACE + SOON)
        before = reconciler.counts.removed
        paper.kernel.refusal = None
        await asyncio.sleep(RETRY + SOON)
        return before, paper.kernel.names

    assert with_reconciler(scenario) == (0, set())
    assert f"{QBR} (VM {VM_ID}, vNIC {VNIC_ID}): not removed: it refused" in caplog.text


@pytest.mark.parametrize("away", ["database", "libvirt"])
def test_whoever_goes_while_devices_are_judged_keeps_them(
    with_reconciler: OnPaper, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        add_hybrid(paper)
        await asyncio.sleep(SOON)
        is_idle = leftovers.is_idle

        async def late(*arguments: Any) -> bool:
            if away == "database":
                paper.database.connect(False)
                paper.database.connect(True)
            else:
                paper.libvirt.deaf = AWAY
            return await is_idle(*arguments)

        monkeypatch.setattr(leftovers, "is_idle", late)
        await asyncio.sleep(GRACE)
        return paper.kernel.names

    assert with_reconciler(scenario) == {QBR, QVB, QVO}


def test_without_open_vswitch_devices_go_all_the_same(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> set[str]:
        paper.kernel.add_ours(QBR, QVB, TAP)
        reconciler = paper.reconciler(ovsdb=None)
        reconciler.start()
        await asyncio.sleep(GRACE + SOON)
        await reconciler.close()
        return paper.kernel.names

    assert on_paper(scenario) == set()


def test_an_agent_that_ends_while_it_removes_devices_holds_no_turn(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        async def hang(_name: str) -> bool:
            await asyncio.sleep(DAY)
            return True

        paper.kernel.delete = hang  # type: ignore[assignment, method-assign]
        add_hybrid(paper)
        await asyncio.sleep(GRACE + SOON)
        during = paper.turns.is_taken(TAP)
        await reconciler.close()
        return during, paper.turns.is_taken(TAP)

    assert with_reconciler(scenario) == (True, False)
