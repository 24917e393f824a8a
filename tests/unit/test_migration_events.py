# SPDX-License-Identifier: GPL-2.0-or-later
"""VDSM's events of a live migration, on both hosts, with an agent and without."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from vif_driver.agent.readiness import Readiness
from vif_driver.attachments.base import Attachment, Undo
from vif_driver.attachments.linux_bridge import LinuxBridgeAttachment
from vif_driver.attachments.ovn import OvnAttachment
from vif_driver.attachments.ovs import OvsAttachment
from vif_driver.attachments.ovs_hybrid import OvsHybridAttachment
from vif_driver.config import Config, FirewallDriver
from vif_driver.errors import ConfigError, HostError
from vif_driver.events import Events
from vif_driver.host import Host
from vif_driver.host.ovsdb import Ovsdb, Port
from vif_driver.host.starts import FORGOTTEN, Start, Starts, uptime
from vif_driver.interface_xml import Connection, Interface
from vif_driver.vnic import Plugin, Vnic, VnicIdentity
from vif_driver.wire import Reply, Request

from .conftest import MAC, VDSM_INTERFACE, VM_ID, VNIC_ID
from .vms import Vms

FIRST, SECOND = VNIC_ID, "4d2be2fa" + VNIC_ID[8:]
OTHER_VM = "8d444840-9dc0-11d1-b245-5ffdce74fad2"
TAP = f"tap{VNIC_ID[:11]}"
HYBRID = Config(firewall_driver=FirewallDriver.IPTABLES_HYBRID)

ARRIVING, ARRIVED = "before_device_migrate_destination", "after_device_migrate_destination"
LEAVING, LEFT = "before_device_migrate_source", "after_device_migrate_source"
DESTROYED = "after_device_destroy"


class Coordinator:
    """Keeps what it is told.

    Attributes:
        told: what, with the ids of vNICs and VMs.
        subjects: the vNICs that arrive, as far as they are known, and their attachments.
        message: what VDSM's log is to say.
        refusal: why a vNIC would have no network here.
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.subjects: list[tuple[VnicIdentity, str]] = []
        self.message = ""
        self.refusal: HostError | None = None

    def started(self, start: Start) -> None:
        self.told.append(("started", start.vm_id))

    async def arriving(self, subject: VnicIdentity, attachment: Attachment) -> str:
        self.told.append(("arriving", subject.id))
        self.subjects.append((subject, attachment.name))
        if self.refusal is not None:
            raise self.refusal
        return self.message

    def arrived(self, subject: VnicIdentity) -> None:
        self.told.append(("arrived", subject.id))

    def leaving(self, subject: VnicIdentity) -> None:
        self.told.append(("leaving", subject.id))

    def left(self, subject: VnicIdentity) -> None:
        self.told.append(("left", subject.id))

    async def cancel(self, vm_id: str) -> None:
        self.told.append(("cancel", vm_id))


class Vdsm:
    """VDSM of one host."""

    def __init__(self, folder: Path, properties: dict[str, str]) -> None:
        (folder / "released").mkdir()
        self.starts = Starts(folder / "starting", folder / "released")
        self.vms = Vms()
        self.config = Config(firewall_driver=FirewallDriver.OPENVSWITCH)
        self.trouble: ConfigError | None = None
        self.coordinator = Coordinator()
        self.properties = properties
        self.ovsdb: Ovsdb | None = None

    def says(
        self, event: str, vnic_id: str = VNIC_ID, data: bytes = b"", *, agent: bool = True
    ) -> Reply:
        """Have an agent (or the stand-in) answer an event."""

        async def main() -> Reply:
            host = Host(ovsdb=self.ovsdb, domains=self.vms.domains)
            readiness = Readiness(self.config, host, self.vms.domains, self.starts)
            events = Events(
                self.config,
                host,
                self.starts,
                readiness if agent else None,
                self.trouble,
                coordinator=self.coordinator if agent else None,
            )
            request = Request(event, {**self.properties, "vnic_id": vnic_id}, data)
            try:
                return await events.handle(request)
            finally:
                await readiness.close()

        return asyncio.run(main())

    @property
    def start(self) -> Start:
        """The one start there is."""
        (start,) = self.starts.all()
        return start


