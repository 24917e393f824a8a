# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports in a northbound database of three members: the leader is found, and the next one, too."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.northbound_server import Member, NorthboundCluster
from vif_driver.errors import Unavailable
from vif_driver.host import northbound
from vif_driver.host.northbound import Northbound
from vif_driver.host.northbound_rows import Edit, LogicalSwitchPort

NAMES = ["port1", "port2"]


@pytest.fixture(scope="module")
def running() -> Iterator[NorthboundCluster]:
    """A cluster with two ports, and a third."""
    with tempfile.TemporaryDirectory(prefix="nb") as folder:
        cluster = NorthboundCluster(Path(folder))
        try:
            cluster.leader.add_ports([*NAMES, "port3"])
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def cluster(running: NorthboundCluster) -> Iterator[NorthboundCluster]:
    """The cluster, complete before and after; nothing has been changed of its ports."""
    for name in NAMES:
        running.leader.write(name, options={}, external_ids={})
    yield running
    running.restart()


def connected(remotes: Sequence[str], scenario: Callable[[Northbound], Awaitable[Any]]) -> Any:
    """Run a scenario on a connection."""

    async def main() -> Any:
        async with Northbound(remotes, None, NAMES) as database:
            await database.wait_connected()
            return await scenario(database)

    return asyncio.run(main())


def idl_of(database: Northbound) -> Any:
    return database._opened._idl


def member_of(database: Northbound, cluster: NorthboundCluster) -> Member:
    """Tell which member the connection is to."""
    names = {peer.name: str(peer.remote) for peer in database._peers}
    remote = names[idl_of(database).session_name()]
    return next(member for member in cluster.members if member.remote == remote)


def test_it_is_the_leader_that_is_asked(cluster: NorthboundCluster) -> None:
    async def scenario(database: Northbound) -> bool:
        return member_of(database, cluster) is cluster.leader

    assert [connected(cluster.remotes, scenario) for _ in range(6)] == [True] * 6


def test_members_of_whom_none_leads_are_told(cluster: NorthboundCluster) -> None:
    remotes = [member.remote for member in cluster.followers]

    async def told(database: Northbound) -> None:
        """Wait until a member has answered, and that is said."""
        said = ""
        while not re.search(r"\.sock: it is not the leader of its cluster", said):
            with pytest.raises(Unavailable) as refused:
                await database.wait_connected(0.3)
            said = str(refused.value)

    async def main() -> None:
        async with Northbound(remotes, None, NAMES) as database:
            await asyncio.wait_for(told(database), 20)

    asyncio.run(main())


def test_what_others_change_costs_little(cluster: NorthboundCluster) -> None:
    async def scenario(database: Northbound) -> Any:
        before = idl_of(database)._session.rpc.get_received_bytes()
        for number in range(10):
            cluster.leader.write("port3", options={"number": str(number)})
        await database.edit("test", lambda _port: Edit(options={"x": "y"}))
        return idl_of(database)._session.rpc.get_received_bytes() - before

    assert connected(cluster.remotes, scenario) < 8000


@pytest.mark.parametrize("killed", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_leader_that_fails_in_the_middle_is_replaced(
    cluster: NorthboundCluster, killed: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(northbound, "_PROBE_INTERVAL", 1000)
    old = cluster.leader

    def change(port: LogicalSwitchPort) -> Edit:
        assert old.process is not None
        os.kill(old.process.pid, killed)
        return Edit(options={"requested-chassis": "hv1,hv2"}, external_ids={"ours": "1"})

    async def scenario(database: Northbound) -> Any:
        changed = await database.edit("test", change, timeout=30)
        return sorted(changed), member_of(database, cluster)

    try:
        changed, new = connected(cluster.remotes, scenario)
    finally:
        old.stop()

    assert changed == NAMES
    assert new is not old
    for name in NAMES:
        assert new.read(name, "options") == {"requested-chassis": "hv1,hv2"}
        assert new.read(name, "external_ids") == {"ours": "1"}
