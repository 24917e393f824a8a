# SPDX-License-Identifier: GPL-2.0-or-later
"""vifctl reconcile on a hypervisor with systemd: see it, have it done, put it back."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.conftest import CONFIGURATION, new_mac
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.leftovers import add_port, libvirts_ids
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import BOOT_PASS, SERVICE, SOCKET, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.vifctl import vifctl
from vif_driver.host.ovsdb_rows import COLUMNS

GRACE = 2.0

# Nobody here would make a vNIC ready.
SETTINGS = f"""\
[neutron]
firewall_driver = openvswitch
[start]
deadline = 0
[reconcile]
grace = {GRACE:g}
"""

SEND = """\
import sys
from systemd import journal
journal.send("removing it", VIF_ROW=sys.argv[1], VIF_ROW_ID=sys.argv[2], _UID="0",
             SYSLOG_IDENTIFIER="vif-agent", _SYSTEMD_UNIT="vif-agent.service")
"""

KNOCK = f"""\
import socket
with socket.socket(socket.AF_UNIX) as agent:
    agent.connect("{SOCKET}")
    agent.sendall(b"vif1 reconcile 0 0\\n")
    print(agent.makefile().read())
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with systemd, without OVN."""
    with Lab(hypervisors=1, ovn=False, systemd=True) as started:
        yield started


@pytest.fixture(scope="module")
def product(host: SystemdHypervisor) -> SystemdProduct:
    """The product on it."""
    product = SystemdProduct(host)
    product.install()
    host.write(CONFIGURATION, SETTINGS)
    return product


@pytest.fixture
def agent(host: SystemdHypervisor, product: SystemdProduct) -> Iterator[SystemdProduct]:
    """The product with its agent running, connected to everything; nothing is left afterwards."""
    product.start()
    wait_connected(host)
    yield product
    for name in host.ovs.ports():
        host.vsctl("del-port", "br-int", name)
    host.vsctl("--all", "destroy", "QoS", "--", "--all", "destroy", "Queue")


def wait_connected(host: SystemdHypervisor) -> None:
    def connected() -> bool:
        known = vifctl(host, "status").json["agent"]
        return bool(known.get("ovsdb_connected") and known.get("libvirt_connected"))

    wait_until(connected, 20, "the agent's connections", interval=0.2)


def add_whole_port(host: SystemdHypervisor, name: str) -> str:
    """Add a port that has everything of a VM that there is not; returns its id."""
    ids = libvirts_ids()
    of_vm = f"external_ids:vm-id={ids['vm-id']}"
    add_port(host, name, external_ids=ids, mtu_request=1442)
    host.vsctl(
        *["--no-wait", "set", "Port", name, "tag=7", "trunks=8,9", "vlan_mode=native-tagged"],
        *["other_config:rstp-enable=false", "qos=@qos"],
        *["--", "--id=@qos", "create", "QoS", "type=linux-htb", of_vm, "queues:0=@queue"],
        *["--", "--id=@queue", "create", "Queue", of_vm, "other_config:max-rate=1000000", "dscp=3"],
    )
    return str(host.ovs.port(name)["_uuid"])


def rows_of(host: SystemdHypervisor, name: str) -> dict[str, list[dict[str, Any]]]:
    """All of a port that is somebody's setting, and of all QoS."""
    which = {"Port": [f"name={name}"], "Interface": [f"name={name}"], "QoS": [], "Queue": []}
    return {
        table: host.ovs.rows(table, *conditions, columns=["_uuid", *COLUMNS[table]])
        for table, conditions in which.items()
    }


