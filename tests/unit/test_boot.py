# SPDX-License-Identifier: GPL-2.0-or-later
"""The boot pass on a real database and real devices: what goes, and what never does."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vif_driver import boot
from vif_driver.errors import HostError, Unavailable
from vif_driver.host import json_rpc, kernel
from vif_driver.host.links import Links
from vif_driver.host.ovsdb_once import connect
from vif_driver.host.ovsdb_rows import COLUMNS
from vif_driver.marks import BOOT_KEY, BOOT_REMOVED_KEY, GROUP
from vif_driver.vnic import Plugin, VnicIdentity

from . import own_sysfs, programs
from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer, RunInNamespace

THIS_BOOT, LAST_BOOT = (
    "11111111-0000-4000-8000-000000000001",
    "11111111-0000-4000-8000-000000000002",
)
LIBVIRTS = (
    f"external_ids:attached-mac={json.dumps(MAC)}",
    f"external_ids:iface-id={VNIC_ID}",
    "external_ids:iface-status=active",
    f"external_ids:vm-id={VM_ID}",
)
HELD = tuple(each.replace("iface-id", "vif-driver-held") for each in LIBVIRTS)
OURS = ("external_ids:vif-driver=ovs_hybrid", f"external_ids:iface-id={VNIC_ID}")
VNIC = VnicIdentity(VNIC_ID, Plugin.OPEN_VSWITCH, VM_ID)
HYBRID = (VNIC.bridge, VNIC.bridge_end, VNIC.switch_end)
ALIAS = f"vif-driver {VNIC_ID} {VM_ID}"
REAL_DEVICES = kernel.devices


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The network devices of the host; none at boot."""
    present: set[str] = set()
    monkeypatch.setattr(kernel, "devices", present.copy)
    return present


def add(server: OvsdbServer, name: str, *interface: str, bridge: str = "br-int") -> None:
    settings = ["--", "set", "Interface", name, *interface] if interface else []
    server.vsctl("add-port", bridge, name, *settings)


def make_pass(server: OvsdbServer, boot_id: str = THIS_BOOT) -> int:
    with connect(5, server.socket) as database:
        return boot.run(database, "br-int", boot_id)


def ports(server: OvsdbServer, bridge: str = "br-int") -> set[str]:
    return set(server.vsctl("list-ports", bridge).split())


def fields(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    """The fields of those lines of the journal that have any."""
    found = (getattr(record, "vif_fields", {}) for record in caplog.records)
    return [each for each in found if each]


def removed_rows(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(each["VIF_ROW"]) for each in fields(caplog)]


@pytest.mark.parametrize("made_by", [LIBVIRTS, HELD, OURS], ids=["libvirt", "kept back", "us"])
def test_a_port_of_a_vm_goes(ovsdb_server: OvsdbServer, made_by: tuple[str, ...]) -> None:
    add(ovsdb_server, "tap1", *made_by)

    assert make_pass(ovsdb_server) == 1
    assert ports(ovsdb_server) == set()
    assert ovsdb_server.vsctl("--bare", "--columns=name", "find", "Interface", "name=tap1") == ""


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("type=internal", *LIBVIRTS),
        ("type=patch", "options:peer=other", *LIBVIRTS),
        ("type=geneve", "options:remote_ip=192.0.2.9", *LIBVIRTS),
        (f"external_ids:iface-id={VNIC_ID}", "external_ids:vm-uuid=nova"),
        (f"external_ids:iface-id={VNIC_ID}", f"external_ids:attached-mac={json.dumps(MAC)}"),
        ("external_ids:skip_cleanup=true", *LIBVIRTS),
        ("external_ids:skip_cleanup=true", *OURS),
    ],
    ids=["uplink", "internal", "patch", "tunnel", "nova", "neutron", "spared", "spared ours"],
)
def test_any_other_port_stays(ovsdb_server: OvsdbServer, settings: tuple[str, ...]) -> None:
    add(ovsdb_server, "other", *settings)

    assert make_pass(ovsdb_server) == 0
    assert ports(ovsdb_server) == {"other"}