@pytest.fixture
def vdsm(tmp_path: Path, devices: set[str], ovn_properties: dict[str, str]) -> Vdsm:
    """VDSM on a host with an integration bridge; its vNICs are OVN's."""
    return Vdsm(tmp_path, ovn_properties)


@pytest.fixture
def neutrons(tmp_path: Path, devices: set[str], ovs_properties: dict[str, str]) -> Vdsm:
    """The same, with vNICs of Neutron's Open vSwitch agent."""
    return Vdsm(tmp_path, ovs_properties)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done with Neutron's vNICs, instead of doing it, and taken back."""
    done: list[str] = []

    async def expect(self: Attachment, _vnic: VnicIdentity, undo: Undo) -> None:
        async def take_back() -> None:
            done.append(f"{self.name} is not expected")

        done.append(f"{self.name} expected")
        undo.on_failure("devices", take_back)

    async def connect(self: Attachment, _vnic: Vnic, _undo: Undo) -> None:
        done.append(f"{self.name} connected")

    for way in (OvsAttachment, OvsHybridAttachment, LinuxBridgeAttachment):
        monkeypatch.setattr(way, "expect", expect)
        monkeypatch.setattr(way, "connect", connect)
    return done


def running(connection: Connection) -> bytes:
    """What VDSM gives of a device that was plugged while the VM ran."""
    interface = Interface(VDSM_INTERFACE)
    interface.connect(connection)
    return interface.to_bytes()


# ---- a VM is about to arrive ---------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", VDSM_INTERFACE], ids=["nothing", "its XML"])
def test_a_vnic_that_arrives_is_answered_with_nothing_to_write(vdsm: Vdsm, data: bytes) -> None:
    assert vdsm.says(ARRIVING, data=data) == Reply()


def test_who_has_the_network_follow_is_asked(vdsm: Vdsm) -> None:
    vdsm.says(ARRIVING)

    assert vdsm.coordinator.told == [("arriving", VNIC_ID)]


def test_what_the_log_of_vdsm_is_to_say_is_one_line(vdsm: Vdsm) -> None:
    vdsm.coordinator.message = "vif-driver: no\ndatabase"

    assert vdsm.says(ARRIVING) == Reply(message="vif-driver: no database")


def test_without_xml_no_more_than_the_identity_is_known(vdsm: Vdsm) -> None:
    vdsm.says(ARRIVING)

    ((subject, _),) = vdsm.coordinator.subjects
    assert type(subject) is VnicIdentity


def test_with_xml_the_whole_vnic_is_known(vdsm: Vdsm) -> None:
    vdsm.says(ARRIVING, data=VDSM_INTERFACE)

    ((subject, _),) = vdsm.coordinator.subjects
    assert isinstance(subject, Vnic)
    assert (subject.mac, subject.mtu) == (MAC, 1442)


def test_the_arrival_is_noted_for_the_next_agent(vdsm: Vdsm) -> None:
    vdsm.says(ARRIVING, FIRST)
    vdsm.says(ARRIVING, SECOND)

    start = vdsm.start
    assert (start.vm_id, start.arrives, start.resume, start.started) == (VM_ID, True, False, False)
    assert [vnic.id for vnic in start.vnics] == [FIRST, SECOND]


def test_a_vm_that_comes_again_is_noted_anew(vdsm: Vdsm) -> None:
    vdsm.says(ARRIVING, FIRST)
    vdsm.says(ARRIVING, SECOND)
    before = vdsm.start

    vdsm.says(ARRIVING, FIRST)

    assert [vnic.id for vnic in vdsm.start.vnics] == [FIRST]
    assert vdsm.start.token != before.token


def test_a_hook_that_asks_again_does_not_begin_anew(vdsm: Vdsm) -> None:
    vdsm.says(ARRIVING, FIRST)
    vdsm.says(ARRIVING, SECOND)
    before = vdsm.start

    vdsm.says(ARRIVING, SECOND)

    assert vdsm.start == before


