# SPDX-License-Identifier: GPL-2.0-or-later
"""What tunnels and networks may stand on, for a host with a kernel of its own.

::

    nic0 ─┬─ bond0 ─┬─ bond0.10 ─── net10 (bridge)       FIRST
    nic1 ─┘         ├─ bond0.20 (no bridge)              SECOND
                    └─ bond0.40 ─── net40 (bridge)       nothing of ours
    nic2 ─┬─ bond1 ─── br-ex (Open vSwitch) ── tunnels6  THIRD, IPv6 only, VLAN 30
    nic3 ─┘
    nic4 ── net4 (bridge)                                nothing of ours
    nic5                                                 free

The far ends of the NICs are plugged into one switch, which has an address in every VLAN.
"""

from __future__ import annotations

import json

from .kernel_host import KernelHost

NICS = tuple(f"nic{number}" for number in range(6))
BONDS = {"bond0": ("nic0", "nic1"), "bond1": ("nic2", "nic3")}
#: VLAN device, what it stands on and its tag.
VLANS = {"bond0.10": ("bond0", 10), "bond0.20": ("bond0", 20), "bond0.40": ("bond0", 40)}
#: Bridge and its port.
BRIDGES = {"net10": "bond0.10", "net40": "bond0.40", "net4": "nic4"}
SWITCH, UPLINK, INTERNAL_PORT, TAG = "br-ex", "bond1", "tunnels6", 30

#: Where tunnels may begin.
FIRST, SECOND, THIRD = "203.0.113.10", "203.0.113.140", "2001:db8:1::10"
ADDRESSES = {
    "net10": f"{FIRST}/25",
    "bond0.20": f"{SECOND}/25",
    INTERNAL_PORT: f"{THIRD}/64",
}
#: The switch's, by VLAN.
FAR_SIDE = {10: "203.0.113.1/25", 20: "203.0.113.129/25", TAG: "2001:db8:1::1/64"}
_FAR = "far"


def build(host: KernelHost) -> None:
    """Make all of it, where nothing of it is.

    Raises:
        CommandError: the kernel or Open vSwitch refused.
    """
    # Without the option it makes a bond0 by itself.
    host.run(["modprobe", "bonding", "max_bonds=0"])
    host.run(["ip", "netns", "add", _FAR])
    lines = []
    for nic in NICS:
        lines.append(f"link add {nic} type veth peer name {nic} netns {_FAR}")
    for bond, members in BONDS.items():
        lines.append(f"link add {bond} type bond mode active-backup miimon 100")
        lines += [f"link set {member} master {bond}" for member in members]
    for vlan, (base, tag) in VLANS.items():
        lines.append(f"link add link {base} name {vlan} type vlan id {tag}")
    for bridge, port in BRIDGES.items():
        lines.append(f"link add {bridge} type bridge forward_delay 0 stp_state 0")
        lines.append(f"link set {port} master {bridge}")
    devices = [*NICS, *BONDS, *VLANS, *BRIDGES]
    host.ip(*lines, *(f"link set {device} up" for device in devices))
    host.ovs.add_bridge(SWITCH)
    host.vsctl(
        *("add-port", SWITCH, UPLINK, "--"),
        *("add-port", SWITCH, INTERNAL_PORT, f"tag={TAG}", "--"),
        *("set", "Interface", INTERNAL_PORT, "type=internal"),
    )
    host.ip(
        f"link set {INTERNAL_PORT} up",
        # Nobody else has them, and nothing is to wait until that has been found out.
        *(f"addr add {address} dev {dev} nodad" for dev, address in ADDRESSES.items()),
    )
    _build_far_side(host)


def _build_far_side(host: KernelHost) -> None:
    lines = ["link add switch type bridge forward_delay 0 stp_state 0 mcast_snooping 0"]
    for nic in NICS:
        lines.append(f"link set {nic} master switch up")
    lines.append("link set switch up")
    for tag, address in FAR_SIDE.items():
        vlan = f"switch.{tag}"
        lines.append(f"link add link switch name {vlan} type vlan id {tag}")
        lines.append(f"addr add {address} dev {vlan} nodad")
        lines.append(f"link set {vlan} up")
    text = "".join(f"{line}\n" for line in lines)
    host.run(["ip", "-n", _FAR, "-batch", "-"], input=text)


def remove(host: KernelHost) -> None:
    """Take all of it away."""
    host.vsctl("--if-exists", "del-br", SWITCH)
    for device in (*BRIDGES, *VLANS, *BONDS, *NICS):
        host.run(["ip", "link", "del", device], check=False)
    host.run(["ip", "netns", "del", _FAR])


def tunnels_begin_at(host: KernelHost, *addresses: str) -> None:
    """Have Open vSwitch's database say where this host's tunnels begin."""
    setting = f"external_ids:ovn-encap-ip={json.dumps(','.join(addresses))}"
    host.vsctl("--no-wait", "set", "Open_vSwitch", ".", setting)