def test_a_port_of_another_bridge_stays(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-br", "ovirtmgmt")
    add(ovsdb_server, "vnet0", *LIBVIRTS, bridge="ovirtmgmt")

    make_pass(ovsdb_server)

    assert ports(ovsdb_server, "ovirtmgmt") == {"vnet0"}


def test_a_port_whose_device_is_there_stays(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    add(ovsdb_server, "tap1", *LIBVIRTS)
    devices.add("tap1")

    make_pass(ovsdb_server)

    assert ports(ovsdb_server) == {"tap1"}


def test_a_bond_stays(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("add-bond", "br-int", "bond0", "tap1", "tap2")
    ovsdb_server.vsctl("set", "Interface", "tap1", *LIBVIRTS)

    make_pass(ovsdb_server)

    assert ports(ovsdb_server) == {"bond0"}


def test_qos_of_a_vm_goes_with_its_port_and_others_stay(ovsdb_server: OvsdbServer) -> None:
    add(ovsdb_server, "tap1", *LIBVIRTS)
    add(ovsdb_server, "eth1")
    of_vm = ["create", "QoS", "type=linux-htb", f"external_ids:vm-id={VM_ID}"]
    ovsdb_server.vsctl("--id=@q", *of_vm, "--", "set", "Port", "tap1", "qos=@q")
    ovsdb_server.vsctl(*of_vm, "external_ids:ifname=long-gone")
    ovsdb_server.vsctl("--id=@q", *of_vm, "--", "set", "Port", "eth1", "qos=@q")
    ovsdb_server.vsctl("create", "QoS", "type=linux-noop", "external_ids:who=somebody")

    make_pass(ovsdb_server)

    kept = ovsdb_server.vsctl("--bare", "--columns=type", "list", "QoS").split()
    assert sorted(kept) == ["linux-htb", "linux-noop"]
    assert ovsdb_server.vsctl("get", "Port", "eth1", "qos") != "[]"


def test_a_queue_goes_with_its_qos(ovsdb_server: OvsdbServer) -> None:
    add(ovsdb_server, "eth1")
    of_vm = f"external_ids:vm-id={VM_ID}"
    make = ["--id=@q", "create", "QoS", "type=linux-htb", of_vm, "queues:0=@queue"]
    queue = ["--id=@queue", "create", "Queue", of_vm]
    ovsdb_server.vsctl(*make, "--", *queue, "other_config:max-rate=1")
    use = ["set", "Port", "eth1", "qos=@q"]
    ovsdb_server.vsctl(*make, "--", *queue, "other_config:max-rate=2", "--", *use)

    make_pass(ovsdb_server)

    assert ovsdb_server.vsctl("--bare", "--columns=other_config", "list", "Queue") == "max-rate=2"


def test_it_is_made_once_per_boot(ovsdb_server: OvsdbServer) -> None:
    make_pass(ovsdb_server)
    add(ovsdb_server, "tap1", *LIBVIRTS)

    assert make_pass(ovsdb_server) == 0
    assert ports(ovsdb_server) == {"tap1"}


def test_it_is_made_again_in_the_next_boot(ovsdb_server: OvsdbServer) -> None:
    make_pass(ovsdb_server, LAST_BOOT)
    add(ovsdb_server, "tap1", *LIBVIRTS)

    assert make_pass(ovsdb_server) == 1
    assert THIS_BOOT in ovsdb_server.vsctl("get", "Open_vSwitch", ".", "external_ids")


def test_how_much_was_removed_is_noted(ovsdb_server: OvsdbServer) -> None:
    add(ovsdb_server, "tap1", *LIBVIRTS)
    add(ovsdb_server, "tap2", *LIBVIRTS)

    make_pass(ovsdb_server, LAST_BOOT)
    first = ovsdb_server.vsctl("get", "Open_vSwitch", ".", f"external_ids:{BOOT_REMOVED_KEY}")
    make_pass(ovsdb_server)
    second = ovsdb_server.vsctl("get", "Open_vSwitch", ".", f"external_ids:{BOOT_REMOVED_KEY}")

    assert (first, second) == ('"2"', '"0"')


def test_other_settings_of_the_host_stay(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("set", "Open_vSwitch", ".", "external_ids:system-id=hv1")

    make_pass(ovsdb_server)

    assert ovsdb_server.vsctl("get", "Open_vSwitch", ".", "external_ids:system-id") == "hv1"


def test_each_port_is_logged_with_all_that_is_needed_to_put_it_back(
    ovsdb_server: OvsdbServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    add(ovsdb_server, "tap1", *LIBVIRTS)
    ovsdb_server.vsctl("set", "Port", "tap1", "tag=7")

    make_pass(ovsdb_server)

    (row,) = removed_rows(caplog)
    assert [each["VIF_VM"] for each in fields(caplog)] == [VM_ID]
    assert (row["bridge"], row["Port"]["tag"]) == ("br-int", 7)
    assert row["Interface"]["external_ids"]["iface-id"] == VNIC_ID


def test_what_is_hardly_ever_set_is_part_of_that(
    ovsdb_server: OvsdbServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    add(ovsdb_server, "tap1", *LIBVIRTS, "mtu_request=1442", "options:key=value")
    ovsdb_server.vsctl("set", "Port", "tap1", "trunks=7,8", "other_config:transient=true")

    make_pass(ovsdb_server)

    (row,) = removed_rows(caplog)
    interface, port = row["Interface"], row["Port"]
    assert (interface["mtu_request"], interface["options"]) == (1442, {"key": "value"})
    assert (port["trunks"], port["other_config"]) == ([7, 8], {"transient": "true"})


def test_what_is_not_set_is_part_of_that(
    ovsdb_server: OvsdbServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    add(ovsdb_server, "tap1", *LIBVIRTS)

    make_pass(ovsdb_server)

    (row,) = removed_rows(caplog)
    interface, port = row["Interface"], row["Port"]
    assert (set(interface), set(port)) == (set(COLUMNS["Interface"]), set(COLUMNS["Port"]))
    assert (interface["type"], port["tag"], port["external_ids"]) == ("", [], {})


def test_a_database_that_nothing_was_written_to_is_left_alone(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.vsctl("del-br", "br-int", "--", "destroy", "Open_vSwitch", ".")

    assert make_pass(ovsdb_server) == 0


def test_a_database_that_refuses_is_left_as_it_was(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ovsdb_server, "tap1", *LIBVIRTS)
    monkeypatch.setattr(boot, "_remember", lambda *_: {"op": "abort"})

    with pytest.raises(HostError, match="refuses"):
        make_pass(ovsdb_server)

    assert ports(ovsdb_server) == {"tap1"}


def test_without_a_database_it_is_told(ovsdb_server: OvsdbServer) -> None:
    ovsdb_server.stop()

    with pytest.raises(Unavailable, match="start it: systemctl start ovsdb-server"):
        make_pass(ovsdb_server)


@pytest.fixture
def on_server(ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> OvsdbServer:
    """The database that :func:`boot.main` finds."""
    monkeypatch.setattr(boot, "connect", functools.partial(connect, path=ovsdb_server.socket))
    return ovsdb_server


def test_a_database_that_has_just_died_is_waited_for(on_server: OvsdbServer) -> None:
    add(on_server, "tap1", *LIBVIRTS)
    on_server.stop()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(on_server.socket))
    later = threading.Timer(0.05, on_server.start)
    later.start()

    boot.main([])

    later.join()
    assert ports(on_server) == set()


def test_whatever_goes_wrong_the_host_boots(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_timeout: float, **_: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(boot, "connect", broken)

    assert boot.main([]) == 0
    assert "may not have been removed" in caplog.text


def test_after_a_refusal_the_journal_says_that_nothing_was_removed(
    on_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    add(on_server, "tap1", *LIBVIRTS)
    monkeypatch.setattr(boot, "_remember", lambda *_: {"op": "abort"})

    boot.main([])

    begun, ended = (record.message for record in caplog.records)
    assert begun.startswith("removing port tap1")
    assert ended.startswith("nothing that VMs of an earlier boot left was removed")


Dying = Callable[[bool, Callable[[], object]], None]


@pytest.fixture
def dying(on_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> Dying:
    """Have the database die when it is asked to remove what it has: ``dying(removed, then)``.

    It has removed it by then or not; what is next is up to a function.
    """

    def arrange(removed: bool, then: Callable[[], object]) -> None:
        begin = json_rpc.Connection.begin

        def begin_and_die(connection: json_rpc.Connection, method: str, operations: Any) -> int:
            if not any(isinstance(each, dict) and each["op"] == "mutate" for each in operations):
                return begin(connection, method, operations)
            monkeypatch.setattr(json_rpc.Connection, "begin", begin)
            if removed:
                connection.call(method, operations)
            on_server.stop()
            then()
            return -1

        monkeypatch.setattr(json_rpc.Connection, "begin", begin_and_die)

    return arrange


class Clock:
    """The time of a pass that begins now; it can be put forward."""

    def __init__(self) -> None:
        self._end = time.monotonic() + boot.TIMEOUT
        self._ahead = 0.0

    def leave(self, seconds: float) -> None:
        """Leave the pass so much of its time."""
        self._ahead = self._end - time.monotonic() - seconds

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


REMOVED = pytest.mark.parametrize("removed", [False, True], ids=["before", "after"])


@REMOVED
def test_a_database_that_dies_in_the_middle_has_removed_all_or_nothing(
    on_server: OvsdbServer,
    dying: Dying,
    removed: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(on_server, "tap1", *LIBVIRTS)
    clock = Clock()
    monkeypatch.setattr(boot, "time", clock)
    # Whatever it took so far.
    dying(removed, lambda: clock.leave(0.2))

    boot.main([])

    on_server.start()
    assert ports(on_server) == (set() if removed else {"tap1"})
    assert "either all of this was removed or nothing" in caplog.text


@REMOVED
def test_when_a_database_that_died_is_back_the_rest_is_done(
    on_server: OvsdbServer, dying: Dying, removed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    add(on_server, "tap1", *LIBVIRTS)
    later = threading.Timer(0.05, on_server.start)
    dying(removed, later.start)

    boot.main([])

    later.join()
    assert ports(on_server) == set()
    assert ("the pass was made in this boot already" in caplog.text) == removed


def test_a_database_that_hangs_up_as_it_dies_is_asked_again(
    on_server: OvsdbServer, dying: Dying
) -> None:
    add(on_server, "tap1", *LIBVIRTS)
    listener = socket.socket(socket.AF_UNIX)

    def hang_up() -> None:
        with listener:
            for _ in range(2):
                listener.accept()[0].close()
        on_server.socket.unlink()
        on_server.start()

    later = threading.Thread(target=hang_up)

    def listen() -> None:
        listener.bind(str(on_server.socket))
        listener.listen()
        later.start()

    dying(False, listen)

    boot.main([])

    later.join()
    assert ports(on_server) == set()


def test_the_id_of_the_boot_is_systemds_or_the_kernels(
    on_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernels = tmp_path / "boot_id"
    kernels.write_text(f"{THIS_BOOT}\n")
    monkeypatch.setattr(kernel, "BOOT_ID", kernels)
    boot.main([THIS_BOOT.replace("-", "")])
    add(on_server, "tap1", *LIBVIRTS)

    boot.main([])

    assert ports(on_server) == {"tap1"}  # it was the same boot


OnDevices = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def on_devices(in_network_namespace: RunInNamespace, monkeypatch: pytest.MonkeyPatch) -> OnDevices:
    """Call something on a host with no device but the loopback's."""
    monkeypatch.setattr(kernel, "devices", REAL_DEVICES)

    def run(scenario: Callable[[], Any]) -> Any:
        async def body() -> Any:
            own_sysfs.mount()
            # In a thread, which is in the same namespaces: the pass has a loop of its own.
            return await asyncio.get_running_loop().run_in_executor(None, scenario)

        return in_network_namespace(body)

    return run


def ip(*lines: str) -> None:
    programs.run("ip", "-batch", "-", input="\n".join(lines))


def plug(*, far_end: str = VNIC.switch_end, group: int = GROUP, alias: str = ALIAS) -> None:
    """Make the devices of a vNIC with a Linux bridge of its own."""
    ip(
        f"link add {VNIC.bridge} type bridge",
        f"link add {VNIC.bridge_end} type veth peer name {far_end}",
        f"link set {VNIC.bridge_end} master {VNIC.bridge}",
        *(
            f'link set {name} group {group} alias "{alias}"'
            for name in (VNIC.bridge, VNIC.bridge_end, far_end)
        ),
    )


def left(server: OvsdbServer) -> set[str]:
    """Make the pass, and give the devices that are there then."""
    make_pass(server)
    return kernel.devices() - {"lo"}


@pytest.mark.parametrize("far_end", [VNIC.switch_end, VNIC.tap], ids=["hybrid", "linux bridge"])
@pytest.mark.parametrize(
    "alias", [ALIAS, f"vif-driver {VNIC_ID} -", ""], ids=["named", "no VM", "not named yet"]
)
def test_our_devices_go(
    ovsdb_server: OvsdbServer, on_devices: OnDevices, far_end: str, alias: str
) -> None:
    def scenario() -> set[str]:
        plug(far_end=far_end, alias=alias)
        return left(ovsdb_server)

    assert on_devices(scenario) == set()


@pytest.mark.parametrize(
    "marks", [{"group": 7}, {"alias": "somebody else's"}], ids=["group", "alias"]
)
def test_devices_without_our_mark_stay(
    ovsdb_server: OvsdbServer, on_devices: OnDevices, marks: dict[str, Any]
) -> None:
    def scenario() -> set[str]:
        plug(**marks)
        return left(ovsdb_server)

    assert on_devices(scenario) == set(HYBRID)


def test_devices_stay_while_a_guest_is_on_their_bridge(
    ovsdb_server: OvsdbServer, on_devices: OnDevices
) -> None:
    def scenario() -> set[str]:
        plug()
        ip(f"tuntap add {VNIC.tap} mode tap", f"link set {VNIC.tap} master {VNIC.bridge}")
        return left(ovsdb_server)

    assert on_devices(scenario) == {*HYBRID, VNIC.tap}


def test_a_tap_alone_stays(ovsdb_server: OvsdbServer, on_devices: OnDevices) -> None:
    def scenario() -> set[str]:
        ip(f"tuntap add {VNIC.tap} mode tap", f"link set {VNIC.tap} group {GROUP}")
        return left(ovsdb_server)

    assert on_devices(scenario) == {VNIC.tap}


@pytest.mark.parametrize(
    ("group", "rows"), [(GROUP, set()), (7, {VNIC.switch_end})], ids=["ours", "not ours"]
)
def test_a_row_goes_with_its_device(
    ovsdb_server: OvsdbServer, on_devices: OnDevices, group: int, rows: set[str]
) -> None:
    add(ovsdb_server, VNIC.switch_end, *OURS)

    def scenario() -> None:
        plug(group=group)
        make_pass(ovsdb_server)

    on_devices(scenario)

    assert ports(ovsdb_server) == rows


def test_each_device_is_logged_with_its_vnic_and_vm(
    ovsdb_server: OvsdbServer, on_devices: OnDevices, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def scenario() -> None:
        plug()
        make_pass(ovsdb_server)

    on_devices(scenario)

    assert fields(caplog) == [{"VIF_VNIC": VNIC_ID, "VIF_VM": VM_ID}] * 3
    assert all(f"removing device {name}," in caplog.text for name in HYBRID)


def test_a_device_that_cannot_be_removed_is_logged_and_the_others_go(
    ovsdb_server: OvsdbServer,
    on_devices: OnDevices,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    delete = Links.delete

    async def delete_most(links: Links, name: str) -> bool:
        if name == VNIC.bridge:
            raise HostError("the kernel refused", "see its log")
        return await delete(links, name)

    monkeypatch.setattr(Links, "delete", delete_most)

    def scenario() -> set[str]:
        plug()
        return left(ovsdb_server)

    assert on_devices(scenario) == {VNIC.bridge}
    assert f"{VNIC.bridge} was not removed: the kernel refused" in caplog.text


def test_netlink_is_not_loaded_where_no_device_is_ours(ovsdb_server: OvsdbServer) -> None:
    script = """
import pathlib, sys
from vif_driver import boot
from vif_driver.host.ovsdb_once import connect
boot.connect = lambda timeout, **more: connect(timeout, pathlib.Path(sys.argv[1]), **more)
boot.main(["1"])
print(*sys.modules)
"""

    done = subprocess.run(
        [sys.executable, "-c", script, ovsdb_server.socket],
        check=True,
        capture_output=True,
        text=True,
    )

    assert BOOT_KEY in ovsdb_server.vsctl("get", "Open_vSwitch", ".", "external_ids")
    assert not {"asyncio", "pyroute2", "lxml", "vif_driver.host.links"} & set(done.stdout.split())
