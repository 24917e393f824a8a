# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting removed rows back: which records are taken, and what a real database has afterwards."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from vif_driver import boot
from vif_driver.config import Config
from vif_driver.ctl import restoring as command
from vif_driver.ctl.restoring import Restored
from vif_driver.errors import HostError, NameTaken, Unavailable
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.host.ovsdb_once import OvsdbOnce, connect
from vif_driver.host.ovsdb_rows import COLUMNS, PortRows
from vif_driver.host.starts import Starts
from vif_driver.reconciliation import restoring
from vif_driver.reconciliation.in_use import InUse
from vif_driver.reconciliation.leftovers import Judge
from vif_driver.reconciliation.restoring import BadRecord, QosRow, Removed

from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer

PORT_ID, INTERFACE_ID, QOS_ID, QUEUE_ID = (
    f"0000000{n}-0000-4000-8000-000000000001" for n in "1234"
)
LIBVIRTS = {"attached-mac": MAC, "iface-id": VNIC_ID, "iface-status": "active", "vm-id": VM_ID}
OF_VM = {"vm-id": VM_ID}

PORT: dict[str, Any] = {
    "bridge": "br-int",
    "Port": {
        "name": "tap1",
        "interfaces": INTERFACE_ID,
        "external_ids": {},
        "other_config": {"rstp-enable": "false"},
        "tag": 7,
        "trunks": [8, 9],
        "vlan_mode": "native-tagged",
        "qos": QOS_ID,
    },
    "Interface": {
        "name": "tap1",
        "type": "",
        "options": {},
        "external_ids": LIBVIRTS,
        "other_config": {},
        "mtu_request": [],
    },
    "QoS": {
        "type": "linux-htb",
        "queues": {"0": QUEUE_ID},
        "external_ids": OF_VM,
        "other_config": {"min-rate": "1"},
    },
    "Queue": {QUEUE_ID: {"dscp": 3, "external_ids": OF_VM, "other_config": {"max-rate": "2"}}},
}
QUEUE = {"Queue": PORT["Queue"][QUEUE_ID]}
QOS = {"QoS": PORT["QoS"]}


def changed(*path: str, to: Any = None, drop: bool = False) -> str:
    """The port's record with one thing in it changed."""
    record = copy.deepcopy(PORT)
    *folders, last = path
    place = record
    for name in folders:
        place = place[name]
    if drop:
        del place[last]
    else:
        place[last] = to
    return json.dumps(record)


def parse(record: object = PORT, uuid: str = PORT_ID) -> Removed:
    return restoring.parse(json.dumps(record), uuid)


# ---- records -------------------------------------------------------------------------------------


def test_a_ports_record_is_understood() -> None:
    port = parse()

    assert isinstance(port, PortRows)
    assert (port.uuid, port.name, port.vm_id) == (PORT_ID, "tap1", VM_ID)
    assert port.record() == PORT


@pytest.mark.parametrize("table", ["QoS", "Queue"])
def test_a_record_of_qos_is_understood(table: str) -> None:
    row = {"QoS": QOS, "Queue": QUEUE}[table]

    assert parse(row) == QosRow(table, PORT_ID, row[table])


