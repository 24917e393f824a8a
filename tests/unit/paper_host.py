# SPDX-License-Identifier: GPL-2.0-or-later
"""A host on paper: its database, its devices and its VMs are what a test says.

Its time is virtual: the seconds that an agent waits for cost none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, cast

import pytest

from vif_driver.agent.reconcile import SETTLE, Reconciler
from vif_driver.config import Config
from vif_driver.errors import HostError, NameTaken, Unavailable
from vif_driver.events.turns import Turns
from vif_driver.host import Host, kernel, link_events, starts
from vif_driver.host.domains import Domain, Domains, Listener
from vif_driver.host.links import Links
from vif_driver.host.ovsdb import Ovsdb, Port
from vif_driver.host.ovsdb_rows import PortRows, Row
from vif_driver.host.starts import Start, Starts
from vif_driver.marks import GROUP
from vif_driver.reconciliation import leftovers

from . import virtual_time
from .conftest import MAC, VM_ID, VNIC_ID
from .inspected_host import Devices

SHORT = VNIC_ID[:11]
TAP, QBR, QVB, QVO, QTP = (prefix + SHORT for prefix in ("tap", "qbr", "qvb", "qvo", "qtp"))
OTHER_VM = "8d444840-9dc0-11d1-b245-5ffdce74fad2"

GRACE = Config().grace
DAY = 86400.0

#: A little more than everything takes that follows from an event.
SOON = 3 * SETTLE

REFUSED = HostError("it refused", "see its log")
AWAY = Unavailable("it does not answer", "restart it")

#: What libvirt gives the interface of a VM, and what we give it.
LIBVIRTS = {"attached-mac": MAC, "iface-id": VNIC_ID, "vm-id": VM_ID, "iface-status": "active"}
OURS = {**LIBVIRTS, "vif-driver": "ovs_hybrid"}

_NO_PORT: Row = {
    "external_ids": {},
    "other_config": {},
    "tag": [],
    "trunks": [],
    "vlan_mode": [],
    "qos": [],
}
_NO_INTERFACE: Row = {
    "type": "",
    "options": {},
    "external_ids": {},
    "other_config": {},
    "mtu_request": [],
}


def a_port(
    name: str = TAP,
    ids: Mapping[str, str] = LIBVIRTS,
    *,
    bridge: str = "br-int",
    port: Mapping[str, Any] | None = None,
    **interface: Any,
) -> PortRows:
    """A port as the database has it."""
    return PortRows(
        uuid=str(uuid.uuid4()),
        bridge=bridge,
        port={**_NO_PORT, "name": name, "interfaces": str(uuid.uuid4()), **(port or {})},
        interface={**_NO_INTERFACE, "name": name, "external_ids": dict(ids), **interface},
    )


def qos_row(vm_id: str | None = VM_ID, *queues: str) -> Row:
    """A row of QoS, libvirt's unless it is of no VM."""
    ids = {"who": "an administrator"} if vm_id is None else {"vm-id": vm_id, "ifname": TAP}
    numbered = dict(enumerate(queues))
    return {"type": "linux-htb", "queues": numbered, "external_ids": ids, "other_config": {}}


def queue_row(vm_id: str | None = VM_ID) -> Row:
    """A row of Queue, likewise."""
    ids = {} if vm_id is None else {"vm-id": vm_id}
    return {"dscp": [], "external_ids": ids, "other_config": {"max-rate": "1000"}}


