# SPDX-License-Identifier: GPL-2.0-or-later
"""A vNIC that works, on a host where whatever the test names does not."""

from __future__ import annotations

from typing import Any

import pytest

from vif_driver.errors import VifError
from vif_driver.host import kernel
from vif_driver.host.ovn_controller import Controller
from vif_driver.host.southbound import Binding, Chassis
from vif_driver.inspection.finding import Finding
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import first_bad
from vif_driver.inspection.vnics import find

from .conftest import MAC, VNIC_ID, OvsdbServer
from .inspected_host import Devices, Vms, a_vm, add_plugged, an_interface, inspected, virtualport

SHORT = VNIC_ID[:11]
TAP = f"tap{SHORT}"
REMOTE = "tcp:192.0.2.1:6642"


class Fakes:
    """What is not on this machine: daemons, and the southbound database.

    Attributes:
        running: names of the daemons that run.
        connected: whether ovn-controller is; an error is raised.
        binding: what the southbound database has of the port; an error is raised.
    """

    def __init__(self) -> None:
        self.running = {
            "ovn-controller",
            "neutron-openvswitch-agent",
            "neutron-linuxbridge-agent",
        }
        self.connected: bool | VifError = True
        self.binding: Binding | VifError | None = a_binding()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def process(_: Sight, name: str) -> int | None:
            return 42 if name in self.running else None

        async def controller(_: Sight) -> Controller | None:
            return Controller(42, None) if "ovn-controller" in self.running else None

        async def connected(_: Sight) -> bool:
            answer: bool = _given(self.connected)
            return answer

        async def binding(_: Sight, logical_port: str) -> Binding | None:
            answer: Binding | None = _given(self.binding)
            return answer

        async def chassis(_: Sight) -> list[Chassis]:
            return [Chassis("hv1", "hv1")]

        monkeypatch.setattr(Sight, "process", process)
        monkeypatch.setattr(Sight, "controller", controller)
        monkeypatch.setattr(Sight, "controller_connected", connected)
        monkeypatch.setattr(Sight, "binding", binding)
        monkeypatch.setattr(Sight, "chassis", chassis)


def _given(value: Any) -> Any:
    if isinstance(value, VifError):
        raise value
    return value


def a_binding(**changes: object) -> Binding:
    values: dict[str, object] = {
        **{"logical_port": VNIC_ID, "type": "", "chassis": "hv1", "requested": ()},
        **{"up": True, "localnets": ()},
    }
    return Binding(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, devices: set[str]) -> Fakes:
    """A host on which all daemons run and OVN has the port in place."""
    fakes = Fakes()
    fakes.install(monkeypatch)
    devices.add(TAP)
    monkeypatch.setattr(kernel, "has_bridge_netfilter", lambda: True)
    monkeypatch.setattr(kernel, "filters_bridge", lambda name: True)
    return fakes


@pytest.fixture
def links() -> Devices:
    """The devices: a tap."""
    links = Devices()
    links.add(TAP)
    return links


@pytest.fixture
def ovn_host(ovsdb_server: OvsdbServer) -> OvsdbServer:
    """Open vSwitch as OVN has it, with a vNIC's port that works."""
    ids = {
        "system-id": "hv1",
        "hostname": "hv1.example.com",
        "ovn-remote": REMOTE,
        "ovn-encap-ip": "127.0.0.2",
    }
    columns = [f'external_ids:{key}="{value}"' for key, value in ids.items()]
    secure = ["set", "Bridge", "br-int", "fail_mode=secure"]
    ovsdb_server.vsctl(*secure, "--", "set", "Open_vSwitch", ".", *columns)
    add_plugged(ovsdb_server, TAP, VNIC_ID, ovn_installed="true")
    return ovsdb_server


@pytest.fixture
def neutron_host(ovsdb_server: OvsdbServer) -> OvsdbServer:
    """Open vSwitch as Neutron's agent has it, with a wired port of a local network."""
    add_plugged(
        ovsdb_server, TAP, VNIC_ID, "tag=7", "other_config:network_type=local", "trunks=4095"
    )
    return ovsdb_server


def a_running_vm(mac: str = MAC, more: str = "") -> Vms:
    return Vms([a_vm(an_interface("br-int", TAP, mac=mac, more=virtualport(VNIC_ID) + more))])


def diagnosis(server: OvsdbServer | None, links: Devices, vms: Vms) -> tuple[str, str]:
    """Name and text of the first bad hop of the only vNIC."""

    async def look(sight: Sight) -> Finding | None:
        (vnic,), _ = await find(sight)
        return await first_bad(vnic, sight)

    found = inspected(look, server, links, vms)
    return ("", "") if found is None else (found.name, str(found))
