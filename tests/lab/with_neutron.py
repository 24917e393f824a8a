# SPDX-License-Identifier: GPL-2.0-or-later
"""A hypervisor with Neutron's own server and agents, and one network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.harness.neutron import Neutron, NeutronLab, NeutronNetwork


@pytest.fixture(scope="module")
def lab() -> Iterator[NeutronLab]:
    lab = NeutronLab()
    with lab:
        yield lab


@pytest.fixture(scope="module")
def neutron(lab: NeutronLab) -> Neutron:
    return lab.neutron


@pytest.fixture(scope="module")
def network(neutron: Neutron) -> NeutronNetwork:
    return neutron.create_network("net", "10.8.0.0/22")
