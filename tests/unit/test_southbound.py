# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions to a real southbound database, in the clear and by TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import southbound
from vif_driver.host.certificates import Credentials
from vif_driver.host.southbound import (
    Binding,
    Chassis,
    Encap,
    Remote,
    Southbound,
    Standing,
    parse_remotes,
)

from .conftest import VNIC_ID
from .database_server import free_port
from .southbound_server import Authority, SouthboundServer


@pytest.fixture(scope="module")
def in_the_clear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SouthboundServer]:
    """A southbound database, for :func:`server`."""
    server = SouthboundServer(tmp_path_factory.mktemp("clear"))
    yield server
    server.stop()


@pytest.fixture
def server(in_the_clear: SouthboundServer) -> SouthboundServer:
    """A southbound database that knows two hosts."""
    in_the_clear.reset()
    in_the_clear.add_chassis("hv1", "192.0.2.11", "hv1.example.com")
    in_the_clear.add_chassis("hv2", "192.0.2.12")
    return in_the_clear


def ask(
    remote: str, credentials: Credentials | None = None, timeout: float = 3.0
) -> Binding | None:
    return asyncio.run(Southbound(remote, credentials).binding(VNIC_ID, timeout))


# ---- ovn-remote ----------------------------------------------------------------------------------


def test_members_are_taken_apart() -> None:
    text = "ssl:engine.example.com:6642, tcp:192.0.2.1:6641,ssl:[2001:db8::1]:6642,unix:/run/sb"

    assert parse_remotes(text) == [
        Remote("ssl", "engine.example.com", 6642),
        Remote("tcp", "192.0.2.1", 6641),
        Remote("ssl", "2001:db8::1", 6642),
        Remote("unix", "/run/sb"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp:192.0.2.1",
        "ptcp:6642",
        "tcp:192.0.2.1:0",
        "tcp:192.0.2.1:65536",
        "unix:",
        "ssl:a:b",
        "tcp:192.0.2.1:6642,",
        "http://engine:6642",
        "tcp:engine :6642",
    ],
)
def test_a_malformed_remote_is_refused(text: str) -> None:
    with pytest.raises(HostError, match="malformed"):
        parse_remotes(text)


def test_an_ipv6_address_without_brackets_is_told_apart() -> None:
    with pytest.raises(HostError, match=r"without brackets; write it like ssl:\[2001"):
        parse_remotes("ssl:2001:db8::1:6642")


@pytest.mark.parametrize("text", ["ssl:[2001:db8::1]:6642", "tcp:a.b:1", "unix:/run/x"])
def test_a_member_is_written_as_it_was(text: str) -> None:
    assert [str(remote) for remote in parse_remotes(text)] == [text]


# ---- answers -------------------------------------------------------------------------------------


def test_a_logical_port_is_found_with_its_host(server: SouthboundServer) -> None:
    options = {"requested-chassis": "hv1,hv2", "other": "x"}
    server.add_port(VNIC_ID, chassis="hv1", options=options, localnet="physnet1")

    assert ask(server.remote) == Binding(
        logical_port=VNIC_ID,
        type="",
        chassis="hv1",
        requested=("hv1", "hv2"),
        up=True,
        localnets=("physnet1",),
    )


def test_a_logical_port_that_nobody_has_claimed(server: SouthboundServer) -> None:
    server.add_port(VNIC_ID)

    binding = ask(server.remote)

    assert binding == Binding(VNIC_ID, "", None, (), None, ())


def test_a_logical_port_that_is_not_there(server: SouthboundServer) -> None:
    server.add_port("another")

    assert ask(server.remote) is None


def test_the_hosts_are_listed_with_their_tunnels(server: SouthboundServer) -> None:
    hosts = asyncio.run(Southbound(server.remote).chassis())

    assert sorted(hosts, key=lambda host: host.name) == [
        Chassis("hv1", "hv1.example.com", (Encap("geneve", "192.0.2.11"),)),
        Chassis("hv2", "hv2", (Encap("geneve", "192.0.2.12"),)),
    ]


def test_an_answer_of_many_hosts_is_read_whole(server: SouthboundServer) -> None:
    server.add_many_chassis(300)

    assert len(asyncio.run(Southbound(server.remote).chassis())) == 302


# ---- members that do not answer ------------------------------------------------------------------


def test_the_next_member_is_asked_if_one_is_down(server: SouthboundServer) -> None:
    server.add_port(VNIC_ID)

    assert ask(f"tcp:127.0.0.1:{free_port()},{server.remote}") is not None


def test_the_next_member_is_asked_if_one_hangs(server: SouthboundServer) -> None:
    server.add_port(VNIC_ID)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hanging = f"tcp:127.0.0.1:{mute.getsockname()[1]}"

        assert ask(f"{hanging},{server.remote}", timeout=1) is not None


def test_nobody_is_waited_for_longer_than_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hanging = f"tcp:127.0.0.1:{mute.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=f"does not answer on {hanging} .no answer in time"):
            ask(f"{hanging},{hanging}", timeout=0.2)

    assert time.monotonic() - begun < 1.5


def test_a_refused_connection_is_told() -> None:
    remote = f"tcp:127.0.0.1:{free_port()}"

    with pytest.raises(Unavailable, match=f"{remote} .Connection refused.; check ovn-remote"):
        ask(remote)


