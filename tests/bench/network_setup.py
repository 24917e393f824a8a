# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs to judge a setupNetworks request on a host with 100 networks and 20 bonds."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.bench.bench import PYTHON, Bench, Command, failures, hook, spawn
from tests.bench.figure import Measured
from tests.lab.harness.nic import Nic
from tests.lab.harness.vdsm_hooks import ROOT
from vif_driver.host.vdsm_config import FOLDER

NETWORKS, BONDS = 100, 20
EVENT = "before_network_setup"
WARM_UP = 10
ROUNDS = 200
SLOW_ROUNDS = 40
ENCAP = "external_ids:ovn-encap-ip"

#: VDSM's notes, and with them the request that repeats everything.
BONDINGS: dict[str, Any] = {
    f"bond{number}": {"nics": [f"n{number}a", f"n{number}b"], "switch": "legacy"}
    for number in range(BONDS)
}
ALL: dict[str, Any] = {
    f"net{number}": {
        "bonding": f"bond{number % BONDS}",
        "vlan": 1000 + number,
        "bridged": True,
        "mtu": 1500,
        "ipaddr": f"10.0.{number}.1",
        "netmask": "255.255.255.0",
        "bootproto": "none",
        "defaultRoute": False,
        "switch": "legacy",
        "stp": False,
        "nameservers": [],
    }
    for number in range(NETWORKS)
}
#: What the engine sends when a network is added.
ONE_MORE = {"net100": {**ALL["net0"], "vlan": 2000, "ipaddr": "10.1.0.1"}}


def one_more(bench: Bench) -> Measured:
    """A request for one more network."""
    return _ratio(bench, "for one more network", _request(ONE_MORE), ROUNDS)


def everything(bench: Bench) -> Measured:
    """A request that repeats all of them, and adds one."""
    request = _request({**ALL, **ONE_MORE}, BONDINGS)
    return _ratio(bench, "that repeats all of them and adds one", request, ROUNDS)


def without_agent(bench: Bench) -> Measured:
    """A request for one more network, without the agent."""
    what = "for one more network, without the agent"
    return _ratio(bench, what, _request(ONE_MORE), SLOW_ROUNDS, with_agent=False)


def _ratio(
    bench: Bench, what: str, ours: Command, rounds: int, *, with_agent: bool = True
) -> Measured:
    bare = ours.instead(PYTHON, "-I", "-S", "-c", "pass")
    with _host(bench, with_agent):
        refused = spawn(bench.host, [_request(_bad())], rounds=1, together=False, user=ROOT)[0][0]
        both = spawn(bench.host, [bare, ours], rounds=WARM_UP + rounds, together=False, user=ROOT)
    if refused.status != 2 or "bond0 carries this host's OVN tunnels" not in refused.stderr:
        raise RuntimeError(f"what is to be refused is not: {refused.stderr}")
    wrong = [
        text
        for command, runs in zip((bare, ours), both)
        for text in failures(command, runs, rewrites=False)
    ]
    if wrong:
        raise RuntimeError(f"{len(wrong)} runs went wrong, the first: {wrong[0]}")
    base, hooked = (statistics.median(run.seconds for run in runs[WARM_UP:]) for runs in both)
    how = (
        f"the hook {EVENT} for a request {what}, against python3 -I -S -c pass in the same "
        f"environment, both spawned as root on a lab host with {NETWORKS} networks of VDSM's and "
        f"{BONDS} bonds (bridges and macvlans stand in for bonds and VLANs), {rounds} pairs in "
        f"turns after {WARM_UP} for warming up, ratio of the medians {hooked * 1000:.3f} ms and "
        f"{base * 1000:.3f} ms"
    )
    return Measured(hooked / base, how)


def _bad() -> dict[str, Any]:
    return {"x": {"bonding": "bond0"}}


def _request(networks: Mapping[str, Any], bondings: Mapping[str, Any] | None = None) -> Command:
    request = {
        "networks": networks,
        "bondings": bondings or {},
        "options": {"connectivityCheck": 1},
    }
    command = hook(EVENT, Nic("fa:16:3e:00:00:01"), data=json.dumps({"request": request}))
    env = {**command.env, "HOME": ROOT.home, "USER": ROOT.name, "LOGNAME": ROOT.name}
    return replace(command, env=env, variable="_hook_json")


@contextlib.contextmanager
def _host(bench: Bench, with_agent: bool) -> Iterator[None]:
    """Have the host's devices and VDSM's notes; tunnels begin on the first bond."""
    product = bench.no_agent()
    host = bench.host
    nics = [nic for bond in BONDINGS.values() for nic in bond["nics"]]
    bases = {name: f"v{number}" for number, name in enumerate(ALL)}
    made = [*nics, *BONDINGS, *bases.values(), *ALL]
    lines = [f"link add {nic} type veth peer name {nic}f" for nic in nics]
    for name, bond in BONDINGS.items():
        lines.append(f"link add {name} type bridge")
        lines += [f"link set {nic} master {name}" for nic in bond["nics"]]
    for name, attributes in ALL.items():
        lines.append(
            f"link add {bases[name]} link {attributes['bonding']} type macvlan mode bridge"
        )
        lines.append(f"link add {name} type bridge")
        lines.append(f"link set {bases[name]} master {name}")
        lines.append(f"addr add {attributes['ipaddr']}/24 dev {name}")
    lines.append("addr add 192.0.2.200/24 dev bond0")
    try:
        host.ip(*lines)
        host.vsctl("set", "Open_vSwitch", ".", f"{ENCAP}=192.0.2.200")
        for folder, notes in (("nets", ALL), ("bonds", BONDINGS)):
            for name, attributes in notes.items():
                host.write(FOLDER / folder / name, json.dumps(attributes))
        if with_agent:
            bench.agent()
        yield
    finally:
        host.run("".join(f"ip link del {name}; " for name in made), check=False, timeout=120)
        host.vsctl("remove", "Open_vSwitch", ".", "external_ids", "ovn-encap-ip")
        host.run(["rm", "-rf", str(FOLDER)])
        product.host.run("rm -rf /run/vif-driver/protected /run/vif-driver/allowed")
        bench.no_agent()