@pytest.mark.parametrize(
    "earlier",
    [
        Start(VM_ID, resume=False, arrives=True, started=True),
        Start(VM_ID, resume=False, arrives=True, seen=True),
        Start(VM_ID, resume=False, arrives=True, since=uptime() - 2 * FORGOTTEN),
        Start(VM_ID, resume=True),
    ],
    ids=["it ran", "libvirt had it", "long ago", "it was started here"],
)
def test_what_was_noted_of_the_vm_before_is_not_gone_on_with(vdsm: Vdsm, earlier: Start) -> None:
    vdsm.starts.put(earlier)

    vdsm.says(ARRIVING)

    start = vdsm.start
    assert start.token != earlier.token
    assert (start.arrives, start.started) == (True, False)


def test_a_vm_that_is_started_here_after_it_did_not_arrive_is_no_arrival(vdsm: Vdsm) -> None:
    vdsm.says(ARRIVING)

    vdsm.says("before_device_create", data=VDSM_INTERFACE)

    assert not vdsm.start.arrives


def test_a_start_is_told_for_what_an_earlier_move_may_have_left(vdsm: Vdsm) -> None:
    vdsm.starts.put(Start(VM_ID, resume=False))

    vdsm.says("after_vm_start")

    assert vdsm.coordinator.told == [("started", VM_ID)]


def test_without_an_integration_bridge_a_vnic_is_refused(vdsm: Vdsm, devices: set[str]) -> None:
    devices.discard("br-int")

    reply = vdsm.says(ARRIVING)

    assert reply.status == 2
    assert "br-int does not exist; start ovn-controller" in reply.message


def test_a_vnic_that_cannot_be_prepared_ends_the_arrival(vdsm: Vdsm, devices: set[str]) -> None:
    devices.discard("br-int")

    vdsm.says(ARRIVING)

    assert vdsm.coordinator.told == [("cancel", VM_ID)]


def test_a_vnic_that_would_have_no_network_is_refused(vdsm: Vdsm) -> None:
    vdsm.coordinator.refusal = HostError("this host is unknown", "register it")

    reply = vdsm.says(ARRIVING)

    assert reply.status == 2
    assert "this host is unknown; register it" in reply.message
    assert VNIC_ID in reply.message


def test_a_vnic_that_is_refused_ends_the_arrival(vdsm: Vdsm) -> None:
    vdsm.coordinator.refusal = HostError("this host is unknown", "register it")

    vdsm.says(ARRIVING)

    assert vdsm.coordinator.told == [("arriving", VNIC_ID), ("cancel", VM_ID)]


def test_a_vnic_that_is_refused_at_once_ends_the_arrival_of_its_vms_other_vnics(
    vdsm: Vdsm, devices: set[str]
) -> None:
    vdsm.says(ARRIVING, SECOND)
    devices.add(TAP)

    vdsm.says(ARRIVING, FIRST)

    assert vdsm.coordinator.told == [("arriving", SECOND), ("cancel", VM_ID)]


def test_a_vnic_that_is_refused_leaves_no_devices(neutrons: Vdsm, steps: list[str]) -> None:
    neutrons.config = HYBRID
    neutrons.coordinator.refusal = HostError("no", "see")

    neutrons.says(ARRIVING)

    assert steps == ["ovs_hybrid expected", "ovs_hybrid is not expected"]


def test_a_vnic_of_another_vm_of_this_host_is_refused(vdsm: Vdsm) -> None:
    other = Start(OTHER_VM, (VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, OTHER_VM),))
    vdsm.starts.put(other)

    reply = vdsm.says(ARRIVING)

    assert reply.status == 2 and OTHER_VM in reply.message
    assert vdsm.starts.all() == [other]


def test_a_name_that_somebody_else_has_is_refused(vdsm: Vdsm, devices: set[str]) -> None:
    devices.add(TAP)

    reply = vdsm.says(ARRIVING)

    assert reply.status == 2 and f"{TAP} exists already" in reply.message


