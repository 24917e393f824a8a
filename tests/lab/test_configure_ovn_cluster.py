# SPDX-License-Identifier: GPL-2.0-or-later
"""A host becomes one of an OVN whose southbound database is clustered."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.ovn_cluster import ADDRESSES, SouthboundCluster
from tests.lab.harness.product import install_on
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor

JOIN = (",".join(ADDRESSES), "192.0.2.11", "hv1.example.com", "--no-ssl")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A host that is none of OVN's so far, and three servers of the southbound database."""
    lab = Lab(hypervisors=0, clustered="sb")
    lab.add_hypervisor("hv1", SystemdHypervisor, ovn=False)
    with lab as started:
        install_on(started.hosts[0])
        yield started


def changed(lab: Lab) -> list[str]:
    """Configure the host with all members, and give what was changed."""
    done = lab.hosts[0].run(["vifctl", "configure", "ovn", "--json", *JOIN])
    told: list[str] = json.loads(done.stdout)["changed"]
    return told


def connected(lab: Lab) -> str:
    """The member that ovn-controller is connected to, by its address; empty if it is to none."""
    lines = lab.hosts[0].output(["ss", "-Htn", "state", "established"]).splitlines()
    peers = (line.split()[3] for line in lines)
    return next((peer.rpartition(":")[0] for peer in peers if peer.endswith(":6642")), "")


def test_a_host_knows_all_members_and_does_without_any_one(lab: Lab) -> None:
    central = lab.central
    assert isinstance(central, SouthboundCluster)

    first = changed(lab)
    peer = wait_until(lambda: connected(lab), 40, "a connection to a member")
    member = central.members[ADDRESSES.index(peer)]
    member.kill()
    wait_until(lambda: connected(lab) not in ("", peer), 40, "another member")
    again = changed(lab)
    central.restore()

    assert f"ovn-remote is {central.remotes}" in first
    assert again == []
