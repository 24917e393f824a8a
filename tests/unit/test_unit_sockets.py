# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections the processes of a unit have."""

from __future__ import annotations

from pathlib import Path

import pytest

from vif_driver.host.unit_sockets import connections

UNIT = "neutron-openvswitch-agent.service"
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
QUEUES = "00000000:00000000 00:00000000 00000000   107        0"
ROW = f"   0: 0100007F:C350 {{remote}} {{state}} {QUEUES} {{inode}} 1"
PORT = "0100007F:1628"  # 5672
PORT_IPV6 = "B80D0120000000000000000007000000:1628"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Without a process."""
    return tmp_path


def process(
    proc: Path, number: int, group: str, sockets: list[int], tcp: list[str], tcp6: list[str]
) -> None:
    folder = proc / str(number)
    (folder / "fd").mkdir(parents=True)
    (folder / "net").mkdir()
    (folder / "cgroup").write_text(f"0::/{group}\n")
    (folder / "fd" / "0").symlink_to("/dev/null")
    for place, inode in enumerate(sockets, 1):
        (folder / "fd" / str(place)).symlink_to(f"socket:[{inode}]")
    for name, rows in (("tcp", tcp), ("tcp6", tcp6)):
        (folder / "net" / name).write_text("\n".join([HEAD, *rows]) + "\n")


def row(inode: int, remote: str = PORT, state: str = "01") -> str:
    return ROW.format(remote=remote, state=state, inode=inode)


def test_a_connection_to_the_port_is_found(proc: Path) -> None:
    process(proc, 7, f"system.slice/{UNIT}", [71, 72], [row(71)], [row(72, PORT_IPV6)])

    assert connections(UNIT, {5672}, proc) == {71, 72}


@pytest.mark.parametrize(
    "other",
    [row(71, state="02"), row(71, "0100007F:1629"), row(70)],
    ids=["state", "port", "inode"],
)
def test_others_are_not(proc: Path, other: str) -> None:
    process(proc, 7, f"system.slice/{UNIT}", [71], [other], [])

    assert connections(UNIT, {5672}, proc) == set()


def test_those_of_other_units_are_not(proc: Path) -> None:
    process(proc, 7, "system.slice/neutron-linuxbridge-agent.service", [71], [row(71)], [])
    (proc / "self").mkdir()

    assert connections(UNIT, {5672}, proc) == set()


def test_nor_are_those_of_a_users_unit_of_the_same_name(proc: Path) -> None:
    group = f"user.slice/user-1000.slice/user@1000.service/app.slice/{UNIT}"
    process(proc, 7, group, [71], [row(71)], [])

    assert connections(UNIT, {5672}, proc) == set()
