# SPDX-License-Identifier: GPL-2.0-or-later
"""Gives Open vSwitch's userspace datapath the kernel datapath's manners when a device goes.

When a tap is deleted, the kernel's datapath drops its port by itself, and ovs-vswitchd sets the
row's ofport to -1 with an error.  The userspace datapath keeps a dead socket instead: ofport
stays, and a tap made again under the same name is deaf.  This program listens for deleted links
and takes their ports out of the datapath.  It belongs to the lab: no user's host runs the
userspace datapath.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

RTM_DELLINK = 17
RTMGRP_LINK = 1
IFLA_IFNAME = 3
NLMSG_HEADER = struct.Struct("=IHHII")
IFINFO_HEADER = struct.Struct("=BxHiII")
ATTRIBUTE_HEADER = struct.Struct("=HH")


def deleted_links(message: bytes) -> Iterator[tuple[str, int]]:
    """Yield name and index of the links that a netlink datagram says are gone."""
    offset = 0
    while offset + NLMSG_HEADER.size <= len(message):
        length, kind, _, _, _ = NLMSG_HEADER.unpack_from(message, offset)
        if length < NLMSG_HEADER.size:
            return
        end = offset + length
        if kind == RTM_DELLINK:
            body = offset + NLMSG_HEADER.size
            family, _, index, _, _ = IFINFO_HEADER.unpack_from(message, body)
            # A port that leaves a Linux bridge is reported as a deleted link of AF_BRIDGE.
            if family == socket.AF_UNSPEC:
                yield attribute_name(message[body + IFINFO_HEADER.size : end]), index
        offset += (length + 3) & ~3


def attribute_name(attributes: bytes) -> str:
    """Return the value of IFLA_IFNAME, or ''."""
    offset = 0
    while offset + ATTRIBUTE_HEADER.size <= len(attributes):
        length, kind = ATTRIBUTE_HEADER.unpack_from(attributes, offset)
        if length < ATTRIBUTE_HEADER.size:
            break
        if kind == IFLA_IFNAME:
            value = attributes[offset + ATTRIBUTE_HEADER.size : offset + length]
            return value.rstrip(b"\0").decode()
        offset += (length + 3) & ~3
    return ""


def output(*argv: str) -> str:
    """Standard output of a command that may fail."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip()


def current_index(name: str) -> int | None:
    """The index of the device that bears the name now."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def drop_from_datapath(name: str, index: int, count: int) -> None:
    """Take a deleted device out of the datapath, unless a new one is served already."""
    query = ("--bare", "--columns=name,ifindex", "list", "Interface", name)
    row = output("ovs-vsctl", "--timeout=5", "--if-exists", *query).split()
    if not row:
        return
    served = int(row[1]) if len(row) > 1 else None
    if served is not None and served != index and served == current_index(name):
        return
    output("ovs-appctl", "--timeout=5", "dpctl/del-if", "netdev@ovs-netdev", name)
    # A change in external_ids would not do: ovs-vswitchd does not look at that column, so no
    # reconfiguration would follow.
    poke = f"other_config:lab-poke={count}"
    output("ovs-vsctl", "--timeout=5", "--no-wait", "set", "Open_vSwitch", ".", poke)
    print(f"{name} (index {index}) taken out of the datapath", flush=True)


def main() -> None:
    """Watch for ever."""
    watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    watch.bind((0, RTMGRP_LINK))
    print("watching", flush=True)
    count = 0
    while True:
        for name, index in deleted_links(watch.recv(1 << 16)):
            count += 1
            try:
                drop_from_datapath(name, index, count)
            except (OSError, ValueError) as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
