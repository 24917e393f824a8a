# SPDX-License-Identifier: GPL-2.0-or-later
"""A look that somebody asks for: the same two looks as ever, and what is told of them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from vif_driver.agent.reconcile import ASK_TIME, LOST_GRACE, SETTLE, Reconciler
from vif_driver.config import Config
from vif_driver.events.turns import Turns
from vif_driver.host import Host
from vif_driver.host.domains import Domain, Domains
from vif_driver.host.starts import START_TIME, Starts
from vif_driver.reconciliation.report import Report

from . import paper_host, virtual_time
from .conftest import VM_ID, VNIC_ID
from .inspected_host import a_vm, an_interface, virtualport
from .paper_host import (
    AWAY,
    GRACE,
    QBR,
    QVB,
    QVO,
    REFUSED,
    SOON,
    TAP,
    OnPaper,
    PaperHost,
    a_port,
    qos_row,
)


async def timed(reconciler: Reconciler) -> tuple[Report, float]:
    begun = virtual_time.now()
    return await reconciler.now(), virtual_time.now() - begun


def a_vm_with_a_port() -> Domain:
    return a_vm(an_interface("br-int", TAP, more=virtualport(VNIC_ID)))


def test_where_all_is_well_one_look_tells_so(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        return *await timed(reconciler), len(paper.looks), paper.libvirt.asked

    assert with_reconciler(scenario) == (Report(), SETTLE, 1, 1)


def test_what_is_left_over_goes_after_the_grace_period(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        port = paper.database.add(a_port())
        return *await timed(reconciler), paper.ports, port.uuid

    report, seconds, ports, row_id = with_reconciler(scenario)

    (told,) = report.removed
    assert ports == set()
    assert SETTLE + GRACE <= seconds <= SETTLE + GRACE + 1
    assert (told.vm_id, told.vnic_id, told.row_id) == (VM_ID, VNIC_ID, row_id)
    assert "its device is gone" in told.why
    assert (report.left, report.trouble) == ((), None)


def test_what_was_found_before_needs_only_the_rest_of_its_grace_period(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        await asyncio.sleep(SETTLE + GRACE - 4)
        return await timed(reconciler)

    report, seconds = with_reconciler(scenario)

    assert len(report.removed) == 1
    assert 3.9 < seconds < 5


@pytest.mark.parametrize("kind", ["devices", "qos"])
def test_devices_and_rows_of_qos_are_told_of_too(with_reconciler: OnPaper, kind: str) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Report:
        if kind == "devices":
            paper.kernel.add_ours(QBR, QVB, QVO)
        else:
            paper.database.unused["QoS"]["q"] = qos_row()
        return await reconciler.now()

    (told,) = with_reconciler(scenario).removed

    assert told.what.startswith({"devices": f"{QBR}, {QVB}, {QVO}", "qos": "QoS q"}[kind])
    assert (told.vm_id, told.row_id) == (VM_ID, {"devices": None, "qos": "q"}[kind])


def test_a_lost_port_is_plugged_again(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.kernel.add(TAP)
        paper.libvirt.vms = [a_vm_with_a_port()]
        return *await timed(reconciler), paper.ports

    report, seconds, ports = with_reconciler(scenario)

    assert ports == {TAP}
    assert [told.what for told in report.plugged] == [f"port {TAP} (VM {VM_ID}, vNIC {VNIC_ID})"]
    assert (report.left, seconds) == ((), SETTLE + LOST_GRACE)


def test_a_port_without_a_device_that_stays_is_told_with_the_reason(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Report:
        paper.libvirt.vms = [a_vm()]
        paper.database.add(a_port())
        return await reconciler.now()

    report = with_reconciler(scenario)

    assert [told.why for told in report.kept] == [f"VM {VM_ID} is there"]
    assert report.removed == ()


def test_what_needs_more_time_is_left_and_not_waited_for(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.kernel.add_ours(QBR, owner="")  # of an agent that was killed right then
        return await timed(reconciler)

    report, seconds = with_reconciler(scenario)

    (told,) = report.left
    assert told.why.endswith(f"; it goes in {START_TIME:.0f} s if that is still so")
    assert (report.removed, seconds) == ((), SETTLE)


def test_what_cannot_be_done_is_left_and_told(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.kernel.add(TAP)
        paper.libvirt.vms = [a_vm_with_a_port()]
        paper.database.add(a_port("tap2", {**paper_host.LIBVIRTS, "vm-id": paper_host.OTHER_VM}))
        paper.database.refusal = REFUSED
        return *await timed(reconciler), paper.ports

    report, seconds, ports = with_reconciler(scenario)

    whys = [told.why.partition("; ")[2] for told in report.left]
    assert whys == [
        "not removed: somebody works on it, or see journalctl -u vif-agent",
        "not plugged again: somebody works on it, or see journalctl -u vif-agent",
    ]
    assert (report.removed, report.plugged, ports) == ((), (), {"tap2"})
    assert seconds < SETTLE + GRACE + 2


@pytest.mark.parametrize("who", ["libvirt", "database"])
def test_whoever_does_not_answer_is_told_at_once(with_reconciler: OnPaper, who: str) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        if who == "libvirt":
            paper.libvirt.deaf = AWAY
        else:
            paper.database.connect(False)
        return await timed(reconciler)

    assert with_reconciler(scenario) == (Report(trouble=str(AWAY)), SETTLE)


def test_whoever_falls_silent_between_the_looks_is_told_and_nothing_goes(
    with_reconciler: OnPaper,
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        asking = asyncio.ensure_future(reconciler.now())
        await asyncio.sleep(SOON)
        paper.libvirt.deaf = AWAY
        return await asking, paper.ports

    report, ports = with_reconciler(scenario)

    assert ports == {TAP}
    assert (report.removed, len(report.left), report.trouble) == ((), 1, str(AWAY))


def test_a_look_that_was_under_way_does_not_count(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Report:
        under_way, go_on = asyncio.Event(), asyncio.Event()
        answer = paper.libvirt.all

        async def slow() -> list[Domain]:
            under_way.set()
            await go_on.wait()
            return await answer()

        paper.libvirt.all = slow  # type: ignore[method-assign]
        paper.database.add(a_port("tap2"))
        await under_way.wait()
        paper.database.add(a_port())
        asking = asyncio.ensure_future(reconciler.now())
        await asyncio.sleep(0)
        go_on.set()
        return await asking

    report = with_reconciler(scenario)

    assert {told.what.split()[1] for told in report.removed} == {TAP, "tap2"}


def test_who_asks_at_once_shares_the_looks(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        reports = await asyncio.gather(*(reconciler.now() for _ in range(5)))
        return reports, len(paper.looks), paper.database.transactions

    reports, looks, transactions = with_reconciler(scenario)

    assert [len(report.removed) for report in reports] == [1] * 5
    assert (looks, len(transactions)) == (2, 1)


def test_who_stops_waiting_disturbs_nobody(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        asking = asyncio.ensure_future(reconciler.now())
        await asyncio.sleep(SOON)
        asking.cancel()
        return await reconciler.now(), paper.ports

    report, ports = with_reconciler(scenario)

    assert (len(report.removed), ports) == (1, set())


def test_an_agent_that_ends_keeps_nobody_waiting(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.database.add(a_port())
        asking = asyncio.ensure_future(timed(reconciler))
        await asyncio.sleep(SOON)
        await reconciler.close()
        return await asking

    report, seconds = with_reconciler(scenario)

    assert report.trouble.startswith("vif-agent ends")
    assert seconds == SOON


def test_a_look_that_takes_too_long_is_given_up(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        async def never() -> list[Domain]:
            await asyncio.sleep(paper_host.DAY)
            return []

        paper.libvirt.all = never  # type: ignore[method-assign]
        return await timed(reconciler)

    report, seconds = with_reconciler(scenario)

    assert "not done within 40 s" in report.trouble
    assert seconds == GRACE + ASK_TIME


def test_a_reconciler_that_was_not_started_says_so() -> None:
    reconciler = Reconciler(Config(), Host(), cast(Domains, None), Starts(), Turns())

    report = asyncio.run(reconciler.now())

    assert report.trouble is not None and "does not look after this host" in report.trouble
