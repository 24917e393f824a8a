# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of the host's vNICs, with real devices and a real database, and whom it costs."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from vif_driver.agent import survey
from vif_driver.agent.survey import Survey
from vif_driver.config import Config
from vif_driver.errors import HostError, Unavailable
from vif_driver.host import Host
from vif_driver.host.domains import Domain, Domains, Listener
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.inspection import vnics
from vif_driver.inspection.vnics import ExternalVnic
from vif_driver.marks import GROUP

from . import own_sysfs
from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer, RunInNamespace
from .inspected_host import a_vm, add_plugged, an_interface, virtualport

SHORT = VNIC_ID[:11]
TAP = f"tap{SHORT}"
UNTOLD = "0" + VM_ID[1:]
OF_OVN = a_vm(an_interface("br-int", TAP, more=virtualport(VNIC_ID)))


class Libvirt:
    """Stands in for host.domains.Domains.

    Attributes:
        vms: what it has.
        connected: whether there is a connection.
        deaf: it answers no more.
        refuses: the VMs that it tells nothing of.
        questions: what it was asked: a VM's id, or None for all.
    """

    def __init__(self) -> None:
        self.vms: dict[str, Domain] = {}
        self.connected = True
        self.deaf = False
        self.refuses: set[str] = set()
        self.questions: list[str | None] = []
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, vm_id: str | None = VM_ID) -> None:
        for listener in self._listeners:
            listener(vm_id)

    async def all(self) -> list[Domain]:
        await self._asked(None)
        return list(self.vms.values())

    async def get(self, vm_id: str) -> Domain | None:
        await self._asked(vm_id)
        return self.vms.get(vm_id)

    async def _asked(self, what: str | None) -> None:
        self.questions.append(what)
        if self.deaf:
            raise Unavailable("libvirt does not answer", "restart libvirtd")
        if what in self.refuses:
            raise HostError("libvirt refuses to tell about it", "see libvirtd's log")


@dataclasses.dataclass
class Stage:
    """A host with a loopback device, and who looks at it."""

    survey: Survey
    server: OvsdbServer
    libvirt: Libvirt
    ovsdb: Ovsdb
    looks: list[None]

    async def vnics(self) -> list[ExternalVnic]:
        return list(await self.survey.vnics())

    async def ready(self) -> list[bool | None]:
        return [vnic.ready for vnic in await self.vnics()]

    def plug(self) -> None:
        """Have a VM whose vNIC of OVN works."""
        ip(f"tuntap add dev {TAP} mode tap")
        add_plugged(self.server, TAP, VNIC_ID, ovn_installed="true")
        self.libvirt.vms[VM_ID] = OF_OVN

    async def settle(self) -> None:
        """Have everything of before be known, and be taken for what it is."""
        await self.ovsdb.replica.wait(lambda: False, 0.05)
        await self.survey.vnics()
        await asyncio.sleep(survey._MOMENT * 1.1)
        await self.survey.vnics()
        self.looks.clear()
        self.libvirt.questions.clear()


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


OnStage = Callable[[Callable[[Stage], Awaitable[Any]]], Any]


@pytest.fixture
def on_stage(
    in_network_namespace: RunInNamespace,
    ovsdb_server: OvsdbServer,
    monkeypatch: pytest.MonkeyPatch,
) -> OnStage:
    """Run a scenario on such a host."""
    looks: list[None] = []
    combine = vnics.combine

    def counted(*arguments: Any) -> list[ExternalVnic]:
        looks.append(None)
        return combine(*arguments)

    monkeypatch.setattr(vnics, "combine", counted)

    def run(scenario: Callable[[Stage], Awaitable[Any]]) -> Any:
        async def body() -> Any:
            own_sysfs.mount()
            ovsdb, libvirt = Ovsdb(ovsdb_server.socket), Libvirt()
            ovsdb.replica.open()
            await ovsdb.replica.wait_connected()
            looking = Survey(Config(), Host(ovsdb=ovsdb), cast(Domains, libvirt))
            looking.start()
            try:
                stage = Stage(looking, ovsdb_server, libvirt, ovsdb, looks)
                return await asyncio.wait_for(scenario(stage), 10)
            finally:
                await looking.close()
                ovsdb.replica.close()

        return in_network_namespace(body)

    return run


