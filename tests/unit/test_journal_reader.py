# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the journal's entries are taken for removals; the journal is a stand-in."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from systemd import journal

from vif_driver.errors import Unavailable
from vif_driver.host import accounts, journal_reader
from vif_driver.host.accounts import Account

from .conftest import VM_ID

AGENT, VDSM = 987, 36
ROW_ID = "00000001-0000-4000-8000-000000000001"
OTHER_ID = "00000002-0000-4000-8000-000000000002"

#: As the library gives it.
ENTRY: dict[str, Any] = {
    "__REALTIME_TIMESTAMP": datetime.datetime(2026, 1, 2, 3, 4, 5),
    "_UID": AGENT,
    "_SYSTEMD_UNIT": "vif-agent.service",
    "SYSLOG_IDENTIFIER": "vif-agent",
    "MESSAGE": "removing port tap1",
    "VIF_VM": VM_ID,
    "VIF_ROW": "{}",
    "VIF_ROW_ID": ROW_ID,
}


class Journal:
    """Stands in for the library's reader, with these entries.

    It gives whatever it has: what it is asked for is for speed, not for safety.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.matches: list[set[tuple[str, str]]] = [set()]
        self.data_threshold = 65536
        self.error: Exception | None = None

    def add(self, **fields: Any) -> None:
        """Add an entry; a field that is None is left out."""
        fields = {**ENTRY, **fields}
        self.entries.append({name: value for name, value in fields.items() if value is not None})

    def __call__(self) -> Journal:
        if self.error is not None:
            raise self.error
        return self

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(self.entries)

    def add_match(self, **fields: str) -> None:
        self.matches[-1].update(fields.items())

    def add_disjunction(self) -> None:
        self.matches.append(set())


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal of a host that has the agent's user."""
    stand_in = Journal()
    monkeypatch.setattr(journal, "Reader", stand_in)
    monkeypatch.setattr(accounts, "named", {"vif-agent": Account(AGENT, frozenset())}.get)
    return stand_in


def found(uuid: str | None = None) -> list[str]:
    return [removal.uuid for removal in journal_reader.removals(uuid)]


@pytest.mark.parametrize("unit", ["vif-agent.service", "vif-driver-boot.service"])
@pytest.mark.parametrize("uid", [AGENT, 0])
def test_a_line_of_the_agent_or_the_boot_pass_is_taken(
    entries: Journal, unit: str, uid: int
) -> None:
    entries.add(_SYSTEMD_UNIT=unit, _UID=uid)

    (removal,) = journal_reader.removals()

    assert (removal.uuid, removal.record, removal.message) == (ROW_ID, "{}", "removing port tap1")
    assert removal.time.timestamp() == ENTRY["__REALTIME_TIMESTAMP"].timestamp()
    assert removal.time.tzinfo is not None


def test_a_line_of_a_boot_pass_that_ended_too_soon_is_taken(entries: Journal) -> None:
    entries.add(_SYSTEMD_UNIT=None, SYSLOG_IDENTIFIER="vif-driver-boot")

    assert found() == [ROW_ID]


@pytest.mark.parametrize(
    "forged",
    [
        {"_UID": VDSM},
        {"_UID": VDSM, "_SYSTEMD_UNIT": "vdsmd.service"},
        {"_UID": VDSM, "_SYSTEMD_UNIT": None},
        {"_UID": VDSM, "UNIT": "vif-agent.service", "OBJECT_SYSTEMD_UNIT": "vif-agent.service"},
        {"_UID": VDSM, "_SYSTEMD_UNIT": "user@36.service", "_SYSTEMD_USER_UNIT": ENTRY["VIF_ROW"]},
        {"_UID": AGENT, "_SYSTEMD_UNIT": "session-1.scope"},
        {"_UID": 0, "_SYSTEMD_UNIT": "vdsmd.service"},
        {"_UID": 0, "_SYSTEMD_UNIT": None},
        {"_UID": None},
        {"_UID": str(AGENT)},
        {"_UID": [AGENT, VDSM]},
        {"_SYSTEMD_UNIT": ["vif-agent.service", "vdsmd.service"]},
        {"_UID": b"\xff"},
    ],
)
def test_what_somebody_else_says_is_not_taken(entries: Journal, forged: dict[str, Any]) -> None:
    entries.add(**forged)

    assert found() == []


@pytest.mark.parametrize(
    "odd",
    [
        {"VIF_ROW": None},
        {"VIF_ROW_ID": None},
        {"VIF_ROW": ["{}", "{}"]},
        {"VIF_ROW": b"\xff"},
        {"VIF_ROW_ID": [ROW_ID, OTHER_ID]},
        {"MESSAGE": None},
        {"__REALTIME_TIMESTAMP": None},
    ],
)
def test_a_line_about_something_else_is_passed_over(entries: Journal, odd: dict[str, Any]) -> None:
    entries.add(**odd)
    entries.add(VIF_ROW_ID=OTHER_ID)

    assert found() == [OTHER_ID]


def test_only_the_row_that_is_asked_for_is_given(entries: Journal) -> None:
    entries.add()
    entries.add(VIF_ROW_ID=OTHER_ID)

    assert found(OTHER_ID) == [OTHER_ID]


def test_the_journal_is_asked_for_no_more_than_is_needed(entries: Journal) -> None:
    found(ROW_ID)

    row = ("VIF_ROW_ID", ROW_ID)
    assert entries.matches == [
        {*(("_SYSTEMD_UNIT", unit) for unit in journal_reader.UNITS), row},
        {("_UID", str(AGENT)), row},
    ]
    assert entries.data_threshold > 1 << 20


def test_without_the_agents_user_only_root_is_believed(
    entries: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "named", lambda _name: None)
    entries.add()
    entries.add(_UID=0, VIF_ROW_ID=OTHER_ID)
    entries.add(_SYSTEMD_UNIT=None)

    assert found() == [OTHER_ID]
    assert len(entries.matches) == 1


def test_a_journal_that_cannot_be_read_is_told(entries: Journal) -> None:
    entries.error = PermissionError(13, "Permission denied")

    with pytest.raises(Unavailable, match="the journal cannot be read"):
        found()