def test_a_mistake_in_the_configuration_is_told_before_the_guest_moves(vdsm: Vdsm) -> None:
    vdsm.trouble = ConfigError("[x] y is not a setting", "correct it")

    reply = vdsm.says(ARRIVING)

    assert reply.status == 2 and "[x] y is not a setting; correct it" in reply.message
    assert vdsm.starts.all() == []


def test_a_vm_that_vdsm_does_not_name_is_refused(vdsm: Vdsm) -> None:
    del vdsm.properties["vmId"]

    reply = vdsm.says(ARRIVING)

    assert reply.status == 2 and "did not say which VM arrives" in reply.message


@pytest.mark.parametrize("trouble", [None, ConfigError("a mistake", "correct it")])
@pytest.mark.parametrize("event", [ARRIVING, LEAVING, ARRIVED, LEFT, DESTROYED])
def test_a_disk_of_a_vm_with_our_properties_is_left_alone(
    vdsm: Vdsm, event: str, trouble: ConfigError | None
) -> None:
    vdsm.trouble = trouble

    reply = vdsm.says(event, data=b"<disk type='file'/>")

    assert reply.status == 0 and "left alone" in reply.message
    assert vdsm.coordinator.told == []


@pytest.mark.parametrize("event", [ARRIVING, LEAVING, ARRIVED, LEFT, DESTROYED])
def test_a_disk_is_left_alone_whatever_its_properties_say(vdsm: Vdsm, event: str) -> None:
    reply = vdsm.says(event, "no id of a vNIC", data=b"<disk type='file'/>")

    assert reply.status == 0 and "left alone" in reply.message


def test_an_arrival_that_cannot_be_noted_is_refused(
    vdsm: Vdsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_start: Start) -> None:
        raise HostError("/run is full", "make room")

    monkeypatch.setattr(vdsm.starts, "put", full)

    reply = vdsm.says(ARRIVING)

    assert reply.status == 2 and "/run is full" in reply.message
    assert vdsm.coordinator.told == [("cancel", VM_ID)]


# ---- which way it is connected -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "groups", "way"),
    [
        (HYBRID, None, "ovs_hybrid"),
        (HYBRID, "", "ovs"),
        (Config(firewall_driver=FirewallDriver.OPENVSWITCH), None, "ovs"),
    ],
)
def test_without_xml_the_settings_say_how_it_is_connected(
    neutrons: Vdsm, steps: list[str], config: Config, groups: str | None, way: str
) -> None:
    neutrons.config = config
    if groups is not None:
        neutrons.properties["security_groups"] = groups

    neutrons.says(ARRIVING)

    assert steps == [f"{way} expected"]


@pytest.mark.parametrize(
    ("connection", "way"),
    [
        (Connection("br-int", TAP, VNIC_ID, dead_vlan=True), "ovs"),
        (Connection(f"qbr{VNIC_ID[:11]}", TAP), "ovs_hybrid"),
    ],
)
@pytest.mark.parametrize("config", [HYBRID, Config(firewall_driver=FirewallDriver.OPENVSWITCH)])
def test_with_xml_it_is_as_on_the_source_whatever_the_settings_say(
    neutrons: Vdsm, steps: list[str], connection: Connection, way: str, config: Config
) -> None:
    neutrons.config = config

    neutrons.says(ARRIVING, data=running(connection))

    assert steps[0] == f"{way} expected"


def test_a_vnic_of_which_all_is_known_is_connected_at_once(
    neutrons: Vdsm, steps: list[str]
) -> None:
    neutrons.config = HYBRID

    neutrons.says(ARRIVING, data=running(Connection(f"qbr{VNIC_ID[:11]}", TAP)))

    assert steps == ["ovs_hybrid expected", "ovs_hybrid connected"]


# ---- without an agent ----------------------------------------------------------------------------


def test_without_an_agent_an_ovn_vnic_goes_on_with_a_warning(vdsm: Vdsm) -> None:
    reply = vdsm.says(ARRIVING, agent=False)

    assert reply.status == 0
    assert "is not coordinated: vif-agent does not run" in reply.message


