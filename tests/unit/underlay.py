# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's devices on paper, for what has to judge changes to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from vif_driver.host.neutron_agent import Underlay
from vif_driver.host.snapshot import Address, Device, Snapshot
from vif_driver.host.switch import Switch, SwitchInterface
from vif_driver.protection.changes import Running
from vif_driver.protection.foundation import Foundation
from vif_driver.protection.policy import Refusal, judge
from vif_driver.protection.request import Bond, Network, SetupRequest, parse_bond, parse_network

VNIC = "3c1ad1e9-4d6a-4f0e-9f5b-0d6c2a7b1e11"


class PaperHost:
    """Devices, addresses, Open vSwitch and VDSM's notes, made one by one; each returns its name.

    Attributes:
        settings: ``external_ids`` of the host.
        underlay: what Neutron's agents are told.
        running: the networks and bonds that VDSM has written down, as it writes them.
    """

    def __init__(self, **settings: str) -> None:
        self.settings = {key.replace("_", "-"): value for key, value in settings.items()}
        self.underlay = Underlay()
        self.running: dict[str, dict[str, Any]] = {"networks": {}, "bondings": {}}
        self._devices: dict[str, Device] = {}
        self._addresses: list[Address] = []
        self._interfaces: list[SwitchInterface] = []
        self.ovs_bridge("br-int")

    # ---- the kernel --------------------------------------------------------------------------

    def nic(self, *names: str, kind: str = "", **more: Any) -> str:
        for name in names:
            values = {"mtu": 1500, "master": None, "parent": None, "peer": None, "tag": None}
            self._devices[name] = Device(
                **{"name": name, "kind": kind, "group": 0, **values, **more}
            )
        return names[0]

    def bond(self, name: str, *members: str, mtu: int = 1500, kind: str = "bond") -> str:
        self.nic(name, kind=kind, mtu=mtu)
        for member in members:
            self.change(member, master=name, mtu=mtu)
        return name

    def vlan(self, base: str, tag: int, name: str = "", mtu: int = 1500) -> str:
        return self.nic(name or f"{base}.{tag}", kind="vlan", parent=base, tag=tag, mtu=mtu)

    def bridge(self, name: str, *ports: str, mtu: int = 1500) -> str:
        return self.bond(name, *ports, mtu=mtu, kind="bridge")

    def change(self, name: str, **changes: Any) -> None:
        if name not in self._devices:
            self.nic(name)
        self._devices[name] = self._devices[name]._replace(**changes)

    def address(self, device: str, text: str, lasting: bool = True) -> None:
        interface = ipaddress.ip_interface(text)
        length = interface.network.prefixlen
        self._addresses.append(Address(interface.ip, length, device, lasting))

    # ---- Open vSwitch ------------------------------------------------------------------------

    def ovs_bridge(self, name: str, *uplinks: str) -> str:
        self.ovs_port(name, name, type="internal")
        for uplink in uplinks:
            self.ovs_port(name, uplink)
        return name

    def ovs_port(self, bridge: str, name: str, **more: Any) -> str:
        self._interfaces.append(
            SwitchInterface(**{"name": name, "type": "", "port": name, "bridge": bridge, **more})
        )
        if more.get("type", "") in ("", "internal") and name not in self._devices:
            self.nic(name, kind="openvswitch" if "type" in more else "")
        return name

    def patch(self, one: str, other: str) -> None:
        names = f"{one}-{other}", f"{other}-{one}"
        for bridge, name, peer in ((one, *names), (other, *reversed(names))):
            self.ovs_port(bridge, name, type="patch", options={"peer": peer})

    def tap(self, mtu: int, vnic_id: str = VNIC, bridge: str = "br-int") -> str:
        name = f"tap{vnic_id[:11]}"
        self.nic(name, kind="tun", mtu=mtu)
        return self.ovs_port(bridge, name, vnic_id=vnic_id)

    # ---- what is judged ----------------------------------------------------------------------

    def network(self, name: str, **attributes: Any) -> None:
        """Note a network of VDSM's; its devices are made for themselves."""
        self.running["networks"][name] = attributes

    def foundation(self) -> Foundation:
        snapshot = Snapshot(dict(self._devices), tuple(self._addresses))
        switch = Switch(dict(self.settings), tuple(self._interfaces))
        return Foundation(snapshot, switch, self.underlay, "br-int")

    def notes(self) -> Running:
        return Running(networks(self.running["networks"]), bonds(self.running["bondings"]))

    def asked(
        self,
        networks_: Mapping[str, Any] | None = None,
        bondings: Mapping[str, Any] | None = None,
    ) -> list[Refusal]:
        """Judge a request in VDSM's own form."""
        request = SetupRequest(networks(networks_ or {}), bonds(bondings or {}))
        return judge(request, self.notes(), self.foundation())


def networks(given: Mapping[str, Any]) -> dict[str, Network]:
    return {name: parse_network(name, attributes) for name, attributes in given.items()}


def bonds(given: Mapping[str, Any]) -> dict[str, Bond]:
    return {name: parse_bond(name, attributes) for name, attributes in given.items()}
