# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of a physical network and what leads there, as Neutron's agents are told them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from vif_driver.errors import ConfigError, one_line
from vif_driver.tunnels import words

# Neutron keeps 64 characters of a physical network's name (its table ml2_vlan_allocations).
_PHYSICAL_NETWORK = re.compile(r"[^\s:,\"'$]{1,64}")

# IFNAMSIZ is 16 with the zero at the end (linux/if.h); no comma, colon, quote or dollar either,
# which mean something in Neutron's files.
_DEVICE = re.compile(r"[0-9A-Za-z_.-]{1,15}")

#: What Neutron's Open vSwitch agent can make (its ``[agent] tunnel_types``).
TUNNEL_TYPES = ("geneve", "gre", "vxlan")


def device(name: str, what: str) -> str:
    """See that a device or bridge can be called so.

    Args:
        name: its name.
        what: what it is to be, such as "the integration bridge".

    Raises:
        ConfigError: it can't.
    """
    if not _DEVICE.fullmatch(name) or name in (".", "..") or name.startswith("-"):
        raise ConfigError(
            f'"{one_line(name, 80)}" cannot be the name of {what}',
            "a device's name has up to 15 letters, digits, dots, dashes and underscores",
        )
    return name


def pairs(texts: Iterable[str], option: str, what: str) -> dict[str, str]:
    """Understand an option that is given several times, or has several pairs with commas.

    Args:
        texts: what was given, such as ``physnet1:br-ex``.
        option: which option, for messages.
        what: what is on the right, such as "a bridge".

    Returns:
        What is on the right by what is on the left, in the order given.

    Raises:
        ConfigError: it is no pair, or one side is there twice, which Neutron's agents refuse.
    """
    found: dict[str, str] = {}
    for pair in words(",".join(texts)):
        left, colon, right = (part.strip() for part in pair.partition(":"))
        if not colon or not left or not right or ":" in right:
            raise ConfigError(
                f'{option}: "{one_line(pair, 80)}" is no pair',
                "give two names with a colon, as in physnet1:br-ex",
            )
        if not _PHYSICAL_NETWORK.fullmatch(left):
            raise ConfigError(
                f'{option}: no network is called "{one_line(left, 80)}"',
                "give the physical network's name as Neutron's server has it",
            )
        device(right, what)
        for name, others in ((left, found.keys()), (right, found.values())):
            if name in others:
                raise ConfigError(f"{option}: {name} is there twice", "give each name once")
        found[left] = right
    return found


def text(mappings: Mapping[str, str]) -> str:
    """Give the value of a setting of Neutron's."""
    return ",".join(f"{left}:{right}" for left, right in mappings.items())


def tunnel_types(texts: Sequence[str], possible: Sequence[str] = TUNNEL_TYPES) -> tuple[str, ...]:
    """Understand kinds of tunnels.

    Raises:
        ConfigError: one is not known.
    """
    kinds = tuple(dict.fromkeys(words(",".join(texts))))
    for kind in kinds:
        if kind not in possible:
            raise ConfigError(
                f'--tunnel-types: this agent makes no tunnels called "{one_line(kind, 40)}"',
                f"it can make {', '.join(possible)}",
            )
    return kinds
