# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd's journal tells of the rows that this driver has removed."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from vif_driver.errors import Unavailable
from vif_driver.host import accounts

#: The units that remove rows.
UNITS = ("vif-agent.service", "vif-driver-boot.service")

#: As whom they run.
USER = "vif-agent"

# Bytes of a field; by default the library cuts off what is longer than 64 KiB.
_LONGEST_FIELD = 16 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Removal:
    """A line about a row that was about to be removed.

    Attributes:
        time: when.
        uuid: of the row.
        record: what there was of it, as JSON; see :mod:`vif_driver.reconciliation.restoring`.
        message: the line.
    """

    time: datetime.datetime
    uuid: str
    record: str
    message: str


def removals(uuid: str | None = None) -> Iterator[Removal]:
    """Give the removals that the journal knows of, the oldest first.

    Args:
        uuid: only those of this row.

    Raises:
        Unavailable: the journal cannot be read.
    """
    agent = accounts.named(USER)
    uids = frozenset((0,) if agent is None else (0, agent.uid))
    try:
        from systemd import journal  # in the agent, and here when it is asked for

        with journal.Reader() as reader:
            reader.data_threshold = _LONGEST_FIELD
            _match(reader, None if agent is None else agent.uid, uuid)
            for entry in reader:
                found = _removal(entry, uids)
                if found is not None and uuid in (None, found.uuid):
                    yield found
    except (ImportError, OSError) as error:
        raise Unavailable(
            f"the journal cannot be read ({error})", "see whether journalctl can, as root"
        ) from error


def _match(reader: Any, agent: int | None, uuid: str | None) -> None:
    """Have the journal give what may be a removal; which of it is one is decided by _removal."""
    for unit in UNITS:
        reader.add_match(_SYSTEMD_UNIT=unit)
    if uuid is not None:
        reader.add_match(VIF_ROW_ID=uuid)
    if agent is None:
        return
    reader.add_disjunction()
    reader.add_match(_UID=str(agent))
    if uuid is not None:
        reader.add_match(VIF_ROW_ID=uuid)


def _removal(entry: Mapping[str, Any], uids: frozenset[int]) -> Removal | None:
    """Give what an entry tells of a removal; None if it is something else."""
    if not _is_ours(entry, uids):
        return None
    time = entry.get("__REALTIME_TIMESTAMP")
    # A field that an entry has twice comes as a list, one that is no text as bytes.
    uuid, record, message = (entry.get(key) for key in ("VIF_ROW_ID", "VIF_ROW", "MESSAGE"))
    if not isinstance(time, datetime.datetime) or not isinstance(message, str):
        return None
    if not isinstance(uuid, str) or not isinstance(record, str):
        return None
    # Old versions of the library give local times without saying so.
    return Removal(time.astimezone(), uuid, record, message)


def _is_ours(entry: Mapping[str, Any], uids: frozenset[int]) -> bool:
    """Tell whether an entry is the agent's, or the boot pass's.

    Any local user may write entries, with whatever fields, SYSLOG_IDENTIFIER and VIF_ROW among
    them.  Only those that begin with an underscore are journald's own word, by what the kernel
    says of the sender (systemd.journal-fields(7)): no user, VDSM's included, gets them forged.
    """
    # The library converts some fields, and _UID is one.
    uid, unit = entry.get("_UID"), entry.get("_SYSTEMD_UNIT")
    if not isinstance(uid, int) or uid not in uids:
        return False
    # journald looks the unit up, and does not find it if the sender, as the boot pass may, ends at
    # once.  The agent's user is nobody else's; root, on the other hand, is many.
    return unit in UNITS or (unit is None and uid != 0)
