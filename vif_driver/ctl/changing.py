# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that change the host's configuration have in common."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from vif_driver import journal
from vif_driver.configuration import transaction
from vif_driver.configuration.transaction import Transaction
from vif_driver.ctl import FINE, text
from vif_driver.ctl.look import require_root
from vif_driver.errors import one_line


@contextlib.contextmanager
def transaction_of(command: str, request: str | None = None) -> Iterator[Transaction]:
    """Change the host: all that the block changes, or nothing if it fails or is ended.

    Args:
        command: such as "vifctl configure ovn".
        request: what was asked for; see :func:`vif_driver.configuration.transaction.begin`.

    Raises:
        HostError: this user may not, another one does so just now, or what an earlier run has
            left can't be put back.
    """
    require_root(command)
    with _ended_politely(), transaction.begin(command, request=request) as changes:
        yield changes


def tell(
    command: str,
    changes: Transaction,
    notes: Sequence[str],
    *,
    as_json: bool,
    is_dry: bool = False,
) -> int:
    """Tell what was done, here and in the journal, and give the exit status.

    Args:
        command: see above.
        changes: what was changed.
        notes: what else is to be said, such as what was left out.
        as_json: for programs.
        is_dry: nothing was; it would be.
    """
    changed = [fact.what for fact in changes.facts if not fact.is_so]
    already = [fact.what for fact in changes.facts if fact.is_so]
    for line in [] if is_dry else [*changes.recovered, *changed]:
        journal.send("vifctl", one_line(f"{command}: {line}"))
    if as_json:
        told = {
            "changed": changed,
            "already": already,
            "recovered": changes.recovered,
            "notes": list(notes),
            "left_out": [],
        }
        text.print_json(told)
        return FINE
    for line in changes.recovered:
        print(one_line(line))
    done = "would be done" if is_dry else "done"
    rows = [("already so" if fact.is_so else done, fact.what) for fact in changes.facts]
    if rows:
        text.print_table(rows)
    for line in notes:
        print(f"vifctl: {one_line(line)}", file=sys.stderr)
    return FINE


@contextlib.contextmanager
def _ended_politely() -> Iterator[None]:
    """Have whoever ends this process, or the loss of its terminal, end it like Ctrl+C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    ending = transaction.heeded((signal.SIGTERM, signal.SIGHUP))
    before = {number: signal.signal(number, interrupt) for number in ending}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
