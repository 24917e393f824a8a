# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host was before it became one of Neutron's, so that this can be undone one day.

It is a file of root's, beside the note of what is being changed, and like that it may hold
secrets: what ``transport_url`` was.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vif_driver.errors import HostError

#: Its name.
NAME = "neutron.json"

# Of the file's form.
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class PastOption:
    """An option that was set.

    Attributes:
        file: below ``/etc/neutron``.
        section, option: which.
        was: its value before, or None if it was not set.
        becomes: the value that it was given.
    """

    file: str
    section: str
    option: str
    was: str | None = dataclasses.field(repr=False)
    becomes: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class PastService:
    """A service that was started; as for :class:`~vif_driver.host.units.Unit`."""

    unit: str
    active: bool
    enabled: bool | None


@dataclasses.dataclass(frozen=True)
class Past:
    """All of it.

    Attributes:
        options: of Neutron's files.
        services: its agents.
        bridges: those that were made.
        uplinks: pairs of a bridge and a device that was added to it.
    """

    options: tuple[PastOption, ...] = ()
    services: tuple[PastService, ...] = ()
    bridges: tuple[str, ...] = ()
    uplinks: tuple[tuple[str, str], ...] = ()

    def followed_by(
        self,
        options: Iterable[PastOption],
        services: Iterable[PastService],
        bridges: Iterable[str],
        uplinks: Iterable[tuple[str, str]],
    ) -> Past:
        """Add what is being changed now; what something was at first stays."""
        known = {(one.file, one.section, one.option): one for one in self.options}
        for one in options:
            key = (one.file, one.section, one.option)
            first = known.get(key, one)
            known[key] = dataclasses.replace(first, becomes=one.becomes)
        units = {one.unit: one for one in [*services, *self.services]}
        return Past(
            tuple(known.values()),
            tuple(units[name] for name in sorted(units)),
            tuple(dict.fromkeys([*self.bridges, *bridges])),
            tuple(dict.fromkeys([*self.uplinks, *uplinks])),
        )

    def content(self) -> bytes:
        """Give what the file has."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)}).encode()


def load(folder: Path) -> Past | None:
    """Read the file; None if this host isn't one of Neutron's, or not by us.

    Raises:
        HostError: it cannot be understood.
    """
    path = folder / NAME
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")
        return Past(
            tuple(PastOption(**one) for one in content["options"]),
            tuple(PastService(**one) for one in content["services"]),
            tuple(content["bridges"]),
            tuple((bridge, device) for bridge, device in content["uplinks"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(
            f"{path} has what the host was before vifctl configure neutron, and cannot be "
            f"understood ({type(error).__name__})",
            "remove it; then it can't be undone any more",
        ) from error
