# SPDX-License-Identifier: GPL-2.0-or-later
"""What VMs that are gone have left on this host, and why it is known to be of no use."""

from __future__ import annotations

import abc
import asyncio
import dataclasses
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING

from vif_driver import stale
from vif_driver.attachments import private_bridge
from vif_driver.attachments.private_bridge import Idle
from vif_driver.config import Config
from vif_driver.host import Host, kernel
from vif_driver.host.ovsdb_rows import PortRows, Row
from vif_driver.host.starts import START_TIME, Starts
from vif_driver.reconciliation import in_use
from vif_driver.reconciliation.in_use import InUse
from vif_driver.vnic import Plugin, VnicIdentity

if TYPE_CHECKING:
    from vif_driver.host.ovsdb import Ovsdb

#: Ports that are read before others of this process have a turn; after a power cut there may be
#: thousands.
AT_ONCE = 200


@dataclasses.dataclass(frozen=True)
class Leftover(abc.ABC):
    """Something that goes if a second look finds it again.

    Attributes:
        why: how it is known to be of no use.
        patience: seconds between the first look that finds it and the one that removes it.
    """

    why: str
    patience: float

    @property
    @abc.abstractmethod
    def key(self) -> Hashable:
        """Tells it from everything else, also from what gets its name later."""

    @property
    @abc.abstractmethod
    def vm_id(self) -> str | None:
        """The VM that it was made for."""

    @property
    @abc.abstractmethod
    def vnic_id(self) -> str | None:
        """The vNIC that it was made for, if that is known."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """Say what it is."""


@dataclasses.dataclass(frozen=True)
class StalePort(Leftover):
    """A port of the integration bridge whose device and VM are gone.

    Attributes:
        rows: it.
    """

    rows: PortRows

    @property
    def key(self) -> Hashable:
        """See :class:`Leftover`."""
        return self.rows.uuid

    @property
    def vm_id(self) -> str | None:
        """See :class:`Leftover`."""
        return self.rows.vm_id

    @property
    def vnic_id(self) -> str | None:
        """See :class:`Leftover`."""
        return self.rows.ids.get("iface-id")

    @property
    def tap(self) -> str:
        """The tap of its vNIC, whose turn is taken by who works on that."""
        name = self.rows.name
        return "tap" + name[3:] if name.startswith("qvo") else name

    def __str__(self) -> str:
        return str(self.rows)


@dataclasses.dataclass(frozen=True)
class UnusedQos(Leftover):
    """A row of QoS or Queue of a VM that is gone.

    Attributes:
        table: which of the two.
        uuid: of the row.
        row: its columns.
    """

    table: str
    uuid: str
    row: Row

    @property
    def key(self) -> Hashable:
        """See :class:`Leftover`."""
        return self.uuid

    @property
    def vm_id(self) -> str | None:
        """See :class:`Leftover`."""
        found: str | None = self.row["external_ids"].get("vm-id")
        return found

    @property
    def vnic_id(self) -> str | None:
        """See :class:`Leftover`."""
        return None

    def __str__(self) -> str:
        return f"{self.table} {self.uuid} (VM {self.vm_id})"


@dataclasses.dataclass(frozen=True)
class IdleDevices(Leftover):
    """The bridge and the veth pair of a vNIC, or what there is of them, without a guest.

    Attributes:
        idle: they.
        is_hybrid: whether they lead to the integration bridge.
    """

    idle: Idle
    is_hybrid: bool

    @property
    def key(self) -> Hashable:
        """See :class:`Leftover`."""
        return tuple(link.index for link in self.idle.links)

    @property
    def vm_id(self) -> str | None:
        """See :class:`Leftover`."""
        return self.idle.owner.vm_id

    @property
    def vnic_id(self) -> str | None:
        """See :class:`Leftover`."""
        return self.idle.owner.vnic_id

    @property
    def vnic(self) -> VnicIdentity | None:
        """The vNIC that they were made for, if they say."""
        owner = self.idle.owner
        if owner.vnic_id is None:
            return None
        plugin = Plugin.OPEN_VSWITCH if self.is_hybrid else Plugin.LINUX_BRIDGE
        return VnicIdentity(owner.vnic_id, plugin, owner.vm_id)

    def __str__(self) -> str:
        names = ", ".join(link.name for link in self.idle.links)
        return (
            f"{names} (VM {self.vm_id}, vNIC {self.idle.owner.vnic_id or self.idle.stem + '...'})"
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """What a look has shown.

    Attributes:
        leftovers: what is of no use.
        kept: the ports without a device that stay, and why.
        in_use: what libvirt said; None if there was no need to ask.
    """

    leftovers: tuple[Leftover, ...] = ()
    kept: tuple[tuple[PortRows, str], ...] = ()
    in_use: InUse | None = None


async def find(config: Config, host: Host, starts: Starts, *, ask: bool = False) -> Found:
    """Look for what VMs have left.

    Args:
        config: the configuration.
        host: what this process may use; without ``ovsdb`` Open vSwitch isn't looked at.
        starts: the VMs that are being started.
        ask: ask libvirt even if nothing looks as if a VM had left it.

    Raises:
        HostError, Unavailable: the database, libvirt or the kernel does not answer: nothing is
            known to be of no use.
    """
    bridge = config.integration_bridge
    ports = [] if host.ovsdb is None else await _without_device(host.ovsdb, bridge)
    # Other software's ports are no reason to ask libvirt.
    suspects = [port for port in ports if stale.is_a_vms(port)]
    unused = {} if host.ovsdb is None else host.ovsdb.unused_qos()
    idle = [] if host.links is None else await private_bridge.idle(host.links)
    if not (suspects or _is_any_of_a_vm(unused) or idle or ask):
        return Found(kept=tuple((port, "it is not a VM's") for port in ports))
    used = await in_use.ask(host)
    judge = Judge(config, starts, used)
    found: list[Leftover] = []
    kept: list[tuple[PortRows, str]] = []
    for port in ports:
        why_kept = judge.why_port_stays(port)
        if why_kept is None:
            why = f"its device is gone, and libvirt has no VM {port.vm_id}"
            found.append(StalePort(why, config.grace, port))
        else:
            kept.append((port, why_kept))
    found += judge.qos(unused)
    found += filter(None, (judge.devices(one, host) for one in idle))
    return Found(tuple(found), tuple(kept), used)


async def is_idle(config: Config, host: Host, starts: Starts, one: IdleDevices) -> bool:
    """Tell whether devices that a look has found are still of no use.

    Args:
        config: the configuration.
        host: what this process may use.
        starts: the VMs that are being started.
        one: what was found.

    Raises:
        HostError, Unavailable: see :func:`find`.
    """
    if host.links is None:
        return False
    idle = await private_bridge.idle_of(host.links, one.idle.stem)
    judge = Judge(config, starts, await in_use.ask(host))
    found = filter(None, (judge.devices(other, host) for other in idle))
    return any(other.key == one.key for other in found)


class Judge:
    """Tells what is of use, by what libvirt says.

    Args:
        config: the configuration.
        starts: the VMs that are being started.
        used: what libvirt said.
    """

    def __init__(self, config: Config, starts: Starts, used: InUse) -> None:
        self._config = config
        self._starts = starts
        self._used = used

    def is_there(self, vm_id: str) -> bool:
        """Tell whether a VM is there, or will be in a moment."""
        start = self._starts.get(vm_id)
        comes = start is not None and not start.started and start.age < START_TIME
        return vm_id in self._used.vms or comes

    def why_port_stays(self, port: PortRows) -> str | None:
        """Tell why a port stays whose device is gone; None if it is to go."""
        if not stale.is_a_vms(port):
            return "it is not a VM's, or other software wants it left alone"
        if port.vm_id is None:
            return "it does not say whose it was; the next boot removes it"
        if self.is_there(port.vm_id):
            return f"VM {port.vm_id} is there"
        if port.name in self._used.devices:
            return "a VM's XML names the device"
        return None

    def qos(self, unused: Mapping[str, Mapping[str, Row]]) -> Iterator[UnusedQos]:
        """Give, of the rows of QoS and Queue that nothing uses, those that are to go."""
        kept: set[str] = set()
        # A queue stays with the row of QoS that refers to it; the database insists.
        for table in ("QoS", "Queue"):
            for uuid, row in unused.get(table, {}).items():
                vm_id = row["external_ids"].get("vm-id")
                if vm_id is None or uuid in kept or self.is_there(vm_id):
                    kept.update(row.get("queues", {}).values())
                else:
                    why = f"nothing uses it, and libvirt has no VM {vm_id}"
                    yield UnusedQos(why, self._config.grace, table, uuid, row)

    def devices(self, idle: Idle, host: Host) -> IdleDevices | None:
        """Judge devices that no guest is joined to; None if they stay."""
        vm_id = idle.owner.vm_id
        names = {prefix + idle.stem for prefix in ("qbr", "tap", "qtp")}
        if names & self._used.devices or (vm_id is not None and self.is_there(vm_id)):
            return None
        # They may be part of a plug, of which nothing but them tells.
        patience = self._config.grace if vm_id else max(self._config.grace, START_TIME)
        why = "no guest is joined to them, and " + (
            f"libvirt has no VM {vm_id}" if vm_id else "no VM's XML names them"
        )
        switch_end = "qvo" + idle.stem
        is_hybrid = any(link.name == switch_end for link in idle.links) or (
            host.ovsdb is not None and host.ovsdb.port(switch_end) is not None
        )
        return IdleDevices(why, patience, idle, is_hybrid)


async def _without_device(ovsdb: Ovsdb, bridge: str) -> list[PortRows]:
    gone = sorted(ovsdb.names(bridge) - kernel.devices())
    ports: list[PortRows] = []
    for begin in range(0, len(gone), AT_ONCE):
        ports += [port for name in gone[begin : begin + AT_ONCE] for port in ovsdb.whole(name)]
        await asyncio.sleep(0)
    # Patch ports and tunnels never have one.
    return [
        port
        for port in ports
        if port.bridge == bridge and port.interface["type"] in stale.SYSTEM_TYPES
    ]


def _is_any_of_a_vm(unused: Mapping[str, Mapping[str, Row]]) -> bool:
    return any("vm-id" in row["external_ids"] for rows in unused.values() for row in rows.values())