def marked(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The same, with the key that keeps the agent away."""
    (interface,) = rows["Interface"]
    ids = {**interface["external_ids"], "skip_cleanup": "true"}
    return {**rows, "Interface": [{**interface, "external_ids": ids}]}


def told(listed: list[dict[str, Any]]) -> list[str]:
    """The names of the ports that are told of."""
    return [one["what"].split()[1] for one in listed]


def a_vm() -> Vm:
    nic = Nic.openstack("OPEN_VSWITCH", str(uuid.uuid4()), new_mac())
    return Vm(f"vm-{uuid.uuid4().hex[:6]}", [nic], dhcp=False)


# ---- see it, have it done ------------------------------------------------------------------------


def test_a_dry_run_tells_and_changes_nothing_while_nobody_else_does(
    host: SystemdHypervisor, agent: SystemdProduct
) -> None:
    agent.stop()
    row_id = add_whole_port(host, "tapgone")
    before = rows_of(host, "tapgone")

    answer = vifctl(host, "reconcile", "--dry-run")

    assert (answer.status, told(answer.json["to_remove"])) == (1, ["tapgone"])
    assert answer.json["to_remove"][0]["row_id"] == row_id
    assert "libvirt has no VM" in answer.json["to_remove"][0]["why"]
    assert "systemctl start vif-agent" in answer.json["agent"]["trouble"]
    assert rows_of(host, "tapgone") == before


def test_a_dry_run_names_who_does_not_answer(
    host: SystemdHypervisor, agent: SystemdProduct
) -> None:
    host.libvirt.stop()
    try:
        done = host.run(["vifctl", "reconcile", "--dry-run"], check=False)
    finally:
        host.libvirt.start()

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vifctl: libvirt") and len(done.stderr.splitlines()) == 1


def test_a_host_on_which_all_is_well_passes(host: SystemdHypervisor, agent: SystemdProduct) -> None:
    vm = a_vm()
    Vdsm(host).create_vm(vm)

    dry, done = vifctl(host, "reconcile", "--dry-run"), vifctl(host, "reconcile")
    Vdsm(host).destroy_vm(vm)

    assert (dry.status, dry.json["to_remove"], dry.json["to_plug"]) == (0, [], [])
    assert dry.json["agent"]["trouble"] is None
    nothing: dict[str, Any] = {"removed": [], "plugged": [], "left": [], "kept": []}
    assert (done.status, done.json) == (0, {**nothing, "trouble": None, "left_out": []})


def test_the_agent_does_it_after_the_grace_period_and_tells(
    host: SystemdHypervisor, agent: SystemdProduct
) -> None:
    before = vifctl(host, "status").json["agent"]["stale_removed"]
    add_port(host, "tapgone", external_ids=libvirts_ids())
    add_port(host, "theirs", external_ids={"iface-id": "container"})
    begun = time.monotonic()

    answer = vifctl(host, "reconcile")

    assert answer.status == 0
    assert time.monotonic() - begun >= GRACE
    assert (told(answer.json["removed"]), told(answer.json["kept"])) == (["tapgone"], ["theirs"])
    assert host.ovs.ports() == {"theirs"}
    assert vifctl(host, "status").json["agent"]["stale_removed"] == before + 1


def test_a_lost_port_is_back_when_it_ends(host: SystemdHypervisor, agent: SystemdProduct) -> None:
    vm = a_vm()
    Vdsm(host).create_vm(vm)
    host.vsctl("del-port", "br-int", vm.nics[0].tap)

    answer = vifctl(host, "reconcile")
    ports = host.ovs.ports()
    Vdsm(host).destroy_vm(vm)

    assert answer.status == 0
    assert ports == {vm.nics[0].tap}


def test_without_the_agent_it_is_not_done(host: SystemdHypervisor, agent: SystemdProduct) -> None:
    agent.stop()

    done = host.run(["vifctl", "reconcile"], check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert "systemctl start vif-agent" in done.stderr


# ---- put it back ---------------------------------------------------------------------------------


def test_what_the_agent_removed_is_put_back_by_its_id_and_stays(
    host: SystemdHypervisor, agent: SystemdProduct
) -> None:
    row_id = add_whole_port(host, "tapgone")
    before = rows_of(host, "tapgone")
    for _ in range(2):  # the port, and then what nothing uses any more
        vifctl(host, "reconcile")
    after = rows_of(host, "tapgone")

    restored = vifctl(host, "reconcile", "--restore", row_id)
    put_back = rows_of(host, "tapgone")
    again = vifctl(host, "reconcile")

    assert {table: len(rows) for table, rows in after.items()} == dict.fromkeys(COLUMNS, 0)
    assert (restored.status, restored.json["skip_cleanup"]) == (0, True)
    assert put_back == marked(before)
    assert (again.json["removed"], told(again.json["kept"])) == ([], ["tapgone"])
    assert rows_of(host, "tapgone") == put_back


def test_what_the_boot_pass_removed_is_put_back_by_its_id(
    host: SystemdHypervisor, agent: SystemdProduct
) -> None:
    agent.stop()
    row_id = add_whole_port(host, "tapgone")
    before = rows_of(host, "tapgone")
    host.power_cut()
    host.boot()
    wait_until(lambda: host.libvirt.service.running, 20, "libvirtd")
    wait_connected(host)
    after = rows_of(host, "tapgone")

    listed = vifctl(host, "reconcile", "--list").json["removals"]
    restored = vifctl(host, "reconcile", "--restore", row_id)

    assert {table: len(rows) for table, rows in after.items()} == dict.fromkeys(COLUMNS, 0)
    assert [one["what"].split()[1] for one in listed if one["id"] == row_id] == ["tapgone"]
    assert restored.status == 0
    assert rows_of(host, "tapgone") == marked(before)
    (entry,) = host.journal(VIF_ROW_ID=row_id)
    assert entry["SYSLOG_IDENTIFIER"] == "vif-driver-boot"
    assert entry.get("_SYSTEMD_UNIT") in (None, BOOT_PASS)


def test_what_is_there_is_not_put_back_twice(
    host: SystemdHypervisor, agent: SystemdProduct
) -> None:
    row_id = add_whole_port(host, "tapgone")
    vifctl(host, "reconcile")
    vifctl(host, "reconcile", "--restore", row_id)
    before = rows_of(host, "tapgone")

    done = host.run(["vifctl", "reconcile", "--restore", row_id], check=False)

    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert rows_of(host, "tapgone") == before


# ---- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["vdsm", None])
def test_a_record_that_somebody_else_wrote_is_not_taken(
    host: SystemdHypervisor, agent: SystemdProduct, user: str | None
) -> None:
    add_port(host, "tapgone", external_ids=libvirts_ids())
    vifctl(host, "reconcile")
    (entry,) = host.journal("--boot", f"--unit={SERVICE}", "--lines=1", "--grep=tapgone")
    forged = str(uuid.uuid4())

    host.run(["/usr/bin/python3", "-c", SEND, entry["VIF_ROW"], forged], user=user)
    wait_until(lambda: host.journal(VIF_ROW_ID=forged), 10, "the forged entry")
    listed = vifctl(host, "reconcile", "--list").json["removals"]
    done = host.run(["vifctl", "reconcile", "--restore", forged], check=False)

    assert json.loads(entry["VIF_ROW"])["Port"]["name"] == "tapgone"
    assert {forged, entry["VIF_ROW_ID"]} & {one["id"] for one in listed} == {entry["VIF_ROW_ID"]}
    assert done.returncode == 1
    assert f"the journal knows of no removed row {forged}" in done.stderr
    assert host.ovs.ports() == set()


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--list"]])
def test_vdsms_user_is_refused_in_one_line(
    host: SystemdHypervisor, agent: SystemdProduct, arguments: list[str]
) -> None:
    done = host.run(["vifctl", "reconcile", *arguments], user="vdsm", check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "vifctl: vifctl reconcile needs root; run it as root\n"


def test_the_agent_itself_refuses_vdsms_user(
    host: SystemdHypervisor, agent: SystemdProduct
) -> None:
    done = host.run(["/usr/bin/python3", "-c", KNOCK], user="vdsm")

    assert "reconcile is for root only" in done.stdout
