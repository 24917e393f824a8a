# SPDX-License-Identifier: GPL-2.0-or-later
"""The reconciler on a real database and a real kernel: what goes, what is plugged, what stays."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vif_driver.agent import reconcile
from vif_driver.agent.reconcile import Reconciler
from vif_driver.attachments import ovs_hybrid
from vif_driver.attachments.base import Undo
from vif_driver.attachments.private_bridge import PrivateBridge
from vif_driver.config import Config
from vif_driver.events.turns import Turns
from vif_driver.host import Host, kernel
from vif_driver.host.domains import State
from vif_driver.host.links import Links
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.host.starts import Start, Starts
from vif_driver.vnic import Plugin, Vnic

from . import programs
from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer, WithLinks
from .inspected_host import a_vm, an_interface, virtualport
from .paper_host import LIBVIRTS, OTHER_VM, OURS, QBR, QVO, TAP, Libvirt, fields

GRACE = 0.04
VNIC = Vnic(VNIC_ID, Plugin.OPEN_VSWITCH, VM_ID, MAC)
PAUSED_VM, STARTING_VM = "9d444840" + VM_ID[8:], "ad444840" + VM_ID[8:]


@dataclasses.dataclass
class Stage:
    """The reconciler, and all that it has to do with."""

    server: OvsdbServer
    ovsdb: Ovsdb
    libvirt: Libvirt
    starts: Starts
    turns: Turns
    reconciler: Reconciler
    links: Links | None

    @property
    def ports(self) -> set[str]:
        return self.ovsdb.names("br-int") - {"br-int"}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the reconciler does."""
        while not condition():
            await asyncio.sleep(0.002)


Scenario = Callable[[Stage], Awaitable[Any]]


async def play(
    scenario: Scenario, server: OvsdbServer, folder: Path, links: Links | None = None
) -> Any:
    """Run a scenario; the reconciler is not started yet."""
    ovsdb, libvirt, turns = Ovsdb(server.socket), Libvirt(), Turns()
    starts = Starts(folder / "starting", folder / "released")
    ovsdb.replica.open()
    host = Host(links=links, ovsdb=ovsdb, domains=libvirt.domains)
    reconciler = Reconciler(Config(grace=GRACE), host, libvirt.domains, starts, turns)
    try:
        await ovsdb.replica.wait_connected()
        stage = Stage(server, ovsdb, libvirt, starts, turns, reconciler, links)
        # Below the time after which the agent looks again by itself.
        return await asyncio.wait_for(scenario(stage), 20)
    finally:
        await reconciler.close()
        ovsdb.replica.close()


def hasten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reconcile, "SETTLE", 0.01)
    patch.setattr(reconcile, "LOST_GRACE", 0.02)


def be_kernel(patch: pytest.MonkeyPatch, present: set[str]) -> None:
    patch.setattr(kernel, "devices", lambda: set(present))
    patch.setattr(kernel, "has_device", present.__contains__)


def ids_as(ids: dict[str, str]) -> list[str]:
    return [f"external_ids:{key}={json.dumps(value)}" for key, value in ids.items()]


def port(name: str, ids: dict[str, str], *more: str, bridge: str = "br-int") -> list[str]:
    """Give the command that adds a port."""
    return ["--", "add-port", bridge, name, "--", "set", "Interface", name, *ids_as(ids), *more]


def of_vm(vm_id: str) -> dict[str, str]:
    return {**LIBVIRTS, "vm-id": vm_id}


# ---- what stays, whatever goes beside it ---------------------------------------------------------

_NEVER = [
    port("uplink", {}, "ofport=1"),
    port("patch", LIBVIRTS, "type=patch", "options:peer=other"),
    port("tunnel", LIBVIRTS, "type=geneve", "options:remote_ip=192.0.2.9"),
    port("internal", LIBVIRTS, "type=internal"),
    port("novas", {"iface-id": VNIC_ID, "attached-mac": MAC, "vm-uuid": VM_ID}),
    port("neutrons", {"iface-id": VNIC_ID, "attached-mac": MAC}),
    port("somebodys", {"owner": "somebody"}),
    port("spared", {**LIBVIRTS, "skip_cleanup": "true"}),
    port("spared-ours", {**OURS, "skip_cleanup": "true"}),
    port(
        "spared-port", LIBVIRTS, "--", "set", "Port", "spared-port", "external_ids:skip_cleanup=x"
    ),
    port("ours-of-no-vm", {"vif-driver": "ovs_hybrid", "iface-id": VNIC_ID}),
    port("other-bridge", LIBVIRTS, bridge="ovirtmgmt"),
    port("with-device", LIBVIRTS),
    port("running", of_vm(OTHER_VM)),
    port("paused", of_vm(PAUSED_VM)),
    port("starting", of_vm(STARTING_VM)),
    port("named-by-vm", LIBVIRTS),
    port("worked-on", LIBVIRTS),
    [
        *("--", "add-bond", "br-int", "bond", "bonded1", "bonded2"),
        *("--", "set", "Interface", "bonded1", *ids_as(LIBVIRTS)),
        *("--", "set", "Interface", "bonded2", *ids_as(OURS)),
    ],
]
NEVER = {command[3]: command for command in _NEVER}


