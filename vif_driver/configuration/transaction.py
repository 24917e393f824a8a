# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of the host, all of them or none."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from vif_driver.configuration import record
from vif_driver.configuration.change import Before, Change, Fact, Noted
from vif_driver.configuration.record import Record
from vif_driver.errors import HostError, VifError

log = logging.getLogger(__name__)

# Those by which somebody ends a command, or a connection that is lost does.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Transaction:
    """What is being changed; see :func:`begin`.

    Attributes:
        facts: what was to be so, and what of it was so already, in the order of the changes.
        recovered: what was done about an earlier run that was killed, for people.
    """

    def __init__(self, command: str, note: Record, request: str | None = None) -> None:
        self.facts: list[Fact] = []
        self.recovered: list[str] = []
        self._command = command
        self._request = request
        self._record = note
        self._noted: list[Noted] = []

    def make(self, change: Change) -> bool:
        """Make a change, unless all of it is so already.

        Returns:
            Whether it was made.

        Raises:
            HostError: it cannot be made.
        """
        facts = change.facts()
        self.facts += facts
        if all(fact.is_so for fact in facts):
            return False
        self.note(change)
        log.info("%s", "; ".join(fact.what for fact in facts if not fact.is_so))
        change.make()
        return True

    def attempt(self, change: Change) -> HostError | None:
        """Make a change that all the others do without: if it fails, it alone is taken back.

        Returns:
            Why it failed; None if it is made.
        """
        facts = list(self.facts)
        before: Before | None = None
        try:
            before = change.before()
            self.make(change)
        except HostError as error:
            self.facts = facts
            if before is not None:
                # If that fails, too, it stays half made: nothing else depends on it.
                with contextlib.suppress(HostError):
                    type(change).take_back(before)
            return error
        return None

    def note(self, change: Change) -> None:
        """Note what is needed to take a change back, without making it.

        Raises:
            HostError: it cannot be noted.
        """
        this = (type(change), change.before())
        if this in self._noted:
            return
        noted = [*self._noted, this]
        self._record.write(self._command, self._request, noted)
        self._noted = noted

    def noted(self, kind: type[Change]) -> list[Before]:
        """Give what is noted of one kind of changes, also by a run that this one finishes."""
        return [before for other, before in self._noted if other is kind]

    def take_back(self) -> list[str]:
        """Take back all that was changed.

        Returns:
            What was left alone, and what could not be taken back; the latter stays noted.
        """
        told, stuck = _take_back(self._noted)
        self._noted = stuck
        if stuck:
            self._record.write(self._command, self._request, stuck)
        else:
            self._record.remove()
        return told

    def recover(self) -> None:
        """Deal with what a run that was killed has left.

        One that was to do the same is finished by this one, so that whoever uses already what it
        has made is not disturbed.  Any other is taken back.

        Raises:
            HostError: that is not possible.
        """
        left = self._record.read()
        if left is None:
            return
        command, request, self._noted = left
        if request is not None and (command, request) == (self._command, self._request):
            self.recovered = [f"an interrupted {command} is finished"]
            return
        told = self.take_back()
        if self._noted:
            raise HostError(
                f"what an interrupted {command} has changed cannot be put back: {'; '.join(told)}",
                "see to that and run it again",
            )
        self.recovered = [f"an interrupted {command} was taken back", *told]

    def close(self) -> None:
        """Let it be: nothing is to be taken back."""
        self._noted = []
        self._record.remove()


class Rehearsal(Transaction):
    """Takes changes, and makes none of them."""

    def __init__(self) -> None:
        super().__init__("", Record(record.FOLDER))

    def make(self, change: Change) -> bool:
        """Find out what is so."""
        facts = change.facts()
        self.facts += facts
        return not all(fact.is_so for fact in facts)

    def note(self, change: Change) -> None:
        """Do nothing."""


@contextlib.contextmanager
def begin(
    command: str, folder: Path | None = None, *, request: str | None = None
) -> Iterator[Transaction]:
    """Change the host; what was changed is taken back if the block raises anything.

    What a run that was killed has left is dealt with first.  One run at a time.

    Args:
        command: what is being done, such as "vifctl configure ovn".
        folder: where it is noted; that of the host if not given.
        request: all that was asked for, in whatever form: a run that was killed and was to do the
            same is finished, not taken back.  None if it is always to be taken back.

    Raises:
        HostError: another run goes on, or what an earlier one has left can't be taken back.
        VifError: what the block raised; it says what could not be taken back.
    """
    with record.hold(folder) as note:
        transaction = Transaction(command, note, request)
        with _undisturbed():
            transaction.recover()
        try:
            yield transaction
        except BaseException as error:
            with _undisturbed():
                told = transaction.take_back()
            if told and isinstance(error, VifError):
                what = f"{error.what}; besides: {'; '.join(told)}"
                raise HostError(what, error.remedy) from error
            raise
        with _undisturbed():
            transaction.close()


def heeded(signals: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Give those of some signals that end this process; nohup has it ignore one for good."""
    return [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]


def _take_back(noted: list[Noted]) -> tuple[list[str], list[Noted]]:
    """Take changes back, the last one first; whatever fails stays for another time."""
    told: list[str] = []
    stuck: list[Noted] = []
    for kind, before in reversed(noted):
        try:
            left = kind.take_back(before)
        except HostError as error:
            told.append(f"not put back: {error}")
            stuck.insert(0, (kind, before))
        else:
            if left is not None:
                told.append(left)
    for kind, before in noted:
        try:
            kind.settle(before)
        except HostError as error:
            told.append(f"not put back: {error}")
            if (kind, before) not in stuck:
                stuck.append((kind, before))
    return told, stuck


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nobody end this process for now; who tries has his way afterwards."""
    # Not by a mask, which is a thread's: the kernel gives the signal to another one.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def notice(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, notice) for number in heeded(_SIGNALS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])
