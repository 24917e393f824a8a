# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""vifctl on hypervisors of OVN's: what it shows of what works, and says of what is broken.

test_vifctl_doctor.py breaks the host itself; test_vifctl_neutron.py has vNICs of Neutron's agents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.conftest import PortMaker
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.ovn_central import Network
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.vifctl import PORT, TAP, Answer, bad, broken, product, vifctl, vm  # noqa: F401

HOOKS = "/usr/libexec/vdsm/hooks"


# ---- as it should be -----------------------------------------------------------------------------


def test_a_vnic_that_works_is_listed_with_all_that_is_known_of_it(host: Hypervisor, vm: Vm) -> None:
    answer = vifctl(host, "list")

    assert answer.status == 0
    assert answer.json == {
        "vnics": [
            {
                "id": PORT,
                "vm_id": vm.id,
                "vm_name": "vm1",
                "vm_state": "running",
                "mac": vm.nics[0].mac,
                "attachment": "ovn",
                "tap": TAP,
                "devices": [TAP],
                "link_up": True,
                "ready": True,
                "wrong": None,
            }
        ],
        "left_out": [],
    }


@pytest.mark.parametrize("wanted", [PORT, PORT.upper(), PORT[:4], TAP])
def test_the_path_of_a_vnic_that_works_is_good_to_the_tunnel(
    host: Hypervisor, vm: Vm, wanted: str
) -> None:
    answer = vifctl(host, "trace", wanted)

    assert answer.status == 0
    assert [(hop["name"], hop["state"]) for hop in answer.json["hops"]] == [
        (name, "ok")
        for name in (
            "vm",
            "link",
            "tap",
            "integration bridge",
            "port",
            "ovn-controller",
            "logical port",
            "chassis",
            "flows",
            "tunnel",
            "mtu",
        )
    ]
    assert answer.json["diagnosis"] is None


def test_a_host_that_is_well_passes_the_doctor(host: Hypervisor, vm: Vm) -> None:
    answer = vifctl(host, "doctor")

    assert answer.status == 0
    assert not bad(answer)
    states = {check["name"]: check["state"] for check in answer.json["checks"]}
    del states["versions"]
    assert set(states.values()) == {"ok"}, states


def test_the_status_tells_of_the_agent_and_what_it_needs(
    host: Hypervisor, product: Product, vm: Vm
) -> None:
    answer = vifctl(host, "status")

    assert answer.status == 0
    assert answer.json["agent"]["pid"] == product.agent.pid
    assert answer.json["agent"]["answers"] is True
    assert {part["name"]: part["state"] for part in answer.json["parts"]} == {
        "open vswitch": "ok",
        "integration bridge": "ok",
        "ovn-controller": "ok",
        "libvirt": "ok",
    }


def test_text_is_aligned_and_has_no_colours_off_a_terminal(host: Hypervisor, vm: Vm) -> None:
    heading, line = host.output(["vifctl", "list"]).splitlines()

    assert re.split(" {2,}", heading)[:4] == ["VM", "STATE", "VNIC", "ATTACHMENT"]
    assert line.index(PORT) == heading.index("VNIC")
    assert "\033" not in host.output(["vifctl", "doctor"])


# ---- to whom it is shown -------------------------------------------------------------------------


def test_an_ordinary_user_is_shown_vnics_and_told_what_was_left_out(
    host: Hypervisor, vm: Vm
) -> None:
    answer = vifctl(host, "list", user="nobody")
    (vnic,) = answer.json["vnics"]

    assert answer.status == 0
    assert (vnic["id"], vnic["vm_name"], vnic["tap"]) == (PORT, "vm1", TAP)
    assert vnic["ready"] is None
    (left_out,) = answer.json["left_out"]
    assert "run vifctl as root" in left_out


def test_an_ordinary_user_is_told_whether_the_agent_runs(
    host: Hypervisor, product: Product, vm: Vm
) -> None:
    running = vifctl(host, "status", user="nobody")
    product.stop()
    with broken(product.start):
        stopped = vifctl(host, "status", user="nobody")

    assert (running.status, running.json["agent"]["running"]) == (0, True)
    assert (stopped.status, stopped.json["agent"]["running"]) == (1, False)


def test_an_ordinary_user_sees_no_more_of_a_path_than_the_devices(host: Hypervisor, vm: Vm) -> None:
    answer = vifctl(host, "trace", TAP, user="nobody")
    states = {hop["name"]: hop["state"] for hop in answer.json["hops"]}

    assert answer.status == 0
    assert (states["vm"], states["tap"], states["port"]) == ("ok", "ok", "unknown")


def test_a_vnic_that_is_not_here_is_no_usage_error(host: Hypervisor, vm: Vm) -> None:
    done = host.run(["vifctl", "trace", "ffffffff"], check=False)

    assert done.returncode == 1
    assert "this host has no vNIC 'ffffffff'" in done.stderr


# ---- a vNIC with one thing broken ----------------------------------------------------------------


def diagnosis(answer: Answer) -> dict[str, Any]:
    assert answer.status == 1
    found: dict[str, Any] = answer.json["diagnosis"]
    return found


def test_a_tap_that_is_down_is_the_diagnosis(host: Hypervisor, vm: Vm) -> None:
    host.ip(f"link set {TAP} down")
    with broken(lambda: host.ip(f"link set {TAP} up")):
        found = diagnosis(vifctl(host, "trace", PORT))

    assert (found["name"], found["remedy"]) == ("tap", f"set it up: ip link set {TAP} up")


