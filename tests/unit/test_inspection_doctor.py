# SPDX-License-Identifier: GPL-2.0-or-later
"""The doctor's checks, as far as they need no hypervisor; tests/lab/test_vifctl.py has the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vif_driver.config import Config, FirewallDriver
from vif_driver.errors import HostError
from vif_driver.host import accounts, iptables, kernel
from vif_driver.host.accounts import Account
from vif_driver.host.ovn_controller import Controller
from vif_driver.host.southbound import Chassis, Encap
from vif_driver.inspection import doctor
from vif_driver.inspection.doctor import floors, hooks, neutron, ovn, vnics
from vif_driver.inspection.finding import Finding, State
from vif_driver.inspection.sight import Sight

from .conftest import VNIC_ID, OvsdbServer
from .inspected_host import Devices, Vms, a_vm, add_plugged, an_interface, inspected

SHORT = VNIC_ID[:11]

# ---- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("22.03.2", State.WARNING),
        ("22.09.0", State.WARNING),
        ("23.09.5", State.WARNING),
        ("23.09.6", State.OK),
        ("24.03.3", State.WARNING),
        ("24.03.4", State.OK),
        ("24.09.0", State.WARNING),
        ("24.09.1", State.OK),
        ("25.03.0", State.OK),
        ("24.06.1", State.WARNING),
    ],
)
def test_a_fix_is_looked_for_in_its_release_line(version: str, state: State) -> None:
    assert floors.compare("OVN", version, floors.OVN).state is state


def test_the_lowest_floor_that_is_missed_is_named() -> None:
    finding = floors.compare("OVN", "22.06.1", floors.OVN)

    assert "OVN 22.06.1 knows no port on two hosts at once" in finding.detail
    assert finding.remedy == "update it to 22.09, or later"


@pytest.mark.parametrize("version", [None, "", "unreleased"])
def test_a_version_that_is_not_told_is_unknown(version: str | None) -> None:
    assert floors.compare("Open vSwitch", version, floors.OPEN_VSWITCH).state is State.UNKNOWN


# ---- hooks ---------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """VDSM's hooks with ours installed for two events."""
    for event in ("one", "two"):
        (tmp_path / event).mkdir()
        (tmp_path / event / hooks.HOOK).touch(mode=0o555)
    return tmp_path


def test_hooks_that_are_there_are_good(installed: Path) -> None:
    (finding,) = hooks.check(["one", "two"], installed)

    assert finding.state is State.OK


def test_a_hook_that_is_missing_is_named(installed: Path) -> None:
    (installed / "two" / hooks.HOOK).unlink()

    (finding,) = hooks.check(["one", "two"], installed)

    assert finding.is_bad and f"{installed}/two/50_vif_driver is not there" in finding.detail


def test_a_hook_that_vdsm_may_not_run_is_named(installed: Path) -> None:
    (installed / "two" / hooks.HOOK).chmod(0o544)

    (finding,) = hooks.check(["one", "two"], installed)

    assert finding.is_bad and "is not executable" in finding.detail


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("ovirt_provider_ovn_hook", "ovirt-provider-ovn-driver"),
        ("50_openstacknet", "vdsm-hook-openstacknet"),
    ],
)
def test_a_hook_that_does_the_same_work_is_named(installed: Path, name: str, package: str) -> None:
    (installed / "one" / name).touch(mode=0o755)

    (finding,) = hooks.check(["one", "two"], installed)

    assert finding.is_bad and finding.remedy == f"remove the package: dnf remove {package}"


# ---- OVN -----------------------------------------------------------------------------------------


@pytest.fixture
def ovn_host(ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> OvsdbServer:
    """Settings of OVN's, and no ovn-controller."""
    for key, value in {
        "system-id": "hv1",
        "hostname": "hv1.example.com",
        "ovn-remote": "tcp:192.0.2.1:6642",
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": "192.0.2.11",
    }.items():
        ovsdb_server.vsctl("set", "Open_vSwitch", ".", f'external_ids:{key}="{value}"')

    async def nothing(_: Sight) -> Controller | None:
        return None

    monkeypatch.setattr(Sight, "controller", nothing)
    return ovsdb_server


def registered(monkeypatch: pytest.MonkeyPatch, *hosts: Chassis) -> None:
    async def chassis(_: Sight) -> list[Chassis]:
        return list(hosts)

    monkeypatch.setattr(Sight, "chassis", chassis)


def host(name: str, hostname: str, *addresses: str) -> Chassis:
    return Chassis(name, hostname, tuple(Encap("geneve", address) for address in addresses))


MINE = host("hv1", "hv1.example.com", "192.0.2.11")


@pytest.mark.parametrize(
    ("hosts", "state", "words"),
    [
        ([MINE, host("hv2", "hv2", "192.0.2.12")], State.OK, "hv1, and no other"),
        ([], State.BAD, "the southbound database has no chassis hv1"),
        ([host("hv1", "hv7", "192.0.2.11")], State.BAD, "hv1 is registered by hv7"),
        ([host("hv1", "hv1.example.com", "192.0.2.9")], State.WARNING, "with 192.0.2.9, and"),
        ([MINE, host("old", "x", "192.0.2.11")], State.BAD, "old (x) has this host's tunnel"),
    ],
)
def test_what_the_southbound_database_takes_this_host_for(
    ovn_host: OvsdbServer,
    monkeypatch: pytest.MonkeyPatch,
    hosts: list[Chassis],
    state: State,
    words: str,
) -> None:
    registered(monkeypatch, *hosts)

    (finding,) = inspected(ovn.registration, ovn_host)

    assert finding.state is state and words in finding.detail


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ovn-encap-type", "", "ovn-encap-type is not set"),
        ("ovn-encap-type", "geneve,gnv", "has 'gnv', which OVN does not know"),
        ("ovn-encap-ip", "", "ovn-encap-ip is not set"),
    ],
)
def test_tunnels_that_are_not_set(ovn_host: OvsdbServer, key: str, value: str, words: str) -> None:
    ovn_host.vsctl("set", "Open_vSwitch", ".", f'external_ids:{key}="{value}"')

    (finding,) = inspected(ovn.encapsulation, ovn_host)

    assert finding.is_bad and words in finding.detail


