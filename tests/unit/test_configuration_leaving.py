# SPDX-License-Identifier: GPL-2.0-or-later
"""A host leaves OVN for good, even if the first who had it do so was killed in the middle."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from vif_driver.configuration import ovn_host, ovs_settings, record, transaction
from vif_driver.configuration.ovn_host import CONTROLLER, DATABASE, SWITCH
from vif_driver.configuration.transaction import Transaction
from vif_driver.host import ovsdb_once, units
from vif_driver.host.certificates import in_folder
from vif_driver.host.ovs_settings import MAPS, Tls, change
from vif_driver.host.units import Unit

from .conftest import OvsdbServer

OPEN_VSWITCH, IPSEC = "openvswitch.service", "openvswitch-ipsec.service"


class Killed(BaseException):
    """Stands for the end of the process."""


class Host:
    """Units of paper.

    Attributes:
        running: those that do.
        deadly: what kills who asks for it, such as "stop openvswitch-ipsec.service".
    """

    def __init__(self) -> None:
        self.running = {OPEN_VSWITCH, DATABASE, SWITCH, CONTROLLER, IPSEC}
        self.deadly = ""

    def look(self, name: str) -> Unit:
        runs = name in self.running
        return Unit(name, name in {OPEN_VSWITCH, DATABASE, SWITCH, CONTROLLER, IPSEC}, runs, runs)

    def start(self, name: str) -> None:
        self.running.add(name)
        self._die(f"start {name}")

    def stop(self, name: str) -> None:
        self._die(f"stop {name}")
        self.running.discard(name)

    def change_boot(self, _name: str) -> None:
        """What runs is what starts at boot here."""

    def _die(self, what: str) -> None:
        if what == self.deadly:
            self.deadly = ""
            raise Killed


@pytest.fixture
def host(ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> Host:
    """One of OVN's, with tunnels that can be encrypted."""
    host = Host()
    connect = functools.partial(ovsdb_once.connect, path=ovsdb_server.socket)
    monkeypatch.setattr(ovsdb_once, "connect", connect)
    for name in ("look", "start", "stop"):
        monkeypatch.setattr(units, name, getattr(host, name))
    for name in ("enable", "disable"):
        monkeypatch.setattr(units, name, host.change_boot)
    tls = Tls(in_folder(Path("/pki")))
    names = ("private_key", "certificate", "ca_cert")
    encrypted = dict(zip(names, map(str, tls.credentials.files)))
    settings = {"ovn-remote": "ssl:192.0.2.1:6642", "system-id": "hv1"}
    with connect(5.0) as database:
        change(database, {"external_ids": settings, "other_config": encrypted}, [tls])
    return host


def leave(changes: Transaction) -> None:
    ovn_host.leave(changes, list, force=False)


def leave_and_be_killed(folder: Path) -> None:
    # Not by begin(), which would take all back.
    with record.hold(folder) as note, pytest.raises(Killed):
        leave(Transaction("leave", note, "leave"))


def leave_after_all(folder: Path) -> list[str]:
    with transaction.begin("leave", folder, request="leave") as changes:
        leave(changes)
    return changes.recovered


def test_it_leaves(host: Host, tmp_path: Path) -> None:
    leave_after_all(tmp_path)

    assert host.running == {OPEN_VSWITCH, DATABASE, SWITCH}
    now = ovs_settings.look()
    assert {column: now.maps[column] for column in MAPS} == {
        "external_ids": {"system-id": "hv1"},
        "other_config": {},
    }
    assert now.tls is None


def test_ipsec_ends_though_its_settings_were_gone_when_somebody_was_killed(
    host: Host, tmp_path: Path
) -> None:
    host.deadly = f"stop {IPSEC}"
    leave_and_be_killed(tmp_path)

    assert leave_after_all(tmp_path) == ["an interrupted leave is finished"]
    assert IPSEC not in host.running


def test_a_database_that_was_started_only_for_this_stops_again(host: Host, tmp_path: Path) -> None:
    host.running = {CONTROLLER, IPSEC}
    host.deadly = f"start {DATABASE}"
    leave_and_be_killed(tmp_path)

    leave_after_all(tmp_path)

    assert host.running == set()


def test_unless_somebody_uses_it_by_then(host: Host, tmp_path: Path) -> None:
    host.running = {CONTROLLER, IPSEC}
    host.deadly = f"start {DATABASE}"
    leave_and_be_killed(tmp_path)
    host.running |= {OPEN_VSWITCH, SWITCH}

    leave_after_all(tmp_path)

    assert host.running == {OPEN_VSWITCH, DATABASE, SWITCH}