def test_every_column_of_a_record_has_a_type() -> None:
    types = {table: set(columns) for table, columns in restoring._TYPES.items()}

    assert types == {table: set(columns) for table, columns in COLUMNS.items()}


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        "[]",
        "{}",
        json.dumps({"Bridge": {"name": "br-int"}}),
        json.dumps({"Open_vSwitch": {}}),
        json.dumps({**QOS, **QUEUE}),
        json.dumps({"QoS": None}),
        json.dumps({"Queue": PORT["Queue"]}),
        json.dumps({"Queue": {**QUEUE["Queue"], "external_ids": {}}}),
        changed("Controller", to={"target": "tcp:192.0.2.1"}),
        changed("bridge", drop=True),
        changed("bridge", to=["br-int"]),
        changed("Interface", drop=True),
        changed("QoS", drop=True),
        changed("QoS", to=None),
        changed("Queue", drop=True),
        changed("Queue", to=[]),
        changed("Queue", to={}),
        changed("Queue", "x", to=QUEUE["Queue"]),
        changed("Port", to="tap1"),
        changed("Port", "tag", drop=True),
        changed("Port", "mac", to=MAC),
        changed("Port", "name", to=3),
        changed("Port", "name", to="tap/1"),
        changed("Port", "name", to="a-name-too-long-for-one"),
        changed("Port", "interfaces", to=[]),
        changed("Port", "interfaces", to=[INTERFACE_ID, PORT_ID]),
        changed("Port", "interfaces", to="tap1"),
        changed("Port", "tag", to="7"),
        changed("Port", "tag", to=True),
        changed("Port", "trunks", to={"8": 9}),
        changed("Port", "qos", to=[]),
        changed("Port", "external_ids", to=[]),
        changed("Interface", "name", to=".."),
        changed("Interface", "name", to="tap1\n"),
        changed("Interface", "type", to=["internal"]),
        changed("Interface", "options", to={"peer": 3}),
        changed("Interface", "external_ids", to={"iface-id": VNIC_ID}),
        changed("Interface", "external_ids", "skip_cleanup", to="true"),
        changed("Interface", "type", to="patch"),
        changed("Interface", "mtu_request", to=1500.5),
        changed("QoS", "queues", to={"-1": QUEUE_ID}),
        changed("QoS", "queues", to={"0": "uuid"}),
        changed("QoS", "queues", to={"0": PORT_ID}),
    ],
)
def test_any_other_record_is_refused(record: str) -> None:
    with pytest.raises(BadRecord, match="vifctl reconcile --list"):
        restoring.parse(record, PORT_ID)


def test_a_record_without_a_proper_id_is_refused() -> None:
    with pytest.raises(BadRecord, match="its id is no UUID"):
        parse(PORT, "1")


# ---- on a real database --------------------------------------------------------------------------


class Present:
    """What the host has besides its database."""

    def __init__(self) -> None:
        self.devices: set[str] = set()
        self.vms: set[str] = set()


@pytest.fixture(autouse=True)
def present(monkeypatch: pytest.MonkeyPatch) -> Present:
    """A host without a VM and without its devices."""
    host = Present()

    async def judge(settings: Config) -> Judge:
        return Judge(settings, Starts(), InUse((), frozenset(host.vms), frozenset()))

    monkeypatch.setattr(command, "_judge", judge)
    monkeypatch.setattr("vif_driver.host.kernel.has_device", lambda name: name in host.devices)
    monkeypatch.setattr("vif_driver.host.kernel.devices", lambda: host.devices)
    return host


def restore(server: OvsdbServer, removed: Removed, config: Config | None = None) -> Restored:
    with connect(5, server.socket) as database:
        return command.restore(database, config or Config(), removed)


def database_of(server: OvsdbServer) -> dict[str, Any]:
    """All that there is in the tables, by uuid."""
    with connect(5, server.socket) as database:
        return database.select({"Bridge": ("name", "ports"), **COLUMNS})


def test_a_port_is_put_back_as_it_was(ovsdb_server: OvsdbServer, present: Present) -> None:
    present.vms.add(VM_ID)
    before = database_of(ovsdb_server)

    restored = restore(ovsdb_server, parse())

    now = database_of(ovsdb_server)
    ((bridge, row),) = now["Bridge"].items()
    new = set(row["ports"]) - {before["Bridge"][bridge]["ports"]}
    qos = {**PORT["QoS"], "queues": {0: QUEUE_ID}}
    assert (new, restored) == ({PORT_ID}, Restored(parse(), False, ()))
    assert now["Port"][PORT_ID] == PORT["Port"]
    assert now["Interface"][INTERFACE_ID] == PORT["Interface"]
    assert (now["QoS"], now["Queue"]) == ({QOS_ID: qos}, PORT["Queue"])


def test_a_port_that_would_go_again_is_marked(ovsdb_server: OvsdbServer) -> None:
    restored = restore(ovsdb_server, parse())

    ids = database_of(ovsdb_server)["Interface"][INTERFACE_ID]["external_ids"]
    assert ids == {**LIBVIRTS, "skip_cleanup": "true"}
    assert restored.spared
    assert "ovs-vsctl remove Interface tap1 external_ids skip_cleanup" in restored.notes[0]


