# SPDX-License-Identifier: GPL-2.0-or-later
"""What was protected when it could last be seen, for when it can't.

The agent, which is no root, notes it in a folder of its own; root, where there is no agent, in one
that the agent can't write to: a link put there would have root write anywhere.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vif_driver.errors import one_line
from vif_driver.host.starts import uptime

log = logging.getLogger(__name__)

#: The agent's note, and root's.
OF_AGENT = Path("/run/vif-driver/protected/known")
OF_ROOT = Path("/run/vif-driver/allowed/:known")

_MAX_SIZE = 1024 * 1024
_MAX_ENTRIES = 4096


@dataclasses.dataclass(frozen=True)
class Protected:
    """What is protected.

    Attributes:
        devices: what each of them does.
        networks: of those of VDSM's that are protected by their names, the device.
    """

    devices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Known:
    """The notes.

    Args:
        ours: the one to be written; None for who only reads.
        paths: all that are read; the latest counts.
    """

    def __init__(self, ours: Path | None, paths: tuple[Path, ...] = (OF_AGENT, OF_ROOT)) -> None:
        self._ours = ours
        self._paths = paths
        self._written: Protected | None = None

    def put(self, protected: Protected) -> None:
        """Note what is protected."""
        if self._ours is None or protected == self._written:
            return
        unfinished = self._ours.with_name(f"{self._ours.name}.new")
        try:
            self._ours.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            record = {"at": uptime(), **dataclasses.asdict(protected)}
            unfinished.write_text(json.dumps(record), encoding="ascii")
            unfinished.chmod(0o644)
            unfinished.replace(self._ours)
        except OSError as error:
            log.warning("what is protected is not noted: %s", error)
        else:
            self._written = protected

    def get(self) -> Protected:
        """Give what was protected when it was last seen; nothing if that is not known."""
        notes = [note for note in map(_read, self._paths) if note is not None]
        return max(notes, key=lambda note: note[0], default=(0.0, Protected()))[1]


def _read(path: Path) -> tuple[float, Protected] | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            record = json.loads(file.read(_MAX_SIZE))
        protected = Protected(_texts(record["devices"]), _texts(record["networks"]))
        return float(record["at"]), protected
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _texts(value: Any) -> dict[str, str]:
    return {name: one_line(str(text)) for name, text in list(value.items())[:_MAX_ENTRIES]}
