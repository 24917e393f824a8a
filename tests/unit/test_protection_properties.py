# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds of every request on every host."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vif_driver.errors import BadRequest
from vif_driver.protection.policy import judge, message
from vif_driver.protection.request import SetupRequest, parse

from .underlay import PaperHost, bonds, networks

EXAMPLES = settings(max_examples=40, deadline=None)

NICS = [f"eth{number}" for number in range(8)]
ADDRESSES = {4: "192.0.2.1/24", 6: "2001:db8::1/64"}


class Site:
    """A host with a network of VDSM's at whose address tunnels begin, and others.

    Attributes:
        host: it.
        tun: the name of that network.
        free: NICs that nothing stands on.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self.tun = draw(st.sampled_from(["tun", "ovirtmgmt", "a b'c", "ünïcode"]))
        nics = draw(st.permutations(NICS))
        self.bonds = [nics[:2], nics[2 : draw(st.integers(3, 4))]]
        self.singles, self.free = nics[4:6], nics[6:]
        version = draw(st.sampled_from([4, 6]))
        address = ADDRESSES[version]
        host = self.host = PaperHost(ovn_encap_ip=address.partition("/")[0])
        host.nic(*NICS, mtu=9000)
        for number, members in enumerate(self.bonds):
            host.bond(f"bond{number}", *members, mtu=9000)
            host.running["bondings"][f"bond{number}"] = {"nics": list(members)}
        if draw(st.booleans()):
            host.tap(draw(st.sampled_from([1442, 8900])))
        bases = ["bond0", "bond1", *self.singles]
        own = draw(a_network(bases))
        own["ipaddr" if version == 4 else "ipv6addr"] = address.partition("/")[0]
        if version == 4:
            own["prefix"] = 24
        else:
            own["ipv6addr"] = address
        self._add(self.tun, own)
        top = networks({self.tun: own})[self.tun].top
        assert top is not None
        host.address(top, address)
        for number in range(draw(st.integers(0, 3))):
            other = draw(a_network(bases))
            other["vlan"] = 200 + number
            other["switch"] = own["switch"]
            self._add(f"net{number}", other)

    def _add(self, name: str, attributes: dict[str, Any]) -> None:
        """Make a network's devices as VDSM would, and note it."""
        host, network = self.host, networks({name: attributes})[name]
        assert network.base is not None
        if network.switch == "ovs":
            bridge = f"vdsmbr_{network.base}"
            known = [one.name for one in host.foundation().switch.by_bridge.get(bridge, ())]
            if not known:
                host.ovs_bridge(bridge, network.base)
            host.ovs_port(bridge, name, type="internal", tag=network.vlan)
        else:
            if network.vlan is not None:
                host.vlan(network.base, network.vlan, mtu=network.mtu)
            if network.bridged:
                host.bridge(name, network.port or "", mtu=network.mtu)
        host.network(name, **attributes)


@st.composite
def a_site(draw: st.DrawFn) -> Site:
    return Site(draw)


@st.composite
def a_network(draw: st.DrawFn, bases: list[str]) -> dict[str, Any]:
    base = draw(st.sampled_from(bases))
    return {
        "bonding" if base.startswith("bond") else "nic": base,
        "vlan": draw(st.sampled_from([None, 100])),
        "bridged": draw(st.booleans()),
        "mtu": 9000,
        "switch": draw(st.sampled_from(["legacy", "legacy", "ovs"])),
    }


NAMES = st.sampled_from(
    ["tun", "net0", "net1", "x", "y", "br-int", "eth0", "bond0", "a/../b", "", "…"]
)


@st.composite
def any_request(
    draw: st.DrawFn, names: Any = NAMES, bases: list[str] | None = None
) -> SetupRequest:
    """A request of any networks and bonds, on these bases."""
    chosen = bases or [*NICS, "bond0", "bond1", "br-int", "nobody"]
    entry = st.one_of(
        st.just({"remove": True}),
        a_network(chosen),
        a_network(chosen).map(
            lambda one: {**one, "ipaddr": "192.0.2.9", "prefix": 24, "mtu": 1400}
        ),
    )
    members = st.lists(st.sampled_from(chosen), max_size=3, unique=True)
    bond = st.one_of(st.just({"remove": True}), members.map(lambda nics: {"nics": nics}))
    bond_names = st.sampled_from(
        ["bond0", "bond1", "bond7"] if bases is None else ["bond7", "bond8"]
    )
    return SetupRequest(
        networks(draw(st.dictionaries(names, entry, max_size=3))),
        bonds(draw(st.dictionaries(bond_names, bond, max_size=2))),
    )