@pytest.mark.parametrize("what", ["device", "vm"])
def test_a_port_that_stays_anyway_is_not_marked(
    ovsdb_server: OvsdbServer, present: Present, what: str
) -> None:
    {"device": present.devices, "vm": present.vms}[what].add({"device": "tap1", "vm": VM_ID}[what])

    restored = restore(ovsdb_server, parse())

    assert not restored.spared
    assert database_of(ovsdb_server)["Interface"][INTERFACE_ID]["external_ids"] == LIBVIRTS


@pytest.mark.parametrize("left", [(), ("QoS", "Queue"), ("Queue",)])
def test_a_port_uses_what_is_still_there_of_its_qos(
    ovsdb_server: OvsdbServer, left: tuple[str, ...]
) -> None:
    for table, uuid, row in (("Queue", QUEUE_ID, QUEUE), ("QoS", QOS_ID, QOS)):
        if table in left:
            restore(ovsdb_server, parse(row, uuid))

    restore(ovsdb_server, parse())

    now = database_of(ovsdb_server)
    assert (set(now["QoS"]), set(now["Queue"])) == ({QOS_ID}, {QUEUE_ID})
    assert now["Port"][PORT_ID]["qos"] == QOS_ID


def test_what_is_there_is_not_put_back(ovsdb_server: OvsdbServer) -> None:
    restore(ovsdb_server, parse())
    before = database_of(ovsdb_server)

    with pytest.raises(NameTaken, match=r"port tap1 .* is there already"):
        restore(ovsdb_server, parse())

    assert database_of(ovsdb_server) == before


