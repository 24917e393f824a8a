# SPDX-License-Identifier: GPL-2.0-or-later
"""Which changes to a host's network are refused, where its bonds, VLANs and bridges are real.

The hosts and requests are those of tests/unit/test_protection_policy.py: each host is made of NICs
of a kernel that is its own, and must be in all that matters what it is on paper.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.harness import topology
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.kernel_host import KernelHost
from tests.lab.harness.lab import Lab
from tests.lab.harness.product import KNOWN, Product
from tests.lab.harness.vdsm import Vdsm
from tests.lab.harness.vdsm_hooks import HookError
from tests.unit.test_protection_policy import BRIDGED, ROWS, Expected

PROGRAM = ("-m", "tests.lab.real_underlay")


@pytest.fixture(scope="module")
def host() -> Iterator[KernelHost]:
    """A host with NICs that lead nowhere, and an Open vSwitch without a bridge."""
    more: dict[str, Any] = {"own_kernel": True, "cables": (), "nics": 5}
    with Lab(hypervisors=1, ovn=False, start=False, **more) as lab:
        host = lab.hosts[0]
        assert isinstance(host, KernelHost)
        host.boot()
        host.ovs.start(host.external_ids)
        host.run(["modprobe", "bonding", "max_bonds=0"])
        yield host


@pytest.fixture(scope="module")
def judged(host: KernelHost) -> dict[str, Any]:
    """What came of every row on every host, by the host's name."""
    answer: dict[str, Any] = json.loads(host.python(*PROGRAM, "judge", timeout=500))
    return answer


@pytest.mark.parametrize("name", [made.__name__ for made in ROWS])
def test_the_host_is_what_it_is_on_paper(judged: dict[str, Any], name: str) -> None:
    assert judged[name]["differences"] == []


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        pytest.param(made.__name__, number, expected, id=f"{made.__name__}: {what}")
        for made, rows in ROWS.items()
        for number, (what, _, _, expected) in enumerate(rows)
    ],
)
def test_what_is_refused(
    judged: dict[str, Any], name: str, number: int, expected: Expected
) -> None:
    refusals = judged[name]["refusals"][number]

    if expected is None:
        assert refusals == []
    else:
        assert refusals, "it passes"
        assert refusals[0]["device"] == expected[0]
        assert expected[1] in refusals[0]["change"]


@pytest.mark.usefixtures("judged")
def test_all_that_tunnels_at_three_addresses_stand_on_is_protected(host: KernelHost) -> None:
    topology.build(host)
    topology.tunnels_begin_at(host, topology.FIRST, topology.SECOND, topology.THIRD)

    protected = json.loads(host.python(*PROGRAM, "protected"))

    assert {"OVN tunnels" in text for text in protected.values()} == {True}
    assert protected.keys() == {
        *("net10", "bond0.10", "bond0.20", "bond0", "nic0", "nic1"),
        *("tunnels6", "br-ex", "bond1", "nic2", "nic3"),
    }
    topology.remove(host)


@pytest.mark.usefixtures("judged")
def test_vdsm_is_told_by_the_agent(host: KernelHost) -> None:
    host.python(*PROGRAM, "build", "on_bridge")
    product = Product(host)
    product.install()
    product.start()
    wait_until(lambda: host.exists(KNOWN), 60, "the agent with Open vSwitch")
    vdsm = Vdsm(host)

    asked = {"tun": {**BRIDGED, "stp": True}, "other": {"bonding": "bond0", "vlan": 7}}
    assert vdsm.setup_networks(asked)["request"]["networks"] == asked
    with pytest.raises(HookError, match="'tun' would be removed, but tun carries this host's OVN"):
        vdsm.setup_networks({"tun": {"remove": True}})
    with pytest.raises(HookError, match="'bond0' would be removed"):
        vdsm.setup_networks(bondings={"bond0": {"remove": True}})
    assert [run.status for run in vdsm.runs] == [0, 2, 2]
