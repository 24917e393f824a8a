# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that can go wrong, in the words that reach the administrator.

VDSM shows the last line that a failing ``before_*`` hook wrote to stderr to the user who
started the VM.  So each error carries two halves: *what* is wrong and the *remedy*.
"""

from __future__ import annotations


class VifError(Exception):
    """A failure with a remedy.

    Args:
        what: what is wrong, a clause without a full stop.
        remedy: what the administrator can do about it, a clause in the imperative.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class BadRequest(VifError, ValueError):
    """What VDSM handed over cannot be understood or must not be obeyed."""


class NotAnInterface(BadRequest):
    """The device is well-formed XML but no ``<interface>``: none of our business.

    Args:
        what: what it is instead.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what, "nothing needs to be done")


class ConfigError(VifError, ValueError):
    """The configuration, in a file or as it is asked for, says something that has no meaning."""


class HostError(VifError, RuntimeError):
    """The host is not in a state in which the request can be carried out."""


class NameTaken(HostError):
    """A device or row that we would need exists and is not ours."""


class Unavailable(HostError):
    """A service of the host (OVSDB, libvirt, the agent) does not answer."""


def one_line(text: str, limit: int = 600) -> str:
    """Make ``text`` fit for one line of a log.

    What is quoted in a message came from outside: control characters (a newline above all,
    which would make VDSM show half of the message) become spaces.

    Args:
        text: the message.
        limit: the most characters kept.
    """
    flat = "".join(char if char.isprintable() else " " for char in text)
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
