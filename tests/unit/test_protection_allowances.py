# SPDX-License-Identifier: GPL-2.0-or-later
"""What root has allowed, and what was protected when it could last be seen: files below /run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vif_driver.errors import HostError
from vif_driver.host.starts import uptime
from vif_driver.protection import allowances
from vif_driver.protection.allowances import LONGEST
from vif_driver.protection.known import Known, Protected

SEEN = Protected({"eth0": "carries tunnels"}, {"tun": "eth0"})


def test_what_is_allowed_holds_for_its_time_and_says_who_did_it(tmp_path: Path) -> None:
    allowances.allow("eth3", 600, "root", tmp_path)

    (allowance,) = allowances.all_(tmp_path)

    assert (allowance.device, allowance.by) == ("eth3", "root")
    assert 590 < allowance.seconds <= 600


def test_the_last_one_counts(tmp_path: Path) -> None:
    allowances.allow("eth3", 600, "root", tmp_path)
    allowances.allow("eth3", 60, "root", tmp_path)

    assert [one.seconds < 61 for one in allowances.all_(tmp_path)] == [True]


def test_its_time_ends(tmp_path: Path) -> None:
    allowances.allow("eth3", 0, "root", tmp_path)

    assert allowances.all_(tmp_path) == []


def test_there_is_a_longest_time(tmp_path: Path) -> None:
    assert allowances.allow("eth3", 1e9, "root", tmp_path).seconds <= LONGEST


def test_it_can_be_revoked(tmp_path: Path) -> None:
    allowances.allow("eth3", 600, "root", tmp_path)

    outcomes = [allowances.revoke("eth3", tmp_path), allowances.revoke("eth3", tmp_path)]

    assert (outcomes, allowances.all_(tmp_path)) == ([True, False], [])


def test_without_the_folder_nothing_is_allowed(tmp_path: Path) -> None:
    assert allowances.all_(tmp_path / "no") == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="a list"),
        pytest.param('{"until": "soon", "by": "x"}', id="no time"),
        pytest.param('{"by": "x"}', id="no end"),
        pytest.param(json.dumps({"until": 1e12, "by": "x"}), id="for ever"),
        pytest.param(json.dumps({"until": float("nan"), "by": "x"}), id="no number"),
    ],
)
def test_a_file_that_makes_no_sense_allows_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "eth3").write_text(text)

    assert allowances.all_(tmp_path) == []


def test_a_file_that_is_not_roots_allows_nothing(tmp_path: Path) -> None:
    allowances.allow("eth3", 600, "somebody", tmp_path)
    os.chown(tmp_path / "eth3", 36, 36)

    assert allowances.all_(tmp_path) == []


def test_a_link_allows_nothing_whatever_it_leads_to(tmp_path: Path) -> None:
    allowances.allow("eth3", 600, "root", tmp_path)
    (tmp_path / "eth4").symlink_to("eth3")
    os.mkfifo(tmp_path / "eth5")

    assert [one.device for one in allowances.all_(tmp_path)] == ["eth3"]


def test_where_it_cannot_be_written_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(HostError, match="cannot be written"):
        allowances.allow("eth3", 600, "root", tmp_path / "file" / "below")


@pytest.mark.parametrize("name", ["eth3", "bond0.100", "a_b-c", "x" * 15, "tun@0", "b'r"])
def test_names_of_devices(name: str) -> None:
    assert allowances.is_device(name)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 16, "a/b", "a:b", "a b", "a\n", "é" * 8])
def test_what_no_device_can_be_called(name: str) -> None:
    assert not allowances.is_device(name)


# ---- what was protected --------------------------------------------------------------------------


def test_what_is_noted_is_known_to_others(tmp_path: Path) -> None:
    note = tmp_path / "folder" / "known"

    Known(note).put(SEEN)

    assert Known(None, (note,)).get() == SEEN
    assert note.stat().st_mode & 0o777 == 0o644


def test_who_only_reads_notes_nothing(tmp_path: Path) -> None:
    Known(None, (tmp_path / "known",)).put(SEEN)

    assert list(tmp_path.iterdir()) == []


def test_the_latest_note_counts(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    Known(one).put(Protected({"eth9": "old"}))
    Known(other).put(SEEN)

    assert Known(None, (other, one)).get() == SEEN


def test_the_same_is_not_noted_again(tmp_path: Path) -> None:
    note = tmp_path / "known"
    known = Known(note)
    known.put(SEEN)
    before = note.stat().st_mtime_ns

    known.put(SEEN)

    assert note.stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["", "[]", '{"at": 1}', '{"at": 1, "devices": [], "networks": 1}'])
def test_a_damaged_note_is_none(tmp_path: Path, text: str) -> None:
    note = tmp_path / "known"
    note.write_text(text)

    assert Known(None, (note,)).get() == Protected()


def test_a_link_in_its_place_is_none(tmp_path: Path) -> None:
    real = tmp_path / "real"
    Known(real).put(SEEN)
    (tmp_path / "known").symlink_to(real)

    assert Known(None, (tmp_path / "known",)).get() == Protected()


def test_a_note_is_put_in_the_place_of_a_link_and_not_where_it_leads(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    (tmp_path / "known").symlink_to(precious)

    Known(tmp_path / "known").put(SEEN)

    assert precious.read_text() == "untouched"


def test_where_nothing_can_be_noted_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")

    Known(tmp_path / "file" / "known").put(SEEN)

    assert "what is protected is not noted" in caplog.text


def test_a_note_says_when(tmp_path: Path) -> None:
    Known(tmp_path / "known").put(SEEN)

    assert json.loads((tmp_path / "known").read_text())["at"] <= uptime()
