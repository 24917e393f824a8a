# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for the kernel's word, with real devices in a network namespace."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from vif_driver.host import kernel, link_events
from vif_driver.host.links import Links

from . import programs
from .conftest import WithLinks

GROUP = 5


def begin(condition: Callable[[], bool], timeout: float = 60.0) -> asyncio.Task[bool]:
    return asyncio.get_running_loop().create_task(link_events.wait(condition, timeout))


def test_what_holds_already_is_not_waited_for(with_links: WithLinks) -> None:
    async def scenario(_links: Links) -> bool:
        return await link_events.wait(lambda: True, 0.0)

    assert with_links(scenario) is True


def test_a_device_that_appears_ends_the_wait(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> bool:
        waiting = begin(lambda: kernel.has_device("br0"))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await links.add_bridge("br0", GROUP)
        return await waiting

    assert with_links(scenario) is True


def test_a_device_that_gets_on_a_bridge_ends_the_wait(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> bool:
        await links.add_bridge("br0", GROUP)
        await links.add_veth("tap0", "far0", GROUP)
        waiting = begin(lambda: kernel.master("tap0") == "br0")
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await links.change("tap0", master="br0")
        return await waiting

    assert with_links(scenario) is True


def test_a_device_that_disappears_ends_the_wait(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> bool:
        await links.add_bridge("br0", GROUP)
        waiting = begin(lambda: not kernel.has_device("br0"))
        await asyncio.sleep(0.02)
        await links.delete("br0")
        return await waiting

    assert with_links(scenario) is True


def test_other_devices_do_not_end_the_wait(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> bool:
        waiting = begin(lambda: kernel.has_device("br0"), 0.2)
        for number in range(5):
            await links.add_bridge(f"other{number}", GROUP)
        return await waiting

    assert with_links(scenario) is False


def test_time_that_runs_out_is_told(with_links: WithLinks) -> None:
    async def scenario(_links: Links) -> tuple[bool, float]:
        begun = time.monotonic()
        return await link_events.wait(lambda: False, 0.1), time.monotonic() - begun

    held, seconds = with_links(scenario)

    assert held is False
    assert 0.1 <= seconds < 10


def test_nobody_is_woken_while_nothing_changes(with_links: WithLinks) -> None:
    async def scenario(_links: Links) -> int:
        asked = 0

        def condition() -> bool:
            nonlocal asked
            asked += 1
            return False

        await link_events.wait(condition, 0.2)
        return asked

    assert with_links(scenario) <= 2


def test_messages_that_were_lost_in_a_storm_do_not_lose_the_event(
    with_links: WithLinks,
) -> None:
    async def scenario(links: Links) -> bool:
        waiting = begin(lambda: kernel.has_device("late0"))
        await asyncio.sleep(0.02)
        # While the loop is busy, more messages come than the socket's buffer holds.
        storm = "".join(f"link add s{number} type veth peer t{number}\n" for number in range(150))
        _ip_batch(storm + "link add late0 type bridge\n")
        return await waiting

    assert with_links(scenario) is True


def test_any_number_may_wait_and_each_takes_its_descriptor_back(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> tuple[list[bool], bool]:
        before = len(os.listdir("/proc/self/fd"))
        waiting = [begin(lambda: kernel.has_device("br0")) for _ in range(50)]
        await asyncio.sleep(0.02)
        await links.add_bridge("br0", GROUP)
        held = await asyncio.gather(*waiting)
        return held, len(os.listdir("/proc/self/fd")) == before

    assert with_links(scenario) == ([True] * 50, True)


def test_a_wait_that_is_cancelled_leaves_nothing_open(with_links: WithLinks) -> None:
    async def scenario(_links: Links) -> bool:
        before = len(os.listdir("/proc/self/fd"))
        waiting = begin(lambda: False)
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.wait([waiting])
        return len(os.listdir("/proc/self/fd")) == before

    assert with_links(scenario) is True


def _ip_batch(commands: str) -> None:
    programs.run("ip", "-batch", "-", input=commands)


# ---- the word that a device is gone --------------------------------------------------------------


class Told:
    """A watch, and how often it has told that a device is gone."""

    def __init__(self) -> None:
        self.times = 0
        self._watch = link_events.Watch(self._note)

    def _note(self) -> None:
        self.times += 1

    async def after(self, commands: str) -> int:
        """Tell how often it did because of what ``ip`` was told to do."""
        before = self.times
        # While the loop is busy, so that everything is there to be read at once.
        _ip_batch(commands)
        await asyncio.sleep(0.01)
        return self.times - before

    def close(self) -> None:
        self._watch.close()


def watching(with_links: WithLinks, *commands: str) -> Any:
    """Tell how often a watch tells that a device is gone, for each batch of commands."""

    async def scenario(_links: Links) -> list[int]:
        told = Told()
        times = [await told.after(batch) for batch in commands]
        told.close()
        return times

    return with_links(scenario)


def test_a_device_that_is_gone_is_told(with_links: WithLinks) -> None:
    assert watching(with_links, "link add br0 type bridge", "link del br0") == [0, 1]


def test_devices_that_appear_or_change_are_not_told(with_links: WithLinks) -> None:
    changes = "link set lo up\nlink add br0 type bridge\nlink set br0 up\nlink set br0 alias x\n"

    assert watching(with_links, changes) == [0]


def test_many_devices_that_are_gone_at_once_are_told_once(with_links: WithLinks) -> None:
    make = "".join(f"link add s{number} group 7 type veth peer t{number}\n" for number in range(20))

    assert watching(with_links, make, "link del group 7") == [0, 1]


def test_a_device_that_is_gone_among_others_that_appear_is_told(with_links: WithLinks) -> None:
    make = "".join(f"link add br{number} type bridge\n" for number in range(5))

    assert watching(with_links, "link add x type bridge", f"link del x\n{make}")[1] == 1


def test_messages_that_were_lost_are_taken_for_a_device_that_is_gone(
    with_links: WithLinks,
) -> None:
    storm = "".join(f"link add s{number} type veth peer t{number}\n" for number in range(150))

    times = watching(with_links, storm, "link add br0 type bridge", "link del br0")

    assert times[0] >= 1 and times[1:] == [0, 1]


def test_a_watch_that_is_closed_tells_nothing_and_leaves_nothing_open(
    with_links: WithLinks,
) -> None:
    async def scenario(_links: Links) -> Any:
        before = len(os.listdir("/proc/self/fd"))
        told = Told()
        told.close()
        times = await told.after("link add br0 type bridge\nlink del br0\n")
        return times, len(os.listdir("/proc/self/fd")) - before

    assert with_links(scenario) == (0, 0)


def test_after_a_watch_that_is_closed_there_may_be_another(with_links: WithLinks) -> None:
    async def scenario(_links: Links) -> int:
        Told().close()
        told = Told()
        times = await told.after("link add br0 type bridge\nlink del br0\n")
        told.close()
        return times

    assert with_links(scenario) == 1


@pytest.mark.parametrize("kinds", [(16, 17), (17, 16), (16, 16, 17)])
def test_each_of_several_messages_is_read(kinds: tuple[int, ...]) -> None:
    # Each of seventeen bytes, and then what fills it up.
    messages = b"".join(link_events._HEADER.pack(17, kind) + b"\1\0\0\0" for kind in kinds)

    assert link_events._tells_of_one_gone(messages) is True


@pytest.mark.parametrize("length", [0, 1, 15, 3, 10_000])
def test_a_length_that_makes_no_sense_ends_the_reading(length: int) -> None:
    message = link_events._HEADER.pack(length, 16) + bytes(6)

    assert link_events._tells_of_one_gone(message) is False
