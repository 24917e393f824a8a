# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known to be of no use, and what is not."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vif_driver.config import Config
from vif_driver.errors import HostError, Unavailable
from vif_driver.host import Host
from vif_driver.host.domains import State
from vif_driver.host.ovsdb_rows import PortRows
from vif_driver.reconciliation import in_use, leftovers
from vif_driver.reconciliation.in_use import InUse
from vif_driver.reconciliation.leftovers import (
    AT_ONCE,
    Found,
    StalePort,
)

from . import paper_host
from .conftest import MAC, VM_ID, VNIC_ID
from .inspected_host import a_vm, an_interface
from .paper_host import (
    AWAY,
    LIBVIRTS,
    OTHER_VM,
    OURS,
    QBR,
    QVO,
    TAP,
    OnPaper,
    PaperHost,
    a_port,
)


def without(*keys: str) -> dict[str, str]:
    """What libvirt gives an interface, less some of it."""
    return {key: value for key, value in LIBVIRTS.items() if key not in keys}


def names(found: Found) -> list[str]:
    return [one.rows.name for one in found.leftovers if isinstance(one, StalePort)]


# ---- ports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [LIBVIRTS, OURS], ids=["libvirt", "us"])
def test_a_port_whose_device_and_vm_are_gone_is_left_over(
    look: OnPaper, ids: dict[str, str]
) -> None:
    found = look(lambda paper: paper.database.add(a_port(ids=ids)))

    (one,) = found.leftovers
    assert (one.vm_id, one.vnic_id, one.patience) == (VM_ID, VNIC_ID, Config().grace)
    assert one.why == f"its device is gone, and libvirt has no VM {VM_ID}"
    assert str(one) == f"port {TAP} of br-int (VM {VM_ID}, vNIC {VNIC_ID})"


#: Ports that are never a VM's, whatever else is gone.
OTHERS = {
    "an uplink": a_port("eth1", {}),
    "libvirt's, of type internal": a_port(type="internal"),
    "libvirt's, of type patch": a_port(type="patch", options={"peer": "other"}),
    "libvirt's, of type geneve": a_port(type="geneve", options={"remote_ip": "192.0.2.9"}),
    "libvirt's, of type vxlan": a_port(type="vxlan"),
    "libvirt's, of a userspace datapath": a_port(type="dpdkvhostuserclient"),
    "ours, of type internal": a_port(QVO, OURS, type="internal"),
    "Nova's": a_port(ids={"iface-id": VNIC_ID, "attached-mac": MAC, "vm-uuid": VM_ID}),
    "Neutron's": a_port(ids={"iface-id": VNIC_ID, "attached-mac": MAC}),
    "without iface-id": a_port(ids=without("iface-id")),
    "without vm-id": a_port(ids=without("vm-id")),
    "without attached-mac": a_port(ids=without("attached-mac")),
    "spared": a_port(ids={**LIBVIRTS, "skip_cleanup": "true"}),
    "spared by its Port": a_port(port={"external_ids": {"skip_cleanup": "true"}}),
    "ours, but spared": a_port(ids={**OURS, "skip_cleanup": "true"}),
    "ours by its Port alone": a_port(ids={}, port={"external_ids": {"vif-driver": "x"}}),
}


@pytest.mark.parametrize("port", OTHERS.values(), ids=OTHERS.keys())
def test_a_port_that_is_not_a_vms_is_never_left_over(look: OnPaper, port: PortRows) -> None:
    found = look(lambda paper: paper.database.add(port, a_port("tap-stale")))

    assert names(found) == ["tap-stale"]


@pytest.mark.parametrize("port", OTHERS.values(), ids=OTHERS.keys())
def test_a_port_that_is_not_a_vms_is_no_reason_to_ask_libvirt(
    on_paper: OnPaper, port: PortRows
) -> None:
    async def scenario(paper: PaperHost) -> Any:
        paper.database.add(port)
        found = await paper.find()
        return paper.libvirt.asked, found.leftovers, found.in_use

    assert on_paper(scenario) == (0, (), None)


@pytest.mark.parametrize("ids", [LIBVIRTS, OURS], ids=["libvirt", "us"])
def test_a_port_of_another_bridge_is_never_left_over(look: OnPaper, ids: dict[str, str]) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.database.bridges.add("ovirtmgmt")
        paper.database.add(a_port(ids=ids, bridge="ovirtmgmt"))

    assert look(arrange) == Found()


