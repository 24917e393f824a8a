# SPDX-License-Identifier: GPL-2.0-or-later
"""By what this host shows that a vNIC works, with a real ovsdb-server and real devices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vif_driver.attachments import Attachment
from vif_driver.attachments.ovn import OvnAttachment
from vif_driver.attachments.ovs import OvsAttachment
from vif_driver.attachments.ovs_hybrid import OvsHybridAttachment
from vif_driver.config import Config
from vif_driver.errors import Unavailable
from vif_driver.host import Host, kernel
from vif_driver.host.links import Links
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.marks import GROUP
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer, WithLinks

VNIC = VnicIdentity(VNIC_ID, Plugin.OPEN_VSWITCH, VM_ID)
OTHER_ID = VNIC_ID[:-1] + "0"  # the same device names
CONNECTED_BY_OVN = ["external_ids:ovn-installed=true"]

Scenario = Callable[[Host], Awaitable[Any]]
OnHost = Callable[[Scenario], Any]


@pytest.fixture
def on_host(with_links: WithLinks, ovsdb_server: OvsdbServer) -> OnHost:
    """Run a scenario on a host with Open vSwitch's database and no device but the loopback's."""

    def run(scenario: Scenario) -> Any:
        async def body(links: Links) -> Any:
            ovsdb = Ovsdb(ovsdb_server.socket)
            ovsdb.replica.open()
            try:
                await ovsdb.replica.wait_connected()
                return await scenario(Host(links, ovsdb))
            finally:
                ovsdb.replica.close()

        return with_links(body)

    return run


async def make_tap(host: Host) -> None:
    """Make a device of the tap's name; which kind it is doesn't matter here."""
    assert host.links is not None
    await host.links.add_veth(VNIC.tap, "guest0", GROUP)


def plug(
    server: OvsdbServer, *columns: str, bridge: str = "br-int", tag: int | None = None
) -> None:
    """Add the port of the tap as libvirt does, with more columns of its Interface row."""
    ids = {"iface-id": VNIC_ID, "vm-id": VM_ID, "attached-mac": f'"{MAC}"'}
    server.vsctl(
        *("add-port", bridge, VNIC.tap, *([] if tag is None else [f"tag={tag}"])),
        *("--", "set", "Interface", VNIC.tap),
        *(f"external_ids:{name}={value}" for name, value in ids.items()),
        *columns,
    )


async def up_to_date(host: Host) -> None:
    """Wait until the replica has what was committed until now."""
    assert host.ovsdb is not None
    mark = {"test": "here"}
    await host.ovsdb.add_port("br-int", "last", port={}, interface={"external_ids": mark})
    assert await host.ovsdb.wait_port("last", mark, 5)


def ready(
    on_host: OnHost,
    server: OvsdbServer,
    way: type[Attachment],
    *columns: str,
    tag: int | None = None,
    bridge: str = "br-int",
) -> bool:
    """Tell whether a vNIC is ready whose tap is there and whose port was plugged so."""

    async def scenario(host: Host) -> bool:
        await make_tap(host)
        if bridge != "br-int":
            server.vsctl("add-br", bridge)
        plug(server, *columns, bridge=bridge, tag=tag)
        await up_to_date(host)
        return way(Config(), host).is_ready(VNIC)

    return bool(on_host(scenario))


# ---- OVN, and what holds for every port of the tap's own -------------------------------------


def test_a_port_is_ready_when_ovn_says_that_its_flows_are_in_place(
    on_host: OnHost, ovsdb_server: OvsdbServer
) -> None:
    assert ready(on_host, ovsdb_server, OvnAttachment, "ofport=1", *CONNECTED_BY_OVN)


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param(["ofport=1"], id="without OVN's mark"),
        pytest.param(["ofport=1", "external_ids:ovn-installed=false"], id="OVN says no"),
        pytest.param(CONNECTED_BY_OVN, id="not opened yet"),
        pytest.param(["ofport=-1", *CONNECTED_BY_OVN], id="could not be opened"),
        pytest.param(
            ["ofport=1", f"external_ids:iface-id={OTHER_ID}", *CONNECTED_BY_OVN],
            id="another vNIC's",
        ),
        pytest.param(["ofport=1", "ifindex=4000", *CONNECTED_BY_OVN], id="of an earlier tap"),
    ],
)
def test_a_port_of_ovns_is_not_ready(
    on_host: OnHost, ovsdb_server: OvsdbServer, columns: list[str]
) -> None:
    assert not ready(on_host, ovsdb_server, OvnAttachment, *columns)


def test_a_port_of_another_bridge_is_not_ready(on_host: OnHost, ovsdb_server: OvsdbServer) -> None:
    columns = ["ofport=1", *CONNECTED_BY_OVN]

    assert not ready(on_host, ovsdb_server, OvnAttachment, *columns, bridge="br-ex")


def test_open_vswitchs_word_on_this_very_tap_counts(
    on_host: OnHost, ovsdb_server: OvsdbServer
) -> None:
    async def scenario(host: Host) -> bool:
        await make_tap(host)
        plug(ovsdb_server, "ofport=1", f"ifindex={kernel.ifindex(VNIC.tap)}", *CONNECTED_BY_OVN)
        await up_to_date(host)
        return OvnAttachment(Config(), host).is_ready(VNIC)

    assert on_host(scenario) is True


def test_a_row_without_its_tap_is_not_ready(on_host: OnHost, ovsdb_server: OvsdbServer) -> None:
    async def scenario(host: Host) -> bool:
        plug(ovsdb_server, "ofport=1", *CONNECTED_BY_OVN)
        await up_to_date(host)
        return OvnAttachment(Config(), host).is_ready(VNIC)

    assert on_host(scenario) is False


def test_a_tap_without_its_row_is_not_ready(on_host: OnHost) -> None:
    async def scenario(host: Host) -> bool:
        await make_tap(host)
        return OvnAttachment(Config(), host).is_ready(VNIC)

    assert on_host(scenario) is False


@pytest.mark.parametrize("way", [OvnAttachment, OvsAttachment, OvsHybridAttachment])
def test_a_process_that_may_not_look_into_the_database_knows_nothing(
    way: type[Attachment],
) -> None:
    attachment = way(Config(), Host())

    assert not attachment.is_ready(VNIC)
    assert not asyncio.run(attachment.wait_ready(VNIC, 60.0))


def test_a_database_that_is_away_is_no_answer(on_host: OnHost, ovsdb_server: OvsdbServer) -> None:
    async def scenario(host: Host) -> None:
        assert host.ovsdb is not None
        database = host.ovsdb.replica
        ovsdb_server.stop()
        await database.wait(lambda: not database.connected, 5)
        OvnAttachment(Config(), host).is_ready(VNIC)

    with pytest.raises(Unavailable):
        on_host(scenario)


def test_the_wait_ends_with_the_change_that_makes_the_port_ready(
    on_host: OnHost, ovsdb_server: OvsdbServer
) -> None:
    async def scenario(host: Host) -> tuple[bool, bool]:
        await make_tap(host)
        plug(ovsdb_server, "ofport=1")
        waiting = asyncio.ensure_future(OvnAttachment(Config(), host).wait_ready(VNIC, 60.0))
        await asyncio.sleep(0.05)
        before = waiting.done()
        ovsdb_server.vsctl("set", "Interface", VNIC.tap, *CONNECTED_BY_OVN)
        return before, await waiting

    assert on_host(scenario) == (False, True)


def test_the_wait_outlives_a_restart_of_the_database(
    on_host: OnHost, ovsdb_server: OvsdbServer
) -> None:
    async def scenario(host: Host) -> bool:
        await make_tap(host)
        plug(ovsdb_server, "ofport=1")
        waiting = asyncio.ensure_future(OvnAttachment(Config(), host).wait_ready(VNIC, 60.0))
        await asyncio.sleep(0.02)
        ovsdb_server.stop()
        await asyncio.sleep(0.02)
        ovsdb_server.start()
        ovsdb_server.vsctl("set", "Interface", VNIC.tap, *CONNECTED_BY_OVN)
        return await waiting

    assert on_host(scenario) is True


# ---- Neutron's Open vSwitch agent ------------------------------------------------------------


@pytest.mark.parametrize(("tag", "expected"), [(5, True), (1, True), (4095, False), (None, False)])
def test_a_port_is_ready_when_neutrons_agent_has_put_it_into_its_vlan(
    on_host: OnHost, ovsdb_server: OvsdbServer, tag: int | None, expected: bool
) -> None:
    assert ready(on_host, ovsdb_server, OvsAttachment, "ofport=1", tag=tag) is expected


def test_ovns_mark_says_nothing_of_neutrons_port(
    on_host: OnHost, ovsdb_server: OvsdbServer
) -> None:
    assert not ready(on_host, ovsdb_server, OvsAttachment, "ofport=1", *CONNECTED_BY_OVN)


# ---- whose the vNIC is -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [([], VM_ID), ([f"external_ids:iface-id={OTHER_ID}"], None)],
    ids=["its own port", "another vNIC's port"],
)
def test_the_vm_that_uses_a_vnic_is_the_one_libvirt_plugged_it_for(
    on_host: OnHost, ovsdb_server: OvsdbServer, columns: list[str], expected: str | None
) -> None:
    async def scenario(host: Host) -> str | None:
        await make_tap(host)
        plug(ovsdb_server, *columns)
        await up_to_date(host)
        return await OvsAttachment(Config(), host).user(VNIC)

    assert on_host(scenario) == expected


def test_a_row_whose_tap_is_gone_is_no_user(on_host: OnHost, ovsdb_server: OvsdbServer) -> None:
    async def scenario(host: Host) -> str | None:
        plug(ovsdb_server)
        await up_to_date(host)
        return await OvsAttachment(Config(), host).user(VNIC)

    assert on_host(scenario) is None


# ---- hybrid ----------------------------------------------------------------------------------


def plug_hybrid(server: OvsdbServer, *, tag: int | None = 5, **changes: str) -> None:
    """Add the port of the far end, wired by Neutron's agent, unless it is changed."""
    ids = {"vif-driver": "ovs_hybrid", "iface-id": VNIC_ID, "vm-id": VM_ID}
    columns = {f"external_ids:{key}": value for key, value in ids.items()}
    columns = {**columns, "ofport": "1", **changes}
    server.vsctl(
        *("add-port", "br-int", VNIC.switch_end, *([] if tag is None else [f"tag={tag}"])),
        *("--", "set", "Interface", VNIC.switch_end),
        *(f"{name}={value}" for name, value in columns.items()),
    )


