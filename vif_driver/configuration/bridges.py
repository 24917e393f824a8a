# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges of Open vSwitch's that agents expect, and their uplinks."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from vif_driver.configuration.change import Before, Change, Fact
from vif_driver.host import ovs_bridges, snapshot, switch

#: The key of ``external_ids`` of a bridge by which it is known that we made it, and for whom.
MADE_FOR = "vif-driver-made-for"

# Seconds for Open vSwitch's database.
_TIMEOUT = 10.0


class BridgeThere(Change):
    """A bridge is there, or one that we made is not.

    Args:
        name: of the bridge.
        bridge: how it is made if it isn't there; None if it is to go.  One that is there already
            stays as it is.
    """

    kind = "ovs-bridge"

    def __init__(self, name: str, bridge: ovs_bridges.Bridge | None) -> None:
        self._name = name
        self._bridge = bridge

    def facts(self) -> Sequence[Fact]:
        """See :class:`Change`."""
        is_there = self._name in ovs_bridges.look()
        if self._bridge is None:
            return [Fact(f"there is no bridge {self._name}", not is_there)]
        return [Fact(f"Open vSwitch has the bridge {self._name}", is_there)]

    def before(self) -> Before:
        """See :class:`Change`."""
        was = ovs_bridges.look().get(self._name)
        return {"name": self._name, "was": None if was is None else dataclasses.asdict(was)}

    def make(self) -> None:
        """See :class:`Change`."""
        if self._bridge is None:
            ovs_bridges.remove(self._name)
        else:
            ovs_bridges.add(self._name, self._bridge)

    @classmethod
    def take_back(cls, before: Before) -> str | None:
        """See :class:`Change`."""
        name, was = before["name"], before["was"]
        now = ovs_bridges.look().get(name)
        if was is None and now is not None:
            if MADE_FOR not in now.external_ids:
                return f"bridge {name} stays: somebody else made it"
            used = users(name) or foreign_port(name) or address(name)
            if used:
                return f"bridge {name} stays: {used} is on it"
            ovs_bridges.remove(name)
        elif was is not None and now is None:
            ovs_bridges.add(name, ovs_bridges.Bridge(**{**was, "ports": ()}))
        return None


class UplinkThere(Change):
    """A device is a port of a bridge, or is not.

    Args:
        bridge: which; it is there.
        device: the device.
        is_wanted: whether it is to be a port of it.
    """

    kind = "ovs-uplink"

    def __init__(self, bridge: str, device: str, *, is_wanted: bool = True) -> None:
        self._bridge = bridge
        self._device = device
        self._is_wanted = is_wanted

    def facts(self) -> Sequence[Fact]:
        """See :class:`Change`."""
        verb = "is" if self._is_wanted else "is not"
        is_so = _is_port(self._bridge, self._device) == self._is_wanted
        return [Fact(f"{self._device} {verb} a port of {self._bridge}", is_so)]

    def before(self) -> Before:
        """See :class:`Change`."""
        was = _is_port(self._bridge, self._device)
        return {"bridge": self._bridge, "device": self._device, "was": was}

    def make(self) -> None:
        """See :class:`Change`."""
        change = ovs_bridges.add_uplink if self._is_wanted else ovs_bridges.remove_uplink
        change(self._bridge, self._device)

    @classmethod
    def take_back(cls, before: Before) -> str | None:
        """See :class:`Change`."""
        bridge, device, was = before["bridge"], before["device"], before["was"]
        if was == _is_port(bridge, device):
            return None
        if not was:
            used = address(bridge)
            if used:
                return f"{device} stays on bridge {bridge}: {used} of this host is on it"
            ovs_bridges.remove_uplink(bridge, device)
        elif bridge in ovs_bridges.look():
            ovs_bridges.add_uplink(bridge, device)
        return None


def users(bridge: str) -> str | None:
    """Name a VM's port on a bridge; None if there is none."""
    ports = switch.read_once(_TIMEOUT).by_bridge.get(bridge, ())
    return next((f"vNIC {port.vnic_id}" for port in ports if port.vnic_id is not None), None)


def foreign_port(bridge: str, uplinks: Collection[tuple[str, str]] = ()) -> str | None:
    """Name a port that neither the agent nor we have added to a bridge; None if there is none.

    Args:
        bridge: which.
        uplinks: pairs of a bridge and a device that we have added.
    """
    for port in switch.read_once(_TIMEOUT).by_bridge.get(bridge, ()):
        # The agent's are patches and tunnels; a VM's have users().
        is_device = port.type in ("", "system", "internal") and port.vnic_id is None
        if is_device and port.name != bridge and (bridge, port.port) not in uplinks:
            return port.name
    return None


def address(bridge: str) -> str | None:
    """Give an address of this host's that is on a bridge; None if there is none."""
    for one in snapshot.take().addresses:
        # A link-local one is there by itself.
        if one.device == bridge and not one.ip.is_link_local:
            return str(one.ip)
    return None


def _is_port(bridge: str, device: str) -> bool:
    there = ovs_bridges.look().get(bridge)
    return there is not None and device in there.ports
