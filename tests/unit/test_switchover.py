# SPDX-License-Identifier: GPL-2.0-or-later
"""What a live migration does to a logical switch port, whoever else writes to it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vif_driver import switchover
from vif_driver.host.northbound_rows import Edit, LogicalSwitchPort
from vif_driver.switchover import NOTE, REQUESTED, STRATEGY

VM = "7c5f0b5e-2f7a-4d0f-9d5b-0a6a3a1c2d3e"


@dataclasses.dataclass
class Port:
    """A logical switch port that steps are applied to."""

    options: dict[str, str] = dataclasses.field(default_factory=dict)
    external_ids: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def row(self) -> LogicalSwitchPort:
        return LogicalSwitchPort("port", "", self.options, self.external_ids, (), up=None)

    def apply(self, edit: Edit | None) -> Port:
        if edit is not None:
            self.options = _changed(self.options, edit.options)
            self.external_ids = _changed(self.external_ids, edit.external_ids)
        return self

    def announced(self, source: str | None = "hv1", destination: str = "hv2") -> Port:
        return self.apply(
            switchover.announce(
                self.row, vm_id=VM, source=source, destination=destination, strategy="rarp"
            )
        )

    def unblocked(self, source: str = "hv1", vm_id: str = VM) -> Port:
        return self.apply(switchover.unblock(self.row, vm_id=vm_id, source=source))

    def switched(self, destination: str = "hv2") -> Port:
        return self.apply(switchover.switch(self.row, destination=destination))

    def finished(self, destination: str = "hv2") -> Port:
        return self.apply(switchover.finish(self.row, destination=destination))

    def finished_from_source(self, source: str = "hv1", vm_id: str = VM) -> Port:
        return self.apply(switchover.finish_from_source(self.row, vm_id=vm_id, source=source))

    def undone(
        self, destination: str | None = "hv2", vm_id: str = VM, source: str | None = None
    ) -> Port:
        step = switchover.undo(self.row, vm_id=vm_id, source=source, destination=destination)
        return self.apply(step)


def _changed(present: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**present, **changes}
    return {key: value for key, value in merged.items() if value is not None}


PROVIDERS = {"mcast_flood": "true"}, {"ovirt_device_id": VM}


@pytest.fixture
def port() -> Port:
    """A port as the provider makes it: any host may have it."""
    return Port(dict(PROVIDERS[0]), dict(PROVIDERS[1]))


@pytest.fixture
def assigned() -> Port:
    """A port of a provider that says which host may have it."""
    return Port({REQUESTED: "hv1"})


def test_both_hosts_may_bind_it_once_announced(port: Port) -> None:
    port.announced()

    assert port.options == {"mcast_flood": "true", REQUESTED: "hv1,hv2", STRATEGY: "rarp"}


def test_the_destination_waits_for_nothing_once_the_guest_stands_still(port: Port) -> None:
    port.announced().unblocked()

    assert port.options == {"mcast_flood": "true", REQUESTED: "hv1,hv2"}


@pytest.mark.parametrize(("source", "vm_id"), [("hv2", VM), ("hv1", "another VM")])
def test_nobody_but_the_source_says_that_it_stands_still(
    port: Port, source: str, vm_id: str
) -> None:
    port.announced().unblocked(source, vm_id)

    assert port.options[STRATEGY] == "rarp"


@pytest.mark.parametrize("key", [REQUESTED, STRATEGY])
def test_what_the_provider_wrote_is_not_unblocked(port: Port, key: str) -> None:
    port.announced()
    port.options[key] = "hv9"

    port.unblocked()

    assert port.options[STRATEGY] in ("rarp", "hv9")


def test_that_it_stands_still_is_no_news_once_it_runs(assigned: Port) -> None:
    assigned.options[STRATEGY] = "garp"

    assigned.announced().switched().unblocked()

    assert assigned.options == {REQUESTED: "hv2", STRATEGY: "garp"}


@pytest.mark.parametrize("strategy", [None, "garp"])
def test_what_was_waited_for_before_comes_back_if_the_guest_stays(
    port: Port, strategy: str | None
) -> None:
    port.options = _changed(port.options, {STRATEGY: strategy})
    before = dict(port.options)

    port.announced().unblocked().undone()

    assert (port.options, port.external_ids) == (before, PROVIDERS[1])


@pytest.mark.parametrize("source", [None, "hv2"])
def test_a_port_that_nobody_else_has_is_left_alone(port: Port, source: str | None) -> None:
    port.announced(source, "hv2")

    assert (port.options, port.external_ids) == PROVIDERS


def test_the_destination_alone_may_once_switched(port: Port) -> None:
    port.announced().switched()

    assert port.options == {"mcast_flood": "true", REQUESTED: "hv2"}


def test_nothing_of_ours_is_left_once_finished(port: Port) -> None:
    port.announced().switched().finished()

    assert (port.options, port.external_ids) == PROVIDERS


def test_nothing_of_ours_is_left_once_undone(port: Port) -> None:
    port.announced().undone()

    assert (port.options, port.external_ids) == PROVIDERS


def test_a_provider_that_assigns_hosts_finds_the_new_one(assigned: Port) -> None:
    assigned.announced().switched().finished()

    assert assigned == Port({REQUESTED: "hv2"})


def test_a_provider_that_assigns_hosts_finds_the_old_one_if_undone(assigned: Port) -> None:
    assigned.announced().undone()

    assert assigned == Port({REQUESTED: "hv1"})


def test_a_strategy_that_was_there_comes_back(port: Port) -> None:
    port.options[STRATEGY] = "garp"

    port.announced().switched()

    assert port.options[STRATEGY] == "garp"


@pytest.mark.parametrize("last_step", ["switched", "finished", "undone", "finished_from_source"])
def test_what_the_provider_wrote_meanwhile_wins(port: Port, last_step: str) -> None:
    port.announced()
    port.options[REQUESTED] = "hv9"

    getattr(port, last_step)()

    assert port.options[REQUESTED] == "hv9"


@pytest.mark.parametrize("last_step", ["finished", "finished_from_source"])
def test_what_the_provider_wrote_after_the_switch_wins(port: Port, last_step: str) -> None:
    port.announced().switched()
    port.options[REQUESTED] = "hv9"

    getattr(port, last_step)()

    assert port.options == {"mcast_flood": "true", REQUESTED: "hv9"}


def test_a_step_may_be_repeated(port: Port) -> None:
    port.announced().switched().switched().finished().finished()

    assert (port.options, port.external_ids) == PROVIDERS


def test_the_source_can_undo_what_a_dead_destination_left(port: Port) -> None:
    port.announced().undone(destination=None, source="hv1")

    assert (port.options, port.external_ids) == PROVIDERS


@pytest.mark.parametrize("steps", [[], ["switched"]], ids=["announced", "switched"])
def test_the_source_can_finish_what_a_dead_destination_left(port: Port, steps: list[str]) -> None:
    port.announced()
    for step in steps:
        getattr(port, step)()

    port.finished_from_source()

    assert (port.options, port.external_ids) == PROVIDERS


@pytest.mark.parametrize("steps", [[], ["switched"]], ids=["announced", "switched"])
def test_a_provider_that_assigns_hosts_finds_the_dead_destination(
    assigned: Port, steps: list[str]
) -> None:
    assigned.announced()
    for step in steps:
        getattr(assigned, step)()

    assigned.finished_from_source()

    assert assigned == Port({REQUESTED: "hv2"})


@pytest.mark.parametrize(("source", "vm_id"), [("hv2", VM), ("hv3", VM), ("hv1", "another VM")])
def test_nobody_else_finishes_it(port: Port, source: str, vm_id: str) -> None:
    port.announced().finished_from_source(source, vm_id)

    assert port.options[REQUESTED] == "hv1,hv2"


def test_a_source_that_is_late_leaves_the_next_migration_alone(port: Port) -> None:
    port.announced("hv1", "hv2").switched("hv2").announced("hv2", "hv3")

    port.finished_from_source("hv1")

    assert port.options[REQUESTED] == "hv2,hv3"


def test_a_destination_that_is_late_finds_nothing_to_do(port: Port) -> None:
    port.announced().finished_from_source()

    port.switched().finished()

    assert (port.options, port.external_ids) == PROVIDERS


@pytest.mark.parametrize(
    ("destination", "source", "vm_id"),
    [
        ("hv3", None, VM),
        ("hv1", None, VM),
        (None, "hv2", VM),
        ("hv2", None, "another VM"),
        (None, "hv1", "another VM"),
    ],
)
def test_nobody_else_undoes_it(
    port: Port, destination: str | None, source: str | None, vm_id: str
) -> None:
    port.announced().undone(destination, vm_id, source)

    assert port.options[REQUESTED] == "hv1,hv2"


def test_a_late_undo_leaves_the_next_migration_alone(port: Port) -> None:
    port.announced("hv1", "hv2").switched("hv2").announced("hv2", "hv3")

    port.undone("hv2")

    assert port.options[REQUESTED] == "hv2,hv3"


@pytest.mark.parametrize("told", [None, "hv1", "hv3"])
def test_a_move_that_northd_has_not_seen_yet_has_ended_where_the_guest_runs(
    port: Port, told: str | None
) -> None:
    port.announced("hv1", "hv2").switched("hv2")

    port.announced(told, "hv3")

    assert port.options[REQUESTED] == "hv2,hv3"


@pytest.mark.parametrize("told", [None, "hv1"])
def test_a_guest_that_comes_back_is_where_the_move_that_nobody_has_ended_took_it(
    port: Port, told: str | None
) -> None:
    port.announced("hv1", "hv2")

    port.announced(told, "hv1")

    assert port.options[REQUESTED] == "hv2,hv1"


def test_a_move_that_has_not_ended_has_the_guest_where_the_port_is(port: Port) -> None:
    port.announced("hv1", "hv2")

    port.announced("hv1", "hv3")

    assert port.options[REQUESTED] == "hv1,hv3"


def test_a_host_that_the_provider_named_since_has_the_port(port: Port) -> None:
    port.announced("hv1", "hv2").switched("hv2")
    port.options[REQUESTED] = "hv4"

    port.announced("hv4", "hv3")

    assert port.options[REQUESTED] == "hv4,hv3"


def test_another_host_does_not_switch_it(port: Port) -> None:
    port.announced().switched("hv3")

    assert port.options[REQUESTED] == "hv1,hv2"


def test_a_migration_after_one_whose_end_nobody_saw_restores_what_was_before_that(
    port: Port,
) -> None:
    port.announced("hv1", "hv2")

    port.announced("hv1", "hv3").switched("hv3").finished("hv3")

    assert (port.options, port.external_ids) == PROVIDERS


def test_a_late_finish_leaves_the_next_migration_alone(port: Port) -> None:
    port.announced("hv1", "hv2").switched("hv2").announced("hv2", "hv1")

    port.finished("hv2")

    assert port.options[REQUESTED] == "hv2,hv1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        '{"vm_id": 1, "source": "", "destination": "", "before": {}, "ours": {}}',
        '{"vm_id": "", "source": "", "destination": "hv2", "before": 3, "ours": {}}',
    ],
)
def test_a_note_that_is_not_understood_is_no_note(text: str) -> None:
    port = Port({REQUESTED: "hv1"}, {NOTE: text})

    port.switched().undone().finished_from_source().finished()

    assert port == Port({REQUESTED: "hv1"}, {NOTE: text})


@pytest.mark.parametrize(
    ("versions", "strategy"),
    [
        (((23, 3, 1), (23, 3, 1)), "rarp"),
        (((25, 9, 0), (25, 9, 1)), "rarp,garp,na"),
        (((26, 3), (25, 3, 4)), "rarp"),
        (((26, 3), None), "rarp"),
    ],
)
def test_the_destination_waits_for_what_all_of_ovn_knows(
    versions: tuple[tuple[int, ...] | None, ...], strategy: str
) -> None:
    assert switchover.strategy(*versions) == strategy


CHASSIS = st.sampled_from(["hv1", "hv2", "hv3"])
STEPS = ["announced", "unblocked", "switched", "finished", "undone", "finished_from_source"]


@settings(max_examples=60, deadline=None)
@given(
    requested=st.none() | CHASSIS,
    strategy=st.none() | st.just("garp"),
    steps=st.lists(st.sampled_from(STEPS), max_size=6),
    seed=st.integers(0, 2**16),
)
def test_whatever_happened_a_migration_to_its_end_leaves_nothing(
    requested: str | None, strategy: str | None, steps: list[str], seed: int
) -> None:
    before = _changed({}, {REQUESTED: requested, STRATEGY: strategy})
    port, chance = Port(dict(before)), random.Random(seed)
    for step in steps:
        getattr(port, step)(*([chance.choice(["hv2", "hv1"])] if step != "announced" else []))

    port.announced("hv2", "hv1").switched("hv1").finished("hv1")

    assert NOTE not in port.external_ids
    assert port.options.get(STRATEGY) == strategy
    assert (REQUESTED in port.options) == (requested is not None)
