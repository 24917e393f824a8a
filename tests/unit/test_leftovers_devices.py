# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows of QoS and which devices are known to be of no use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from vif_driver.config import Config
from vif_driver.host.starts import START_TIME, Starts
from vif_driver.reconciliation.in_use import InUse
from vif_driver.reconciliation.leftovers import (
    Found,
    IdleDevices,
    Judge,
    UnusedQos,
)
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import VM_ID, VNIC_ID
from .inspected_host import a_vm, an_interface
from .paper_host import (
    OTHER_VM,
    OURS,
    QBR,
    QTP,
    QVB,
    QVO,
    SHORT,
    TAP,
    OnPaper,
    PaperHost,
    a_port,
    qos_row,
    queue_row,
)

# ---- QoS -----------------------------------------------------------------------------------------


def judged(vms: Iterable[str], **unused: dict[str, Any]) -> list[tuple[str, str]]:
    """Judge rows of QoS that nothing uses, where libvirt has these VMs."""
    used = InUse((), frozenset(vms), frozenset())
    judge = Judge(Config(), Starts(Path("/nonexistent"), Path("/nonexistent")), used)
    return [(one.table, one.uuid) for one in judge.qos(unused)]


def test_qos_of_a_vm_that_is_gone_is_left_over_with_its_queues() -> None:
    rows = judged([], QoS={"q": qos_row(VM_ID, "u")}, Queue={"u": queue_row()})

    assert rows == [("QoS", "q"), ("Queue", "u")]


def test_qos_of_a_vm_that_is_there_stays() -> None:
    assert judged([VM_ID], QoS={"q": qos_row(VM_ID, "u")}, Queue={"u": queue_row()}) == []


def test_qos_that_is_no_vms_stays() -> None:
    assert judged([], QoS={"q": qos_row(None, "u")}, Queue={"u": queue_row(None)}) == []


def test_a_queue_of_qos_that_stays_stays_with_it() -> None:
    assert judged([], QoS={"q": qos_row(None, "u")}, Queue={"u": queue_row()}) == []


def test_a_queue_that_qos_that_stays_and_qos_that_goes_share_stays() -> None:
    shared = {"q1": qos_row(VM_ID, "u"), "q2": qos_row(None, "u")}

    assert judged([], QoS=shared, Queue={"u": queue_row()}) == [("QoS", "q1")]


