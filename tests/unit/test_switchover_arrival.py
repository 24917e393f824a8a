# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that arrives, as OVN's northbound database sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vif_driver.agent import switchover
from vif_driver.config import Config
from vif_driver.errors import HostError
from vif_driver.host.domains import State
from vif_driver.host.southbound import Standing
from vif_driver.switchover import NOTE, Note

from .conftest import VM_ID, VNIC_ID
from .moving_vm import (
    ANNOUNCED,
    AWAY,
    BEFORE,
    ELSEWHERE,
    FIRST,
    HERE,
    SECOND,
    SOURCE,
    SWITCHED,
    UNBOUND,
    UNTOUCHED,
    Moving,
    Play,
    Provider,
    a_moment,
    stands,
)

# ---- it is about to ------------------------------------------------------------------------------


def test_both_hosts_may_have_the_port_when_the_hook_is_answered(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        told = await moving.announces()
        return told, moving.row()

    assert play(scenario) == ([""], ANNOUNCED)


def test_every_vnic_of_the_vm_is_announced(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(FIRST, SECOND)
        return moving.row(FIRST), moving.row(SECOND)

    assert play(scenario) == (ANNOUNCED, ANNOUNCED)


def test_all_vnics_of_a_vm_share_a_connection(play: Play) -> None:
    async def scenario(moving: Moving) -> int:
        await moving.announces(FIRST, SECOND)
        return len(moving.opened)

    assert play(scenario) == 1


def test_vnics_that_are_asked_about_at_once_share_it_too(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        moving.expect(FIRST, SECOND)
        way = moving.way.attachment
        await asyncio.gather(*(moving.agent.arriving(vnic, way) for vnic in (FIRST, SECOND)))
        return moving.row(FIRST), moving.row(SECOND), len(moving.opened)

    assert play(scenario) == (ANNOUNCED, ANNOUNCED, 1)


def test_what_the_provider_wrote_stays(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        return moving.provider.options()["mcast_flood"]

    assert play(scenario) == "true"


def test_a_port_that_no_host_has_is_left_alone(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        told = await moving.announces(UNBOUND)
        return told, moving.row(UNBOUND)

    assert play(scenario) == ([""], UNTOUCHED)


def test_a_port_that_this_host_has_is_left_alone(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands(monkeypatch, Standing(HERE, is_registered=True, shares_ports=True))

    async def scenario(moving: Moving) -> Any:
        told = await moving.announces()
        return told, moving.row()

    assert play(scenario) == ([""], UNTOUCHED)


def test_a_vm_that_comes_back_before_northd_saw_it_go_is_announced(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands(monkeypatch, Standing(HERE, is_registered=True, shares_ports=True))
    there = {"requested-chassis": SOURCE, "activation-strategy": None}
    before = dict.fromkeys(there)
    note = Note(VM_ID, source=HERE, destination=SOURCE, before=before, ours=there)

    async def scenario(moving: Moving) -> Any:
        moving.provider.northbound.write(
            FIRST.id,
            options={**BEFORE, "requested-chassis": SOURCE},
            external_ids={NOTE: note.encode()},
        )
        await moving.announces()
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_a_host_that_ovn_does_not_know_is_refused(play: Play) -> None:
    async def scenario(moving: Moving) -> None:
        moving.switch.external_ids["system-id"] = "hv9"
        await moving.announces()

    with pytest.raises(HostError, match=r"\(hv9\) is not registered at OVN.*start ovn-controller"):
        play(scenario)


def test_an_ovn_that_cannot_let_two_hosts_have_a_port_is_refused(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands(monkeypatch, Standing(SOURCE, is_registered=True, shares_ports=False))

    with pytest.raises(HostError, match=r"OVN is too old .*update OVN"):
        play(lambda moving: moving.announces())


def test_without_the_northbound_database_an_old_ovn_will_do(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As whoever is refused for it is told.
    stands(monkeypatch, Standing(SOURCE, is_registered=True, shares_ports=False))

    (told,) = play(lambda moving: moving.announces(), config=Config(northbound=None))

    assert "northbound = off" in told


def test_nothing_is_left_of_a_vm_of_which_one_vnic_is_refused(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(FIRST)
        moving.switch.external_ids["system-id"] = "hv9"
        with pytest.raises(HostError):
            await moving.agent.arriving(SECOND, moving.way.attachment)
        await moving.agent.cancel(VM_ID)
        await moving.ends()
        return moving.row(), moving.starts.all(), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, [], True)


# ---- it runs -------------------------------------------------------------------------------------


def test_the_port_is_this_hosts_alone_when_the_vm_runs(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> None:
        await moving.announces()
        moving.libvirt(State.PAUSED)
        moving.libvirt(State.RUNNING)
        await moving.becomes(SWITCHED)

    play(scenario)


def test_all_ports_of_the_vm_are(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> None:
        await moving.announces(FIRST, SECOND)
        moving.libvirt(State.RUNNING)
        await moving.becomes(SWITCHED, FIRST)
        await moving.becomes(SWITCHED, SECOND)

    play(scenario)


def test_it_is_counted_with_how_long_its_ports_took(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        await moving.becomes(SWITCHED)
        await a_moment()
        return moving.agent.counts

    counts = play(scenario)

    assert counts.count == 1 and 0 < counts.worst < 5


def test_a_vm_that_stands_still_here_has_not_come(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.PAUSED)
        await a_moment()
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_another_vm_that_runs_says_nothing_of_this_one(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.vms.change(VNIC_ID, State.RUNNING)
        await a_moment()
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_an_event_that_was_missed_is_made_up_for_when_libvirt_is_there_again(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> None:
        await moving.announces()
        moving.vms.deaf = AWAY
        moving.vms.tell(None)
        await a_moment()
        moving.vms.deaf, moving.vms.states = None, {VM_ID: State.RUNNING}
        moving.vms.tell(None)
        await moving.becomes(SWITCHED)

    play(scenario)


def test_a_libvirt_that_did_not_answer_in_time_is_asked_again(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> None:
        await moving.announces()
        moving.libvirt(State.PAUSED)
        await asyncio.sleep(0)
        moving.vms.deaf = AWAY
        monkeypatch.setattr(switchover, "START_TIME", 0.05)
        moving.vms.tell(VM_ID)
        await a_moment()
        moving.vms.deaf, moving.vms.states = None, {VM_ID: State.RUNNING}
        await moving.becomes(SWITCHED)

    play(scenario)


def test_that_it_runs_is_noted_for_the_next_agent(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        await moving.becomes(SWITCHED)
        return [(start.arrives, start.started) for start in moving.starts.all()]

    assert play(scenario) == [(True, True)]


# ---- it has arrived ------------------------------------------------------------------------------


def test_some_time_after_vdsm_says_that_it_is_here_nothing_is_left(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(FIRST, SECOND)
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return moving.row(FIRST), moving.row(SECOND), moving.starts.all(), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, UNTOUCHED, [], True)


def test_a_provider_that_assigns_hosts_finds_the_new_one(play: Play, provider: Provider) -> None:
    provider.reset({"requested-chassis": SOURCE})

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return moving.row()

    assert play(scenario) == ({"requested-chassis": HERE}, False)


def test_the_source_is_given_time_to_let_go(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.becomes(SWITCHED)
        await a_moment()
        return moving.row()

    assert play(scenario) == SWITCHED


def test_without_vdsms_word_libvirt_says_when_the_migration_is_over(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.vms.migrating = {VM_ID}  # post-copy
        moving.libvirt(State.RUNNING)
        await moving.becomes(SWITCHED)
        await asyncio.sleep(3 * switchover.SETTLE)
        during = moving.row()
        moving.vms.migrating.clear()
        await moving.ends()
        return during, moving.row()

    assert play(scenario) == (SWITCHED, UNTOUCHED)


def test_a_libvirt_that_tells_nothing_of_a_vm_that_is_just_arriving_has_not_said_it_is_over(
    play: Play,
) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        moving.vms.deaf = HostError("libvirt refuses", "see its log")
        await moving.becomes(SWITCHED)
        await asyncio.sleep(3 * switchover.SETTLE)
        return moving.row()

    assert play(scenario) == SWITCHED


def test_what_the_provider_writes_meanwhile_wins(play: Play, provider: Provider) -> None:
    theirs = {"requested-chassis": ELSEWHERE}

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        provider.northbound.write(FIRST.id, options=theirs)
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return moving.row()

    assert play(scenario) == (theirs, False)


@pytest.mark.parametrize("switched", [False, True])
def test_a_source_that_has_finished_first_is_no_matter(play: Play, switched: bool) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        if switched:
            moving.libvirt(State.RUNNING)
            await moving.becomes(SWITCHED)
        moving.provider.reset()
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return moving.row(), moving.starts.all(), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, [], True)


def test_a_vm_that_came_and_is_gone_leaves_nothing(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        await moving.becomes(SWITCHED)
        moving.libvirt(None)
        await moving.ends()
        return moving.row(), moving.starts.all(), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, [], True)


def test_a_port_that_the_provider_has_deleted_is_no_matter(play: Play) -> None:
    async def scenario(moving: Moving) -> bool:
        await moving.announces()
        server = moving.provider.northbound
        server.remove_ports()
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        server.add_ports([FIRST.id, SECOND.id, UNBOUND.id], BEFORE)
        return moving.is_at_rest

    assert play(scenario) is True


# ---- it does not arrive --------------------------------------------------------------------------


def test_a_vm_that_libvirt_ends_before_it_runs_leaves_everything_as_it_was(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(FIRST, SECOND)
        moving.libvirt(State.PAUSED)
        moving.libvirt(None)
        await moving.ends()
        return moving.row(FIRST), moving.row(SECOND), moving.starts.all(), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, UNTOUCHED, [], True)


def test_a_provider_that_assigns_hosts_finds_the_old_one(play: Play, provider: Provider) -> None:
    provider.reset({"requested-chassis": SOURCE})

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.PAUSED)
        moving.libvirt(None)
        await moving.ends()
        return moving.row()

    assert play(scenario) == ({"requested-chassis": SOURCE}, False)


def test_a_vm_that_is_gone_while_libvirt_was_away_leaves_everything_as_it_was(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.PAUSED)
        await a_moment()
        moving.vms.states.clear()
        moving.vms.tell(None)
        await moving.ends()
        return moving.row()

    assert play(scenario) == UNTOUCHED


def test_a_vm_that_vdsm_takes_back_leaves_everything_as_it_was(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.agent.cancel(VM_ID)
        await moving.ends()
        return moving.row(), moving.starts.all()

    assert play(scenario) == (UNTOUCHED, [])


def test_a_vm_of_which_nothing_is_heard_leaves_everything_as_it_was(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "START_TIME", 0.5)  # much more than to announce it takes

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.ends()
        return moving.row(), moving.starts.all()

    assert play(scenario) == (UNTOUCHED, [])


def test_a_vm_that_libvirt_has_is_waited_for_however_long_it_takes(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "START_TIME", 0.01)

    async def scenario(moving: Moving) -> Any:
        moving.vms.states[VM_ID] = State.PAUSED
        await moving.announces()
        await a_moment()
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_an_event_about_a_vm_that_libvirt_does_not_have_yet_does_not_end_its_arrival(
    play: Play,
) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.vms.tell(VM_ID)  # of the same VM, which was here before: undefined
        await a_moment()
        return moving.row()

    assert play(scenario) == ANNOUNCED


def test_the_start_is_not_forgotten_before_everything_is_as_it_was(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.provider.northbound.stop()
        await moving.agent.cancel(VM_ID)
        await a_moment()
        during = len(moving.starts.all())
        moving.provider.northbound.start()
        await moving.ends()
        return during, moving.starts.all(), moving.row()

    assert play(scenario) == (1, [], UNTOUCHED)


# ---- once more -----------------------------------------------------------------------------------


def test_a_vm_that_comes_again_at_once_is_announced_again(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.agent.cancel(VM_ID)
        await moving.announces()
        await a_moment()
        return moving.row(), len(moving.starts.all())

    assert play(scenario) == (ANNOUNCED, 1)


def test_the_earlier_attempt_does_not_forget_the_later_one(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.agent.cancel(VM_ID)
        later = moving.expect(FIRST)  # and what is made for the vNIC takes a while
        await moving.ends()
        return moving.starts.all() == [later]

    assert play(scenario) is True


def test_after_an_attempt_whose_end_nobody_told_the_next_one_has_all_its_time(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "START_TIME", 3.0)

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await asyncio.sleep(2.0)
        await moving.announces()
        await asyncio.sleep(1.5)
        return moving.row()

    assert play(scenario) == ANNOUNCED


@pytest.mark.parametrize("seen", ["told", "asked"])
def test_a_vm_that_left_and_comes_back_before_its_arrival_was_dealt_with_is_seen_through(
    play: Play, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        if seen == "told":
            moving.libvirt(State.RUNNING)
        else:
            moving.vms.states[VM_ID] = State.RUNNING
            moving.vms.tell(None)
        await moving.becomes(SWITCHED)
        moving.vms.states.clear()
        await moving.announces()
        again = moving.row()
        monkeypatch.setattr(switchover, "SETTLE", 0.01)
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return again, moving.row(), moving.starts.all(), moving.is_at_rest

    assert play(scenario) == (ANNOUNCED, UNTOUCHED, [], True)


def test_what_an_earlier_attempt_left_of_another_vnic_is_undone_with_the_later_one(
    play: Play,
) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces(SECOND)
        await moving.agent.cancel(VM_ID)
        await moving.announces(FIRST)
        await moving.agent.cancel(VM_ID)
        await moving.ends()
        return moving.row(FIRST), moving.row(SECOND)

    assert play(scenario) == (UNTOUCHED, UNTOUCHED)


def test_a_vm_that_is_taken_back_in_the_middle_of_the_hook_leaves_nothing(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        hook = asyncio.ensure_future(moving.announces())
        await asyncio.sleep(0)
        await moving.agent.cancel(VM_ID)
        with pytest.raises(HostError, match="not about to arrive any more"):
            await hook
        await moving.ends()
        return moving.row(), moving.is_at_rest

    assert play(scenario) == (UNTOUCHED, True)


# ---- trouble -------------------------------------------------------------------------------------


def test_a_database_that_is_away_when_the_vm_runs_is_told_when_it_is_there_again(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "SETTLE", 60.0)

    async def scenario(moving: Moving) -> None:
        await moving.announces()
        moving.provider.northbound.stop()
        moving.libvirt(State.RUNNING)
        await a_moment()
        moving.provider.northbound.start()
        await moving.becomes(SWITCHED)

    play(scenario)


def test_a_fault_of_ours_ends_the_arrival_and_is_logged(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.vms.fault = ZeroDivisionError("a fault")
        moving.vms.tell(VM_ID)
        await moving.ends()
        return moving.is_at_rest

    assert play(scenario) is True
    assert "its move is not followed" in caplog.text


def test_after_a_fault_of_ours_the_next_agent_finds_the_arrival(play: Play) -> None:
    async def scenario(moving: Moving) -> int:
        await moving.announces()
        moving.vms.fault = ZeroDivisionError("a fault")
        moving.vms.tell(VM_ID)
        await moving.ends()
        return len(moving.starts.all())

    assert play(scenario) == 1


def test_an_agent_that_ends_leaves_no_connection_open(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.agent.close()
        return all(one._replica._closed for one in moving.opened), not moving.agent._tasks

    assert play(scenario) == (True, True)


def test_an_agent_that_ends_leaves_the_arrival_to_the_next_one(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        await moving.agent.close()
        moving.libvirt(None)
        await a_moment()
        return moving.row(), len(moving.starts.all())

    assert play(scenario) == (ANNOUNCED, 1)