@pytest.mark.parametrize(
    ("tag", "changes", "expected"),
    [
        pytest.param(5, {}, True, id="wired"),
        pytest.param(None, {}, False, id="without a VLAN"),
        pytest.param(4095, {}, False, id="in the dead VLAN"),
        pytest.param(5, {"ofport": "-1"}, False, id="could not be opened"),
        pytest.param(5, {"ofport": "[]"}, False, id="not opened yet"),
        pytest.param(5, {"external_ids:iface-id": OTHER_ID}, False, id="another vNIC's"),
        pytest.param(5, {"external_ids:vm-id": OTHER_ID}, False, id="another VM's"),
        pytest.param(5, {"external_ids:vif-driver": "ovs"}, False, id="without our mark"),
    ],
)
def test_a_hybrid_vnic_is_ready_when_its_own_port_is_wired(
    on_host: OnHost,
    ovsdb_server: OvsdbServer,
    tag: int | None,
    changes: dict[str, str],
    expected: bool,
) -> None:
    async def scenario(host: Host) -> bool:
        assert host.links is not None
        await make_tap(host)
        await host.links.add_bridge(VNIC.bridge, GROUP)
        await host.links.change(VNIC.tap, master=VNIC.bridge)
        plug_hybrid(ovsdb_server, tag=tag, **changes)
        await up_to_date(host)
        return OvsHybridAttachment(Config(), host).is_ready(VNIC)

    assert on_host(scenario) is expected


@pytest.mark.parametrize("bridge", [None, "br0"])
def test_a_hybrid_vnic_whose_tap_is_not_on_its_bridge_is_not_ready(
    on_host: OnHost, ovsdb_server: OvsdbServer, bridge: str | None
) -> None:
    async def scenario(host: Host) -> bool:
        assert host.links is not None
        await make_tap(host)
        if bridge is not None:
            await host.links.add_bridge(bridge, GROUP)
            await host.links.change(VNIC.tap, master=bridge)
        plug_hybrid(ovsdb_server)
        await up_to_date(host)
        return OvsHybridAttachment(Config(), host).is_ready(VNIC)

    assert on_host(scenario) is False
