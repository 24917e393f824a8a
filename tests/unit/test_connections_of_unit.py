# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections the processes of a unit have."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from vif_driver.host import connections
from vif_driver.host.connections import Connection

UNIT = "neutron-openvswitch-agent.service"
OF_SYSTEM = f"system.slice/{UNIT}"
QUEUE = ipaddress.ip_address("192.0.2.1")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Without a process."""
    return tmp_path


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """The connections that the kernel tells of."""
    found: list[Connection] = []
    monkeypatch.setattr(connections, "established", lambda: found)
    return found


def process(proc: Path, number: int, group: str, *sockets: int) -> None:
    folder = proc / str(number)
    (folder / "fd").mkdir(parents=True)
    (folder / "cgroup").write_text(f"0::/{group}\n")
    (folder / "fd" / "0").symlink_to("/dev/null")
    for place, inode in enumerate(sockets, 1):
        (folder / "fd" / str(place)).symlink_to(f"socket:[{inode}]")


def connection(inode: int, port: int = 5672) -> Connection:
    return Connection(QUEUE, port, 107, inode)


def test_those_to_the_port_are_found(proc: Path, standing: list[Connection]) -> None:
    standing += [connection(71), connection(81)]
    process(proc, 7, OF_SYSTEM, 71, 72)
    process(proc, 8, OF_SYSTEM, 81)

    assert connections.of_unit(UNIT, {5672}, proc) == {71, 81}


@pytest.mark.parametrize(
    "other", [connection(71, 5673), connection(70)], ids=["port", "somebody else's"]
)
def test_others_are_not(proc: Path, standing: list[Connection], other: Connection) -> None:
    standing.append(other)
    process(proc, 7, OF_SYSTEM, 71)

    assert connections.of_unit(UNIT, {5672}, proc) == set()


def test_those_of_other_units_are_not(proc: Path, standing: list[Connection]) -> None:
    standing.append(connection(71))
    process(proc, 7, "system.slice/neutron-linuxbridge-agent.service", 71)
    process(proc, 8, OF_SYSTEM)

    assert connections.of_unit(UNIT, {5672}, proc) == set()


def test_nor_are_those_of_a_users_unit_of_the_same_name(
    proc: Path, standing: list[Connection]
) -> None:
    standing.append(connection(71))
    process(proc, 7, f"user.slice/user-1000.slice/user@1000.service/app.slice/{UNIT}", 71)

    assert connections.of_unit(UNIT, {5672}, proc) == set()


def test_a_process_that_has_just_ended_has_none(proc: Path, standing: list[Connection]) -> None:
    standing.append(connection(71))
    process(proc, 7, OF_SYSTEM, 71)
    (proc / "8").mkdir()

    assert connections.of_unit(UNIT, {5672}, proc) == {71}