def test_another_port_of_its_name_stays(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-port", "br-int", "tap1")
    before = database_of(ovsdb_server)

    with pytest.raises(NameTaken, match="is there already"):
        restore(ovsdb_server, parse())

    assert database_of(ovsdb_server) == before


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Have something happen between the look at the database and the transaction."""
    judged = command._as_it_will_stay

    def judge(*arguments: Any) -> Restored:
        happens()
        return judged(*arguments)

    monkeypatch.setattr(command, "_as_it_will_stay", judge)


@pytest.mark.parametrize("kind", ["Port", "Interface"])
def test_whoever_makes_a_port_of_its_name_meanwhile_wins(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    other = {"Port": ["tap1", "eth8", "eth9"], "Interface": ["bond0", "tap1", "eth9"]}[kind]
    meanwhile(monkeypatch, lambda: ovsdb_server.vsctl("add-bond", "br-int", *other))

    with pytest.raises(NameTaken, match="is there already"):
        restore(ovsdb_server, parse())

    assert ovsdb_server.vsctl("list-ports", "br-int") == other[0]


def test_a_bridge_that_is_taken_away_meanwhile_is_told(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: ovsdb_server.vsctl("del-br", "br-int"))

    with pytest.raises(HostError, match="there is no Open vSwitch bridge br-int"):
        restore(ovsdb_server, parse())

    assert database_of(ovsdb_server)["QoS"] == {}


def test_a_port_of_another_bridge_is_not_put_back(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-br", "br-ex")

    with pytest.raises(HostError, match="was not on the integration bridge br-int"):
        restore(ovsdb_server, restoring.parse(changed("bridge", to="br-ex"), PORT_ID))

    assert ovsdb_server.vsctl("list-ports", "br-ex") == ""


def test_what_the_database_refuses_is_told(ovsdb_server: OvsdbServer) -> None:
    removed = restoring.parse(changed("Port", "tag", to=5000), PORT_ID)

    with pytest.raises(HostError, match="refuses"):
        restore(ovsdb_server, removed)

    assert ovsdb_server.vsctl("list-ports", "br-int") == ""


def test_without_libvirt_nothing_is_put_back(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def judge(_settings: Config) -> Judge:
        raise Unavailable("libvirt does not answer", "restart libvirtd")

    monkeypatch.setattr(command, "_judge", judge)

    with pytest.raises(Unavailable, match="libvirt does not answer"):
        restore(ovsdb_server, parse())

    assert ovsdb_server.vsctl("list-ports", "br-int") == ""


def test_qos_is_put_back_after_its_queues(ovsdb_server: OvsdbServer) -> None:
    with pytest.raises(HostError, match=f"put it back first: .* --restore {QUEUE_ID}"):
        restore(ovsdb_server, parse(QOS, QOS_ID))

    restore(ovsdb_server, parse(QUEUE, QUEUE_ID))
    restored = restore(ovsdb_server, parse(QOS, QOS_ID))

    now = database_of(ovsdb_server)
    assert now["QoS"][QOS_ID] == {**PORT["QoS"], "queues": {0: QUEUE_ID}}
    assert now["Queue"] == PORT["Queue"]
    assert "vif-agent removes it again after 10 s" in restored.notes[0]


def test_qos_of_a_vm_that_is_there_stays(ovsdb_server: OvsdbServer, present: Present) -> None:
    present.vms.add(VM_ID)

    assert restore(ovsdb_server, parse(QUEUE, QUEUE_ID)).notes == ()


def test_qos_that_is_there_is_not_put_back(ovsdb_server: OvsdbServer) -> None:
    restore(ovsdb_server, parse(QUEUE, QUEUE_ID))

    with pytest.raises(NameTaken, match="is there already"):
        restore(ovsdb_server, parse(QUEUE, QUEUE_ID))


def test_the_database_says_who_did_it(ovsdb_server: OvsdbServer) -> None:
    before = ovsdb_server.database.stat().st_size

    restore(ovsdb_server, parse())

    written = ovsdb_server.database.read_bytes()[before:].decode()
    assert f"vifctl reconcile --restore {PORT_ID}" in written


def test_what_the_boot_pass_has_logged_is_put_back_whole(
    ovsdb_server: OvsdbServer, present: Present, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    present.vms.add(VM_ID)
    restore(ovsdb_server, parse())
    before = database_of(ovsdb_server)

    with connect(5, ovsdb_server.socket) as database:
        boot.run(database, "br-int", "11111111-0000-4000-8000-000000000001")
        emptied = database.select({"Port": ("name",), "QoS": (), "Queue": ()})
        removed = logged(caplog)
        restore_all(database, removed[PORT_ID])

    assert (len(emptied["Port"]), emptied["QoS"], emptied["Queue"]) == (1, {}, {})
    assert set(removed) == {PORT_ID, QOS_ID, QUEUE_ID}
    assert database_of(ovsdb_server) == before


def test_what_the_agent_reads_is_put_back_whole(
    ovsdb_server: OvsdbServer, present: Present
) -> None:
    present.vms.add(VM_ID)
    restore(ovsdb_server, parse())
    before = database_of(ovsdb_server)

    records = asyncio.run(read_and_removed(ovsdb_server))
    for uuid in (QUEUE_ID, QOS_ID, PORT_ID):
        restore(ovsdb_server, parse(records[uuid], uuid))

    assert database_of(ovsdb_server) == before


async def read_and_removed(server: OvsdbServer) -> dict[str, Any]:
    """Remove the port and what it used, as the agent does; gives the records."""
    ovsdb = Ovsdb(server.socket)
    ovsdb.replica.open()
    try:
        await ovsdb.replica.wait_connected()
        (port,) = ovsdb.whole("tap1")
        await ovsdb.remove([port], lambda _: True, {})
        unused = ovsdb.unused_qos()
        await ovsdb.remove([], lambda _: True, unused)
    finally:
        ovsdb.replica.close()
    qos = {uuid: {table: row} for table, rows in unused.items() for uuid, row in rows.items()}
    return {port.uuid: port.record(), **qos}


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, Removed]:
    fields = [getattr(record, "vif_fields", {}) for record in caplog.records]
    rows = [each for each in fields if "VIF_ROW_ID" in each]
    return {
        each["VIF_ROW_ID"]: restoring.parse(each["VIF_ROW"], each["VIF_ROW_ID"]) for each in rows
    }


def restore_all(database: OvsdbOnce, *removed: Removed) -> None:
    for one in removed:
        command.restore(database, Config(), one)