def test_without_an_agent_nothing_is_noted(vdsm: Vdsm, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_start: Start) -> None:
        raise HostError("the folder is the agent's", "become root")

    monkeypatch.setattr(vdsm.starts, "put", forbidden)

    assert vdsm.says(ARRIVING, agent=False).status == 0


def test_without_an_agent_a_direct_vnic_goes_on(neutrons: Vdsm) -> None:
    assert neutrons.says(ARRIVING, agent=False) == Reply()


def test_without_an_agent_a_hybrid_vnic_is_refused(neutrons: Vdsm) -> None:
    neutrons.config = HYBRID

    reply = neutrons.says(ARRIVING, agent=False)

    assert reply.status == 2 and "systemctl restart vif-agent" in reply.message


def test_without_an_agent_a_linux_bridge_vnic_is_refused(
    vdsm: Vdsm, linux_bridge_properties: dict[str, str]
) -> None:
    vdsm.properties = linux_bridge_properties

    reply = vdsm.says(ARRIVING, agent=False)

    assert reply.status == 2 and "systemctl restart vif-agent" in reply.message


@pytest.mark.parametrize("event", [LEAVING, LEFT])
def test_without_an_agent_an_ovn_vnic_leaves(vdsm: Vdsm, event: str) -> None:
    assert vdsm.says(event, agent=False) == Reply()


def test_without_an_agent_an_ovn_vnic_has_arrived(vdsm: Vdsm, devices: set[str]) -> None:
    devices.add(TAP)

    assert vdsm.says(ARRIVED, agent=False) == Reply()


# ---- it has arrived, it leaves -------------------------------------------------------------------


def test_that_a_vm_has_arrived_is_told(vdsm: Vdsm, devices: set[str]) -> None:
    devices.add(TAP)

    assert vdsm.says(ARRIVED) == Reply()
    assert vdsm.coordinator.told == [("arrived", VNIC_ID)]


class Ports:
    """Stands in for host.ovsdb.Ovsdb: one port of libvirt's."""

    def __init__(self, **external_ids: str) -> None:
        ids = {key.replace("_", "-"): value for key, value in external_ids.items()}
        self._port = Port("vnet7", "br-int", None, ids, ofport=3, error=None)
        self.replica = SimpleNamespace(connected=True)

    def port(self, name: str) -> Port | None:
        return self._port if name == self._port.name else None

    def ports(self) -> list[Port]:
        return [self._port]


