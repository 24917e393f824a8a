# SPDX-License-Identifier: GPL-2.0-or-later
"""What an inspection has to say about one thing."""

from __future__ import annotations

import dataclasses
import enum

from vif_driver.errors import Unavailable, VifError

#: The remedy where a device or port of one vNIC is missing.
PLUG_AGAIN = "unplug the vNIC and plug it again in the engine, or start the VM anew"


class State(enum.Enum):
    """How a thing is."""

    OK = "ok"
    #: It works, and will not for ever, or not in every case.
    WARNING = "warning"
    BAD = "bad"
    #: It could not be looked at, or only by somebody else.
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A hop of a vNIC's path, or a check of the host.

    Attributes:
        name: which; the same for good, for programs go by it.
        state: how it is.
        detail: what was seen, a clause without a full stop.
        remedy: what to do about it, a clause in the imperative; empty where nothing needs doing.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether something is wrong for certain."""
        return self.state is State.BAD

    def __str__(self) -> str:
        return f"{self.detail}; {self.remedy}" if self.remedy else self.detail


def ok(name: str, detail: str) -> Finding:
    """Say that a thing is as it should be."""
    return Finding(name, State.OK, detail)


def warning(name: str, detail: str, remedy: str) -> Finding:
    """Say that a thing works, but."""
    return Finding(name, State.WARNING, detail, remedy)


def bad(name: str, detail: str, remedy: str) -> Finding:
    """Say that a thing does not work."""
    return Finding(name, State.BAD, detail, remedy)


def unknown(name: str, detail: str, remedy: str = "") -> Finding:
    """Say that a thing could not be looked at."""
    return Finding(name, State.UNKNOWN, detail, remedy)


def of_error(name: str, error: VifError) -> Finding:
    """Say what an error says: a service that cannot be asked leaves things unknown."""
    state = State.UNKNOWN if isinstance(error, Unavailable) else State.BAD
    return Finding(name, state, error.what, error.remedy)