@pytest.fixture(scope="module")
def survivors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The ports that are there after a stale one beside them has gone, and some time has passed."""
    folder = tmp_path_factory.mktemp("survivors")
    server = OvsdbServer(folder)
    server.start()
    server.reset()
    commands = [word for command in NEVER.values() for word in command]
    server.vsctl("add-br", "ovirtmgmt", *commands, *port("stale", LIBVIRTS))

    async def scenario(stage: Stage) -> set[str]:
        named = an_interface("br-int", "named-by-vm")
        paused = dataclasses.replace(a_vm(vm_id=PAUSED_VM), state=State.PAUSED)
        stage.libvirt.vms = [a_vm(named, vm_id=OTHER_VM), paused]
        stage.starts.put(Start(STARTING_VM))
        async with stage.turns.of("worked-on"):
            stage.reconciler.start()
            await stage.until(lambda: "stale" not in stage.ports)
            await asyncio.sleep(2 * GRACE)
        return {row.name for row in stage.ovsdb.replica.rows("Port")}

    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        be_kernel(patch, {"br-int", "ovirtmgmt", "with-device"})
        left = asyncio.run(play(scenario, server, folder))
    server.stop()
    yield left


@pytest.mark.parametrize("name", NEVER)
def test_what_no_vm_that_is_gone_has_left_stays(survivors: set[str], name: str) -> None:
    assert name in survivors


def test_what_stands_beside_it_and_was_left_goes(survivors: set[str]) -> None:
    assert survivors == {*NEVER, "br-int", "ovirtmgmt"}


# ---- a real database -----------------------------------------------------------------------------

OnHost = Callable[[Scenario], Any]


@pytest.fixture
def on_host(ovsdb_server: OvsdbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnHost:
    """Run a scenario at a host with a database, and with the devices of ``present``."""
    hasten(monkeypatch)
    return lambda scenario: asyncio.run(play(scenario, ovsdb_server, tmp_path))


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The devices, to be changed by the test."""
    names = {"br-int"}
    be_kernel(monkeypatch, names)
    return names


@pytest.mark.usefixtures("present")
def test_a_port_and_then_its_qos_go(on_host: OnHost, ovsdb_server: OvsdbServer) -> None:
    ids = f"external_ids:vm-id={VM_ID}"
    ovsdb_server.vsctl(*port(TAP, LIBVIRTS))
    ovsdb_server.vsctl(
        *("--id=@u", "create", "Queue", ids, "--"),
        *("--id=@q", "create", "QoS", "type=linux-htb", "queues:0=@u", ids, "--"),
        *("set", "Port", TAP, "qos=@q"),
    )

    async def scenario(stage: Stage) -> Any:
        stage.reconciler.start()
        await stage.until(lambda: not stage.ports)
        kept = len(stage.ovsdb.unused_qos()["QoS"])
        await stage.until(lambda: stage.reconciler.counts.removed == 3)
        return kept, stage.ovsdb.unused_qos()

    assert on_host(scenario) == (1, {})


@pytest.mark.usefixtures("present")
def test_a_server_that_restarts_between_the_looks_begins_the_grace_period_anew(
    on_host: OnHost, ovsdb_server: OvsdbServer
) -> None:
    ovsdb_server.vsctl(*port(TAP, LIBVIRTS))

    async def scenario(stage: Stage) -> bool:
        loop = asyncio.get_running_loop()
        stage.reconciler.start()
        await stage.until(lambda: bool(stage.reconciler._leftovers))
        await asyncio.sleep(GRACE / 2)
        ovsdb_server.stop()
        ovsdb_server.start()
        await stage.until(lambda: not stage.ovsdb.replica.connected)
        await stage.until(lambda: stage.ovsdb.replica.connected)
        back = loop.time()
        await stage.until(lambda: stage.ovsdb.replica.connected and not stage.ports)
        return loop.time() - back >= GRACE

    assert on_host(scenario) is True


