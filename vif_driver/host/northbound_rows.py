# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of OVN's northbound database as plain Python, and what is to be changed of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class LogicalSwitchPort:
    """A logical switch port as the database has it.

    Attributes:
        name: the vNIC's id.
        type: empty for a VM's.
        options: ``requested-chassis``, ``activation-strategy``, ...
        external_ids: whatever anybody wrote there.
        addresses: what the provider says that the VM has.
        up: whether a host has it in place; None where OVN has not said yet.
    """

    name: str
    type: str
    options: Mapping[str, str]
    external_ids: Mapping[str, str]
    addresses: tuple[str, ...]
    up: bool | None


@dataclasses.dataclass(frozen=True)
class Edit:
    """What to change of a port; what is not named stays as it is.

    Attributes:
        options: by key the new value; None removes the key.
        external_ids: the same.
    """

    options: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    external_ids: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
