# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent is started anew if it has another certificate than the host, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from vif_driver.configuration import transaction
from vif_driver.configuration.agent_credentials import AgentHasCredentials
from vif_driver.configuration.change import Fact
from vif_driver.errors import HostError
from vif_driver.host import handed_credentials, units
from vif_driver.host.certificates import NAMES, Credentials, in_folder
from vif_driver.host.units import Unit

HAS = "vif-agent has this host's certificate"


class Agent:
    """The agent's unit, and what it was handed.

    Attributes:
        runs: whether it does.
        restarts: how often it was started anew.
    """

    def __init__(self, handed: Path) -> None:
        self.handed = handed
        self.runs = True
        self.restarts = 0

    def look(self, name: str) -> Unit:
        return Unit(name, is_there=True, is_active=self.runs, is_enabled=True)

    def restart(self, _name: str) -> None:
        self.restarts += 1

    def has(self, content: str) -> None:
        self.handed.mkdir(exist_ok=True)
        for name in NAMES:
            (self.handed / name).write_text(content)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    agent = Agent(tmp_path / "handed")
    monkeypatch.setattr(handed_credentials, "FOLDER", agent.handed)
    monkeypatch.setattr(units, "look", agent.look)
    monkeypatch.setattr(units, "restart", agent.restart)
    return agent


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    """Those of the host."""
    for name in NAMES:
        (tmp_path / name).write_text("new")
    return in_folder(tmp_path)


def configure(folder: Path, credentials: Credentials) -> list[Fact]:
    with transaction.begin("configure", folder) as changes:
        changes.make(AgentHasCredentials(credentials))
    return changes.facts


@pytest.mark.parametrize("before", ["\n", "old"], ids=["none", "another"])
def test_an_agent_that_has_another_one_is_started_anew(
    agent: Agent, credentials: Credentials, tmp_path: Path, before: str
) -> None:
    agent.has(before)

    told = configure(tmp_path / "state", credentials)

    assert (told, agent.restarts) == ([Fact(HAS, False)], 1)


def test_one_that_has_it_is_not(agent: Agent, credentials: Credentials, tmp_path: Path) -> None:
    agent.has("new")

    told = configure(tmp_path / "state", credentials)

    assert (told, agent.restarts) == ([Fact(HAS, True)], 0)


def test_nor_is_one_that_does_not_run(
    agent: Agent, credentials: Credentials, tmp_path: Path
) -> None:
    agent.has("old")
    agent.runs = False

    assert (configure(tmp_path / "state", credentials), agent.restarts) == ([], 0)


def test_nor_is_one_of_which_it_is_not_known(
    agent: Agent, credentials: Credentials, tmp_path: Path
) -> None:
    assert (configure(tmp_path / "state", credentials), agent.restarts) == ([], 0)


def test_it_keeps_it_if_something_else_fails(
    agent: Agent, credentials: Credentials, tmp_path: Path
) -> None:
    agent.has("old")

    folder = tmp_path / "state"
    with pytest.raises(HostError, match="it fails"), transaction.begin("x", folder) as changes:
        changes.make(AgentHasCredentials(credentials))
        raise HostError("it fails", "see to it")

    assert agent.restarts == 1