@EXAMPLES
@given(a_site(), st.data())
def test_a_request_that_names_nothing_of_the_chain_is_never_refused(
    site: Site, data: st.DataObject
) -> None:
    foundation, running = site.host.foundation(), site.host.notes()
    chain = set(foundation.devices)
    unrelated = [
        name
        for name, network in running.networks.items()
        if not chain & {network.base, network.top, network.vlan_device}
    ]
    names = st.sampled_from([*unrelated, "new", "n/../w", "…"])
    bases = [*(nic for nic in site.free if nic not in chain), "nobody"]

    request = data.draw(any_request(names, bases))

    assert [str(one) for one in judge(request, running, foundation)] == []


@EXAMPLES
@given(a_site(), any_request(), st.booleans())
def test_one_that_removes_the_network_of_the_endpoint_always_is(
    site: Site, request: SetupRequest, noted: bool
) -> None:
    attributes = networks(site.host.running["networks"])[site.tun]
    if not noted and (attributes.bridged or attributes.switch == "ovs"):
        site.host.running["networks"].clear()  # the host alone tells which network it is
    removal = networks({site.tun: {"remove": True}})
    request = SetupRequest({**request.networks, **removal}, request.bonds)

    refusals = judge(request, site.host.notes(), site.host.foundation())

    assert refusals
    assert message(refusals).startswith("setupNetworks refused: ")


@EXAMPLES
@given(a_site(), st.data())
def test_what_repeats_what_is_passes(site: Site, data: st.DataObject) -> None:
    running = site.host.running
    again = {
        kind: {
            name: {**running[kind][name], "nameservers": [], "defaultRoute": True}
            for name in data.draw(st.sets(st.sampled_from(sorted(running[kind]))))
        }
        for kind in ("networks", "bondings")
    }

    refusals = site.host.asked(again["networks"], again["bondings"])

    assert [str(one) for one in refusals] == []


@EXAMPLES
@given(a_site(), st.integers(0, 1))
def test_a_bond_may_always_grow(site: Site, number: int) -> None:
    members = [*site.bonds[number], *site.free]

    refusals = site.host.asked({}, {f"bond{number}": {"nics": members}})

    assert [str(one) for one in refusals] == []


@EXAMPLES
@given(a_site(), any_request())
def test_every_reason_names_a_protected_device_once(site: Site, request: SetupRequest) -> None:
    foundation = site.host.foundation()

    refusals = judge(request, site.host.notes(), foundation)

    devices = [refusal.device for refusal in refusals]
    assert len(set(devices)) == len(devices)
    assert all(foundation.describe(device) for device in devices)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["nic", "bonding", "vlan", "mtu", "bridged", "remove", "nics", "ipaddr", "switch"]
)


@EXAMPLES
@given(
    st.one_of(
        JSON,
        st.fixed_dictionaries({"request": JSON}),
        st.fixed_dictionaries(
            {
                "request": st.fixed_dictionaries(
                    {
                        "networks": st.dictionaries(NAMES, st.dictionaries(KEYS, JSON) | JSON),
                        "bondings": st.dictionaries(NAMES, st.dictionaries(KEYS, JSON) | JSON),
                    }
                )
            }
        ),
    )
)
def test_whatever_comes_is_judged_or_said_to_be_no_request(content: Any) -> None:
    host = PaperHost(ovn_encap_ip="192.0.2.1")
    host.address(host.nic("eth0"), "192.0.2.1/24")

    try:
        request = parse(json.dumps(content).encode())
    except BadRequest as error:
        assert str(error)
    else:
        judge(request, host.notes(), host.foundation())
