# SPDX-License-Identifier: GPL-2.0-or-later
"""The boot pass on a real database: what goes, and what never does."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from vif_driver import boot
from vif_driver.errors import HostError, Unavailable
from vif_driver.host.ovsdb_once import connect

from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer

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
OURS = ("external_ids:vif-driver=ovs_hybrid", f"external_ids:iface-id={VNIC_ID}")


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The network devices of the host; none at boot."""
    present: set[str] = set()
    monkeypatch.setattr("vif_driver.host.kernel.has_device", present.__contains__)
    return present


def add(server: OvsdbServer, name: str, *interface: str, bridge: str = "br-int") -> None:
    settings = ["--", "set", "Interface", name, *interface] if interface else []
    server.vsctl("add-port", bridge, name, *settings)


def make_pass(server: OvsdbServer, boot_id: str = THIS_BOOT) -> int:
    with connect(5, server.socket) as database:
        return boot.run(database, "br-int", boot_id)


def ports(server: OvsdbServer, bridge: str = "br-int") -> set[str]:
    return set(server.vsctl("list-ports", bridge).split())


@pytest.mark.parametrize("made_by", [LIBVIRTS, OURS], ids=["libvirt", "us"])
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

    fields = [getattr(record, "vif_fields", {}) for record in caplog.records]
    (about,) = [each for each in fields if "VIF_ROW" in each]
    row: dict[str, Any] = json.loads(about["VIF_ROW"])
    assert about["VIF_VM"] == VM_ID
    assert (row["bridge"], row["Port"]["tag"]) == ("br-int", 7)
    assert row["Interface"]["external_ids"]["iface-id"] == VNIC_ID


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


def test_whatever_goes_wrong_the_host_boots(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_timeout: float) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(boot, "connect", broken)

    assert boot.main([]) == 0
    assert "was not removed" in caplog.text


def test_the_id_of_the_boot_is_systemds_or_the_kernels(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernels = tmp_path / "boot_id"
    kernels.write_text(f"{THIS_BOOT}\n")
    monkeypatch.setattr(boot, "BOOT_ID", kernels)
    monkeypatch.setattr(boot, "connect", lambda timeout: connect(timeout, ovsdb_server.socket))
    boot.main([THIS_BOOT.replace("-", "")])
    add(ovsdb_server, "tap1", *LIBVIRTS)

    boot.main([])

    assert ports(ovsdb_server) == {"tap1"}  # it was the same boot
