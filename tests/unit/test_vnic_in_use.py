# SPDX-License-Identifier: GPL-2.0-or-later
"""One vNIC in two VMs of this host: the second one is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from vif_driver.errors import Unavailable
from vif_driver.host.domains import State
from vif_driver.host.ovsdb import Ovsdb, Port

from .conftest import MAC, VNIC_ID
from .vdsm import FIRST, LONG_AGO, OTHER_VM, SECOND, Vdsm


@pytest.fixture
def vdsm(tmp_path: Path, devices: set[str], ovn_properties: dict[str, str]) -> Vdsm:
    """VDSM on a host with an integration bridge, on which no VM runs."""
    return Vdsm(tmp_path, ovn_properties)


def test_a_vnic_of_a_vm_that_is_being_started_is_refused_with_that_vm_named(vdsm: Vdsm) -> None:
    vdsm.creates(vm_id=OTHER_VM)

    reply = vdsm.creates()

    assert (reply.status, reply.data) == (2, None)
    assert f"already that of VM {OTHER_VM}, which is being started" in reply.message
    assert vdsm.start.vm_id == OTHER_VM


def test_a_hot_plug_of_such_a_vnic_is_refused_too(vdsm: Vdsm) -> None:
    vdsm.creates(vm_id=OTHER_VM)

    assert f"VM {OTHER_VM}" in vdsm.says("before_nic_hotplug").message


def test_another_vnic_of_that_vm_is_no_hindrance(vdsm: Vdsm) -> None:
    vdsm.creates(FIRST, vm_id=OTHER_VM)

    assert vdsm.creates(SECOND).status == 0


def test_a_start_that_came_to_nothing_is_no_hindrance_after_its_time(vdsm: Vdsm) -> None:
    vdsm.creates(vm_id=OTHER_VM)
    vdsm.ages(LONG_AGO)

    assert vdsm.creates().status == 0


def test_a_start_that_takes_long_is_a_hindrance_while_libvirt_has_the_vm(vdsm: Vdsm) -> None:
    vdsm.creates(vm_id=OTHER_VM)
    vdsm.ages(LONG_AGO)
    vdsm.vms.states[OTHER_VM] = State.PAUSED

    assert f"VM {OTHER_VM}" in vdsm.creates().message


def test_a_libvirt_that_is_away_lets_no_old_start_hinder(vdsm: Vdsm) -> None:
    vdsm.creates(vm_id=OTHER_VM)
    vdsm.ages(LONG_AGO)
    vdsm.vms.deaf = Unavailable("libvirt does not answer", "start libvirtd")

    assert vdsm.creates().status == 0


@pytest.fixture
def plugged(devices: set[str], vdsm: Vdsm) -> Vdsm:
    """The vNIC's tap is there, and libvirt plugged it for another VM."""
    devices.add("tap" + VNIC_ID[:11])
    port = Port(
        name="tap" + VNIC_ID[:11],
        bridge="br-int",
        tag=None,
        external_ids={"iface-id": VNIC_ID, "vm-id": OTHER_VM, "attached-mac": MAC},
        ofport=1,
        error=None,
    )

    async def wait_connected() -> None:
        return

    replica = SimpleNamespace(connected=True)
    database = SimpleNamespace(
        replica=replica,
        port=lambda name: port if name == port.name else None,
        wait_connected=wait_connected,
        has_bridge=lambda _name: True,
    )
    vdsm.ovsdb = cast(Ovsdb, database)
    return vdsm


def test_a_vnic_of_a_vm_that_runs_is_refused_with_that_vm_named(plugged: Vdsm) -> None:
    reply = plugged.creates()

    assert (reply.status, reply.data) == (2, None)
    assert f"already that of VM {OTHER_VM}, which runs on this host" in reply.message
    assert plugged.starts.all() == []


def test_a_vnic_that_the_vm_itself_has_is_not_called_another_vms(plugged: Vdsm) -> None:
    reply = plugged.creates(vm_id=OTHER_VM)

    assert reply.status == 2 and "already that of" not in reply.message
