# SPDX-License-Identifier: GPL-2.0-or-later
"""VDSM's events while it starts a VM: what is remembered, and what libvirt is told."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from vif_driver.agent.readiness import Readiness
from vif_driver.attachments.ovn import OvnAttachment
from vif_driver.config import Config
from vif_driver.errors import HostError, Unavailable
from vif_driver.events import Events
from vif_driver.host import Host
from vif_driver.host.domains import State
from vif_driver.host.starts import Start
from vif_driver.vnic import Plugin, Vnic, VnicIdentity
from vif_driver.wire import Reply, Request

from .conftest import VDSM_INTERFACE, VM_ID, VNIC_ID
from .vdsm import FIRST, LONG_AGO, SECOND, Vdsm


@pytest.fixture
def vdsm(tmp_path: Path, devices: set[str], ovn_properties: dict[str, str]) -> Vdsm:
    """VDSM on a host with an integration bridge, on which no VM runs."""
    return Vdsm(tmp_path, ovn_properties)


# ---- a start begins --------------------------------------------------------------------------


def test_a_vm_is_started_paused_for_its_first_vnic(vdsm: Vdsm) -> None:
    reply = vdsm.creates()

    assert (reply.status, reply.launch_flags) == (0, 1)
    start = vdsm.start
    assert (start.vm_id, start.resume, start.started) == (VM_ID, True, False)
    assert start.vnics == (VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, VM_ID),)


@pytest.mark.parametrize("flags", ["0", "2", "4294967294"])
def test_other_flags_do_not_matter(vdsm: Vdsm, flags: str) -> None:
    assert vdsm.creates(flags=flags).launch_flags == 1


def test_the_second_vnic_asks_for_what_the_first_has_brought_about(vdsm: Vdsm) -> None:
    vdsm.creates(FIRST, flags="0")

    reply = vdsm.creates(SECOND, flags="1")

    assert reply.launch_flags == 1
    assert (vdsm.vnics, vdsm.start.resume) == ([FIRST, SECOND], True)


@pytest.mark.parametrize("flags", ["1", "5"])
def test_a_vm_that_the_engine_wants_paused_is_not_ours_to_resume(vdsm: Vdsm, flags: str) -> None:
    first = vdsm.creates(FIRST, flags=flags)
    second = vdsm.creates(SECOND, flags=flags)

    assert (first.launch_flags, second.launch_flags) == (0, 0)
    assert vdsm.start.resume is False


def test_where_vdsm_says_nothing_of_flags_the_vm_is_not_paused(vdsm: Vdsm) -> None:
    assert vdsm.creates(flags=None).launch_flags == 0
    assert vdsm.start.resume is False


def test_with_a_deadline_of_zero_no_vm_is_started_paused(vdsm: Vdsm) -> None:
    vdsm.config = Config(start_deadline=0.0)

    assert vdsm.creates().launch_flags == 0
    assert vdsm.start.resume is False


def test_without_an_agent_no_vm_is_started_paused(vdsm: Vdsm) -> None:
    reply = vdsm.creates(agent=False)

    assert (reply.status, reply.launch_flags) == (0, 0)
    assert vdsm.starts.all() == []


def test_a_vm_that_vdsm_does_not_name_is_not_started_paused(vdsm: Vdsm) -> None:
    reply = vdsm.creates(vm_id=None)

    assert (reply.status, reply.launch_flags) == (0, 0)
    assert vdsm.starts.all() == []


def test_a_hot_plug_is_no_start(vdsm: Vdsm) -> None:
    reply = vdsm.says("before_nic_hotplug")

    assert (reply.status, reply.launch_flags) == (0, 0)
    assert vdsm.starts.all() == []


@pytest.mark.parametrize("flags", ["-1", "0x1", "1.0", "", " 1", "12345678901", "\u0661"])
def test_flags_that_are_no_number_are_refused_and_nothing_is_remembered(
    vdsm: Vdsm, flags: str
) -> None:
    reply = vdsm.creates(flags=flags)

    assert reply.status == 2 and "are no number" in reply.message
    assert vdsm.starts.all() == []


def test_a_start_that_cannot_be_remembered_fails(
    vdsm: Vdsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_start: Start) -> None:
        raise HostError("/run is full", "make room")

    monkeypatch.setattr(vdsm.starts, "put", full)

    reply = vdsm.creates()

    assert (reply.status, reply.data) == (2, None)
    assert "/run is full" in reply.message


# ---- an event is repeated, a start is repeated -----------------------------------------------


def test_the_event_of_the_last_vnic_may_be_repeated(vdsm: Vdsm) -> None:
    vdsm.creates(FIRST)
    vdsm.creates(SECOND, flags="1")
    before = vdsm.start

    # The first hook may have written the flags, or not; the engine's wish is known already.
    reply = vdsm.creates(SECOND, flags="1")

    assert reply.launch_flags == 1
    assert vdsm.start == before


def test_the_event_of_an_only_vnic_may_be_repeated(vdsm: Vdsm) -> None:
    vdsm.creates()

    reply = vdsm.creates()

    assert reply.launch_flags == 1
    assert (vdsm.vnics, vdsm.start.resume) == ([VNIC_ID], True)


def test_a_vm_with_one_vnic_that_is_started_again_may_be_wanted_paused_this_time(
    vdsm: Vdsm,
) -> None:
    vdsm.creates()

    reply = vdsm.creates(flags="1")

    assert (reply.launch_flags, vdsm.start.resume) == (0, False)


def test_a_vm_that_is_started_again_begins_anew(vdsm: Vdsm) -> None:
    vdsm.creates(FIRST)
    vdsm.creates(SECOND, flags="1")
    before = vdsm.start

    # Another hook failed after ours, say, and the user wants the VM paused this time.
    reply = vdsm.creates(FIRST, flags="1")

    assert reply.launch_flags == 0
    assert vdsm.start.token != before.token
    assert (vdsm.vnics, vdsm.start.resume) == ([FIRST], False)


def test_a_start_whose_end_nobody_told_is_not_gone_on_with(vdsm: Vdsm) -> None:
    vdsm.creates(FIRST)
    vdsm.starts.put(dataclasses.replace(vdsm.start, started=True))

    vdsm.creates(SECOND)

    assert (vdsm.vnics, vdsm.start.started) == ([SECOND], False)


def test_a_start_that_failed_long_ago_is_not_gone_on_with(vdsm: Vdsm) -> None:
    vdsm.creates(FIRST)
    vdsm.ages(LONG_AGO)

    # The VM has another vNIC now, and the engine wants it paused.
    reply = vdsm.creates(SECOND, flags="1")

    assert reply.launch_flags == 0
    assert vdsm.vnics == [SECOND]


# ---- a plug that fails, a vNIC that goes -----------------------------------------------------


def test_a_plug_that_fails_leaves_no_start(vdsm: Vdsm, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_self: OvnAttachment, _vnic: Vnic) -> None:
        raise HostError("no bridge", "make one")

    monkeypatch.setattr(OvnAttachment, "prepare", fail)

    reply = vdsm.creates()

    assert (reply.status, reply.launch_flags) == (2, 0)
    assert vdsm.starts.all() == []


def test_a_plug_that_fails_takes_its_vnic_off_the_start_and_no_other(
    vdsm: Vdsm, devices: set[str]
) -> None:
    vdsm.creates(FIRST)
    devices.add("tap" + SECOND[:11])

    reply = vdsm.creates(SECOND, flags="1")

    assert reply.status == 2
    assert vdsm.vnics == [FIRST]


def test_a_full_disk_keeps_no_vnic_from_being_removed(
    vdsm: Vdsm, devices: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []

    def full(_start: Start) -> None:
        raise HostError("/run is full", "make room")

    async def release(_self: OvnAttachment, vnic: VnicIdentity) -> None:
        released.append(vnic.id)

    vdsm.creates(FIRST)
    vdsm.creates(SECOND, flags="1")
    devices.add("tap" + FIRST[:11])
    monkeypatch.setattr(vdsm.starts, "put", full)
    monkeypatch.setattr(OvnAttachment, "release", release)

    vdsm.says("after_device_destroy", FIRST, flags=None)

    assert released == [FIRST]


@pytest.mark.parametrize(
    "event", ["after_device_destroy", "after_nic_hotplug_fail", "after_nic_hotunplug"]
)
def test_a_vnic_that_goes_is_taken_off_the_start(vdsm: Vdsm, event: str) -> None:
    vdsm.creates(FIRST)
    vdsm.creates(SECOND, flags="1")

    vdsm.says(event, FIRST, flags=None)

    assert vdsm.vnics == [SECOND]


def test_a_plug_whose_caller_is_gone_is_taken_off_the_start(
    vdsm: Vdsm, ovn_properties: dict[str, str]
) -> None:
    async def main() -> None:
        host = Host()
        readiness = Readiness(vdsm.config, host, vdsm.vms.domains, vdsm.starts)
        events = Events(vdsm.config, host, vdsm.starts, readiness)
        properties = {**ovn_properties, "launch_flags": "0"}
        request = Request("before_device_create", properties, VDSM_INTERFACE)
        await events.handle(request)
        assert vdsm.vnics == [VNIC_ID]
        await events.withdraw(request)

    asyncio.run(main())

    assert vdsm.starts.all() == []


# ---- libvirt has the VM ----------------------------------------------------------------------


def test_a_vm_that_nobody_holds_is_answered_at_once(vdsm: Vdsm) -> None:
    assert vdsm.says("after_vm_start", flags=None) == Reply()


@pytest.mark.parametrize("vm_id", [None, "", "../../etc/passwd"])
def test_a_vm_that_makes_no_sense_is_told(vdsm: Vdsm, vm_id: str | None) -> None:
    reply = vdsm.says("after_vm_start", vm_id=vm_id, flags=None)

    assert reply.status == 1
    assert reply.message.startswith("vif-driver: after_vm_start: VM ")


def test_a_vm_whose_vnics_are_there_runs_after_its_start(
    vdsm: Vdsm, monkeypatch: pytest.MonkeyPatch, devices: set[str]
) -> None:
    async def ready(_self: OvnAttachment, _vnic: VnicIdentity, _timeout: float) -> bool:
        return True

    monkeypatch.setattr(OvnAttachment, "wait_ready", ready)
    vdsm.creates()
    devices.add("tap" + VNIC_ID[:11])
    vdsm.vms.states[VM_ID] = State.PAUSED

    reply = vdsm.says("after_vm_start", flags=None)

    assert reply == Reply()
    assert vdsm.vms.states[VM_ID] is State.RUNNING
    assert vdsm.starts.all() == []


def test_without_an_agent_a_vm_runs_whether_its_vnics_work_or_not(
    vdsm: Vdsm, tmp_path: Path
) -> None:
    vdsm.creates()
    token = vdsm.start.token
    vdsm.vms.states[VM_ID] = State.PAUSED

    reply = vdsm.says("after_vm_start", flags=None, agent=False)

    assert reply == Reply()
    assert vdsm.vms.states[VM_ID] is State.RUNNING
    assert vdsm.starts.all() == []
    assert (tmp_path / "released" / token).exists()


def test_without_an_agent_a_vm_that_the_engine_wants_paused_stays_so(vdsm: Vdsm) -> None:
    vdsm.creates(flags="1")
    vdsm.vms.states[VM_ID] = State.PAUSED

    reply = vdsm.says("after_vm_start", flags=None, agent=False)

    assert reply == Reply()
    assert vdsm.vms.states[VM_ID] is State.PAUSED


def test_without_agent_and_libvirt_the_start_is_left_to_the_next_agent(vdsm: Vdsm) -> None:
    vdsm.creates()
    vdsm.vms.refusals = [Unavailable("libvirt does not answer", "start libvirtd")]

    reply = vdsm.says("after_vm_start", flags=None, agent=False)

    assert reply.status == 1 and "libvirt does not answer" in reply.message
    assert vdsm.start.vm_id == VM_ID
