# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's chapter on what external networks stand on."""

from __future__ import annotations

from typing import Any

from tests.lab.demo_teller import Failed, Teller
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.vdsm import Vdsm
from tests.lab.harness.vdsm_hooks import HookError

NIC = "eth0"
TAKE = {"storage": {"nic": NIC, "bootproto": "dhcp"}}
SHARE = {"storage": {"nic": NIC, "vlan": 20, "mtu": 1700}}


def protect(teller: Teller, host: Hypervisor) -> None:
    """See a request refused that would cut the tunnels off, and pass once it is allowed."""
    vdsm = Vdsm(host)
    with teller.step(f"the engine has {host.name} make a network of {NIC}, by which tunnels leave"):
        line = told(vdsm, TAKE)
        teller.show(line)
        if f"but {NIC} carries this host's OVN tunnels" not in line:
            raise Failed("setupNetworks was let take the tunnels' NIC")
    with teller.step(f"it has it make a VLAN of {NIC}, which does no harm"):
        teller.show(told(vdsm, SHARE) or "setupNetworks goes on")
        if vdsm.runs[-1].status != 0:
            raise Failed("a VLAN on a shared NIC was refused")
    with teller.step(f"vifctl protect on {host.name}"):
        teller.show(host.output(["vifctl", "protect"]))
    with teller.step("the administrator means it: vifctl protect --allow, and the same once more"):
        teller.show(host.output(["vifctl", "protect", "--allow", NIC, "--for", "1m"]))
        teller.show(told(vdsm, TAKE) or "setupNetworks goes on")
        teller.show(host.output(["vifctl", "protect", "--revoke", NIC]))
        if vdsm.runs[-1].status != 0:
            raise Failed("what was allowed was refused")


def told(vdsm: Vdsm, networks: dict[str, Any]) -> str:
    """What VDSM tells the engine; nothing if it goes on."""
    try:
        vdsm.setup_networks(networks)
    except HookError as error:
        return error.stderr
    return ""
