# SPDX-License-Identifier: GPL-2.0-or-later
"""The bridge of one vNIC, made in a real kernel, in a network namespace of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from vif_driver.attachments.base import Undo
from vif_driver.attachments.private_bridge import PrivateBridge
from vif_driver.errors import HostError, NameTaken
from vif_driver.host.links import Links
from vif_driver.marks import GROUP
from vif_driver.vnic import Plugin, Vnic, VnicIdentity

from . import programs
from .conftest import MAC, VM_ID, VNIC_ID, WithLinks

VNIC = Vnic(VNIC_ID, Plugin.OPEN_VSWITCH, VM_ID, MAC, mtu=1442)
SAME_NAMES = Vnic(VNIC_ID[:-1] + "0", Plugin.OPEN_VSWITCH, VM_ID, MAC)
ANY_VM = VnicIdentity(VNIC_ID, Plugin.OPEN_VSWITCH, vm_id=None)
OTHER_VM = Vnic(VNIC_ID, Plugin.OPEN_VSWITCH, VNIC_ID, MAC)

Scenario = Callable[[PrivateBridge, Links], Awaitable[Any]]
WithBridge = Callable[[Scenario], Any]


@pytest.fixture
def with_bridge(with_links: WithLinks) -> WithBridge:
    """Run a scenario with the (not yet made) bridge of a vNIC."""
    return lambda scenario: with_links(lambda links: scenario(a_bridge(links), links))


def a_bridge(links: Links, vnic: VnicIdentity = VNIC) -> PrivateBridge:
    return PrivateBridge(links, vnic, vnic.switch_end, guest_tap=vnic.tap, netfilter=True)


def ip(*arguments: str) -> None:
    programs.run("ip", *arguments)


async def make(bridge: PrivateBridge) -> None:
    async with Undo() as undo:
        await bridge.make(MAC, VNIC.mtu, undo)


async def devices(links: Links) -> list[str]:
    names = [VNIC.bridge, VNIC.bridge_end, VNIC.switch_end, VNIC.tap]
    return [name for name in names if await links.get(name) is not None]


async def guest_plugs_in(bridge: PrivateBridge) -> None:
    ip("tuntap", "add", VNIC.tap, "mode", "tap")
    await bridge.links.change(VNIC.tap, master=VNIC.bridge)


def test_the_bridge_is_made_whole(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> Any:
        await make(bridge)
        return [await links.get(n) for n in (VNIC.bridge, VNIC.bridge_end, VNIC.switch_end)]

    qbr, qvb, qvo = with_bridge(scenario)

    assert (qbr.kind, qvb.kind, qvo.kind) == ("bridge", "veth", "veth")
    assert (qbr.up, qvb.up, qvo.up) == (True, True, True)
    assert (qbr.mtu, qvb.mtu, qvo.mtu) == (1442, 1442, 1442)
    assert (qvb.master, qvo.master) == (qbr.index, None)


def test_every_device_carries_our_mark(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> Any:
        await make(bridge)
        return [await links.get(n) for n in (VNIC.bridge, VNIC.bridge_end, VNIC.switch_end)]

    for link in with_bridge(scenario):
        assert (link.group, link.alias) == (GROUP, f"vif-driver {VNIC_ID} {VM_ID}")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("forward_delay", "0"),
        ("stp_state", "0"),
        ("ageing_time", "0"),
        ("multicast_snooping", "0"),
        ("nf_call_iptables", "1"),
        ("nf_call_ip6tables", "1"),
        ("nf_call_arptables", "1"),
    ],
)
def test_the_bridge_is_transparent_and_filtered(
    with_bridge: WithBridge, attribute: str, value: str
) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> str:
        await make(bridge)
        return Path(f"/sys/class/net/{VNIC.bridge}/bridge/{attribute}").read_text().strip()

    assert with_bridge(scenario) == value


@pytest.mark.parametrize("device", [VNIC.bridge, VNIC.bridge_end, VNIC.switch_end])
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("ipv6/conf/{}/disable_ipv6", "1"),
        ("ipv4/conf/{}/arp_ignore", "1"),
        ("ipv4/conf/{}/arp_announce", "2"),
    ],
)
def test_the_host_is_silent_on_every_device(
    with_bridge: WithBridge, device: str, parameter: str, value: str
) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> str:
        await make(bridge)
        return Path("/proc/sys/net", parameter.format(device)).read_text().strip()

    assert with_bridge(scenario) == value


@pytest.mark.parametrize("step", range(1, 8))
def test_wherever_an_agent_was_killed_what_it_left_can_be_removed(
    with_bridge: WithBridge, step: int
) -> None:
    class Killed(BaseException):
        pass

    async def scenario(bridge: PrivateBridge, links: Links) -> Any:
        calls = 0
        call = links._call

        async def dying(what: str, request: Any) -> Any:
            nonlocal calls
            calls += not what.startswith("look up")
            if calls > step:
                raise Killed
            return await call(what, request)

        links._call = dying  # type: ignore[method-assign]
        # Without undo, as when the process is gone.
        with contextlib.suppress(Killed):
            await bridge.make(MAC, VNIC.mtu, Undo())
        links._call = call  # type: ignore[method-assign]
        left = await devices(links)
        await a_bridge(links, ANY_VM).remove()
        return left, await devices(links)

    left, after = with_bridge(scenario)

    assert VNIC.bridge in left and after == []


def test_a_failure_takes_back_what_was_made(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> list[str]:
        with pytest.raises(KeyError):
            async with Undo() as undo:
                await bridge.make(MAC, VNIC.mtu, undo)
                raise KeyError
        return await devices(links)

    assert with_bridge(scenario) == []


@pytest.mark.parametrize("name", [VNIC.bridge, VNIC.bridge_end, VNIC.switch_end])
def test_a_name_that_somebody_else_has_is_refused_and_nothing_changed(
    with_bridge: WithBridge, name: str
) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> Any:
        ip("link", "add", name, "type", "bridge")
        before = await links.get(name)
        with pytest.raises(NameTaken, match=name):
            await make(bridge)
        return await devices(links), before == await links.get(name)

    assert with_bridge(scenario) == ([name], True)


def test_another_vnic_with_the_same_names_is_refused(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> None:
        await make(bridge)
        with pytest.raises(NameTaken, match=VNIC_ID):
            await make(a_bridge(links, SAME_NAMES))

    with_bridge(scenario)


def test_it_is_removed_whole(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> list[str]:
        await make(bridge)
        await bridge.require_unused()
        await bridge.remove()
        return await devices(links)

    assert with_bridge(scenario) == []


def test_removing_what_is_not_there_is_no_error(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> None:
        await bridge.require_unused()
        await bridge.remove()

    with_bridge(scenario)


def test_a_device_without_our_mark_is_not_removed(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> list[str]:
        ip("link", "add", VNIC.bridge, "type", "bridge")
        await bridge.remove()
        return await devices(links)

    assert with_bridge(scenario) == [VNIC.bridge]


def test_another_vnics_bridge_is_not_removed(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> list[str]:
        await make(bridge)
        await a_bridge(links, SAME_NAMES).remove()
        return await devices(links)

    assert with_bridge(scenario) == [VNIC.bridge, VNIC.bridge_end, VNIC.switch_end]


def test_whichever_vm_it_was_made_for_it_can_be_removed(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> list[str]:
        await make(bridge)
        await a_bridge(links, ANY_VM).remove()
        return await devices(links)

    assert with_bridge(scenario) == []


def test_a_bridge_that_belongs_to_another_vm_by_now_is_not_removed(
    with_bridge: WithBridge,
) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> list[str]:
        await make(a_bridge(links, OTHER_VM))
        await bridge.remove()
        return await devices(links)

    assert with_bridge(scenario) == [VNIC.bridge, VNIC.bridge_end, VNIC.switch_end]


def test_a_plug_that_is_cancelled_in_the_middle_of_a_request_leaves_nothing(
    with_bridge: WithBridge,
) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> list[str]:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        class SlowSocket:
            def link(self, command: str, **arguments: Any) -> Any:
                if command == "add":
                    loop.call_soon_threadsafe(begun.set)
                    time.sleep(0.1)
                return socket.link(command, **arguments)

        await links.get("lo")
        socket: Any = links._socket
        links._socket = SlowSocket()
        plugging = asyncio.ensure_future(make(bridge))
        await begun.wait()
        plugging.cancel()
        await asyncio.wait([plugging])
        links._socket = socket
        return await devices(links)

    assert with_bridge(scenario) == []


def test_a_bridge_with_a_guest_on_it_is_in_use(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> None:
        await make(bridge)
        await guest_plugs_in(bridge)
        with pytest.raises(HostError, match="still on the bridge"):
            await bridge.require_unused()

    with_bridge(scenario)


def test_a_guest_that_is_not_on_its_bridge_is_told(with_bridge: WithBridge) -> None:
    async def scenario(bridge: PrivateBridge, links: Links) -> None:
        await make(bridge)
        ip("tuntap", "add", VNIC.tap, "mode", "tap")
        with pytest.raises(HostError, match="is not on the bridge"):
            await bridge.check_guest_tap()

    with_bridge(scenario)
