# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that arrives while the northbound database is not to be used, or cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from vif_driver.agent import switchover
from vif_driver.agent.ovn import PATIENCE
from vif_driver.config import Config
from vif_driver.host.domains import State

from .conftest import VM_ID
from .moving_vm import (
    ANNOUNCED,
    AWAY,
    FIRST,
    SECOND,
    STRANGER,
    UNTOUCHED,
    Moving,
    Play,
    Provider,
    a_moment,
    unreachable,
    until,
)

OFF = Config(northbound=None)

#: Seconds for a database that does not answer; one that does has PATIENCE.
HASTE = 0.3


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for long."""
    monkeypatch.setattr(switchover, "PATIENCE", HASTE)


def test_a_database_that_is_not_to_be_used_is_told_to_vdsm(play: Play) -> None:
    (told,) = play(lambda moving: moving.announces(), config=OFF)

    assert told == (
        f"vif-driver: the move of {FIRST} is not coordinated: northbound = off in "
        "vif-driver.conf; set it to auto"
    )


def test_a_database_that_cannot_be_reached_is_told_to_vdsm_and_logged(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    (told,) = play(lambda moving: moving.announces(), config=unreachable())

    assert "is not coordinated: OVN's northbound database does not answer" in told
    assert "will be without network for longer" in caplog.text


def test_it_is_waited_for_once_for_all_vnics_of_a_vm(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        told = await moving.announces(FIRST, SECOND)
        return len(moving.opened), [bool(one) for one in told]

    assert play(scenario, config=unreachable()) == (1, [True, True])


def no_remote(moving: Moving) -> None:
    del moving.switch.external_ids["ovn-remote"]


def no_southbound(moving: Moving) -> None:
    moving.switch.external_ids["ovn-remote"] = unreachable().northbound[0]  # type: ignore[index]


def no_open_vswitch(moving: Moving) -> None:
    moving.switch.away = True


def no_certificate(moving: Moving) -> None:
    moving.configure(Config(northbound=("ssl:127.0.0.1:6641",)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (no_remote, "ovn-remote or system-id is not set"),
        (no_southbound, "the southbound database does not answer"),
        (no_open_vswitch, "Open vSwitch's database does not answer"),
        (no_certificate, "has no certificate"),
    ],
)
def test_whatever_else_is_missing_the_migration_goes_on(play: Play, change: Any, why: str) -> None:
    async def scenario(moving: Moving) -> list[str]:
        change(moving)
        return await moving.announces()

    (told,) = play(scenario)

    assert "is not coordinated" in told
    assert why.lower() in told.lower()


def test_a_port_that_ovn_does_not_have_is_told(play: Play) -> None:
    (told,) = play(lambda moving: moving.announces(STRANGER))

    assert f"OVN has no port {STRANGER.id}; see whether the provider runs" in told


def test_the_port_is_kept_from_ovn_as_soon_as_there_is_one(play: Play) -> None:
    async def scenario(moving: Moving) -> None:
        await moving.announces()
        moving.switch.ports.add(FIRST.tap)
        await until(lambda: moving.switch.hidden == {FIRST.tap})

    play(scenario, config=OFF)


def test_an_open_vswitch_that_is_restarting_is_asked_again_to_keep_it(play: Play) -> None:
    async def scenario(moving: Moving) -> None:
        moving.switch.refusals = [AWAY, AWAY]
        await moving.announces()
        moving.switch.ports.add(FIRST.tap)
        await until(lambda: moving.switch.hidden == {FIRST.tap})

    play(scenario, config=OFF)


def test_it_is_given_back_when_the_vm_runs(play: Play) -> None:
    async def scenario(moving: Moving) -> None:
        await moving.announces()
        moving.switch.ports.add(FIRST.tap)
        await until(lambda: bool(moving.switch.hidden))
        moving.libvirt(State.RUNNING)
        await until(lambda: not moving.switch.hidden)

    play(scenario, config=OFF)


def test_an_open_vswitch_that_is_restarting_is_asked_again_to_give_it_back(play: Play) -> None:
    async def scenario(moving: Moving) -> None:
        await moving.announces()
        moving.switch.ports.add(FIRST.tap)
        await until(lambda: bool(moving.switch.hidden))
        moving.switch.refusals = [AWAY, AWAY]
        moving.libvirt(State.RUNNING)
        await until(lambda: not moving.switch.hidden)

    play(scenario, config=OFF)


def test_a_port_that_comes_when_the_vm_runs_already_is_not_kept(play: Play) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.RUNNING)
        await a_moment()
        moving.switch.ports.add(FIRST.tap)
        await a_moment()
        return moving.switch.hidden

    assert play(scenario, config=OFF) == set()


def test_a_later_attempt_that_is_coordinated_does_not_inherit_the_wait_for_the_port(
    play: Play, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "PATIENCE", PATIENCE)

    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.configure(Config(northbound=(provider.northbound.inet,)))
        await moving.announces()
        moving.switch.ports.add(FIRST.tap)
        await a_moment()
        return moving.switch.hidden, moving.row()

    assert play(scenario, config=OFF) == (set(), ANNOUNCED)


def test_a_fault_of_ours_does_not_keep_it(play: Play) -> None:
    async def scenario(moving: Moving) -> None:
        await moving.announces()
        moving.switch.ports.add(FIRST.tap)
        await until(lambda: bool(moving.switch.hidden))
        moving.vms.fault = ZeroDivisionError("a fault")
        moving.vms.tell(VM_ID)
        await until(lambda: not moving.switch.hidden)

    play(scenario, config=OFF)


@pytest.mark.parametrize("comes", [True, False])
def test_a_database_that_was_never_there_is_not_asked_at_the_end(play: Play, comes: bool) -> None:
    async def scenario(moving: Moving) -> Any:
        await moving.announces()
        moving.libvirt(State.PAUSED)
        moving.libvirt(State.RUNNING if comes else None)
        moving.agent.arrived(FIRST)
        await moving.ends()
        return moving.starts.all(), moving.is_at_rest

    assert play(scenario, config=unreachable()) == ([], True)


def test_the_vnics_that_were_announced_before_it_was_lost_are_seen_through(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchover, "PATIENCE", PATIENCE)

    async def scenario(moving: Moving) -> Any:
        await moving.announces(FIRST)
        monkeypatch.setattr(switchover, "PATIENCE", HASTE)
        moving.provider.northbound.stop()
        told = await moving.agent.arriving(SECOND, moving.way.attachment)
        moving.libvirt(State.RUNNING)
        moving.agent.arrived(FIRST)
        moving.provider.northbound.start()
        await moving.ends()
        return bool(told), moving.row(FIRST), moving.row(SECOND)

    assert play(scenario) == (True, UNTOUCHED, UNTOUCHED)
