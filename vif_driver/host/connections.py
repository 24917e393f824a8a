# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's TCP connections, as the kernel shows them to everybody (sock_diag(7)).

/proc/net/tcp has them, too, with everything else there is: some fifty times the work.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from vif_driver.errors import HostError
from vif_driver.host import processes
from vif_driver.host.addresses import Ip
from vif_driver.host.netlink_dump import dump
from vif_driver.host.processes import PROC

# linux/netlink.h, linux/sock_diag.h, linux/tcp_states.h
_SOCK_DIAG = 4
_BY_FAMILY = 20
_ESTABLISHED = 1 << 1

# struct inet_diag_req_v2, its socket left open; of struct inet_diag_msg the port and the address
# of the other side, the user and the inode.
_QUESTION = struct.Struct("=BBBxI48x")
_ANSWER = struct.Struct("=6x2s16x16s24xII")


@dataclasses.dataclass(frozen=True)
class Connection:
    """A TCP connection that stands.

    Attributes:
        address: of the other side.
        port: of the other side.
        uid: the user whose process made it.
        inode: of its socket, which tells whose descriptor it is.
    """

    address: Ip
    port: int
    uid: int
    inode: int


def established() -> list[Connection]:
    """Give the connections of this network namespace that stand.

    Raises:
        HostError: the kernel does not tell.
    """
    found = []
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, _ESTABLISHED)
            for message in dump(_SOCK_DIAG, _BY_FAMILY, question):
                port, packed, uid, inode = _ANSWER.unpack_from(message)
                address = ipaddress.ip_address(packed[:4] if family == socket.AF_INET else packed)
                mapped: Ip = getattr(address, "ipv4_mapped", None) or address
                found.append(Connection(mapped, int.from_bytes(port, "big"), uid, inode))
    except OSError as error:
        raise HostError(
            f"the kernel does not tell its connections ({error})", "load the module tcp_diag"
        ) from error
    return found


def own_sockets(proc: Path = PROC) -> set[int]:
    """Give the inodes of this process's own sockets."""
    return _sockets(proc / "self")


def of_unit(unit: str, ports: Collection[int], proc: Path = PROC) -> set[int]:
    """Give the sockets of a unit's processes that are connected to one of some ports; for root.

    Args:
        unit: its name, with the suffix.
        ports: of the other side.
        proc: where the kernel shows its processes.

    Returns:
        The sockets' inodes.

    Raises:
        HostError: the kernel does not tell.
    """
    connected = {one.inode for one in established() if one.port in ports}
    own = (_sockets(proc / str(process)) for process in processes.of_unit(unit, proc))
    return connected.intersection(set().union(*own))


def _sockets(process: Path) -> set[int]:
    found: set[int] = set()
    try:
        descriptors = os.listdir(process / "fd")
    except OSError:
        return found  # it has just ended
    for descriptor in descriptors:
        try:
            target = os.readlink(process / "fd" / descriptor)
        except OSError:
            continue  # just closed
        if target.startswith("socket:["):
            found.add(int(target[len("socket:[") : -1]))
    return found
