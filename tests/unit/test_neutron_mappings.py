# SPDX-License-Identifier: GPL-2.0-or-later
"""Mappings of physical networks, as they are given and as Neutron's files have them."""

from __future__ import annotations

import pytest

from vif_driver.configuration import neutron_mappings
from vif_driver.errors import ConfigError


def pairs(*texts: str) -> dict[str, str]:
    return neutron_mappings.pairs(texts, "--bridge-mapping", "a bridge")


@pytest.mark.parametrize("texts", [("p1:br-1", "p2:br-2"), ("p1:br-1, p2:br-2",)])
def test_pairs_are_given_one_by_one_or_in_a_list(texts: tuple[str, ...]) -> None:
    assert pairs(*texts) == {"p1": "br-1", "p2": "br-2"}


def test_they_are_written_as_neutron_reads_them() -> None:
    assert neutron_mappings.text(pairs("p1:br-1", "p2:br-2")) == "p1:br-1,p2:br-2"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["p1"], '--bridge-mapping: "p1" is no pair; '),
        (["p1:"], '"p1:" is no pair'),
        ([":br-1"], '":br-1" is no pair'),
        (["p1:br-1:2"], '"p1:br-1:2" is no pair'),
        (["p 1:br-1"], 'no network is called "p 1"'),
        (["p1:br$x"], '"br$x" cannot be the name of a bridge'),
        (["p1:a234567890123456"], '"a234567890123456" cannot be the name of a bridge'),
        (["p1:br-1", "p1:br-2"], "p1 is there twice"),
        (["p1:br-1,p2:br-1"], "br-1 is there twice"),
    ],
)
def test_what_neutron_would_refuse_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        pairs(*texts)

    assert said in str(raised.value)


@pytest.mark.parametrize("name", ["a", "br-int", "eth0.100", "a23456789012345"])
def test_names_that_the_kernel_takes_are_taken(name: str) -> None:
    assert neutron_mappings.device(name, "a bridge") == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "a:b", "br\n", "é"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a bridge"):
        neutron_mappings.device(name, "a bridge")


def test_kinds_of_tunnels_are_given_once_each() -> None:
    assert neutron_mappings.tunnel_types(["vxlan,gre", "vxlan"]) == ("vxlan", "gre")


def test_a_kind_that_the_agent_cannot_make_is_refused() -> None:
    with pytest.raises(ConfigError, match='no tunnels called "stt"; it can make vxlan'):
        neutron_mappings.tunnel_types(["stt"], ["vxlan"])
