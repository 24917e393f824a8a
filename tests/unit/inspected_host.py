# SPDX-License-Identifier: GPL-2.0-or-later
"""A host to be inspected: a real database, and VMs and devices as the test has them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from vif_driver.config import Config
from vif_driver.errors import Unavailable
from vif_driver.host import Host
from vif_driver.host.addresses import Ip
from vif_driver.host.domains import Domain, State
from vif_driver.host.links import Link
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.inspection.sight import Sight

from .conftest import MAC, VM_ID, OvsdbServer

T = TypeVar("T")


@dataclasses.dataclass
class Devices:
    """Stands in for the kernel's devices.

    Attributes:
        present: what there is.
        addresses: those of the host, and the devices that have them.
    """

    present: list[Link] = dataclasses.field(default_factory=list)
    addresses: dict[Ip, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, **more: Any) -> None:
        """Add a device that is up; ``more`` are attributes, and ``on`` the name of its bridge."""
        on = more.pop("on", None)
        master = next((link.index for link in self.present if link.name == on), None)
        values: dict[str, Any] = {
            **{"name": name, "index": len(self.present) + 1, "kind": None, "mtu": 1500},
            **{"up": True, "master": master, "alias": None, "group": 0},
        }
        self.present.append(Link(**{**values, **more}))

    def change(self, device: str, **changes: Any) -> None:
        """Change attributes of a device."""
        self.present = [
            dataclasses.replace(link, **changes) if link.name == device else link
            for link in self.present
        ]

    async def all(self) -> list[Link]:
        return list(self.present)

    async def ask(self, what: str, _question: object) -> dict[Ip, str]:
        assert what == "list the addresses"
        return self.addresses

    async def get(self, name: str) -> Link | None:
        return next((link for link in self.present if link.name == name), None)


@dataclasses.dataclass
class Vms:
    """Stands in for libvirt; without a list it does not answer."""

    present: list[Domain] | None = dataclasses.field(default_factory=list)

    async def version(self) -> int:
        await self.all()
        return 10_003_000

    async def all(self) -> list[Domain]:
        if self.present is None:
            raise Unavailable("libvirt does not answer", "restart libvirtd")
        return self.present


def a_vm(*interfaces: str, name: str = "vm1", vm_id: str = VM_ID, metadata: str = "") -> Domain:
    """A VM that runs, with these ``<interface>`` elements."""
    xml = (
        f"<domain><metadata>{metadata}</metadata><devices>{''.join(interfaces)}</devices></domain>"
    )
    return Domain(vm_id, name, State.RUNNING, xml.encode())


def an_interface(bridge: str, target: str, *, mac: str = MAC, more: str = "") -> str:
    """An ``<interface>`` of a running VM."""
    return (
        f"<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/>"
        f"<target dev='{target}'/>{more}</interface>"
    )


def virtualport(vnic_id: str) -> str:
    """What makes it a port of Open vSwitch."""
    return f"<virtualport type='openvswitch'><parameters interfaceid='{vnic_id}'/></virtualport>"


def inspected(
    look: Callable[[Sight], Awaitable[T]],
    server: OvsdbServer | None = None,
    devices: Devices | None = None,
    vms: Vms | None = None,
    config: Config | None = None,
) -> T:
    """Look at such a host; without a server, as a user who may not ask the database."""

    async def main() -> T:
        ovsdb = None
        if server is not None:
            ovsdb = Ovsdb(server.socket)
            ovsdb.replica.open()
            await ovsdb.replica.wait_connected()
        parts: dict[str, Any] = {
            "links": devices or Devices(),
            "ovsdb": ovsdb,
            "domains": vms or Vms(),
        }
        try:
            async with Sight(config or Config(), Host(**parts)) as sight:
                return await look(sight)
        finally:
            if ovsdb is not None:
                ovsdb.replica.close()

    return asyncio.run(main())


def add_port(server: OvsdbServer, name: str, *columns: str, **external_ids: str) -> None:
    """Add a port to br-int; keys of ``external_ids`` have ``_`` for ``-``."""
    ids = [f"external_ids:{key.replace('_', '-')}={value}" for key, value in external_ids.items()]
    server.vsctl("add-port", "br-int", name, "--", "set", "Interface", name, "ofport=5", *ids)
    if columns:
        server.vsctl("set", "Port", name, *columns)


def add_plugged(server: OvsdbServer, name: str, vnic_id: str, *columns: str, **more: str) -> None:
    """Add a port as libvirt does."""
    ids = {"iface_id": vnic_id, "vm_id": VM_ID, "attached_mac": MAC, **more}
    add_port(server, name, *columns, **ids)
