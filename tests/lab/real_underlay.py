# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the unit tests' hosts on paper real; runs inside a host with a kernel of its own.

``python -m tests.lab.real_underlay judge`` makes one after the other, judges every request of the
table on it, and prints what came of it as JSON; ``build NAME`` makes one and leaves it there;
``protected`` prints what is protected as things are.  The host has to have NICs of these names,
Open vSwitch, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.unit.test_protection_policy import ROWS
from tests.unit.underlay import PaperHost
from vif_driver.config import Config
from vif_driver.host import Host, neutron_agent, snapshot, switch, vdsm_config
from vif_driver.host.snapshot import Device, Snapshot
from vif_driver.host.switch import Switch, SwitchInterface
from vif_driver.protection import request as setup
from vif_driver.protection.guard import Guard
from vif_driver.protection.known import Known

HOSTS = {made.__name__: made for made in ROWS}
NICS = tuple(f"eth{number}" for number in range(5))
LINUX_BRIDGE_AGENT = neutron_agent.FOLDER / "plugins/ml2/linuxbridge_agent.ini"
#: Seconds for which an address is given that is not given for good.
LEASE = 3600


def main() -> None:
    """Do what is asked for."""
    if sys.argv[1] == "build":
        build(HOSTS[sys.argv[2]]())
        return
    if sys.argv[1] == "protected":
        foundation = asyncio.run(_guard().look())
        print(json.dumps({name: foundation.describe(name) for name in foundation.devices}))
        return
    answer = {}
    for name, made in HOSTS.items():
        host = made()
        build(host)
        answer[name] = {
            "differences": list(differences(host)),
            "refusals": [refusals(asked, bondings) for _, asked, bondings, _ in ROWS[made]],
        }
        remove(host)
    print(json.dumps(answer))


def refusals(networks: dict[str, Any], bondings: dict[str, Any]) -> list[dict[str, str]]:
    """Judge a request as the agent does, the worst first."""
    asked = {"request": {"networks": networks, "bondings": bondings, "options": {}}}
    verdict = asyncio.run(_guard().judge(setup.parse(json.dumps(asked).encode())))
    if verdict.blind is not None:
        raise verdict.blind
    return [vars(refusal) for refusal in verdict.refusals]


def _guard() -> Guard:
    return Guard(Config(), Host(), Known(None))


# ---- what is on paper, made ----------------------------------------------------------------------


def build(host: PaperHost) -> None:
    """Make a host real."""
    foundation = host.foundation()
    _ip(_links(foundation.snapshot))
    _vsctl(_ports(foundation.switch))
    _ip(_addresses(foundation.snapshot))
    _write_notes(host)
    _write_agent(host)


def remove(host: PaperHost) -> None:
    """Take away what was made."""
    foundation = host.foundation()
    bridges = foundation.switch.by_bridge
    settings = foundation.switch.settings
    _vsctl(
        [
            *(["del-br", bridge] for bridge in bridges),
            *(["remove", "Open_vSwitch", ".", "external_ids", key] for key in settings),
        ]
    )
    kinds = {name: device.kind for name, device in foundation.snapshot.devices.items()}
    # A VLAN goes with what it stands on.
    made = [name for name, kind in kinds.items() if kind in ("bridge", "bond", "tun")]
    _ip(f"link del {name}" for name in made)
    _ip(f"link del {name}" for name, kind in kinds.items() if kind == "vlan" and _is_there(name))
    _ip(
        line
        for nic in NICS
        for line in (f"link set {nic} nomaster down mtu 1500", f"addr flush dev {nic}")
    )
    shutil.rmtree(vdsm_config.FOLDER, ignore_errors=True)
    shutil.rmtree(neutron_agent.FOLDER, ignore_errors=True)


def _links(paper: Snapshot) -> Iterator[str]:
    devices = list(paper.devices.values())
    for device in devices:
        if device.kind == "" and device.name not in NICS:
            raise ValueError(f"the host has no NIC {device.name}")
        if device.kind == "bond":
            yield f"link add {device.name} type bond mode active-backup miimon 100"
        elif device.kind == "bridge":
            yield f"link add {device.name} type bridge forward_delay 0 stp_state 0"
        elif device.kind == "tun":
            yield f"tuntap add {device.name} mode tap"
        elif device.kind not in ("", "vlan", "openvswitch"):
            raise ValueError(f"{device.name} is of kind {device.kind}")
    for device in devices:
        if paper.kind(device.master or "") == "bond":
            yield f"link set {device.name} down"
            yield f"link set {device.name} master {device.master}"
    # Packets can't be larger than in the device below; a bond hands its size to its members.
    for device in devices:
        is_member = paper.kind(device.master or "") == "bond"
        if device.kind in ("", "tun", "bond") and not is_member:
            yield f"link set {device.name} mtu {device.mtu}"
    for device in devices:
        if device.kind == "vlan":
            below = f"link {device.parent} name {device.name}"
            yield f"link add {below} mtu {device.mtu} type vlan id {device.tag}"
    for device in devices:
        if paper.kind(device.master or "") == "bridge":
            yield f"link set {device.name} master {device.master}"
    for device in devices:
        if device.kind == "bridge":
            yield f"link set {device.name} mtu {device.mtu}"
    for device in devices:
        if device.kind != "openvswitch":
            yield f"link set {device.name} up"


