# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's devices and addresses, in a network namespace of the test's."""

from __future__ import annotations

import ipaddress
import socket
import subprocess

import pytest

from vif_driver.errors import Unavailable
from vif_driver.host import snapshot
from vif_driver.host.snapshot import Address, Snapshot

from .conftest import RunInNamespace


def taken(in_network_namespace: RunInNamespace, *commands: str) -> Snapshot:
    """What is there after ip(8) has carried out commands."""

    async def body() -> Snapshot:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        return snapshot.take()

    found: Snapshot = in_network_namespace(body)
    return found


def test_ports_know_their_bridge_and_the_bridge_its_ports(
    in_network_namespace: RunInNamespace,
) -> None:
    found = taken(
        in_network_namespace,
        "link add br0 type bridge",
        "link add eth0 type veth peer name cable",
        "link set eth0 master br0",
        "link set br0 mtu 1400",
    )

    assert (found.devices["br0"].kind, found.devices["br0"].mtu) == ("bridge", 1400)
    assert found.devices["eth0"].master == "br0"
    assert found.ports("br0") == ["eth0"]
    assert found.ports("eth0") == []


def test_the_ends_of_a_pair_are_peers_and_none_stands_on_the_other(
    in_network_namespace: RunInNamespace,
) -> None:
    found = taken(in_network_namespace, "link add eth0 type veth peer name cable")

    assert (found.devices["eth0"].peer, found.devices["eth0"].parent) == ("cable", None)


def test_the_number_of_a_peer_elsewhere_is_not_taken_for_that_of_a_device_here(
    in_network_namespace: RunInNamespace,
) -> None:
    with subprocess.Popen(["unshare", "-n", "sleep", "60"]) as elsewhere:
        try:
            subprocess.run(["nsenter", f"-t{elsewhere.pid}", "-n", "true"], check=True)
            found = taken(
                in_network_namespace,
                f"link add eth0 type veth peer name cable netns {elsewhere.pid}",
                "link add br0 type bridge",
            )
        finally:
            elsewhere.kill()

    assert found.devices["eth0"].peer is None


def test_what_stands_on_a_device_says_so(in_network_namespace: RunInNamespace) -> None:
    found = taken(
        in_network_namespace,
        "link add eth0 type veth peer name cable",
        "link add mac0 link eth0 type macvlan",
        "link add vx0 type vxlan id 5 dstport 4789 dev eth0",
    )

    assert {name: found.devices[name].parent for name in ("mac0", "vx0")} == {
        "mac0": "eth0",
        "vx0": "eth0",
    }


def test_every_address_is_told_with_its_prefix_and_for_how_long_it_is(
    in_network_namespace: RunInNamespace,
) -> None:
    found = taken(
        in_network_namespace,
        "link add eth0 type veth peer name cable",
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 192.0.2.2 peer 192.0.2.9 dev eth0",
        "addr add 2001:db8::1/64 dev eth0 valid_lft 600 preferred_lft 600",
    )

    assert set(found.addresses) == {
        Address(ipaddress.ip_address("192.0.2.1"), 24, "eth0", True),
        Address(ipaddress.ip_address("192.0.2.2"), 32, "eth0", True),
        Address(ipaddress.ip_address("2001:db8::1"), 64, "eth0", False),
    }


def test_the_device_group_is_known(in_network_namespace: RunInNamespace) -> None:
    found = taken(in_network_namespace, "link add br0 group 7755110 type bridge")

    assert found.devices["br0"].group == 7755110


def test_more_devices_than_fit_into_one_answer(in_network_namespace: RunInNamespace) -> None:
    names = [f"br{number}" for number in range(200)]

    async def body() -> Snapshot:
        lines = "".join(f"link add {name} type bridge\n" for name in names)
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
        return snapshot.take()

    found: Snapshot = in_network_namespace(body)

    assert found.devices.keys() == {"lo", *names}


def test_a_name_in_no_encoding_is_kept(in_network_namespace: RunInNamespace) -> None:
    async def body() -> Snapshot:
        subprocess.run([b"ip", b"link", b"add", b"br\xff", b"type", b"bridge"], check=True)
        return snapshot.take()

    found: Snapshot = in_network_namespace(body)

    assert "br\udcff" in found.devices


def test_a_kernel_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_arguments: object) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr(socket, "socket", no_socket)

    with pytest.raises(Unavailable, match="Protocol not supported"):
        snapshot.take()
