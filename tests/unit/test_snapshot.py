# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's devices and addresses, in a network namespace of the test's."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
import subprocess
import time

import pytest

from vif_driver.errors import Unavailable
from vif_driver.host import snapshot
from vif_driver.host.snapshot import Address, Snapshot, Snapshots

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
    # No bridges: the kernel takes seconds to remove so many, and nobody's devices change meanwhile.
    pairs = [(f"near{number}", f"far{number}") for number in range(100)]

    async def body() -> Snapshot:
        lines = "".join(f"link add {near} type veth peer {far}\n" for near, far in pairs)
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
        return snapshot.take()

    found: Snapshot = in_network_namespace(body)

    assert found.devices.keys() == {"lo", *itertools.chain(*pairs)}


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


# ---- one after the other -------------------------------------------------------------------------


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


@pytest.mark.parametrize(
    "change",
    [
        "link add br1 type bridge",
        "link set eth0 master br0",
        "link set eth0 mtu 1400",
        "link set eth0 name eth9",
        "link del br0",
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
        "addr del 192.0.2.9/24 dev eth0",
    ],
)
def test_a_change_has_the_next_one_taken_anew(
    in_network_namespace: RunInNamespace, change: str
) -> None:
    async def body() -> tuple[Snapshot | None, Snapshot | None, Snapshot, Snapshot]:
        ip("link add br0 type bridge")
        ip("link add eth0 type veth peer name cable")
        ip("addr add 192.0.2.9/24 dev eth0")
        snapshots = Snapshots()
        snapshots.take()
        same = snapshots.unchanged()
        ip(change)
        end = time.monotonic() + 2
        # Of an address of IPv6 the kernel tells from a thread of its own.
        while snapshots.unchanged() is not None and time.monotonic() < end:
            await asyncio.sleep(0.001)
        other, new = snapshots.unchanged(), snapshots.take()
        snapshots.close()
        return same, other, new, snapshot.take()

    same, other, new, now = in_network_namespace(body)

    assert same is not None
    assert other is None
    assert (new.devices, set(new.addresses)) == (now.devices, set(now.addresses))
    assert new.devices != same.devices or new.addresses != same.addresses


def test_while_nothing_changes_the_kernel_is_not_asked(
    in_network_namespace: RunInNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> bool:
        snapshots = Snapshots()
        first = snapshots.take()
        monkeypatch.setattr(snapshot, "take", lambda: pytest.fail("the kernel was asked"))
        return snapshots.take() is first and snapshots.unchanged() is first

    assert in_network_namespace(body)


def test_more_changes_than_fit_into_the_queue_are_changes(
    in_network_namespace: RunInNamespace,
) -> None:
    async def body() -> tuple[Snapshot | None, int]:
        ip("link add br0 type bridge")
        snapshots = Snapshots()
        snapshots.take()
        lines = "".join(f"link set br0 mtu {1400 + number % 50}\n" for number in range(3000))
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
        return snapshots.unchanged(), snapshots.take().devices["br0"].mtu

    assert in_network_namespace(body) == (None, 1400 + 2999 % 50)


def test_a_change_while_one_is_taken_is_not_missed(
    in_network_namespace: RunInNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> tuple[bool, bool]:
        ip("link add br0 type bridge")
        snapshots, taking = Snapshots(), snapshot.take

        def slow() -> Snapshot:
            taken = taking()
            ip("link add br1 type bridge")
            snapshots.unchanged()  # somebody else looks meanwhile
            return taken

        monkeypatch.setattr(snapshot, "take", slow)
        old = snapshots.take()
        monkeypatch.setattr(snapshot, "take", taking)
        return "br1" in old.devices, "br1" in snapshots.take().devices

    assert in_network_namespace(body) == (False, True)