def test_a_vnic_that_an_older_driver_plugged_has_arrived_under_its_old_name(
    vdsm: Vdsm, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    vdsm.ovsdb = cast(Ovsdb, Ports(iface_id=VNIC_ID, vm_id=VM_ID))

    assert vdsm.says(ARRIVED) == Reply()
    assert "an older driver plugged it, as vnet7" in caplog.text


@pytest.mark.parametrize("vnic_id, vm_id", [(VNIC_ID, OTHER_VM), (SECOND, VM_ID)])
def test_the_port_of_another_vnic_is_none_of_this_one(vdsm: Vdsm, vnic_id: str, vm_id: str) -> None:
    vdsm.ovsdb = cast(Ovsdb, Ports(iface_id=vnic_id, vm_id=vm_id))

    reply = vdsm.says(ARRIVED)

    assert reply.status == 1 and "nothing of the vNIC is there" in reply.message


def test_what_this_driver_made_is_checked_whatever_port_is_there(
    neutrons: Vdsm, devices: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def finish(_self: OvsHybridAttachment, _vnic: VnicIdentity) -> None:
        raise HostError("the guest's tap is not there", "see libvirtd's log")

    monkeypatch.setattr(OvsHybridAttachment, "finish", finish)
    neutrons.config = HYBRID
    neutrons.ovsdb = cast(Ovsdb, Ports(iface_id=VNIC_ID, vm_id=VM_ID))
    devices.add(f"qbr{VNIC_ID[:11]}")

    reply = neutrons.says(ARRIVED)

    assert reply.status == 1 and "the guest's tap is not there" in reply.message


def test_libvirts_work_is_checked_when_a_vm_has_arrived(
    vdsm: Vdsm, devices: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def finish(_self: OvnAttachment, _vnic: VnicIdentity) -> None:
        raise HostError("there is no port", "see libvirtd's log")

    monkeypatch.setattr(OvnAttachment, "finish", finish)
    devices.add(TAP)

    reply = vdsm.says(ARRIVED)

    assert reply.status == 1 and "there is no port" in reply.message


def test_a_vm_has_arrived_whatever_is_wrong_with_its_vnic(vdsm: Vdsm) -> None:
    reply = vdsm.says(ARRIVED)

    assert reply.status == 1
    assert vdsm.coordinator.told == [("arrived", VNIC_ID)]


def test_that_a_vm_is_about_to_leave_is_told(vdsm: Vdsm) -> None:
    assert vdsm.says(LEAVING) == Reply()
    assert vdsm.coordinator.told == [("leaving", VNIC_ID)]


def test_that_a_vm_has_left_is_told(vdsm: Vdsm) -> None:
    assert vdsm.says(LEFT) == Reply()
    assert vdsm.coordinator.told == [("left", VNIC_ID)]


def test_what_was_made_for_a_vm_that_has_left_is_removed(
    neutrons: Vdsm, devices: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []

    async def release(_self: OvsAttachment, vnic: VnicIdentity) -> None:
        released.append(vnic.id)

    monkeypatch.setattr(OvsAttachment, "release", release)
    devices.add(TAP)

    neutrons.says(LEFT)

    assert released == [VNIC_ID]


@pytest.mark.parametrize(
    ("event", "status"), [(ARRIVING, 2), (LEAVING, 2), (ARRIVED, 1), (LEFT, 1)]
)
def test_an_identity_that_makes_no_sense_is_told(vdsm: Vdsm, event: str, status: int) -> None:
    reply = vdsm.says(event, "../../etc/passwd")

    assert reply.status == status
    assert reply.message.startswith(f"vif-driver: {event}: ")


# ---- VDSM destroys a VM that has not arrived -----------------------------------------------------


def test_a_vm_that_is_destroyed_does_not_arrive(vdsm: Vdsm) -> None:
    assert vdsm.says(DESTROYED) == Reply()
    assert vdsm.coordinator.told == [("cancel", VM_ID)]


def test_a_vm_whose_devices_cannot_be_removed_does_not_arrive_either(
    vdsm: Vdsm, devices: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def release(_self: OvnAttachment, _vnic: VnicIdentity) -> None:
        raise HostError("it is used", "stop it")

    monkeypatch.setattr(OvnAttachment, "release", release)
    devices.add(TAP)

    assert vdsm.says(DESTROYED).status == 1
    assert vdsm.coordinator.told == [("cancel", VM_ID)]


@pytest.mark.parametrize("event", ["after_nic_hotunplug", "after_nic_hotplug_fail"])
def test_a_vnic_that_goes_alone_does_not_end_an_arrival(vdsm: Vdsm, event: str) -> None:
    vdsm.says(event)

    assert vdsm.coordinator.told == []


def test_the_vnics_of_an_arrival_are_not_forgotten_before_it_is_undone(vdsm: Vdsm) -> None:
    vdsm.says(ARRIVING)

    vdsm.says(DESTROYED)

    assert [vnic.id for vnic in vdsm.start.vnics] == [VNIC_ID]


def test_a_vnic_that_is_unplugged_after_the_vm_has_arrived_is_forgotten(vdsm: Vdsm) -> None:
    vnics = tuple(VnicIdentity(one, Plugin.OVIRT_PROVIDER_OVN, VM_ID) for one in (FIRST, SECOND))
    vdsm.starts.put(Start(VM_ID, vnics, resume=False, arrives=True, started=True))

    vdsm.says("after_nic_hotunplug", FIRST)

    assert [vnic.id for vnic in vdsm.start.vnics] == [SECOND]