class Database:
    """Open vSwitch's; stands in for host.ovsdb.Ovsdb.

    Attributes:
        rows: the ports of all bridges.
        unused: the rows of QoS and Queue that nothing uses.
        bridges: the names of the bridges.
        refusal: what it says to every request, while it is not None.
        transactions: the requests to remove something, as the numbers of ports and others.
        meanwhile: called when a request is being sent.
    """

    def __init__(self) -> None:
        self.rows: list[PortRows] = []
        self.unused: dict[str, dict[str, Row]] = {"QoS": {}, "Queue": {}}
        self.bridges = {"br-int"}
        self.refusal: HostError | None = None
        self.transactions: list[tuple[int, int]] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.replica = self
        self.connected = True
        self.told: list[Callable[[], None]] = []

    def add(self, *rows: PortRows) -> PortRows:
        """Add ports; gives the last."""
        self.rows += rows
        self.tell()
        return rows[-1]

    def drop(self, *names: str) -> None:
        """Have somebody delete ports."""
        self.rows = [row for row in self.rows if row.name not in names]
        self.tell()

    def connect(self, connected: bool) -> None:
        """Have the server answer or not."""
        self.connected = connected
        self.tell()

    def tell(self) -> None:
        """Tell of a change."""
        for listener in list(self.told):
            listener()

    # ---- as Ovsdb and Replica have it --------------------------------------------------------

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self.told.append(listener)
        return lambda: self.told.remove(listener)

    async def wait_connected(self) -> None:
        self._require_answer()

    def has_bridge(self, name: str) -> bool:
        self._require_answer()
        return name in self.bridges

    def names(self, bridge: str) -> set[str]:
        self._require_answer()
        return {row.name for row in self.rows if row.bridge == bridge and bridge in self.bridges}

    def whole(self, name: str) -> list[PortRows]:
        self._require_answer()
        return [row for row in self.rows if row.name == name]

    def unused_qos(self) -> dict[str, dict[str, Row]]:
        return self.unused

    def port(self, name: str) -> Port | None:
        found = self.whole(name)
        return Port(name, found[0].bridge, None, found[0].ids, 1, None) if found else None

    async def remove(
        self,
        ports: Sequence[PortRows],
        is_stale: Callable[[PortRows], bool],
        unused: Mapping[str, Iterable[str]],
    ) -> list[PortRows]:
        self.transactions.append((len(ports), sum(len(list(ids)) for ids in unused.values())))
        await asyncio.sleep(0)
        self.meanwhile()
        self._require_answer()
        if self.refusal is not None:
            raise self.refusal
        removed = [port for port in ports if port in self.rows and is_stale(port)]
        self.rows = [row for row in self.rows if row not in removed]
        for table, ids in unused.items():
            for uuid_ in ids:
                self.unused[table].pop(uuid_, None)
        self.tell()
        return removed

    async def add_port(
        self, bridge: str, name: str, *, port: Mapping[str, Any], interface: Mapping[str, Any]
    ) -> None:
        self._require_answer()
        if self.refusal is not None:
            raise self.refusal
        if self.whole(name):
            raise NameTaken(f"there is a port {name}", "remove it")
        more = dict(interface)
        self.add(a_port(name, more.pop("external_ids", {}), bridge=bridge, port=port, **more))

    async def delete_port(self, name: str, external_ids: Mapping[str, str]) -> bool:
        found = [row for row in self.whole(name) if external_ids.items() <= row.ids.items()]
        if found:
            self.drop(name)
        return bool(found)

    def _require_answer(self) -> None:
        if not self.connected:
            raise AWAY


class Libvirt:
    """libvirt; stands in for host.domains.Domains.

    Attributes:
        vms: those that there are.
        deaf: what it says to every question, while it is not None.
        asked: how often it was asked about all VMs.
    """

    def __init__(self) -> None:
        self.vms: list[Domain] = []
        self.deaf: Exception | None = None
        self.asked = 0
        self.told: list[Listener] = []

    @property
    def domains(self) -> Domains:
        return cast(Domains, self)

    def tell(self, vm_id: str | None) -> None:
        """Tell of an event."""
        for listener in list(self.told):
            listener(vm_id)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.told.append(listener)
        return lambda: self.told.remove(listener)

    async def all(self) -> list[Domain]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.deaf is not None:
            raise self.deaf
        return list(self.vms)

    async def get(self, vm_id: str) -> Domain | None:
        await asyncio.sleep(0)
        if self.deaf is not None:
            raise self.deaf
        return next((vm for vm in self.vms if vm.id == vm_id), None)


