# SPDX-License-Identifier: GPL-2.0-or-later
"""This host's address for tunnels, on a real kernel."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from vif_driver.configuration import tunnel
from vif_driver.errors import ConfigError, HostError
from vif_driver.host.links import Links

from . import programs
from .conftest import RunInNamespace


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Where VDSM writes down its networks: as they are, and as they are to be at boot."""
    running, persistent = tmp_path / "running", tmp_path / "persistent"
    for folder in (running, persistent):
        (folder / "nets").mkdir(parents=True)
    return running, persistent


def find(run: RunInNamespace, folders: tuple[Path, Path], wanted: str, *addresses: str) -> str:
    """Find the address on a host whose ``net1`` has some addresses."""

    async def body() -> str:
        lines = ["link add net1 type veth peer name far", "link set net1 up", "link set far up"]
        lines += [f"addr add {address} dev net1" for address in addresses]
        programs.run("ip", "-batch", "-", input="\n".join(lines))
        return str(await tunnel.find(tunnel.parse(wanted), folders))

    found: str = run(body)
    return found


def note(folder: Path, name: str, **attributes: object) -> None:
    (folder / "nets" / name).write_text(json.dumps(attributes))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.11", ipaddress.ip_address("192.0.2.11")),
        ("2001:db8::b", ipaddress.ip_address("2001:db8::b")),
        ("[2001:db8::b]", ipaddress.ip_address("2001:db8::b")),
        ("ovirtmgmt", "ovirtmgmt"),
        ("on0123456789ab", "on0123456789ab"),
    ],
)
def test_a_tunnel_ends_at_an_address_or_in_a_network(text: str, expected: object) -> None:
    assert tunnel.parse(text) == expected


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "0.0.0.0", "::", "fe80::1", "ff02::1"])
def test_tunnels_do_not_end_where_nobody_reaches_them(text: str) -> None:
    with pytest.raises(ConfigError, match="no other host can reach it"):
        tunnel.parse(text)


def test_an_address_of_this_host_is_taken(
    in_network_namespace: RunInNamespace, folders: tuple[Path, Path]
) -> None:
    assert find(in_network_namespace, folders, "192.0.2.7", "192.0.2.7/24") == "192.0.2.7"


def test_an_address_of_another_host_is_refused(
    in_network_namespace: RunInNamespace, folders: tuple[Path, Path]
) -> None:
    with pytest.raises(HostError, match=r"192\.0\.2\.8 is no address of this host"):
        find(in_network_namespace, folders, "192.0.2.8", "192.0.2.7/24")


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (("192.0.2.7/24",), "192.0.2.7"),
        (("192.0.2.7/24", "192.0.2.8/24"), "192.0.2.7"),
        (("2001:db8::7/64 nodad", "192.0.2.7/24"), "192.0.2.7"),
        (("2001:db8::7/64 nodad",), "2001:db8::7"),
        (("169.254.0.7/16 scope link", "2001:db8::7/64 nodad"), "2001:db8::7"),
        (("2001:db8::8/64 nodad preferred_lft 0", "2001:db8::7/64 nodad"), "2001:db8::7"),
    ],
)
def test_a_network_has_its_ipv4_address_or_else_one_of_ipv6(
    in_network_namespace: RunInNamespace,
    folders: tuple[Path, Path],
    addresses: tuple[str, ...],
    expected: str,
) -> None:
    note(folders[0], "tunnels", nic="net1", bridged=False)

    assert find(in_network_namespace, folders, "tunnels", *addresses) == expected


def test_a_bridged_network_has_it_on_its_bridge(
    in_network_namespace: RunInNamespace, folders: tuple[Path, Path]
) -> None:
    note(folders[0], "net1", nic="eth0", bridged=True)

    assert find(in_network_namespace, folders, "net1", "192.0.2.7/24") == "192.0.2.7"


def test_before_vdsm_has_brought_its_networks_up_it_has_noted_them(
    in_network_namespace: RunInNamespace, folders: tuple[Path, Path]
) -> None:
    note(folders[1], "tunnels", nic="net1", bridged=False)

    assert find(in_network_namespace, folders, "tunnels", "192.0.2.7/24") == "192.0.2.7"


def test_an_unknown_network_is_refused_and_the_known_ones_are_named(
    in_network_namespace: RunInNamespace, folders: tuple[Path, Path]
) -> None:
    note(folders[0], "ovirtmgmt", nic="net1")
    note(folders[1], "storage", nic="net1")

    with pytest.raises(HostError, match=r"'tunnel' is neither .* \(ovirtmgmt, storage\)"):
        find(in_network_namespace, folders, "tunnel")


def test_a_network_without_an_address_is_refused(
    in_network_namespace: RunInNamespace, folders: tuple[Path, Path]
) -> None:
    note(folders[0], "tunnels", nic="net1", bridged=False)

    with pytest.raises(HostError, match="network tunnels has no address on net1"):
        find(in_network_namespace, folders, "tunnels")


def test_the_links_are_not_left_open(
    in_network_namespace: RunInNamespace,
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[bool] = []
    close = Links.close

    async def watched(links: Links) -> None:
        closed.append(True)
        await close(links)

    monkeypatch.setattr(Links, "close", watched)

    with pytest.raises(HostError):
        find(in_network_namespace, folders, "nothing")

    assert closed == [True]
