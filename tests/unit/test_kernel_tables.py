# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel tells of connections and of what devices have dropped, and what is made of it."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vif_driver.errors import HostError
from vif_driver.host import connections, link_statistics, netlink_dump, ovn_controller, processes
from vif_driver.host.connections import Connection
from vif_driver.host.ovn_controller import Controller

from .conftest import RunInNamespace

DATABASE = ipaddress.ip_address("192.0.2.1")
REMOTE = f"ssl:{DATABASE}:6642"

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x1002  # without packet information


# ---- connections -----------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_connection_that_stands_is_seen(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((address, port)) as client:
            inode = os.fstat(client.fileno()).st_ino

            found = [one for one in connections.established() if one.inode == inode]

    assert found == [Connection(ipaddress.ip_address(address), port, os.getuid(), inode)]


def test_who_listens_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        inode = os.fstat(server.fileno()).st_ino

        assert inode not in [one.inode for one in connections.established()]


def test_an_ipv4_address_in_one_of_ipv6_is_what_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.socket(socket.AF_INET6) as client:
            client.connect(("::ffff:127.0.0.1", port))
            inode = os.fstat(client.fileno()).st_ino

            (found,) = (one for one in connections.established() if one.inode == inode)

    assert found.address == ipaddress.ip_address("127.0.0.1")


def test_own_sockets_are_known() -> None:
    with socket.socket() as one, open(os.devnull) as file:
        known = connections.own_sockets()

        assert os.fstat(one.fileno()).st_ino in known
        assert os.fstat(file.fileno()).st_ino not in known


def test_a_kernel_that_does_not_tell_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_BY_FAMILY", 99)

    with pytest.raises(HostError, match="Invalid argument"):
        connections.established()


# ---- whether ovn-controller is connected -----------------------------------------------------


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Connection]]:
    """The connections of a host on which ovn-controller runs as user 987."""
    found: list[Connection] = []
    monkeypatch.setattr(ovn_controller, "find", lambda: Controller(42, None))
    monkeypatch.setattr(processes, "user", lambda process: 987 if process == 42 else None)
    monkeypatch.setattr(connections, "established", lambda: found)
    monkeypatch.setattr(connections, "own_sockets", lambda: {555})
    yield found


MEMBER = Connection(DATABASE, 6642, 987, 1)


@pytest.mark.parametrize(
    ("connection", "connected"),
    [
        (MEMBER, True),
        (Connection(DATABASE, 6641, 987, 1), False),
        (Connection(ipaddress.ip_address("192.0.2.9"), 6642, 987, 1), False),
        (Connection(DATABASE, 6642, 0, 1), False),
        (Connection(DATABASE, 6642, 987, 555), False),
    ],
    ids=["its own", "another port", "another host", "another user", "ours"],
)
def test_a_connection_of_its_user_to_a_member_is_its_own(
    table: list[Connection], connection: Connection, connected: bool
) -> None:
    table.append(connection)

    assert ovn_controller.seems_connected(REMOTE) is connected


@pytest.mark.parametrize(
    "remote", [f"tcp:198.51.100.1:6642,{REMOTE}", "ssl:engine.example.com:6642"]
)
def test_any_member_will_do_and_a_name_stands_for_any_address(
    table: list[Connection], remote: str
) -> None:
    table.append(MEMBER)

    assert ovn_controller.seems_connected(remote) is True


def test_without_a_process_there_is_no_connection(
    table: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    table.append(MEMBER)
    monkeypatch.setattr(ovn_controller, "find", lambda: None)

    assert ovn_controller.seems_connected(REMOTE) is False


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("remote", ["unix:/run/ovn/ovnsb_db.sock", "nonsense"])
def test_of_a_database_that_is_not_on_the_network_nothing_is_seen(remote: str) -> None:
    assert ovn_controller.seems_connected(remote) is None


@pytest.mark.usefixtures("table")
def test_a_kernel_that_does_not_tell_leaves_it_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[Connection]:
        raise HostError("the kernel does not tell", "load the module")

    monkeypatch.setattr(connections, "established", refuse)

    assert ovn_controller.seems_connected(REMOTE) is None


def test_the_user_of_a_process_is_the_effective_one(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text("Name:\tx\nUid:\t0\t987\t0\t0\nGid:\t0\t0\t0\t0\n")

    assert processes.user(7, tmp_path) == 987
    assert processes.user(8, tmp_path) is None


# ---- what devices have dropped ---------------------------------------------------------------


def test_what_devices_have_dropped_is_what_the_kernel_counts(
    in_network_namespace: RunInNamespace,
) -> None:
    async def body() -> Any:
        with open("/dev/net/tun", "r+b", buffering=0) as guest:
            fcntl.ioctl(guest, _TUNSETIFF, struct.pack("16sH22x", b"tap0", _IFF_TAP))
            subprocess.run(["ip", "link", "set", "tap0", "txqueuelen", "10", "up"], check=True)
            index = socket.if_nametoindex("tap0")
            before = link_statistics.dropped()[index]
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("tap0", 0))
                for _ in range(50):  # which nobody reads
                    raw.send(b"\xff" * 12 + b"\x08\x00" + bytes(100))
            first = link_statistics.dropped()[index]
            shown = subprocess.run(
                ["ip", "-s", "-j", "link", "show", "tap0"], capture_output=True, check=True
            )
            return before, first, shown.stdout, link_statistics.dropped()[index]

    before, first, shown, last = in_network_namespace(body)

    counted = json.loads(shown)[0]["stats64"]
    assert before[1] == 0 and first[1] >= 30
    assert first[0] == counted["rx"]["dropped"] == last[0]
    # The kernel itself may send something meanwhile.
    assert first[1] <= counted["tx"]["dropped"] <= last[1]


def test_a_kernel_that_does_not_count_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_statistics, "_LINK_64", 0)

    with pytest.raises(HostError, match="Invalid argument"):
        link_statistics.dropped()


class Kernel:
    """Stands in for a netlink socket.

    Attributes:
        answers: to one question after the other.
    """

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, _: float) -> None:
        pass

    def setsockopt(self, *_: int) -> None:
        raise OSError("an old kernel")

    def send(self, _: bytes) -> None:
        pass

    def recv(self, _: int) -> bytes:
        return self.answers.pop(0)


def told(*bodies: bytes, flags: int = 0) -> bytes:
    """Give messages as the kernel does, with the one that ends an answer."""
    answer = b""
    for kind, body in [*((92, body) for body in bodies), (3, bytes(4))]:
        answer += struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
        answer += bytes(-len(answer) % 4)
    return answer


def test_every_message_of_an_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [b"12345678", b"abc", b""]
    monkeypatch.setattr(socket, "socket", lambda *_: Kernel(told(*bodies)))

    assert netlink_dump.dump(socket.NETLINK_ROUTE, 92, b"") == bodies


def test_an_answer_in_the_middle_of_which_something_changed_is_asked_for_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel(told(b"before", flags=0x10), told(b"after"))
    monkeypatch.setattr(socket, "socket", lambda *_: kernel)

    assert netlink_dump.dump(socket.NETLINK_ROUTE, 92, b"") == [b"after"]
