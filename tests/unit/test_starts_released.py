# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts that hooks dealt with while there was no agent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vif_driver.host.starts import Start, Starts

from .conftest import VM_ID

OTHER_VM = "8e555951-0ed1-22e2-c356-600edf85fbe3"


@pytest.fixture
def starts(tmp_path: Path) -> Starts:
    (tmp_path / "released").mkdir()
    return Starts(tmp_path / "starting", tmp_path / "released")


def test_nothing_is_left_of_them(starts: Starts, tmp_path: Path) -> None:
    start = Start(VM_ID)
    starts.put(start)
    starts.release(start)

    starts.forget_released()

    assert os.listdir(tmp_path / "starting") == []


def test_the_others_are_kept(starts: Starts) -> None:
    again, other = Start(VM_ID), Start(OTHER_VM)
    starts.release(Start(VM_ID))
    starts.put(again)
    starts.put(other)

    starts.forget_released()

    assert starts.all() == [again, other]


def test_there_may_be_none(starts: Starts) -> None:
    starts.forget_released()

    assert starts.all() == []