def test_qos_that_is_left_over_says_whose_it_was(look: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.database.unused["QoS"]["q"] = qos_row()

    (one,) = look(arrange).leftovers

    assert isinstance(one, UnusedQos)
    assert (one.key, one.vm_id, one.vnic_id) == ("q", VM_ID, None)
    assert str(one) == f"QoS q (VM {VM_ID})"
    assert one.why == f"nothing uses it, and libvirt has no VM {VM_ID}"


def test_qos_of_other_software_is_no_reason_to_ask_libvirt(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> int:
        paper.database.unused["QoS"]["q"] = qos_row(None)
        await paper.find()
        return paper.libvirt.asked

    assert on_paper(scenario) == 0


# ---- devices -------------------------------------------------------------------------------------


def test_devices_without_a_guest_whose_vm_is_gone_are_left_over(look: OnPaper) -> None:
    (one,) = look(lambda paper: paper.kernel.add_ours(QBR, QVB, QVO)).leftovers

    assert isinstance(one, IdleDevices)
    assert (one.vm_id, one.vnic_id, one.patience) == (VM_ID, VNIC_ID, Config().grace)
    assert one.why == f"no guest is joined to them, and libvirt has no VM {VM_ID}"
    assert str(one) == f"{QBR}, {QVB}, {QVO} (VM {VM_ID}, vNIC {VNIC_ID})"


@pytest.mark.parametrize(
    ("made", "plugin"),
    [
        ((QBR, QVB, QVO), Plugin.OPEN_VSWITCH),
        ((QBR, QVB, TAP), Plugin.LINUX_BRIDGE),
        ((QBR,), Plugin.LINUX_BRIDGE),
    ],
    ids=["hybrid", "Linux bridge", "not known yet"],
)
def test_what_devices_were_made_for_is_seen_by_where_they_lead(
    look: OnPaper, made: tuple[str, ...], plugin: Plugin
) -> None:
    (one,) = look(lambda paper: paper.kernel.add_ours(*made)).leftovers

    assert one.vnic == VnicIdentity(VNIC_ID, plugin, VM_ID)


def test_a_port_that_is_there_tells_it_where_the_device_is_gone(look: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.kernel.add_ours(QBR)
        paper.database.add(a_port(QVO, OURS))

    ports, devices = look(arrange).leftovers

    assert (ports.rows.name, devices.vnic.plugin) == (QVO, Plugin.OPEN_VSWITCH)


@pytest.mark.parametrize("tap", [TAP, QTP], ids=["hybrid", "Linux bridge"])
def test_devices_with_a_guest_are_not_left_over(look: OnPaper, tap: str) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.kernel.add_ours(QBR, QVB)
        paper.kernel.add(tap, on=QBR)

    assert look(arrange) == Found()


def test_a_bridge_that_somebody_has_put_something_else_on_is_not_left_over(look: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.kernel.add_ours(QBR, QVB, QVO)
        paper.kernel.add("eth7", on=QBR)

    assert look(arrange) == Found()


@pytest.mark.parametrize("more", [{"group": 0}, {"alias": "somebody's"}, {"alias": "vif-driver x"}])
def test_devices_of_such_names_that_are_not_ours_are_not_left_over(
    look: OnPaper, more: dict[str, Any]
) -> None:
    assert look(lambda paper: paper.kernel.add_ours(QBR, QVB, QVO, **more)) == Found()


def test_a_tap_alone_is_not_left_over(look: OnPaper) -> None:
    assert look(lambda paper: paper.kernel.add_ours(TAP)) == Found()


@pytest.mark.parametrize("device", [QBR, TAP, QTP])
def test_devices_that_a_vm_names_stay(look: OnPaper, device: str) -> None:
    def arrange(paper: PaperHost) -> None:
        source, target = (device, "vnet0") if device == QBR else ("br-int", device)
        paper.libvirt.vms = [a_vm(an_interface(source, target), vm_id=OTHER_VM)]
        paper.kernel.add_ours(QBR, QVB, QVO)

    assert look(arrange).leftovers == ()


def test_devices_of_a_vm_that_is_there_stay(look: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.libvirt.vms = [a_vm()]
        paper.kernel.add_ours(QBR, QVB, QVO)

    assert look(arrange).leftovers == ()


def test_devices_of_a_start_under_way_stay(look: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.begin()
        paper.kernel.add_ours(QBR, QVB, QVO)

    assert look(arrange).leftovers == ()


@pytest.mark.parametrize("owner", ["", f"{VNIC_ID} -"], ids=["unnamed", "of an unknown VM"])
def test_devices_of_which_no_vm_is_known_may_belong_to_a_start_and_have_its_time(
    look: OnPaper, owner: str
) -> None:
    (one,) = look(lambda paper: paper.kernel.add_ours(QBR, QVB, owner=owner)).leftovers

    assert one.patience == START_TIME
    assert one.why == "no guest is joined to them, and no VM's XML names them"


def test_devices_that_nobody_named_say_what_their_names_tell(look: OnPaper) -> None:
    (one,) = look(lambda paper: paper.kernel.add_ours(QBR, owner="")).leftovers

    assert (one.vnic, str(one)) == (None, f"{QBR} (VM None, vNIC {SHORT}...)")


def test_devices_under_the_same_names_are_told_apart_by_their_index(look: OnPaper) -> None:
    def made(again: bool) -> Any:
        def arrange(paper: PaperHost) -> None:
            paper.kernel.add_ours(QBR)
            if again:
                paper.kernel.remove(QBR)
                paper.kernel.add_ours(QBR)

        return look(arrange).leftovers[0].key

    assert made(again=False) != made(again=True)
