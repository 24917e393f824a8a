# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may work on which vNIC: one at a time, and others side by side."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from vif_driver.attachments.ovn import OvnAttachment
from vif_driver.config import Config
from vif_driver.events import Events
from vif_driver.events.turns import Turns
from vif_driver.host import Host
from vif_driver.host.starts import Starts
from vif_driver.vnic import Vnic
from vif_driver.wire import Request

from .conftest import VDSM_INTERFACE, VNIC_ID

TAP = f"tap{VNIC_ID[:11]}"


def run(scenario: Callable[[Turns], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(scenario(Turns()), 5)

    return asyncio.run(main())


def test_nobody_works_on_a_vnic_at_first(tmp_path: Path) -> None:
    async def scenario(turns: Turns) -> bool:
        return turns.is_taken(TAP)

    assert run(scenario) is False


def test_a_turn_is_taken_for_as_long_as_it_lasts() -> None:
    async def scenario(turns: Turns) -> Any:
        async with turns.of(TAP):
            during = turns.is_taken(TAP)
        return during, turns.is_taken(TAP)

    assert run(scenario) == (True, False)


def test_a_turn_that_fails_is_over() -> None:
    async def scenario(turns: Turns) -> bool:
        with pytest.raises(KeyError):
            async with turns.of(TAP):
                raise KeyError
        return turns.is_taken(TAP)

    assert run(scenario) is False


def test_who_comes_later_waits_and_turns_come_in_that_order() -> None:
    order: list[str] = []

    async def scenario(turns: Turns) -> None:
        async def work(name: str) -> None:
            async with turns.of(TAP):
                order.append(f"{name} begins")
                await asyncio.sleep(0.001)
                order.append(f"{name} ends")

        await asyncio.gather(work("a"), work("b"), work("c"))

    run(scenario)

    assert order == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]


def test_other_vnics_have_turns_of_their_own() -> None:
    async def scenario(turns: Turns) -> Any:
        async with turns.of(TAP):
            other = turns.is_taken("tap2")
            async with turns.of("tap2"):
                return other, turns.is_taken("tap2")

    assert run(scenario) == (False, True)


def test_who_gives_up_while_waiting_leaves_the_turn_to_others() -> None:
    async def scenario(turns: Turns) -> Any:
        async def work() -> None:
            async with turns.of(TAP):
                pass

        async with turns.of(TAP):
            waiting = asyncio.ensure_future(work())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            taken = turns.is_taken(TAP)
        return taken, turns.is_taken(TAP)

    assert run(scenario) == (True, False)


def test_vnics_that_are_gone_are_forgotten() -> None:
    async def scenario(turns: Turns) -> int:
        for number in range(100):
            async with turns.of(f"tap{number}"):
                pass
        gc.collect()
        return len(turns._locks)

    assert run(scenario) == 0


def test_an_event_about_a_vnic_takes_its_turn(
    tmp_path: Path,
    devices: set[str],
    monkeypatch: pytest.MonkeyPatch,
    ovn_properties: dict[str, str],
) -> None:
    seen: list[bool] = []

    async def scenario(turns: Turns) -> Any:
        async def prepare(_self: OvnAttachment, vnic: Vnic) -> None:
            seen.append(turns.is_taken(vnic.tap))

        monkeypatch.setattr(OvnAttachment, "prepare", prepare)
        starts = Starts(tmp_path / "starting", tmp_path / "released")
        events = Events(Config(), Host(), starts, turns=turns)
        reply = await events.handle(Request("before_nic_hotplug", ovn_properties, VDSM_INTERFACE))
        return reply.status, turns.is_taken(TAP)

    assert run(scenario) == (0, False)
    assert seen == [True]


def test_an_event_waits_for_whoever_works_on_its_vnic(
    tmp_path: Path, devices: set[str], ovn_properties: dict[str, str]
) -> None:
    async def scenario(turns: Turns) -> Any:
        starts = Starts(tmp_path / "starting", tmp_path / "released")
        events = Events(Config(), Host(), starts, turns=turns)
        request = Request("before_nic_hotplug", ovn_properties, VDSM_INTERFACE)
        async with turns.of(TAP):
            plugging = asyncio.ensure_future(events.handle(request))
            await asyncio.sleep(0.01)
            waited = not plugging.done()
        return waited, (await plugging).status

    assert run(scenario) == (True, 0)
