# SPDX-License-Identifier: GPL-2.0-or-later
"""A host becomes one of OVN's: whom that may not disturb, and what is done without."""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import pytest

from vif_driver.configuration import (
    ovn_host,
    ovn_registered,
    ovs_settings,
    tls,
    transaction,
    tunnel,
)
from vif_driver.configuration.ovn import Central, Wanted
from vif_driver.configuration.ovn_host import CONTROLLER, DATABASE, SWITCH
from vif_driver.errors import HostError
from vif_driver.host import certificates, handed_credentials, ovsdb_once, units
from vif_driver.host.addresses import Ip
from vif_driver.host.certificates import in_folder
from vif_driver.host.ovs_settings import change
from vif_driver.host.units import Unit

from .conftest import OvsdbServer

HERE, THERE, TUNNEL = (ipaddress.ip_address(f"192.0.2.{number}") for number in (1, 2, 11))
OLD, NEW = f"tcp:{HERE}:6642", f"tcp:{THERE}:6642"
ELSEWHERE = Wanted((Central(THERE),), TUNNEL)

IPSEC = "openvswitch-ipsec.service"
FILES = in_folder(Path("/pki"))
ENCRYPTED = Wanted((Central(HERE),), TUNNEL, credentials=FILES, ipsec=True)


class Host:
    """Units of paper.

    Attributes:
        running: those that do.
        broken: those that don't start.
        folder: where it is noted what there was before.
        vms: who has vNICs of OVN's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vms: Sequence[str] = ()
        self.running = {"openvswitch.service", DATABASE, SWITCH, CONTROLLER}
        self.broken: set[str] = set()
        self.enabled = {"openvswitch.service", CONTROLLER}
        self._there = {*self.running, IPSEC}

    def look(self, name: str) -> Unit:
        is_there = name in self._there
        return Unit(name, is_there, name in self.running, name in self.enabled)

    def start(self, name: str) -> None:
        if name in self.broken:
            raise HostError(
                f"systemctl start {name} fails (it is broken)", f"see journal of {name}"
            )
        self.running.add(name)

    def stop(self, name: str) -> None:
        self.running.discard(name)

    def join(self, wanted: Wanted, *, force: bool = False) -> list[str]:
        """Do it; gives what is said besides."""
        with transaction.begin("join", self.folder) as changes:
            return ovn_host.join(wanted, changes, lambda: self.vms, timeout=None, force=force)

    @property
    def remote(self) -> str:
        """The database that it has."""
        return ovs_settings.look().external_ids["ovn-remote"]


@pytest.fixture
def host(ovsdb_server: OvsdbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """One of OVN's."""
    host = Host(tmp_path / "state")
    connect = functools.partial(ovsdb_once.connect, path=ovsdb_server.socket)

    async def find(_wanted: Ip | str) -> Ip:
        return TUNNEL

    async def refuse_taken(*_whom: object) -> None:
        """Nobody else has the name."""

    monkeypatch.setattr(ovsdb_once, "connect", connect)
    for name in ("look", "start", "stop"):
        monkeypatch.setattr(units, name, getattr(host, name))
    monkeypatch.setattr(units, "enable", host.enabled.add)
    monkeypatch.setattr(units, "disable", host.enabled.discard)
    monkeypatch.setattr(tls, "check", lambda _credentials: None)
    monkeypatch.setattr(certificates, "names", lambda _certificate: {"hv1"})
    monkeypatch.setattr(tunnel, "find", find)
    monkeypatch.setattr(ovn_registered, "refuse_taken", refuse_taken)
    with connect(5.0) as database:
        change(database, {"external_ids": {"ovn-remote": OLD, "system-id": "hv1"}}, ())
    return host


# ---- whom it may not disturb ---------------------------------------------------------------------


def test_vms_keep_a_host_from_another_ovn(host: Host) -> None:
    host.vms = ["VM web", "VM db"]

    with pytest.raises(HostError) as raised:
        host.join(ELSEWHERE)

    assert str(raised.value) == (
        "VM web, VM db on this host would lose the network: OVN's southbound database would no "
        f"longer be {OLD} but {NEW}; put the host into maintenance first, or say --force"
    )
    assert host.remote == OLD


def test_without_vms_it_is_given_to_another_one(host: Host) -> None:
    host.join(ELSEWHERE)

    assert host.remote == NEW


def test_and_with_them_if_that_is_meant(host: Host) -> None:
    host.vms = ["VM web"]

    host.join(ELSEWHERE, force=True)

    assert host.remote == NEW


def test_more_members_of_the_same_one_disturb_nobody(host: Host) -> None:
    host.vms = ["VM web"]

    host.join(Wanted((Central(THERE), Central(HERE)), TUNNEL))

    assert host.remote == f"{NEW},{OLD}"


# ---- what is done without ------------------------------------------------------------------------


def test_tunnels_can_be_encrypted_from_then_on(host: Host) -> None:
    assert host.join(ENCRYPTED) == []

    assert IPSEC in host.running & host.enabled


def test_ipsec_that_was_asked_for_must_start(host: Host) -> None:
    host.broken = {IPSEC}

    with pytest.raises(HostError, match=f"systemctl start {IPSEC} fails"):
        host.join(ENCRYPTED)

    assert host.remote == OLD


def test_ipsec_that_was_not_is_done_without(host: Host) -> None:
    host.broken = {IPSEC}

    notes = host.join(dataclasses.replace(ENCRYPTED, ipsec_may_fail=True))

    assert notes == [
        f"tunnels cannot be encrypted: systemctl start {IPSEC} fails (it is broken); if OVN is to "
        f"encrypt them, see journal of {IPSEC}, and run this again"
    ]
    assert host.remote == f"ssl:{HERE}:6642"
    assert IPSEC not in host.enabled


def test_an_agent_that_does_not_start_anew_is_done_without(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restart(name: str) -> None:
        raise HostError(f"systemctl restart {name} fails (it is broken)", "see its journal")

    host.running.add(handed_credentials.UNIT)
    monkeypatch.setattr(units, "restart", restart)
    monkeypatch.setattr(handed_credentials, "is_current", lambda _credentials: False)

    notes = host.join(Wanted((Central(HERE),), TUNNEL, credentials=in_folder()))

    assert notes == [
        "vif-agent does not have this host's certificate so far: systemctl restart "
        "vif-agent.service fails (it is broken); see its journal, then: systemctl restart "
        "vif-agent.service"
    ]
    assert host.remote == f"ssl:{HERE}:6642"
