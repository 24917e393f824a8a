# SPDX-License-Identifier: GPL-2.0-or-later
"""What a change of the host is: something that can be found done, made, and taken back."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

#: What is noted on the disk of a change; JSON.
Before = dict[str, Any]


class Fact(NamedTuple):
    """Something that is to be true of the host.

    Attributes:
        what: it, such as "ovn-encap-ip is 192.0.2.1".
        is_so: it is true already.
    """

    what: str
    is_so: bool


class Change(abc.ABC):
    """One change.

    It is made in three steps, each of which may be the last one of this process: its
    :meth:`before` is noted on the disk, it is made, and when everything else is done, too, the
    note is removed.  So what takes it back can't know whether it was made, in part or at all.
    """

    #: Its name in the note; see ``kinds.py``.
    kind: ClassVar[str]

    @abc.abstractmethod
    def facts(self) -> Sequence[Fact]:
        """Tell what is to be so, and what of it is; it is made unless all is.

        Raises:
            HostError: that cannot be told.
        """

    @abc.abstractmethod
    def before(self) -> Before:
        """Give what is needed to take it back, before it is made.

        It may hold secrets: only root can read the note.
        """

    @abc.abstractmethod
    def make(self) -> None:
        """Make it, whatever of it is so already.

        Raises:
            HostError: it cannot be made.
        """

    @classmethod
    @abc.abstractmethod
    def take_back(cls, before: Before) -> str | None:
        """Make the host what it was, whether the change was made, in part, or taken back already.

        What somebody else has changed since is left alone.

        Returns:
            What was left alone, and why; None if nothing was.

        Raises:
            HostError: it cannot be taken back; it will be tried again.
        """

    @classmethod
    def settle(cls, before: Before) -> None:
        """Do what is to be done when all changes have been taken back.

        Raises:
            HostError: it cannot be done.
        """
        return  # most have nothing to do


#: A change that the note on the disk has.
Noted = tuple[type[Change], Before]
