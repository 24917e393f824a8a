# SPDX-License-Identifier: GPL-2.0-or-later
"""How the agent removes what is in Open vSwitch's database."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from vif_driver.agent.reconcile import BATCH, RETRY, TOLD, Counts, Reconciler

from .conftest import VM_ID, VNIC_ID
from .paper_host import (
    GRACE,
    QBR,
    REFUSED,
    SOON,
    OnPaper,
    PaperHost,
    a_port,
    fields,
    qos_row,
    queue_row,
)


def test_every_removal_is_told_before_the_deed_with_all_that_is_needed_to_put_it_back(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told: list[dict[str, str]] = []
    port = a_port(port={"tag": 7})

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> None:
        paper.database.meanwhile = lambda: told.extend(fields(caplog))
        paper.database.add(port)
        await asyncio.sleep(GRACE + SOON)

    with_reconciler(scenario)

    (line,) = told
    assert {key: line[key] for key in ("VIF_VM", "VIF_VNIC", "VIF_EVENT", "VIF_ROW_ID")} == {
        "VIF_VM": VM_ID,
        "VIF_VNIC": VNIC_ID,
        "VIF_EVENT": "reconcile",
        "VIF_ROW_ID": port.uuid,
    }
    assert json.loads(line["VIF_ROW"]) == port.record()
    assert fields(caplog) == told


def test_what_is_removed_is_counted(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.database.add(a_port(), a_port("tap2"))
        paper.database.unused["QoS"]["q1"] = qos_row()
        paper.kernel.add_ours(QBR)
        await asyncio.sleep(GRACE + SOON)
        return reconciler.counts

    assert with_reconciler(scenario) == Counts(removed=4)


def test_what_is_found_is_told_once(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> None:
        paper.database.add(a_port())
        for _ in range(3):
            await asyncio.sleep(GRACE / 4)
            paper.database.tell()

    with_reconciler(scenario)

    assert caplog.text.count("is left over (its device is gone") == 1


def test_of_very_much_that_is_found_a_part_is_told_one_by_one(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> None:
        paper.database.add(*(a_port(f"tap{number}") for number in range(TOLD + 7)))
        await asyncio.sleep(SOON)

    with_reconciler(scenario)

    assert caplog.text.count("is left over (") == TOLD
    assert "7 more are left over" in caplog.messages


def test_very_many_ports_go_in_several_transactions(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        paper.database.add(*(a_port(f"tap{number}") for number in range(2 * BATCH + 1)))
        await asyncio.sleep(GRACE + SOON)
        return paper.ports, [ports for ports, _ in paper.database.transactions]

    assert with_reconciler(scenario) == (set(), [BATCH, BATCH, 1])


def test_a_request_that_is_refused_is_told_and_made_again_after_a_while(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(paper: PaperHost, reconciler: Reconciler) -> Any:
        paper.database.refusal = REFUSED
        paper.database.add(a_port())
        await asyncio.sleep(GRACE + SOON)
        refused = reconciler.counts.removed
        paper.database.refusal = None
        await asyncio.sleep(RETRY + SOON)
        return refused, paper.ports

    assert with_reconciler(scenario) == (0, set())
    assert "1 stale rows were not removed: it refused" in caplog.text


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
def test_what_cannot_be_removed_is_tried_once_a_minute_whatever_happens_on_the_host(
    with_reconciler: OnPaper, busy: bool
) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        paper.database.refusal = REFUSED
        paper.database.add(a_port())
        for _ in range(600):
            await asyncio.sleep(1)
            if busy:
                paper.kernel.remove("anything")
        return len(paper.database.transactions)

    assert 8 <= with_reconciler(scenario) <= 11


def test_what_cannot_be_removed_lets_a_quiet_host_sleep(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> int:
        paper.database.refusal = REFUSED
        paper.database.add(a_port())
        await asyncio.sleep(10 * RETRY)
        return paper.libvirt.asked

    assert with_reconciler(scenario) <= 12


def test_qos_that_a_port_used_goes_after_it(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        def orphan_qos() -> None:
            if not paper.database.unused["QoS"]:
                paper.database.unused = {"QoS": {"q1": qos_row(VM_ID, "u1")}, "Queue": {}}
                paper.database.unused["Queue"]["u1"] = queue_row()
                paper.database.meanwhile = lambda: None

        paper.database.meanwhile = orphan_qos
        paper.database.add(a_port(port={"qos": "q1"}))
        await asyncio.sleep(2 * GRACE + 2 * SOON)
        return paper.database.transactions, paper.database.unused

    assert with_reconciler(scenario) == ([(1, 0), (0, 2)], {"QoS": {}, "Queue": {}})


def test_a_row_of_qos_is_told_with_its_columns(
    with_reconciler: OnPaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> None:
        paper.database.unused["Queue"]["u1"] = queue_row()
        paper.database.tell()
        await asyncio.sleep(GRACE + SOON)

    with_reconciler(scenario)

    (line,) = fields(caplog)
    assert (line["VIF_ROW_ID"], line["VIF_VM"]) == ("u1", VM_ID)
    assert json.loads(line["VIF_ROW"]) == {"Queue": queue_row()}


def test_much_qos_goes_queues_last(with_reconciler: OnPaper) -> None:
    async def scenario(paper: PaperHost, _reconciler: Reconciler) -> Any:
        many = range(BATCH)
        paper.database.unused = {
            "QoS": {f"q{number}": qos_row(VM_ID, f"u{number}") for number in many},
            "Queue": {f"u{number}": queue_row() for number in many},
        }
        paper.database.tell()
        await asyncio.sleep(SOON)
        left: list[int] = []
        paper.database.meanwhile = lambda: left.append(len(paper.database.unused["QoS"]))
        await asyncio.sleep(GRACE)
        return left

    assert with_reconciler(scenario) == [BATCH, 0]