def test_a_server_of_something_else_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(5)

        async def scenario() -> None:
            loop = asyncio.get_running_loop()

            def babble() -> None:
                peer, _ = other.accept()
                with peer:
                    peer.recv(100)
                    peer.sendall(b"HTTP/1.0 400 Bad request}\r\n")

            talking = loop.run_in_executor(None, babble)
            port = other.getsockname()[1]
            try:
                await Southbound(f"tcp:127.0.0.1:{port}").binding(VNIC_ID, 1.0)
            finally:
                await talking

        with pytest.raises(Unavailable, match="does not answer"):
            asyncio.run(scenario())


# ---- TLS -----------------------------------------------------------------------------------------


def tls_server(folder: Path, credentials: Credentials) -> Iterator[SouthboundServer]:
    server = SouthboundServer(folder, credentials)
    server.add_port(VNIC_ID)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[SouthboundServer]:
    """A server with a certificate of the CA's."""
    yield from tls_server(tmp_path_factory.mktemp("secure"), authority.sign("server"))


@pytest.fixture
def expired(tmp_path: Path, authority: Authority) -> Iterator[SouthboundServer]:
    """A server whose certificate has expired."""
    yield from tls_server(tmp_path, authority.sign("expired", days=-1))


def test_certificates_of_one_ca_are_accepted(
    secure: SouthboundServer, authority: Authority
) -> None:
    assert ask(secure.remote, authority.sign("client")) is not None


def test_a_server_of_another_ca_is_never_talked_to(
    secure: SouthboundServer, authority: Authority, tmp_path: Path
) -> None:
    other = Authority.make(tmp_path / "other")
    credentials = dataclasses.replace(authority.sign("client"), ca=other.certificate)

    with pytest.raises(HostError, match=r"is not accepted \(self-signed certificate"):
        ask(secure.remote, credentials)


def test_an_expired_server_is_told(expired: SouthboundServer, authority: Authority) -> None:
    with pytest.raises(HostError, match=r"southbound database on .* expired"):
        ask(expired.remote, authority.sign("client"))


@pytest.mark.parametrize("days", [365, -1])
def test_a_certificate_that_the_server_refuses_is_told(
    secure: SouthboundServer, authority: Authority, tmp_path: Path, days: int
) -> None:
    other = Authority.make(tmp_path / "other") if days > 0 else authority
    credentials = dataclasses.replace(other.sign("client", days=days), ca=authority.certificate)

    with pytest.raises(HostError, match=r"refuses this host's certificate .*; enroll"):
        ask(secure.remote, credentials)


def test_without_a_certificate_tls_is_not_even_tried() -> None:
    with pytest.raises(HostError, match=r"has no certificate for ssl:127\.0\.0\.1:1 "):
        ask("ssl:127.0.0.1:1")


def test_a_server_in_the_clear_is_no_tls_server(
    server: SouthboundServer, authority: Authority
) -> None:
    remote = server.remote.replace("tcp", "ssl")

    with pytest.raises(HostError, match="southbound database"):
        ask(remote, authority.sign("client"), timeout=1)


# ---- what a port's move depends on ---------------------------------------------------------------


def standing(server: SouthboundServer, chassis: str = "hv2") -> Standing | None:
    return asyncio.run(Southbound(server.remote, None).standing(VNIC_ID, chassis, 3.0))


def test_a_move_depends_on_who_has_the_port(server: SouthboundServer) -> None:
    server.add_port(VNIC_ID, chassis="hv1")

    assert standing(server) == Standing("hv1", is_registered=True, shares_ports=True)


def test_a_port_may_be_nobodys(server: SouthboundServer) -> None:
    server.add_port(VNIC_ID)

    assert standing(server) == Standing(None, is_registered=True, shares_ports=True)


def test_a_port_that_is_not_there_does_not_move(server: SouthboundServer) -> None:
    assert standing(server) is None


def test_a_host_that_is_not_registered_is_told(server: SouthboundServer) -> None:
    server.add_port(VNIC_ID, chassis="hv1")

    assert standing(server, "hv9") == Standing("hv1", is_registered=False, shares_ports=True)


def test_an_ovn_whose_ports_have_no_additional_hosts_is_told(
    server: SouthboundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_port(VNIC_ID, chassis="hv1")
    select = southbound._Database.select

    def older(database: Any, table: str, *where: Any, columns: Any = ()) -> Any:
        rows = select(database, table, *where, columns=columns)
        return [{k: v for k, v in row.items() if k != "additional_chassis"} for row in rows]

    monkeypatch.setattr(southbound._Database, "select", older)

    assert standing(server) == Standing("hv1", is_registered=True, shares_ports=False)


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("23.03.1-20.27.0-70.6", (23, 3, 1)),
        ("25.09.0", (25, 9, 0)),
        ("", None),
        ("unknown", None),
    ],
)
def test_the_version_of_northd_is_told(
    server: SouthboundServer, told: str, version: tuple[int, ...] | None
) -> None:
    server.add_port(VNIC_ID, chassis="hv1")
    options = ["map", [["northd_internal_version", told]]]
    update = {"op": "update", "table": "SB_Global", "where": [], "row": {"options": options}}
    server.transact(update)

    found = standing(server)

    assert found is not None and found.northd == version