def test_a_vnic_that_works(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> list[ExternalVnic]:
        stage.plug()
        await stage.settle()
        return await stage.vnics()

    (vnic,) = on_stage(scenario)

    assert (vnic.id, vnic.identity.vm_id, vnic.mac) == (VNIC_ID, VM_ID, MAC)
    assert (vnic.attachment, vnic.ready) == ("ovn", True)


def test_who_asks_again_costs_nothing(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> tuple[int, int]:
        stage.plug()
        await stage.settle()
        for _ in range(10):
            await stage.vnics()
        return len(stage.looks), len(stage.libvirt.questions)

    assert on_stage(scenario) == (0, 0)


@pytest.mark.parametrize("column", ["ovn-installed=false", "iface-id=x"])
def test_a_row_that_changes_is_seen(on_stage: OnStage, column: str) -> None:
    async def scenario(stage: Stage) -> list[bool | None]:
        stage.plug()
        await stage.settle()
        stage.server.vsctl("set", "Interface", TAP, f"external_ids:{column}")
        await stage.ovsdb.replica.wait(lambda: False, 0.05)
        return await stage.ready()

    assert False in on_stage(scenario)


def test_a_tap_that_goes_is_seen_though_its_row_stays(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> list[bool | None]:
        stage.plug()
        await stage.settle()
        ip(f"link del {TAP}")
        return await stage.ready()

    assert on_stage(scenario) == [False]


def test_a_vnic_that_is_unplugged_is_no_more(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> list[ExternalVnic]:
        stage.plug()
        await stage.settle()
        stage.libvirt.vms[VM_ID] = a_vm()  # of which libvirt tells nobody
        stage.server.vsctl("del-port", TAP)
        ip(f"link del {TAP}")
        await stage.ovsdb.replica.wait(lambda: False, 0.05)
        return await stage.vnics()

    assert on_stage(scenario) == []


def test_a_vm_whose_port_is_gone_has_a_vnic_that_is_not_ready(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> list[bool | None]:
        stage.plug()
        await stage.settle()
        stage.server.vsctl("del-port", TAP)
        await stage.ovsdb.replica.wait(lambda: False, 0.05)
        return await stage.ready()

    assert on_stage(scenario) == [False]


def test_a_row_that_a_vm_has_left_behind_is_no_vnic(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> list[ExternalVnic]:
        add_plugged(stage.server, TAP, VNIC_ID, ovn_installed="true")
        await stage.settle()
        return await stage.vnics()

    assert on_stage(scenario) == []


def test_of_a_vm_that_changes_no_other_is_asked_about(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> tuple[int, list[str | None], int]:
        await stage.settle()
        stage.libvirt.vms[VM_ID] = OF_OVN
        stage.libvirt.tell(VM_ID)
        found = len(await stage.vnics())
        del stage.libvirt.vms[VM_ID]
        stage.libvirt.tell(VM_ID)
        return found, stage.libvirt.questions, len(await stage.vnics())

    assert on_stage(scenario) == (1, [VM_ID, VM_ID], 0)


def test_what_vdsm_plugs_into_a_vm_is_seen(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> int:
        stage.libvirt.vms[VM_ID] = a_vm()
        await stage.settle()
        stage.libvirt.vms[VM_ID] = OF_OVN
        stage.survey.outdated(VM_ID)
        return len(await stage.vnics())

    assert on_stage(scenario) == 1


def test_a_vm_that_libvirt_tells_nothing_of_hides_no_other(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> tuple[int, list[str]]:
        await stage.settle()
        stage.libvirt.vms[VM_ID] = OF_OVN
        stage.libvirt.refuses.add(UNTOLD)
        stage.libvirt.tell(UNTOLD)
        stage.libvirt.tell(VM_ID)
        return len(await stage.vnics()), sorted(filter(None, stage.libvirt.questions))

    assert on_stage(scenario) == (1, sorted([UNTOLD, VM_ID]))


def test_while_libvirt_is_away_what_it_said_last_counts(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> tuple[list[bool | None], list[str | None]]:
        stage.plug()
        await stage.settle()
        stage.libvirt.connected = False
        stage.libvirt.tell(None)
        return await stage.ready(), stage.libvirt.questions

    assert on_stage(scenario) == ([True], [])


def test_a_libvirt_that_does_not_answer_is_not_asked_all_the_time(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> tuple[list[bool | None], int, int]:
        stage.plug()
        await stage.settle()
        stage.libvirt.deaf = True
        stage.libvirt.tell(None)
        for _ in range(5):
            ready = await stage.ready()
        while_deaf = len(stage.libvirt.questions)
        stage.libvirt.deaf = False
        stage.libvirt.tell(None)  # it is back
        await stage.vnics()
        return ready, while_deaf, len(stage.libvirt.questions)

    assert on_stage(scenario) == ([True], 1, 2)


def test_a_libvirt_that_hangs_is_waited_for_once_and_not_long(
    on_stage: OnStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "PATIENCE", 0.05)

    async def scenario(stage: Stage) -> tuple[int, int]:
        answers = asyncio.Event()

        async def hang(_what: object) -> None:
            stage.libvirt.questions.append(None)
            await answers.wait()

        monkeypatch.setattr(stage.libvirt, "_asked", hang)
        stage.libvirt.vms[VM_ID] = OF_OVN
        without = [len(await stage.vnics()) for _ in range(3)][-1]
        answers.set()
        return without, len(await stage.vnics()) * 10 + len(stage.libvirt.questions)

    assert on_stage(scenario) == (0, 11)


def test_while_the_database_is_away_nothing_is_known_to_be_ready(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> list[bool | None]:
        stage.plug()
        await stage.settle()
        stage.server.stop()
        await stage.ovsdb.replica.wait(lambda: not stage.ovsdb.replica.connected, 5)
        return await stage.ready()

    assert on_stage(scenario) == [None]


def test_a_vnic_of_linux_bridge_needs_no_database(on_stage: OnStage) -> None:
    guest = f"qtp{SHORT}"

    async def scenario(stage: Stage) -> list[ExternalVnic]:
        stage.server.stop()
        await stage.ovsdb.replica.wait(lambda: not stage.ovsdb.replica.connected, 5)
        ours = f"group {GROUP}"
        named = f"alias 'vif-driver {VNIC_ID} {VM_ID}'"
        ip(
            f"link add qbr{SHORT} {ours} type bridge",
            "link add brqx type bridge",
            f"link add qvb{SHORT} {ours} type veth peer name {TAP} {ours}",
            f"tuntap add dev {guest} mode tap",
        )
        for name in (f"qbr{SHORT}", f"qvb{SHORT}", TAP):
            subprocess.run(f"ip link set {name} {named}", shell=True, check=True)
        ip(f"link set {guest} master qbr{SHORT}")
        stage.libvirt.vms[VM_ID] = a_vm(an_interface(f"qbr{SHORT}", guest))
        await stage.settle()
        before = await stage.vnics()
        ip(f"link set {TAP} master brqx")
        return [*before, *await stage.vnics()]

    before, after = on_stage(scenario)

    assert (before.id, before.attachment, before.mac) == (VNIC_ID, "linux_bridge", MAC)
    assert (before.ready, after.ready) == (False, True)