def test_a_link_that_the_engine_set_down_is_the_diagnosis(host: Hypervisor, vm: Vm) -> None:
    vdsm = Vdsm(host)
    vdsm.update_nic(vm, vm.nics[0], link_up=False)
    with broken(lambda: vdsm.update_nic(vm, vm.nics[0], link_up=True)):
        found = diagnosis(vifctl(host, "trace", PORT))

    assert (found["name"], found["remedy"]) == ("link", "set its link state to Up in the engine")


@pytest.fixture
def other(lab: Lab, host: Hypervisor, product: Product, new_port: PortMaker) -> Iterator[Vm]:
    """Another VM on the first hypervisor, to be broken for good."""
    port = new_port()
    vm = Vm("vm2", [Nic.ovn(port.name, port.mac)], dhcp=False)
    Vdsm(host).create_vm(vm)
    host.ovs.wait_ready(vm.nics[0].tap)
    yield vm
    Vdsm(host).destroy_vm(vm)


def test_a_port_deleted_from_the_integration_bridge_is_the_diagnosis(
    host: Hypervisor, product: Product, other: Vm
) -> None:
    nic = other.nics[0]
    product.stop()  # it would plug the port again
    with broken(product.start):
        host.vsctl("del-port", "br-int", nic.tap)
        found = diagnosis(vifctl(host, "trace", nic.tap))
        listed = next(v for v in vifctl(host, "list").json["vnics"] if v["id"] == nic.vnic_id)

    assert (found["name"], found["detail"]) == ("port", f"Open vSwitch has no port {nic.tap}")
    assert (listed["ready"], listed["wrong"]["name"]) == (False, "port")


def test_a_logical_port_that_is_gone_is_the_diagnosis(
    lab: Lab, host: Hypervisor, other: Vm
) -> None:
    nic = other.nics[0]
    lab.central.nbctl("--wait=hv", "lsp-del", nic.vnic_id)

    found = diagnosis(vifctl(host, "trace", nic.tap))

    assert found["name"] == "logical port"
    assert found["detail"] == f"the southbound database has no logical port {nic.vnic_id}"


def test_a_port_requested_elsewhere_is_the_diagnosis(lab: Lab, host: Hypervisor, other: Vm) -> None:
    nic = other.nics[0]
    wanted = "options:requested-chassis=hv9"
    lab.central.nbctl("--wait=hv", "set", "Logical_Switch_Port", nic.vnic_id, wanted)

    found = diagnosis(vifctl(host, "trace", nic.tap))

    assert found["name"] == "chassis"
    assert "requested-chassis of the logical port is hv9, this host is hv1" in found["detail"]


def test_a_port_that_another_host_took_is_the_diagnosis(
    lab: Lab, host: Hypervisor, other: Vm
) -> None:
    nic = other.nics[0]
    # hv2 alone may have it, until that is forgotten: then it stays where it is.
    lab.hosts[1].vsctl(
        *["add-port", "br-int", "thief", "--", "set", "Interface", "thief", "type=internal"],
        f"external_ids:iface-id={nic.vnic_id}",
    )
    port = ("Logical_Switch_Port", nic.vnic_id, "options")
    with broken(lambda: lab.hosts[1].vsctl("del-port", "thief")):
        lab.central.nbctl("set", *port[:2], "options:requested-chassis=hv2")
        lab.central.wait_bound(nic.vnic_id, "hv2")
        host.ovn_controller.suspend()
        with broken(host.ovn_controller.resume):
            lab.central.nbctl("--wait=sb", "remove", *port, "requested-chassis")
            hops = vifctl(host, "trace", nic.tap).json["hops"]

    chassis = next(hop for hop in hops if hop["name"] == "chassis")
    assert chassis["detail"] == "the logical port is bound to hv2, this host is hv1"


def test_a_network_without_its_bridge_mapping_is_the_diagnosis(
    lab: Lab, host: Hypervisor, vm: Vm, network: Network
) -> None:
    lab.central.nbctl(
        *f"--wait=hv lsp-add {network.name} outside -- lsp-set-type outside localnet".split(),
        *["--", "lsp-set-addresses", "outside", "unknown", "--", "lsp-set-options", "outside"],
        "network_name=physnet1",
    )
    with broken(lambda: lab.central.remove_port("outside")):
        found = diagnosis(vifctl(host, "trace", PORT))

    assert found["name"] == "localnet"
    assert "ovn-bridge-mappings=physnet1:BRIDGE" in found["remedy"]


def test_a_row_whose_vm_is_gone_is_listed_as_such(host: Hypervisor, vm: Vm) -> None:
    gone = "dddddddd-0000-4000-8000-00000000000d"
    host.vsctl(
        *["--no-wait", "add-port", "br-int", "tapdddddddd-00"],
        *["--", "set", "Interface", "tapdddddddd-00"],
        f"external_ids:iface-id={gone}",
        f"external_ids:vm-id={gone}",
        "external_ids:attached-mac=fa:16:3e:00:00:01",
    )
    with broken(lambda: host.vsctl("--if-exists", "del-port", "tapdddddddd-00")):
        answer = vifctl(host, "list")

    vnic = next(vnic for vnic in answer.json["vnics"] if vnic["id"] == gone)
    assert (answer.status, vnic["vm_state"], vnic["ready"]) == (1, "gone", False)
    assert f"libvirt has no VM {gone}" in vnic["wrong"]["detail"]