class Kernel(Devices):
    """The devices; in the place of the functions of host.kernel, too, and of netlink."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Callable[[], None]] = []
        self.refusal: HostError | None = None
        self._made = 0

    def add(self, name: str, **more: Any) -> None:
        """Add a device; no two ever have the same index."""
        self._made += 1
        super().add(name, **{"index": self._made, **more})

    def add_ours(self, *names: str, owner: str = f"{VNIC_ID} {VM_ID}", **more: Any) -> None:
        """Add devices with our marks; ``qvb`` and ``qvo`` after the bridge that they are for."""
        for name in names:
            on = {"on": "qbr" + name[3:]} if name.startswith("qvb") else {}
            alias = f"vif-driver {owner}" if owner else None
            self.add(name, **{**on, "group": GROUP, "alias": alias, **more})

    def remove(self, *names: str) -> None:
        """Have devices be gone, and the kernel tell so."""
        self.present = [link for link in self.present if link.name not in names]
        for listener in list(self.told):
            listener()

    @property
    def names(self) -> set[str]:
        return {link.name for link in self.present}

    async def delete(self, name: str) -> bool:
        if self.refusal is not None:
            raise self.refusal
        there = name in self.names
        self.remove(name)
        return there

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        """Be what this process sees of the kernel."""

        def master(name: str) -> str | None:
            by_index = {link.index: link.name for link in self.present}
            found = [link.master for link in self.present if link.name == name]
            return by_index.get(found[0]) if found and found[0] is not None else None

        def bridge_ports(name: str) -> set[str]:
            return {link.name for link in self.present if master(link.name) == name}

        patch.setattr(kernel, "devices", lambda: set(self.names))
        patch.setattr(kernel, "has_device", lambda name: name in self.names)
        patch.setattr(kernel, "master", master)
        patch.setattr(kernel, "bridge_ports", bridge_ports)


@dataclasses.dataclass
class PaperHost:
    """All of it.

    Attributes:
        looks: when each look began.
    """

    config: Config
    starts: Starts
    database: Database = dataclasses.field(default_factory=Database)
    libvirt: Libvirt = dataclasses.field(default_factory=Libvirt)
    kernel: Kernel = dataclasses.field(default_factory=Kernel)
    turns: Turns = dataclasses.field(default_factory=Turns)
    looks: list[float] = dataclasses.field(default_factory=list)

    @property
    def host(self) -> Host:
        """What the agent may use of it."""
        return Host(
            links=cast(Links, self.kernel),
            ovsdb=cast(Ovsdb, self.database),
            domains=self.libvirt.domains,
        )

    @property
    def ports(self) -> set[str]:
        """The names of the ports of all bridges."""
        return {row.name for row in self.database.rows}

    @property
    def listeners(self) -> int:
        """How many want to be told of changes."""
        return len(self.database.told) + len(self.libvirt.told) + len(self.kernel.told)

    async def find(self, *, ask: bool = False) -> leftovers.Found:
        """Look for what VMs have left."""
        return await leftovers.find(self.config, self.host, self.starts, ask=ask)

    def reconciler(self, **instead: Any) -> Reconciler:
        """Give a reconciler; ``instead`` are parts of the host that are others for it."""
        host = dataclasses.replace(self.host, **instead)
        return Reconciler(self.config, host, self.libvirt.domains, self.starts, self.turns)

    def begin(self, vm_id: str = VM_ID, age: float = 0.0) -> Start:
        """Have VDSM begin to start a VM."""
        start = Start(vm_id, since=starts.uptime() - age)
        self.starts.put(start)
        return start


class _Watch:
    """Stands in for host.link_events.Watch."""

    def __init__(self, listeners: list[Callable[[], None]], listener: Callable[[], None]) -> None:
        self._listeners = listeners
        self._listener = listener
        listeners.append(listener)

    def close(self) -> None:
        self._listeners.remove(self._listener)


def play(
    scenario: Callable[[PaperHost], Awaitable[Any]],
    folder: Path,
    patch: pytest.MonkeyPatch,
    config: Config | None = None,
) -> Any:
    """Run a scenario.

    Args:
        scenario: what happens.
        folder: for the files of the starts.
        patch: puts the stand-ins in place.
        config: the configuration.
    """

    async def main() -> Any:
        paper = PaperHost(config or Config(), Starts(folder / "starting", folder / "released"))
        paper.kernel.stand_in(patch)
        patch.setattr(starts, "uptime", virtual_time.now)
        patch.setattr(link_events, "Watch", lambda listener: _Watch(paper.kernel.told, listener))
        find = leftovers.find

        async def counted(*arguments: Any, **more: Any) -> leftovers.Found:
            paper.looks.append(virtual_time.now())
            return await find(*arguments, **more)

        patch.setattr(leftovers, "find", counted)
        return await scenario(paper)

    return virtual_time.run(main())


def play_started(
    scenario: Callable[[PaperHost, Reconciler], Awaitable[Any]],
    folder: Path,
    patch: pytest.MonkeyPatch,
    config: Config | None = None,
) -> Any:
    """Run a scenario with a reconciler that has taken its first look, at a host without VMs."""

    async def started(paper: PaperHost) -> Any:
        reconciler = paper.reconciler()
        reconciler.start()
        await asyncio.sleep(SOON)
        paper.looks.clear()
        paper.libvirt.asked = 0
        try:
            return await scenario(paper, reconciler)
        finally:
            await reconciler.close()

    return play(started, folder, patch, config)


OnPaper = Callable[..., Any]


def fields(log: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    """Give the journal's fields of the lines that tell of removals."""
    records = [record for record in log.records if record.getMessage().startswith("removing ")]
    return [getattr(record, "vif_fields", {}) for record in records]
