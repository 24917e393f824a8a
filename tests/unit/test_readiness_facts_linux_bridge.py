# SPDX-License-Identifier: GPL-2.0-or-later
"""By what this host shows that a vNIC of Neutron's Linux bridge agent works, and who has it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from vif_driver.attachments.base import Undo
from vif_driver.attachments.linux_bridge import (
    DUMMY_BRIDGE,
    DummyBridgeAttachment,
    LinuxBridgeAttachment,
)
from vif_driver.attachments.private_bridge import PrivateBridge
from vif_driver.config import Config
from vif_driver.host import Host, kernel, neutron_agent
from vif_driver.marks import GROUP
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import MAC, VM_ID, VNIC_ID, WithLinks

VNIC = VnicIdentity(VNIC_ID, Plugin.LINUX_BRIDGE, VM_ID)
ANY_VM = VnicIdentity(VNIC_ID, Plugin.LINUX_BRIDGE, None)

Scenario = Callable[[Host], Awaitable[Any]]
OnHost = Callable[[Scenario], Any]


@pytest.fixture
def on_host(with_links: WithLinks) -> OnHost:
    """Run a scenario on a host with no device but the loopback's."""
    return lambda scenario: with_links(lambda links: scenario(Host(links)))


async def plug_linux_bridge(host: Host, taken_by: str | None, guest_on: str | None) -> None:
    links = host.links
    assert links is not None
    await links.add_bridge(VNIC.bridge, GROUP)
    await links.add_veth(VNIC.bridge_end, VNIC.tap, GROUP)
    await links.add_veth(VNIC.hidden_tap, "guest0", GROUP)
    for device, bridge in ((VNIC.tap, taken_by), (VNIC.hidden_tap, guest_on)):
        if bridge is not None:
            if not kernel.has_device(bridge):
                await links.add_bridge(bridge, GROUP)
            await links.change(device, master=bridge)


@pytest.mark.parametrize(
    ("taken_by", "guest_on", "expected"),
    [
        pytest.param("brq1", VNIC.bridge, True, id="on the network's bridge"),
        pytest.param("br-phys", VNIC.bridge, True, id="on a bridge of bridge_mappings"),
        pytest.param(None, VNIC.bridge, False, id="on no bridge"),
        pytest.param("br0", VNIC.bridge, False, id="on another bridge"),
        pytest.param(DUMMY_BRIDGE, VNIC.bridge, False, id="on VDSM's dummy bridge"),
        pytest.param("brq1", None, False, id="without its guest"),
        pytest.param("brq1", "br0", False, id="with its guest elsewhere"),
    ],
)
def test_a_linux_bridge_vnic_is_ready_when_the_agent_has_taken_its_far_end(
    on_host: OnHost,
    monkeypatch: pytest.MonkeyPatch,
    taken_by: str | None,
    guest_on: str | None,
    expected: bool,
) -> None:
    monkeypatch.setattr(neutron_agent, "linux_bridges", lambda: frozenset({"br-phys"}))

    async def scenario(host: Host) -> bool:
        await plug_linux_bridge(host, taken_by, guest_on)
        return LinuxBridgeAttachment(Config(), host).is_ready(VNIC)

    assert on_host(scenario) is expected


@pytest.mark.parametrize(("bridge", "expected"), [("brq1", True), (DUMMY_BRIDGE, False)])
def test_a_tap_on_the_dummy_bridge_is_not_ready_before_the_agent_has_it(
    on_host: OnHost, bridge: str, expected: bool
) -> None:
    async def scenario(host: Host) -> bool:
        assert host.links is not None
        await host.links.add_veth(VNIC.tap, "guest0", GROUP)
        await host.links.add_bridge(bridge, GROUP)
        await host.links.change(VNIC.tap, master=bridge)
        return DummyBridgeAttachment(Config(), host).is_ready(VNIC)

    assert on_host(scenario) is expected


def test_the_wait_ends_when_the_agent_takes_the_far_end(on_host: OnHost) -> None:
    async def scenario(host: Host) -> tuple[bool, bool]:
        assert host.links is not None
        await plug_linux_bridge(host, None, VNIC.bridge)
        await host.links.add_bridge("brq1", GROUP)
        waiting = asyncio.ensure_future(
            LinuxBridgeAttachment(Config(), host).wait_ready(VNIC, 60.0)
        )
        await asyncio.sleep(0.02)
        before = waiting.done()
        await host.links.change(VNIC.tap, master="brq1")
        return before, await waiting

    assert on_host(scenario) == (False, True)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, set()),
        ("[DEFAULT]\n", set()),
        (
            "[linux_bridge]\nbridge_mappings = physnet1:br-eth1, physnet2 : br-eth2\n",
            "br-eth1 br-eth2",
        ),
        ("[linux_bridge]\nbridge_mappings =\n", set()),
        ("[linux_bridge]\nbridge_mappings = physnet1\n", set()),
        ("no ini file", set()),
    ],
)
def test_the_bridges_that_neutrons_agent_uses_are_read_from_its_configuration(
    tmp_path: Path, written: str | None, expected: str | set[str]
) -> None:
    file = tmp_path / "plugins/ml2/linuxbridge_agent.ini"
    file.parent.mkdir(parents=True)
    if written is not None:
        file.write_text(written)

    assert neutron_agent.linux_bridges(tmp_path) == set(
        expected.split() if isinstance(expected, str) else expected
    )


async def make_bridge(host: Host, vm_id: str | None) -> None:
    """Plug the vNIC as the agent does, for some VM."""
    assert host.links is not None
    vnic = VnicIdentity(VNIC_ID, Plugin.LINUX_BRIDGE, vm_id)
    bridge = PrivateBridge(host.links, vnic, vnic.tap, guest_tap=vnic.hidden_tap)
    async with Undo() as undo:
        await bridge.make(MAC, None, undo)


@pytest.mark.parametrize(
    ("made_for", "guest", "expected"),
    [
        pytest.param(VM_ID, True, VM_ID, id="a VM's"),
        pytest.param(VM_ID, False, None, id="left by a VM"),
        pytest.param(None, True, None, id="nobody knows whose"),
    ],
)
def test_the_vm_that_uses_a_vnic_is_the_one_its_bridge_was_made_for(
    on_host: OnHost, made_for: str | None, guest: bool, expected: str | None
) -> None:
    async def scenario(host: Host) -> str | None:
        assert host.links is not None
        await make_bridge(host, made_for)
        if guest:
            await host.links.add_veth(VNIC.hidden_tap, "guest0", GROUP)
            await host.links.change(VNIC.hidden_tap, master=VNIC.bridge)
        return await LinuxBridgeAttachment(Config(), host).user(ANY_VM)

    assert on_host(scenario) == expected


def test_a_bridge_of_that_name_that_is_somebody_elses_says_nothing(
    on_host: OnHost,
) -> None:
    async def scenario(host: Host) -> str | None:
        await plug_linux_bridge(host, None, VNIC.bridge)
        return await LinuxBridgeAttachment(Config(), host).user(ANY_VM)

    assert on_host(scenario) is None