def _ports(paper: Switch) -> Iterator[list[str]]:
    for bridge in paper.by_bridge:
        yield ["add-br", bridge]
    ports: dict[str, list[SwitchInterface]] = {}
    for interface in paper.interfaces:
        if interface.name != interface.bridge:  # which comes with the bridge
            ports.setdefault(interface.port, []).append(interface)
    for name, interfaces in ports.items():
        bridge, names = interfaces[0].bridge, [interface.name for interface in interfaces]
        tag = [] if interfaces[0].tag is None else [f"tag={interfaces[0].tag}"]
        if len(names) > 1:
            yield ["add-bond", bridge, name, *names, *tag]
        else:
            yield ["add-port", bridge, name, *tag]
        for interface in interfaces:
            if interface.type:
                yield ["set", "Interface", interface.name, f"type={interface.type}"]
            for key, value in interface.options.items():
                yield ["set", "Interface", interface.name, f"options:{key}={json.dumps(value)}"]
            if interface.vnic_id is not None:
                owner = f"external_ids:iface-id={interface.vnic_id}"
                yield ["set", "Interface", interface.name, owner]
    for key, value in paper.settings.items():
        yield ["set", "Open_vSwitch", ".", f"external_ids:{key}={json.dumps(value)}"]


def _addresses(paper: Snapshot) -> Iterator[str]:
    for address in paper.addresses:
        options = ["nodad"] if address.ip.version == 6 else []
        if not address.lasting:
            options += [f"valid_lft {LEASE} preferred_lft {LEASE}"]
        yield f"link set {address.device} up"
        where = f"{address.ip}/{address.length} dev {address.device}"
        yield " ".join(["addr add", where, *options])


def _write_notes(host: PaperHost) -> None:
    """Write down what VDSM has of its networks."""
    for kind, folder in (("networks", "nets"), ("bondings", "bonds")):
        for name, attributes in host.running[kind].items():
            path = vdsm_config.FOLDER / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(attributes))


def _write_agent(host: PaperHost) -> None:
    """Configure Neutron's Linux bridge agent, and no other."""
    shutil.rmtree(neutron_agent.FOLDER, ignore_errors=True)
    told = host.underlay
    if told.switches or told.integration_bridge:
        raise ValueError("only a Linux bridge agent can be configured")
    LINUX_BRIDGE_AGENT.parent.mkdir(parents=True)
    ends = [f"local_ip = {end}\n" for end in told.tunnel_ends] or ["enable_vxlan = no\n"]
    LINUX_BRIDGE_AGENT.write_text(
        "[linux_bridge]\n"
        f"physical_interface_mappings = {_pairs(told.interfaces.items())}\n"
        f"bridge_mappings = {_pairs(told.bridges.items())}\n"
        f"[vxlan]\n{''.join(ends)}"
    )


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return ",".join(f"{name}:{value}" for name, value in pairs)


# ---- what is there, compared ---------------------------------------------------------------------


def differences(host: PaperHost) -> Iterator[str]:
    """Say in what the host that was made is another than that on paper."""
    foundation = host.foundation()
    paper, real = foundation.snapshot, snapshot.take()
    ports = foundation.switch.by_name
    for name, device in paper.devices.items():
        found = real.devices.get(name)
        wanted = device
        if name in ports and ports[name].type == "":
            # On paper the kernel's datapath is not the master of what it was given.
            wanted = device._replace(master="ovs-system")
        if found is None or _comparable(found) != _comparable(wanted):
            yield f"{wanted} on paper, {found}"
    yield from (f"no {address}" for address in set(paper.addresses) - set(real.addresses))
    read = switch.read_once(10.0)
    for interface in foundation.switch.interfaces:
        if read.by_name.get(interface.name) != interface:
            yield f"{interface} on paper, {read.by_name.get(interface.name)}"
    if not foundation.switch.settings.items() <= read.settings.items():
        yield f"{foundation.switch.settings} on paper, {read.settings}"
    if neutron_agent.underlay() != host.underlay:
        yield f"{host.underlay} on paper, {neutron_agent.underlay()}"


def _comparable(device: Device) -> Device:
    """What of a device somebody has decided; Open vSwitch gives its own what MTU it likes."""
    return device._replace(mtu=0) if device.kind == "openvswitch" else device


# ---- commands ------------------------------------------------------------------------------------


def _is_there(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


def _ip(lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True)


def _vsctl(commands: Iterable[list[str]]) -> None:
    words = [word for command in commands for word in ("--", *command)]
    subprocess.run(["ovs-vsctl", "--timeout=60", *words], check=True)


if __name__ == "__main__":
    main()
