# SPDX-License-Identifier: GPL-2.0-or-later
"""Where tunnels begin and what fits into them, in a network namespace of the test's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vif_driver.config import Config
from vif_driver.host import Host
from vif_driver.host.ovsdb import Port
from vif_driver.inspection import tunnels
from vif_driver.inspection.finding import Finding, State
from vif_driver.inspection.sight import Sight
from vif_driver.tunnels import overhead

from . import programs
from .conftest import RunInNamespace

Look = Callable[[Callable[[Sight], Awaitable[list[Finding]]]], list[Finding]]


@pytest.fixture
def underlay(in_network_namespace: RunInNamespace) -> Look:
    """Look from a host with 192.0.2.11 and 2001:db8::11 on eth0, whose MTU is 1500."""

    def run(look: Callable[[Sight], Awaitable[list[Finding]]]) -> list[Finding]:
        async def body() -> Any:
            ip("link", "add", "eth0", "type", "veth", "peer", "name", "cable")
            ip("link", "set", "eth0", "up")
            ip("link", "set", "cable", "up")
            ip("addr", "add", "192.0.2.11/24", "dev", "eth0")
            ip("addr", "add", "2001:db8::11/64", "dev", "eth0", "nodad")
            async with Sight(Config(), Host()) as sight:
                return await look(sight)

        found: list[Finding] = in_network_namespace(body)
        return found

    return run


def ip(*arguments: str) -> None:
    programs.run("ip", *arguments)


def tunnel(remote: str, kind: str = "geneve") -> Port:
    return Port("t", "br-int", None, {}, 1, None, type=kind, options={"remote_ip": remote})


# ---- where they begin ----------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["192.0.2.11", "2001:db8::11", "2001:DB8:0::11"])
def test_an_address_of_the_host_is_good(underlay: Look, address: str) -> None:
    (finding,) = underlay(lambda sight: tunnels.check_ends("e", [address], "ovn-encap-ip", sight))

    assert (finding.state, finding.detail[-18:]) == (State.OK, " on eth0, MTU 1500")


def test_each_of_several_addresses_is_judged(underlay: Look) -> None:
    addresses = ["192.0.2.11", "192.0.2.99"]

    found = underlay(lambda sight: tunnels.check_ends("e", addresses, "ovn-encap-ip", sight))

    assert [finding.state for finding in found] == [State.OK, State.BAD]
    assert found[1].detail == "ovn-encap-ip 192.0.2.99 is no address of this host"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("engine", "is not an IP address"),
        ("127.0.0.1", "no address that others can reach"),
        ("::", "no address that others can reach"),
        ("224.0.0.1", "no address that others can reach"),
    ],
)
def test_an_address_that_makes_no_sense(underlay: Look, address: str, words: str) -> None:
    (finding,) = underlay(lambda sight: tunnels.check_ends("e", [address], "ovn-encap-ip", sight))

    assert finding.is_bad and words in finding.detail


@pytest.mark.parametrize(("device", "words"), [("eth0", "is down"), ("cable", "has no carrier")])
def test_a_device_that_carries_nothing(underlay: Look, device: str, words: str) -> None:
    async def look(sight: Sight) -> list[Finding]:
        ip("link", "set", device, "down")
        return await tunnels.check_ends("e", ["192.0.2.11"], "ovn-encap-ip", sight)

    (finding,) = underlay(look)

    assert finding.is_bad and f"eth0, which has ovn-encap-ip 192.0.2.11, {words}" in finding.detail


# ---- what fits in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "version", "bytes_"),
    [("geneve", 4, 58), ("geneve", 6, 78), ("vxlan", 4, 50), ("vxlan", 6, 70)],
)
def test_the_overhead_of_a_tunnel(kind: str, version: int, bytes_: int) -> None:
    assert overhead(kind, version) == bytes_


@pytest.mark.parametrize(
    ("remote", "kind", "mtu", "fits"),
    [
        ("192.0.2.12", "geneve", 1442, True),
        ("192.0.2.12", "geneve", 1443, False),
        ("2001:db8::12", "geneve", 1422, True),
        ("2001:db8::12", "geneve", 1423, False),
        ("192.0.2.12", "vxlan", 1450, True),
        ("192.0.2.12", "vxlan", 1451, False),
    ],
)
def test_a_vnic_fits_to_the_byte(
    underlay: Look, remote: str, kind: str, mtu: int, fits: bool
) -> None:
    (finding,) = underlay(
        lambda sight: tunnels.check_mtu("mtu", [tunnel(remote, kind)], mtu, sight)
    )

    assert finding.state is (State.OK if fits else State.BAD)


def test_the_remedy_names_the_mtu_that_is_needed(underlay: Look) -> None:
    (finding,) = underlay(
        lambda sight: tunnels.check_mtu("mtu", [tunnel("192.0.2.12")], 1500, sight)
    )

    assert "raise the MTU of eth0 and of the network behind it to 1558" in finding.remedy


def test_the_limit_of_a_route_counts(underlay: Look) -> None:
    async def look(sight: Sight) -> list[Finding]:
        ip("route", "add", "198.51.100.0/24", "via", "192.0.2.1", "mtu", "1400")
        return await tunnels.check_mtu("mtu", [tunnel("198.51.100.1")], 1442, sight)

    (finding,) = underlay(look)

    assert finding.is_bad and "has room for 1342" in finding.detail


def test_a_tunnel_to_nowhere_is_told_once(underlay: Look) -> None:
    ends = [tunnel("203.0.113.1"), tunnel("203.0.113.2"), tunnel("flow")]

    (finding,) = underlay(lambda sight: tunnels.check_mtu("mtu", ends, 1442, sight))

    assert finding.is_bad and "there is no way to 203.0.113.1" in finding.detail
