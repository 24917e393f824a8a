# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings in Open vSwitch's database, on a real one."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vif_driver.configuration import ovs_settings, transaction
from vif_driver.configuration.ovs_settings import OpenVSwitchSettings
from vif_driver.errors import HostError, Unavailable
from vif_driver.host import ovsdb_once
from vif_driver.host.certificates import in_folder
from vif_driver.host.ovs_settings import Tls, change
from vif_driver.host.ovsdb_once import OvsdbOnce

from .conftest import OvsdbServer

OURS, OTHERS = Tls(in_folder(Path("/pki"))), Tls(in_folder(Path("/other")), is_ours=False)


@pytest.fixture
def database(ovsdb_server: OvsdbServer, monkeypatch: pytest.MonkeyPatch) -> OvsdbServer:
    """Open vSwitch's database, with a setting of somebody else's."""
    connect = functools.partial(ovsdb_once.connect, path=ovsdb_server.socket)
    monkeypatch.setattr(ovsdb_once, "connect", connect)
    ovsdb_server.vsctl("set", "Open_vSwitch", ".", "external_ids:hostname=hv1")
    return ovsdb_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where it is noted what was there before."""
    return tmp_path / "state"


def settings(**values: str | None) -> OpenVSwitchSettings:
    return OpenVSwitchSettings({"external_ids": values})


def fail() -> None:
    raise HostError("the roof leaks", "mend it")


def test_keys_are_set_changed_and_removed_and_others_stay(
    database: OvsdbServer, folder: Path
) -> None:
    database.vsctl("set", "Open_vSwitch", ".", "external_ids:a=1", "external_ids:b=1")

    with transaction.begin("test", folder) as changes:
        changes.make(settings(a="2", b=None, c="3 with spaces"))

    assert ovs_settings.look().external_ids == {"a": "2", "c": "3 with spaces", "hostname": "hv1"}


def test_what_is_so_already_is_told_apart(database: OvsdbServer) -> None:
    database.vsctl("set", "Open_vSwitch", ".", "external_ids:a=1")

    facts = settings(a="1", b="2", c=None).facts()

    assert [tuple(fact) for fact in facts] == [
        ("a is 1", True),
        ("b is 2", False),
        ("c is not set", True),
    ]


def test_all_keys_become_what_they_were(database: OvsdbServer, folder: Path) -> None:
    database.vsctl("set", "Open_vSwitch", ".", "external_ids:a=1", "external_ids:b=1")
    before = ovs_settings.look()

    with pytest.raises(HostError, match="leaks"), transaction.begin("test", folder) as changes:
        changes.make(settings(a="2", b=None, c="3"))
        fail()

    assert ovs_settings.look() == before


def test_a_key_that_somebody_has_changed_since_stays_and_is_named(
    database: OvsdbServer, folder: Path
) -> None:
    with (
        pytest.raises(HostError, match="a of Open vSwitch's database stays as it is"),
        transaction.begin("test", folder) as changes,
    ):
        changes.make(settings(a="2", c="3"))
        database.vsctl("set", "Open_vSwitch", ".", "external_ids:a=9")
        fail()

    assert ovs_settings.look().external_ids == {"a": "9", "hostname": "hv1"}


def test_the_certificate_is_where_ovs_vsctl_shows_it(database: OvsdbServer, folder: Path) -> None:
    with transaction.begin("test", folder) as changes:
        changes.make(OpenVSwitchSettings({}, [OURS]))

    assert "Certificate: /pki/ovn-cert.pem" in database.vsctl("get-ssl")
    assert ovs_settings.look().tls == OURS


def test_a_certificate_that_somebody_else_has_set_is_known_as_his(database: OvsdbServer) -> None:
    database.vsctl("set-ssl", *map(str, OTHERS.credentials.files))

    assert ovs_settings.look().tls == OTHERS


def test_the_same_files_are_so_already_whoever_has_set_them(database: OvsdbServer) -> None:
    database.vsctl("set-ssl", *map(str, OURS.credentials.files))

    assert [fact.is_so for fact in OpenVSwitchSettings({}, [OURS]).facts()] == [True]


@pytest.mark.parametrize("before", [None, OTHERS])
def test_the_certificate_becomes_what_it_was(
    database: OvsdbServer, folder: Path, before: Tls | None
) -> None:
    if before is not None:
        database.vsctl("set-ssl", *map(str, before.credentials.files))

    with pytest.raises(HostError, match="leaks"), transaction.begin("test", folder) as changes:
        changes.make(OpenVSwitchSettings({}, [OURS]))
        fail()

    assert ovs_settings.look().tls == before
    assert len(database.vsctl("--columns=_uuid", "list", "SSL").splitlines()) == (
        before is not None
    )


def test_a_database_that_does_not_answer_is_named(
    database: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.stop()

    with pytest.raises(Unavailable, match="Open vSwitch's database does not answer"):
        ovs_settings.look()


def test_what_is_set_outlasts_a_power_cut() -> None:
    sent: list[Any] = []

    class Database(OvsdbOnce):
        def __init__(self) -> None:
            """Of paper."""

        def transact(self, operations: Sequence[Mapping[str, Any]]) -> list[Any]:
            sent.extend(operations)
            return []

    change(Database(), {"external_ids": {"a": "1"}})

    assert [operation["op"] for operation in sent] == ["mutate", "commit"]
    assert sent[-1]["durable"] is True
