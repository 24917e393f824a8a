# SPDX-License-Identifier: GPL-2.0-or-later
"""What a log line is about, as fields of systemd's journal.

``journalctl VIF_VM=<id>`` and ``journalctl VIF_VNIC=<id>`` give everything that this driver did
for a VM or a vNIC; docs/troubleshooting.md lists the fields.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from vif_driver.vnic import VnicIdentity

_FIELDS = "vif_fields"

# syslog(3), which the journal's PRIORITY= follows.
_PRIORITIES = (
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)


def about(
    vnic: VnicIdentity | None = None,
    *,
    vm: str | None = None,
    vnic_id: str | None = None,
    event: str | None = None,
    seconds: float | None = None,
    row: Mapping[str, Any] | None = None,
    row_id: str | None = None,
) -> dict[str, dict[str, str]]:
    """Give the ``extra`` of a log call: ``log.info("...", extra=about(vnic))``.

    Args:
        vnic: the vNIC, and its VM.
        vm: the VM, where no vNIC is meant.
        vnic_id: the vNIC, where no more of it is known.
        event: VDSM's event.
        seconds: how long it took.
        row: what was removed from Open vSwitch's database, enough to put it back.
        row_id: its uuid there, by which ``vifctl reconcile --restore`` finds it.
    """
    fields = {
        "VIF_VNIC": vnic_id if vnic is None else vnic.id,
        "VIF_VM": vm or (None if vnic is None else vnic.vm_id),
        "VIF_EVENT": event,
        "VIF_DURATION_MS": None if seconds is None else f"{seconds * 1000:.1f}",
        "VIF_ROW": None if row is None else json.dumps(row, sort_keys=True),
        "VIF_ROW_ID": row_id,
    }
    return {_FIELDS: {name: value for name, value in fields.items() if value is not None}}


class JournalHandler(logging.Handler):
    """Sends log lines to the journal with what they are about.

    Args:
        identifier: the name of the program.
    """

    def __init__(self, identifier: str) -> None:
        super().__init__()
        self._identifier = identifier
        from systemd import journal  # in the agent alone

        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        try:
            fields: dict[str, Any] = dict(getattr(record, _FIELDS, {}))
            if record.exc_info:
                fields["EXCEPTION_TEXT"] = logging.Formatter().formatException(record.exc_info)
            priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
            fields["MESSAGE"] = record.getMessage()
            fields["PRIORITY"] = str(priority)
            fields["SYSLOG_IDENTIFIER"] = self._identifier
            fields["LOGGER"] = record.name
            fields["CODE_FILE"] = record.pathname
            fields["CODE_LINE"] = str(record.lineno)
            # Not send(): it looks up who called it, which takes longer than all the rest.
            self._journal.sendv(*(f"{name}={value}" for name, value in fields.items()))
        except Exception:
            self.handleError(record)


def configure(identifier: str, level: int = logging.INFO) -> None:
    """Have everything logged go to the journal, or to standard error where that is none of its.

    Args:
        identifier: the name of the program.
        level: the lowest that is logged.
    """
    handler: logging.Handler
    if stderr_is_journal():
        handler = JournalHandler(identifier)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def send(identifier: str, message: str) -> None:
    """Send one line from a program that is no service; lost where there is no journal.

    Args:
        identifier: the name of the program.
        message: the line.
    """
    try:
        from systemd import journal
    except ImportError:
        return
    fields = {"MESSAGE": message, "PRIORITY": "5", "SYSLOG_IDENTIFIER": identifier}
    with contextlib.suppress(OSError):
        journal.sendv(*(f"{name}={value}" for name, value in fields.items()))


def stderr_is_journal() -> bool:
    """Tell whether standard error is a stream of the journal (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    if not device.isdigit() or not inode.isdigit():
        return False
    status = os.fstat(2)
    return (status.st_dev, status.st_ino) == (int(device), int(inode))
