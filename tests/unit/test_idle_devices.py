# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices that no guest is joined to, in a real kernel, in a network namespace of the test's."""

from __future__ import annotations

from typing import Any

import pytest

from vif_driver.attachments import private_bridge
from vif_driver.attachments.base import Undo
from vif_driver.attachments.private_bridge import Idle, PrivateBridge, owner_of
from vif_driver.host import kernel
from vif_driver.host.links import Link, Links
from vif_driver.marks import GROUP, Owner
from vif_driver.vnic import Plugin, Vnic

from . import programs
from .conftest import MAC, VM_ID, VNIC_ID, WithLinks

VNIC = Vnic(VNIC_ID, Plugin.OPEN_VSWITCH, VM_ID, MAC)
OWNER = Owner(VNIC_ID, VM_ID)
STEM = VNIC_ID[:11]
ALIAS = f"vif-driver {VNIC_ID} {VM_ID}"
SAME_NAMES = f"vif-driver {VNIC_ID[:-1]}0 {VM_ID}"
OTHER_NAMES = f"vif-driver {VM_ID} {VM_ID}"


def ip(commands: str) -> None:
    programs.run("ip", "-batch", "-", input=commands)


async def plug(links: Links, far_end: str = VNIC.switch_end) -> None:
    """Make the devices of a vNIC, as a plug does."""
    bridge = PrivateBridge(links, VNIC, far_end, guest_tap=VNIC.tap)
    async with Undo() as undo:
        await bridge.make(MAC, None, undo)


def names(found: list[Idle]) -> list[list[str]]:
    return [[link.name for link in idle.links] for idle in found]


@pytest.mark.parametrize("far_end", [VNIC.switch_end, VNIC.tap], ids=["hybrid", "Linux bridge"])
def test_a_plug_whose_guest_never_came_is_idle(with_links: WithLinks, far_end: str) -> None:
    async def scenario(links: Links) -> list[Idle]:
        await plug(links, far_end)
        return await private_bridge.idle(links)

    (idle,) = with_links(scenario)

    assert (idle.stem, idle.owner) == (STEM, OWNER)
    assert names([idle]) == [[VNIC.bridge, VNIC.bridge_end, far_end]]


def test_with_a_guest_it_is_not_and_without_it_it_is_again(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> Any:
        await plug(links)
        ip(f"tuntap add {VNIC.tap} mode tap\nlink set {VNIC.tap} master {VNIC.bridge}\n")
        with_guest = await private_bridge.idle(links)
        ip(f"link del {VNIC.tap}\n")
        return with_guest, len(await private_bridge.idle(links))

    assert with_links(scenario) == ([], 1)


def test_a_bridge_with_anything_else_on_it_is_not(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> Any:
        await plug(links)
        ip(f"link add x type veth peer y\nlink set x master {VNIC.bridge}\n")
        return await private_bridge.idle(links)

    assert with_links(scenario) == []


def test_devices_that_are_not_ours_are_not(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> Any:
        # As os-vif makes them; and one that somebody else has named.
        ip(
            f"link add {VNIC.bridge} type bridge\n"
            f"link add {VNIC.bridge_end} type veth peer {VNIC.switch_end}\n"
            f"link set {VNIC.bridge_end} master {VNIC.bridge}\n"
        )
        await links.add_bridge("qbrtoo-short", GROUP)
        await links.add_veth("tapaaaaaaaaaaa", "x", GROUP)
        await links.add_bridge("qbrbbbbbbbbbbb", GROUP)
        await links.change("qbrbbbbbbbbbbb", alias="somebody's")
        return await private_bridge.idle(links)

    assert with_links(scenario) == []


@pytest.mark.parametrize("left", [VNIC.bridge, VNIC.bridge_end])
def test_what_there_is_of_a_plug_is_found(with_links: WithLinks, left: str) -> None:
    async def scenario(links: Links) -> Any:
        await plug(links)
        gone = {VNIC.bridge, VNIC.bridge_end} - {left}
        ip("".join(f"link del {name}\n" for name in gone))
        return names(await private_bridge.idle(links))

    ends = [[VNIC.bridge_end, VNIC.switch_end]]
    assert with_links(scenario) == ([[VNIC.bridge]] if left == VNIC.bridge else ends)


def test_what_was_not_named_yet_belongs_to_what_was(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> list[Idle]:
        await links.add_bridge(VNIC.bridge, GROUP)
        await links.change(VNIC.bridge, alias=ALIAS)
        await links.add_veth(VNIC.bridge_end, VNIC.switch_end, GROUP)
        return await private_bridge.idle(links)

    (idle,) = with_links(scenario)

    assert idle.owner == OWNER
    assert names([idle]) == [[VNIC.bridge, VNIC.bridge_end, VNIC.switch_end]]


def test_devices_of_two_vnics_with_the_same_names_are_told_apart(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> Any:
        await links.add_bridge(VNIC.bridge, GROUP)
        await links.add_veth(VNIC.bridge_end, VNIC.switch_end, GROUP)
        await links.change(VNIC.bridge, alias=ALIAS)
        await links.change(VNIC.bridge_end, alias=SAME_NAMES)
        return {idle.owner: names([idle])[0] for idle in await private_bridge.idle(links)}

    assert with_links(scenario) == {
        OWNER: [VNIC.bridge],
        Owner(VNIC_ID[:-1] + "0", VM_ID): [VNIC.bridge_end],
        Owner(): [VNIC.switch_end],
    }


def test_devices_under_the_names_of_another_vnic_are_nobodys(with_links: WithLinks) -> None:
    async def scenario(links: Links) -> Any:
        await links.add_bridge(VNIC.bridge, GROUP)
        await links.change(VNIC.bridge, alias=OTHER_NAMES)
        return await private_bridge.idle(links)

    assert with_links(scenario) == []


def test_devices_without_a_name_are_removed_unless_they_were_named_or_made_anew_meanwhile(
    with_links: WithLinks,
) -> None:
    async def scenario(links: Links) -> set[str]:
        await links.add_bridge(VNIC.bridge, GROUP)
        await links.add_veth(VNIC.bridge_end, VNIC.switch_end, GROUP)
        await links.add_bridge("qbraaaaaaaaaaa", GROUP)
        before = await private_bridge.idle(links)
        await links.change(VNIC.bridge, alias=ALIAS)
        ip("link del qbraaaaaaaaaaa\n")
        await links.add_bridge("qbraaaaaaaaaaa", GROUP)
        for idle in before:
            await private_bridge.remove_unnamed(links, idle)
        return kernel.devices()

    assert with_links(scenario) == {"lo", VNIC.bridge, "qbraaaaaaaaaaa"}


@pytest.mark.parametrize(
    ("group", "alias", "owner"),
    [
        (GROUP, ALIAS, OWNER),
        (GROUP, f"vif-driver {VNIC_ID} -", Owner(VNIC_ID)),
        (GROUP, None, Owner()),
        (GROUP, "", Owner()),
        (0, ALIAS, None),
        (0, None, None),
        (GROUP, "somebody's", None),
        (GROUP, f"vif-driver {VNIC_ID}", None),
        (GROUP, f"other {VNIC_ID} {VM_ID}", None),
        (GROUP, f"{ALIAS} more", None),
    ],
)
def test_whose_a_device_is_goes_by_both_marks(
    group: int, alias: str | None, owner: Owner | None
) -> None:
    link = Link("x", 1, "bridge", 1500, up=True, master=None, alias=alias, group=group)

    assert owner_of(link) == owner