@pytest.mark.parametrize("check", [ovn.identity, ovn.encapsulation, ovn.remote, ovn.controller])
def test_a_host_that_is_none_of_ovns_is_well(
    ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch, check: doctor.Check
) -> None:
    async def nothing(_: Sight) -> None:
        return None

    monkeypatch.setattr(Sight, "controller", nothing)

    (finding,) = inspected(check, ovsdb_server)

    assert (finding.state, finding.detail) == (State.OK, "this host is none of OVN's")


# ---- Neutron -------------------------------------------------------------------------------------


@pytest.fixture
def neutron_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neutron's configuration, for its own group only."""
    folder = tmp_path / "neutron"
    folder.mkdir(mode=0o750)
    file = folder / "neutron.conf"
    file.write_text("[securitygroup]\nfirewall_driver = openvswitch\n")
    file.chmod(0o640)
    for path in (folder, file):
        os.chown(path, 0, 4242)
    for parent in folder.parents:
        parent.chmod(parent.stat().st_mode | 0o001)
    monkeypatch.setattr(neutron, "_FOLDER", folder)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return folder


def agent_runs_as(monkeypatch: pytest.MonkeyPatch, account: Account) -> None:
    async def process(_: Sight, name: str) -> int | None:
        return 42

    monkeypatch.setattr(Sight, "process", process)
    monkeypatch.setattr(accounts, "of_process", lambda number: account)


@pytest.mark.parametrize(
    ("account", "state"),
    [
        (Account(0, frozenset()), State.OK),
        (Account(990, frozenset((990, 4242))), State.OK),
        (Account(990, frozenset((990,))), State.WARNING),
    ],
)
def test_whether_the_agent_may_read_neutrons_configuration(
    neutron_folder: Path, monkeypatch: pytest.MonkeyPatch, account: Account, state: State
) -> None:
    agent_runs_as(monkeypatch, account)

    (finding,) = inspected(neutron.configuration)

    assert finding.state is state
    assert ("usermod -a -G neutron vif-agent" in finding.remedy) is (state is State.WARNING)


def test_a_configuration_that_is_not_needed(neutron_folder: Path) -> None:
    config = Config(firewall_driver=FirewallDriver.OPENVSWITCH)

    (finding,) = inspected(neutron.configuration, config=config)

    assert finding.state is State.OK and "not needed" in finding.detail


def bridge_vms() -> Vms:
    return Vms([a_vm(an_interface(f"qbr{SHORT}", f"qtp{SHORT}"))])


@pytest.mark.parametrize(
    ("everywhere", "policy", "state"),
    [(True, "DROP", State.WARNING), (True, "ACCEPT", State.OK), (False, "DROP", State.OK)],
)
def test_the_policy_that_stops_linux_bridge_vnics(
    devices: set[str],
    monkeypatch: pytest.MonkeyPatch,
    everywhere: bool,
    policy: str,
    state: State,
) -> None:
    monkeypatch.setattr(kernel, "filters_all_bridges", lambda: everywhere)
    monkeypatch.setattr(iptables, "forward_policy", lambda: policy)

    (finding,) = inspected(neutron.bridge_netfilter, vms=bridge_vms())

    assert finding.state is state


# ---- vNICs ---------------------------------------------------------------------------------------


def test_two_vnics_with_one_id_are_named(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    devices |= {"vnet1", "vnet2"}
    for tap in ("vnet1", "vnet2"):
        add_plugged(ovsdb_server, tap, VNIC_ID, ovn_installed="true")
    ovsdb_server.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-remote=tcp:x:1")

    (finding,) = inspected(vnics.identities, ovsdb_server)

    assert finding.is_bad and f"have the id {VNIC_ID}: vnet1, vnet2" in finding.detail


def test_a_port_without_its_device_is_named(ovsdb_server: OvsdbServer, devices: set[str]) -> None:
    add_plugged(ovsdb_server, "vnet1", VNIC_ID)

    (finding,) = inspected(vnics.rows, ovsdb_server, vms=Vms([]))

    assert (finding.state, finding.remedy[-24:]) == (State.WARNING, "ovs-vsctl del-port vnet1")


# ---- all of them ---------------------------------------------------------------------------------


def test_a_check_that_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(_: Sight) -> list[Finding]:
        raise ZeroDivisionError("by zero")

    async def refuse(_: Sight) -> list[Finding]:
        raise HostError("it is broken", "mend it")

    monkeypatch.setattr(doctor, "CHECKS", (("crash", crash), ("refuse", refuse)))

    found = inspected(doctor.examine)

    assert [(one.name, one.state) for one in found] == [
        ("crash", State.UNKNOWN),
        ("refuse", State.BAD),
    ]
    assert str(found[1]) == "it is broken; mend it"


def test_every_check_answers_a_user_who_may_see_nothing(devices: set[str]) -> None:
    found = inspected(doctor.examine, devices=Devices(), vms=Vms(None))

    assert not [finding for finding in found if "check failed" in finding.detail]
    assert {finding.name for finding in found} == {name for name, _ in doctor.CHECKS}
