# SPDX-License-Identifier: GPL-2.0-or-later
"""Tunnels of Open vSwitch: their kinds, and the room that each takes of a packet."""

from __future__ import annotations

#: The types of Open vSwitch interface that lead to another host.
TYPES = ("geneve", "vxlan", "stt", "gre")

# Bytes of the outer IP header, by its version.
_IP = {4: 20, 6: 40}

# Bytes of the rest: the inner Ethernet header, 14; UDP, 8; and Geneve, 8 (RFC 8926, 3.4) with the
# 8 of OVN's option (ovn-architecture(7), "Tunnel Encapsulations"), or VXLAN, 8 (RFC 7348, 5).
# GRE has 4 and a key of 4 (RFC 2890), STT a header like TCP's and 18 of its own.
_REST = {"geneve": 14 + 8 + 8 + 8, "vxlan": 14 + 8 + 8, "gre": 14 + 8, "stt": 14 + 20 + 18}


def overhead(kind: str, version: int) -> int:
    """Give the bytes that a tunnel adds to a vNIC's MTU.

    Args:
        kind: of tunnel, as Open vSwitch and OVN call it.
        version: of IP on the outside, 4 or 6.
    """
    return _REST.get(kind, _REST["geneve"]) + _IP[version]


def words(text: str | None) -> list[str]:
    """Take a list apart whose elements are separated by commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]
