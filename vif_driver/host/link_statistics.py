# SPDX-License-Identifier: GPL-2.0-or-later
"""What the network devices have dropped, from the kernel in one answer.

RTM_GETSTATS gives the counters and nothing else.  Below /sys each of them is a file; and a list of
the devices has a kilobyte of attributes for each.
"""

from __future__ import annotations

import socket
import struct

from vif_driver.errors import HostError
from vif_driver.host.netlink_dump import dump

# linux/rtnetlink.h, linux/if_link.h
_GETSTATS = 94
_LINK_64 = 1

# struct if_stats_msg with its mask; of the answer that, a struct rtattr, and of struct
# rtnl_link_stats64 what lies between the errors and the collisions.
_QUESTION = struct.Struct("=BBHII")
_ANSWER = struct.Struct("=4xI4x4x48xQQ")


def dropped() -> dict[int, tuple[int, int]]:
    """Give the packets that each device has dropped, received and sent ones, by its index.

    Raises:
        HostError: the kernel did not answer the question.
    """
    found: dict[int, tuple[int, int]] = {}
    try:
        for message in dump(socket.NETLINK_ROUTE, _GETSTATS, _QUESTION.pack(0, 0, 0, 0, _LINK_64)):
            if len(message) >= _ANSWER.size:
                index, received, sent = _ANSWER.unpack_from(message)
                found[index] = received, sent
    except OSError as error:
        raise HostError(
            f"the kernel does not tell what its devices have dropped ({error})",
            "see whether the host is overloaded",
        ) from error
    return found