def test_a_port_that_libvirt_had_made_is_made_as_libvirt_does(
    on_host: OnHost, present: set[str], ovsdb_server: OvsdbServer
) -> None:
    present.add(TAP)
    trunk = "<vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='43'/></vlan>"
    # What virNetDevOpenvswitchAddPort runs.
    libvirts = ["add-port", "br-int", TAP, "vlan_mode=native-untagged", "tag=42", "trunk=42,43"]
    ovsdb_server.vsctl(*libvirts, "--", "set", "Interface", TAP, *ids_as(LIBVIRTS))

    async def scenario(stage: Stage) -> Any:
        def record() -> Any:
            (rows,) = stage.ovsdb.whole(TAP)
            whole = rows.record()
            whole["Port"].pop("interfaces")
            return whole

        interface = an_interface("br-int", TAP, more=virtualport(VNIC_ID) + trunk)
        stage.libvirt.vms = [a_vm(interface)]
        before = record()
        stage.reconciler.start()
        await stage.ovsdb.delete_port(TAP, {})
        await stage.until(lambda: TAP in stage.ports)
        return before, record()

    before, after = on_host(scenario)

    assert before == after


@pytest.mark.usefixtures("present")
def test_an_agent_that_ends_in_the_middle_of_a_request_leaves_no_half_of_it(
    on_host: OnHost, ovsdb_server: OvsdbServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ovsdb_server.vsctl(*port("tap1", LIBVIRTS), *port("tap2", LIBVIRTS))

    async def scenario(stage: Stage) -> set[str]:
        stage.reconciler.start()
        await stage.until(lambda: len(fields(caplog)) == 2)
        await stage.reconciler.close()
        await asyncio.sleep(0.02)
        return stage.ports

    assert on_host(scenario) in (set(), {"tap1", "tap2"})


# ---- a real kernel -------------------------------------------------------------------------------


@pytest.fixture
def in_kernel(
    with_links: WithLinks,
    ovsdb_server: OvsdbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> OnHost:
    """Run a scenario with real devices."""
    hasten(monkeypatch)
    return lambda scenario: with_links(lambda links: play(scenario, ovsdb_server, tmp_path, links))


async def plug(stage: Stage) -> PrivateBridge:
    """Make what a hybrid vNIC needs."""
    assert stage.links is not None
    bridge = PrivateBridge(stage.links, VNIC, QVO, guest_tap=TAP)
    async with Undo() as undo:
        await bridge.make(MAC, None, undo)
    ids = ovs_hybrid.interface_ids(VNIC_ID, VM_ID, MAC)
    columns = {"external_ids": ids}
    await stage.ovsdb.add_port("br-int", QVO, port=ovs_hybrid.PORT_COLUMNS, interface=columns)
    return bridge


def guest_joins(bridge: str = QBR) -> None:
    commands = f"tuntap add {TAP} mode tap\nlink set {TAP} master {bridge}\n"
    programs.run("ip", "-batch", "-", input=commands)


def test_a_hybrid_vnic_whose_vm_is_gone_goes_whole(
    in_kernel: OnHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(stage: Stage) -> Any:
        await plug(stage)
        stage.reconciler.start()
        await stage.until(lambda: stage.reconciler.counts.removed == 1)
        return stage.ports, kernel.devices()

    assert in_kernel(scenario) == (set(), {"lo"})
    (line,) = fields(caplog)
    assert json.loads(line["VIF_ROW"])["Interface"]["name"] == QVO


def test_a_guest_that_ends_is_a_reason_to_remove_what_it_leaves(in_kernel: OnHost) -> None:
    async def scenario(stage: Stage) -> Any:
        await plug(stage)
        guest_joins()
        stage.libvirt.vms = [a_vm(an_interface(QBR, TAP))]
        stage.reconciler.start()
        await asyncio.sleep(2 * GRACE)
        during = stage.reconciler.counts.removed
        stage.libvirt.vms = []
        programs.run("ip", "link", "del", TAP)
        await stage.until(lambda: stage.reconciler.counts.removed == 1)
        return during, stage.ports, kernel.devices()

    assert in_kernel(scenario) == (0, set(), {"lo"})


def test_the_port_of_a_hybrid_vnic_that_was_lost_is_made_as_the_plug_did(
    in_kernel: OnHost,
) -> None:
    async def scenario(stage: Stage) -> Any:
        await plug(stage)
        guest_joins()
        stage.libvirt.vms = [a_vm(an_interface(QBR, TAP))]
        (before,) = stage.ovsdb.whole(QVO)
        stage.reconciler.start()
        await stage.ovsdb.delete_port(QVO, {})
        await stage.until(lambda: bool(stage.ports))
        (after,) = stage.ovsdb.whole(QVO)
        return before, after

    before, after = in_kernel(scenario)

    assert after.interface == before.interface
    assert {**after.port, "interfaces": ""} == {**before.port, "interfaces": ""}
    assert after.uuid != before.uuid
