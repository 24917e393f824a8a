# SPDX-License-Identifier: GPL-2.0-or-later
"""How the agent plugs again what VMs have lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vif_driver.agent.reconcile import LOST_GRACE, RETRY, SETTLE, Reconciler
from vif_driver.host.domains import Domain
from vif_driver.reconciliation import leftovers

from .conftest import VM_ID, VNIC_ID
from .inspected_host import a_vm, an_interface, virtualport
from .paper_host import (
    DAY,
    LIBVIRTS,
    REFUSED,
    SOON,
    TAP,
    OnPaper,
    PaperHost,
    a_port,
)


def run_vm(paper: PaperHost, more: str = "") -> None:
    """Have a VM run whose tap is on the integration bridge."""
    interface = an_interface("br-int", TAP, more=virtualport(VNIC_ID) + more)
    paper.libvirt.vms = [a_vm(interface)]
    paper.kernel.add(TAP)
    paper.database.add(a_port())


async def lose(paper: PaperHost, more: str = "") -> None:
    """Have a VM run, and somebody delete its port."""
    run_vm(paper, more)
    await asyncio.sleep(SOON)
    paper.database.drop(TAP)


def test_a_port_that_a_vm_has_lost_is_plugged_again_after_two_looks(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        await lose(paper)
        await asyncio.sleep(SETTLE + LOST_GRACE - 0.1)
        before = paper.ports
        await asyncio.sleep(0.2)
        return before, paper.database.rows[0].ids, reconciler.counts.plugged

    assert with_reconciler(scenario) == (set(), LIBVIRTS, 1)


def test_what_was_plugged_again_is_told(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> None:
        await lose(paper)
        await asyncio.sleep(SOON)

    with_reconciler(scenario)

    (record,) = caplog.records
    assert (
        record.getMessage() == f"port {TAP} (VM {VM_ID}, vNIC {VNIC_ID}) was missing; plugged again"
    )
    assert record.vif_fields == {"VIF_VM": VM_ID, "VIF_VNIC": VNIC_ID, "VIF_EVENT": "reconcile"}  # type: ignore[attr-defined]


def test_limits_that_are_lost_with_the_port_are_told(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> None:
        await lose(paper, "<bandwidth><inbound average='1000'/></bandwidth>")
        await asyncio.sleep(SOON)

    with_reconciler(scenario)

    assert "the limits of its bandwidth are lost; change them in the engine and back" in caplog.text


def test_plugging_again_is_a_reason_for_one_more_look_and_no_other(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        await lose(paper)
        paper.looks.clear()
        await asyncio.sleep(DAY)
        return len(paper.looks)

    assert with_reconciler(scenario) == 3


def test_a_port_that_was_lost_while_there_was_no_agent_is_plugged_again(
    on_paper: OnPaper,
) -> None:
    async def scenario(paper: PaperHost) -> set[str]:
        run_vm(paper)
        paper.database.drop(TAP)
        reconciler = paper.reconciler()
        reconciler.start()
        await asyncio.sleep(SOON)
        await reconciler.close()
        return paper.ports

    assert on_paper(scenario) == {TAP}


def test_ports_that_were_lost_with_their_bridge_are_plugged_when_it_is_back(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        run_vm(paper)
        await asyncio.sleep(SOON)
        paper.database.bridges.clear()
        paper.database.drop(TAP)
        await asyncio.sleep(60)
        paper.database.bridges.add("br-int")
        paper.database.tell()
        await asyncio.sleep(SOON)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_ports_that_were_lost_with_the_database_are_plugged_when_it_is_back(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        run_vm(paper)
        await asyncio.sleep(SOON)
        paper.database.connect(False)
        await asyncio.sleep(60)
        paper.database.rows.clear()
        paper.database.bridges.clear()
        paper.database.connect(True)
        await asyncio.sleep(60)
        paper.database.bridges.add("br-int")
        paper.database.tell()
        await asyncio.sleep(SOON)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_a_bridge_that_is_not_there_is_no_reason_to_ask_libvirt(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        paper.database.bridges.clear()
        for _ in range(10):
            paper.database.tell()
            await asyncio.sleep(SOON)
        return paper.libvirt.asked

    assert with_reconciler(scenario) == 0


def test_a_vm_that_libvirt_finds_when_it_is_back_has_its_port_again(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        paper.kernel.add(TAP)
        interface = an_interface("br-int", TAP, more=virtualport(VNIC_ID))
        paper.libvirt.vms = [a_vm(interface)]
        paper.libvirt.tell(None)
        await asyncio.sleep(SOON)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_a_word_of_libvirts_in_the_middle_of_a_look_is_not_lost(
    with_reconciler: OnPaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        find = leftovers.find

        async def disturbed(*arguments: Any, **more: Any) -> leftovers.Found:
            found = await find(*arguments, **more)
            if not paper.libvirt.vms:
                paper.kernel.add(TAP)
                interface = an_interface("br-int", TAP, more=virtualport(VNIC_ID))
                paper.libvirt.vms = [a_vm(interface)]
                paper.libvirt.tell(None)
            return found

        monkeypatch.setattr(leftovers, "find", disturbed)
        paper.database.tell()
        await asyncio.sleep(2 * SOON)
        return paper.ports

    assert with_reconciler(scenario) == {TAP}


def test_a_port_that_is_back_at_the_second_look_is_left_alone(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> int:
        await lose(paper)
        await asyncio.sleep(SETTLE + LOST_GRACE / 2)
        paper.database.add(a_port())
        await asyncio.sleep(SOON)
        return reconciler.counts.plugged

    assert with_reconciler(scenario) == 0
    assert caplog.text == ""


@pytest.mark.parametrize("gone", ["tap", "VM"])
def test_a_vnic_that_is_gone_at_the_second_look_is_not_plugged(
    with_reconciler: OnPaper, gone: str
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        await lose(paper)
        await asyncio.sleep(SETTLE + LOST_GRACE / 2)
        if gone == "tap":
            paper.kernel.remove(TAP)
        else:
            paper.libvirt.vms = []
        await asyncio.sleep(SOON)
        return paper.ports

    assert with_reconciler(scenario) == set()


def test_a_vnic_that_is_unplugged_while_it_is_about_to_be_plugged_is_not(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        await lose(paper)
        get = paper.libvirt.get

        async def late(vm_id: str) -> Domain | None:
            paper.libvirt.vms = [a_vm()]
            return await get(vm_id)

        paper.libvirt.get = late  # type: ignore[method-assign]
        await asyncio.sleep(SOON)
        return paper.ports, reconciler.counts.plugged

    assert with_reconciler(scenario) == (set(), 0)


def test_a_vnic_that_somebody_works_on_is_plugged_as_soon_as_he_is_done(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        await lose(paper)
        async with paper.turns.of(TAP):
            await asyncio.sleep(10)
            before = paper.ports
        await asyncio.sleep(SOON)
        return before, paper.ports

    assert with_reconciler(scenario) == (set(), {TAP})


def test_a_vnic_that_somebody_works_on_holds_up_no_other(with_reconciler: OnPaper) -> None:
    second = "4d2be2fa" + VNIC_ID[8:]

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> set[str]:
        interfaces = [(TAP, VNIC_ID), ("tap2", second)]
        paper.libvirt.vms = [
            a_vm(*(an_interface("br-int", tap, more=virtualport(id_)) for tap, id_ in interfaces))
        ]
        paper.kernel.add(TAP)
        paper.kernel.add("tap2")
        paper.libvirt.tell(None)
        async with paper.turns.of(TAP):
            await asyncio.sleep(SOON)
            return paper.ports

    assert with_reconciler(scenario) == {"tap2"}


def test_whoever_was_away_for_a_moment_has_the_time_for_which_a_port_is_missing_begin_anew(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        await lose(paper)
        await asyncio.sleep(SETTLE + LOST_GRACE / 2)
        paper.database.connect(False)
        paper.database.connect(True)
        # The look that was about to be taken is the first one now.
        await asyncio.sleep(SETTLE - LOST_GRACE / 2 + LOST_GRACE - 0.1)
        before = paper.ports
        await asyncio.sleep(0.2)
        return before, paper.ports

    assert with_reconciler(scenario) == (set(), {TAP})


def test_nobody_works_on_a_vnic_while_it_is_plugged_again(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        taken: list[bool] = []
        add_port = paper.database.add_port

        async def watched(*arguments: Any, **more: Any) -> None:
            taken.append(paper.turns.is_taken(TAP))
            await add_port(*arguments, **more)

        paper.database.add_port = watched  # type: ignore[method-assign]
        await lose(paper)
        await asyncio.sleep(SOON)
        return taken, paper.turns.is_taken(TAP)

    assert with_reconciler(scenario) == ([True], False)


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
def test_a_port_that_cannot_be_plugged_is_told_and_tried_once_a_minute(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture, busy: bool
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        await lose(paper)
        paper.database.refusal = REFUSED
        for _ in range(600):
            await asyncio.sleep(1)
            if busy:
                paper.kernel.remove("anything")
        tried = len(caplog.records)
        paper.database.refusal = None
        await asyncio.sleep(RETRY + SOON)
        return tried, paper.ports

    tried, ports = with_reconciler(scenario)

    assert 8 <= tried <= 11 and ports == {TAP}
    assert "is missing and was not plugged again: it refused" in caplog.text


def test_a_port_that_cannot_be_plugged_lets_a_quiet_host_sleep(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        await lose(paper)
        paper.database.refusal = REFUSED
        await asyncio.sleep(10 * RETRY)
        return paper.libvirt.asked

    assert with_reconciler(scenario) <= 13


def test_of_many_ports_each_is_plugged_and_libvirt_asked_about_one_vm_for_each(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        for number in range(20):
            vnic_id = f"{number:08d}{VNIC_ID[8:]}"
            name = f"tap{vnic_id[:11]}"
            interface = an_interface("br-int", name, more=virtualport(vnic_id))
            paper.libvirt.vms.append(a_vm(interface, vm_id=f"{number:08d}{VM_ID[8:]}"))
            paper.kernel.add(name)
        paper.libvirt.tell(None)
        await asyncio.sleep(SOON)
        return reconciler.counts.plugged, paper.libvirt.asked

    assert with_reconciler(scenario) == (20, 2)