def test_the_bridge_is_the_one_that_is_set(look: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.database.bridges.add("br-ovn")
        paper.database.add(a_port("tap1"), a_port("tap2", bridge="br-ovn"))

    assert names(look(arrange, config=Config(integration_bridge="br-ovn"))) == ["tap2"]


def test_a_port_whose_device_is_there_is_not_left_over(look: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.kernel.add(TAP)
        paper.database.add(a_port())

    assert look(arrange) == Found()


@pytest.mark.parametrize("state", State)
def test_a_port_of_a_vm_that_is_there_stays_whatever_the_vm_does(
    look: OnPaper, state: State
) -> None:
    port = a_port()

    def arrange(paper: PaperHost) -> None:
        paper.libvirt.vms = [dataclasses.replace(a_vm(), state=state)]
        paper.database.add(port)

    found = look(arrange)

    assert (found.leftovers, found.kept) == ((), ((port, f"VM {VM_ID} is there"),))


def test_a_port_whose_device_another_vm_names_stays(look: OnPaper) -> None:
    port = a_port()

    def arrange(paper: PaperHost) -> None:
        paper.libvirt.vms = [a_vm(an_interface("br-int", TAP), vm_id=OTHER_VM)]
        paper.database.add(port)

    found = look(arrange)

    assert (found.leftovers, found.kept) == ((), ((port, "a VM's XML names the device"),))


@pytest.mark.parametrize(("age", "stays"), [(0, True), (119.9, True), (120, False), (9999, False)])
def test_a_start_under_way_protects_the_ports_of_its_vm_for_two_minutes(
    look: OnPaper, age: float, stays: bool
) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.begin(age=age)
        paper.database.add(a_port())

    assert names(look(arrange)) == ([] if stays else [TAP])


def test_another_vms_start_protects_nothing(look: OnPaper) -> None:
    def arrange(paper: PaperHost) -> None:
        paper.begin(OTHER_VM)
        paper.database.add(a_port())

    assert names(look(arrange)) == [TAP]


def test_a_port_of_ours_that_names_no_vm_stays_until_the_next_boot(look: OnPaper) -> None:
    port = a_port(QVO, {"vif-driver": "ovs_hybrid", "iface-id": VNIC_ID})

    found = look(lambda paper: paper.database.add(port, a_port()))

    assert names(found) == [TAP]
    assert found.kept == ((port, "it does not say whose it was; the next boot removes it"),)


def test_who_does_not_want_a_port_removed_is_told(look: OnPaper) -> None:
    port = a_port("tap2", {**LIBVIRTS, "skip_cleanup": "true"})

    found = look(lambda paper: paper.database.add(port, a_port()))

    assert found.kept == ((port, "it is not a VM's, or other software wants it left alone"),)


@pytest.mark.parametrize("kind", ["internal", "patch", "geneve", "vxlan"])
def test_ports_that_never_have_a_device_are_not_told(look: OnPaper, kind: str) -> None:
    found = look(lambda paper: paper.database.add(a_port("other", type=kind), a_port()))

    assert found.kept == ()


@pytest.mark.parametrize(
    ("name", "tap"), [(TAP, TAP), (QVO, TAP), ("vnet0", "vnet0")], ids=["tap", "hybrid", "other"]
)
def test_whose_turn_a_port_is_goes_by_the_tap_of_its_vnic(name: str, tap: str) -> None:
    assert StalePort("", 0, a_port(name)).tap == tap


def test_two_ports_that_had_the_same_name_are_told_apart() -> None:
    assert StalePort("", 0, a_port()).key != StalePort("", 0, a_port()).key


def test_very_many_ports_keep_nobody_waiting(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> Any:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        paper.database.add(*(a_port(f"tap{number}") for number in range(4 * AT_ONCE)))
        task = asyncio.ensure_future(others())
        await paper.find()
        task.cancel()
        return turns

    assert on_paper(scenario) > 4


_TEXTS = st.sampled_from(["", "x", VM_ID, VNIC_ID, MAC, "true"])
_KEYS = st.sampled_from(
    [*LIBVIRTS, "vif-driver", "skip_cleanup", "vm-uuid", "ovn-installed", "owner"]
)
_IDS = st.dictionaries(_KEYS, _TEXTS)
_TYPES = st.sampled_from(["", "", "system", "internal", "patch", "geneve", "vxlan", "tap", "dpdk"])


@given(
    ids=_IDS,
    port_ids=_IDS,
    kind=_TYPES,
    bridge=st.sampled_from(["br-int", "br-int", "br-ex"]),
    name=st.sampled_from([TAP, QVO, "eth0", "patch-br-int-to-x"]),
)
def test_whatever_its_keys_and_its_type_only_a_vms_port_is_ever_left_over(
    ids: dict[str, str], port_ids: dict[str, str], kind: str, bridge: str, name: str
) -> None:
    port = a_port(name, ids, bridge=bridge, port={"external_ids": port_ids}, type=kind)

    async def scenario(paper: PaperHost) -> list[str]:
        paper.database.bridges.add("br-ex")
        paper.database.add(port)
        return names(await paper.find())

    with pytest.MonkeyPatch.context() as patch:
        found = paper_host.play(scenario, Path("/nonexistent"), patch)

    # As the rules say it, independently of vif_driver.stale.
    of_libvirt = "vm-id" in ids and "attached-mac" in ids and "iface-id" in ids
    may_go = (
        bridge == "br-int"
        and kind in ("", "system")
        and (of_libvirt or "vif-driver" in ids)
        and "vm-id" in ids
        and "skip_cleanup" not in ids
        and "skip_cleanup" not in port_ids
    )
    assert found == ([name] if may_go else [])


# ---- who is asked --------------------------------------------------------------------------------


def test_where_all_is_well_libvirt_is_not_asked(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> Any:
        paper.kernel.add(TAP)
        paper.database.add(a_port(), a_port("patch", {}, type="patch"), a_port("br-int", {}))
        found = await paper.find()
        return paper.libvirt.asked, found.in_use

    assert on_paper(scenario) == (0, None)


def test_libvirt_is_asked_where_that_is_wished(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> Any:
        found = await paper.find(ask=True)
        return paper.libvirt.asked, found.in_use

    assert on_paper(scenario) == (1, InUse((), frozenset(), frozenset()))


def test_while_libvirt_does_not_answer_nothing_is_left_over(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> None:
        paper.libvirt.deaf = AWAY
        paper.database.add(a_port())
        await paper.find()

    with pytest.raises(Unavailable):
        on_paper(scenario)


def test_while_the_database_does_not_answer_nothing_is_left_over(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> None:
        paper.kernel.add_ours(QBR)
        paper.database.connect(False)
        await paper.find()

    with pytest.raises(HostError):
        on_paper(scenario)


def test_a_process_that_may_not_ask_libvirt_is_told_so(on_paper: OnPaper) -> None:
    async def scenario(paper: PaperHost) -> None:
        paper.database.add(a_port())
        host = dataclasses.replace(paper.host, domains=None)
        await leftovers.find(paper.config, host, paper.starts)

    with pytest.raises(Unavailable, match="run vifctl as root"):
        on_paper(scenario)


def test_a_process_that_may_see_neither_database_nor_devices_finds_nothing(
    on_paper: OnPaper,
) -> None:
    async def scenario(paper: PaperHost) -> Found:
        return await leftovers.find(paper.config, Host(), paper.starts)

    assert on_paper(scenario) == Found()


def test_what_vms_use_is_read_from_their_xml() -> None:
    xml = an_interface("br-int", TAP) + an_interface(QBR, "vnet1") + "<interface type='user'/>"

    async def asked() -> InUse:
        libvirt = paper_host.Libvirt()
        libvirt.vms = [a_vm(xml), dataclasses.replace(a_vm(vm_id=OTHER_VM), xml=b"<domain/>")]
        return await in_use.ask(Host(domains=libvirt.domains))

    used = asyncio.run(asked())

    assert used.vms == {VM_ID, OTHER_VM}
    assert used.devices == {"br-int", TAP, QBR, "vnet1"}


@pytest.mark.parametrize(("vm_id", "vms"), [(VM_ID, {VM_ID}), (VNIC_ID, set())])
def test_one_vm_may_be_asked_about_alone(vm_id: str, vms: set[str]) -> None:
    async def asked() -> InUse:
        libvirt = paper_host.Libvirt()
        libvirt.vms = [a_vm(), a_vm(vm_id=OTHER_VM)]
        return await in_use.ask(Host(domains=libvirt.domains), vm_id)

    assert asyncio.run(asked()).vms == vms
