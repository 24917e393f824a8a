# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host was before it became one of Neutron's."""

from __future__ import annotations

from pathlib import Path

import pytest

from vif_driver.configuration import neutron_past
from vif_driver.configuration.neutron_past import NAME, Past, PastOption, PastService
from vif_driver.errors import HostError

OPTION = PastOption("neutron.conf", "DEFAULT", "transport_url", None, "first")
SERVICE = PastService("agent.service", active=False, enabled=False)
FIRST = Past().followed_by([OPTION], [SERVICE], ["br-int"], [("br-ex", "eth1")])


def test_it_is_found_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(FIRST.content())

    assert neutron_past.load(tmp_path) == FIRST


def test_a_host_that_was_never_configured_has_none(tmp_path: Path) -> None:
    assert neutron_past.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "options": 3}'])
def test_one_that_cannot_be_understood_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)

    with pytest.raises(HostError, match=r"neutron\.json has what the host was .*; remove it"):
        neutron_past.load(tmp_path)


def test_what_something_was_at_first_stays() -> None:
    again = PastOption("neutron.conf", "DEFAULT", "transport_url", "first", "second")

    both = FIRST.followed_by(
        [again], [PastService("agent.service", active=True, enabled=True)], [], []
    )

    assert both.options == (PastOption("neutron.conf", "DEFAULT", "transport_url", None, "second"),)
    assert both.services == (SERVICE,)
    assert (both.bridges, both.uplinks) == (FIRST.bridges, FIRST.uplinks)


def test_a_run_that_changes_nothing_changes_nothing_here() -> None:
    running = PastService("agent.service", active=True, enabled=True)

    assert FIRST.followed_by([], [running], [], []).content() == FIRST.content()
