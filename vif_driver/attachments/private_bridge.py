# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux bridge for one vNIC, joined by a veth pair to where the provider's agent looks.

Its devices carry our mark twice: the device group, set in the request that makes the device, so
that there is no moment in which it isn't known to be ours; and ``ifalias``, which names the vNIC
(two ids may share the characters that the device names are made of).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from vif_driver import marks
from vif_driver.attachments.base import Undo
from vif_driver.errors import HostError, NameTaken
from vif_driver.host import kernel
from vif_driver.marks import GROUP, PREFIXES, Owner
from vif_driver.vnic import VnicIdentity

if TYPE_CHECKING:
    from vif_driver.host.links import Link, Links

#: Bytes; what a device has where nobody says otherwise.
ETHERNET_MTU = 1500

# What keeps the bridge transparent: it forwards at once (no listening and learning phase), speaks
# no spanning tree, learns nothing (with two ports there is nothing to learn, and a learned address
# would lose frames when a guest migrates), and does not hold multicast back.
_TRANSPARENT = {
    "br_forward_delay": 0,
    "br_stp_state": 0,
    "br_ageing_time": 0,
    "br_mcast_snooping": 0,
}

# Pass this bridge's frames through iptables whatever the sysctls of the host say.
_NETFILTER = {
    "br_nf_call_iptables": 1,
    "br_nf_call_ip6tables": 1,
    "br_nf_call_arptables": 1,
}

# The host must not answer, or speak, in a guest's name or network.
_SILENT = {
    "ipv6/conf/{}/disable_ipv6": 1,
    "ipv4/conf/{}/arp_ignore": 1,
    "ipv4/conf/{}/arp_announce": 2,
}


@dataclasses.dataclass(frozen=True)
class Idle:
    """Devices that were made for a vNIC, and no guest's tap on their bridge.

    Attributes:
        stem: the characters of the vNIC's id that their names have.
        owner: whose they are.
        links: the devices.
    """

    stem: str
    owner: Owner
    links: tuple[Link, ...]


@dataclasses.dataclass(frozen=True)
class PrivateBridge:
    """The bridge ``qbr…`` of a vNIC with a veth pair ``qvb…``, ``far_end``.

    Attributes:
        links: the host's devices.
        vnic: whose bridge it is.
        far_end: the name of the veth end that is not on the bridge.
        guest_tap: the name of the tap that libvirt puts on the bridge.
        netfilter: pass the bridge's frames through iptables.
        far_end_up: set the far end up; otherwise who takes it does.
    """

    links: Links
    vnic: VnicIdentity
    far_end: str
    guest_tap: str
    netfilter: bool = False
    far_end_up: bool = True

    @property
    def mark(self) -> str:
        """The ``ifalias`` of the devices: whose they are, the vNIC first and then the VM."""
        return marks.alias(self.vnic.id, self.vnic.vm_id)

    async def make(self, mac: str | None, mtu: int | None, undo: Undo) -> None:
        """Make it all.

        Args:
            mac: the vNIC's; None if it is not known yet.
            mtu: bytes; None for Ethernet's own.
            undo: learns how to take back what is made here.

        Raises:
            NameTaken: there is a device of one of the names; nothing was changed.
            HostError: the kernel refused.
        """
        for name in self._names:
            await self._require_free(name)
        mtu = mtu or ETHERNET_MTU
        await self._make_bridge(mtu, undo)
        await self._make_veth(mac, mtu, undo)

    async def adapt(self, mac: str, mtu: int | None) -> None:
        """Set what was not known of the vNIC when the devices were made.

        Args:
            mac: its address.
            mtu: bytes; None for Ethernet's own.

        Raises:
            HostError: the kernel refused.
        """
        # The bridge last: it takes the lowest MTU of its ports by itself until it is given one.
        for name in reversed(self._names):
            await self.links.change(
                name,
                mtu=mtu or ETHERNET_MTU,
                address=_far_address(mac) if name == self.far_end else None,
            )

    @property
    def _names(self) -> tuple[str, str, str]:
        return self.vnic.bridge, self.vnic.bridge_end, self.far_end

    async def check_guest_tap(self) -> None:
        """Make sure that libvirt put the guest's tap on the bridge.

        Raises:
            HostError: the tap or the bridge is not there, or the tap is elsewhere.
        """
        bridge = await self.links.get(self.vnic.bridge)
        tap = await self.links.get(self.guest_tap)
        if bridge is None or tap is None or tap.master != bridge.index:
            raise HostError(
                f"the tap {self.guest_tap} is not on the bridge {self.vnic.bridge}",
                "see libvirtd's log; the vNIC has no network until it is plugged again",
            )

    async def require_unused(self) -> None:
        """Make sure that no guest uses the bridge any more.

        Raises:
            HostError: one does.
        """
        bridge = await self._ours_or_none(self.vnic.bridge)
        tap = await self.links.get(self.guest_tap)
        if bridge is not None and tap is not None and tap.master == bridge.index:
            raise HostError(
                f"the tap {self.guest_tap} is still on the bridge {self.vnic.bridge}: nothing "
                "was removed",
                "stop the VM that uses it: virsh -r list",
            )

    async def user(self) -> str | None:
        """Give the id of the VM whose tap is on the bridge; None if there is no tap on it."""
        bridge = await self.links.get(self.vnic.bridge)
        tap = await self.links.get(self.guest_tap)
        if bridge is None or tap is None or tap.master != bridge.index:
            return None
        owner = owner_of(bridge)
        return owner.vm_id if owner is not None and owner.vnic_id == self.vnic.id else None

    async def remove(self) -> None:
        """Delete the devices that carry our mark, and only those."""
        for name in (self.vnic.bridge_end, self.far_end, self.vnic.bridge):
            await self._remove_ours(name)

    async def _make_bridge(self, mtu: int, undo: Undo) -> None:
        name = self.vnic.bridge
        # Before the request: if waiting for it is cancelled, it may have been carried out.
        undo.on_failure(f"bridge {name}", functools.partial(self._remove_ours, name))
        await self.links.add_bridge(name, GROUP)
        attributes: dict[str, int] = dict(_TRANSPARENT)
        if self.netfilter:
            attributes.update(_NETFILTER)
        await self.links.configure_bridge(name, attributes)
        await self._silence(name)
        await self.links.change(name, alias=self.mark, mtu=mtu, up=True)

    async def _make_veth(self, mac: str | None, mtu: int, undo: Undo) -> None:
        near = self.vnic.bridge_end
        undo.on_failure(f"veth pair {near}", functools.partial(self._remove_ours, near))
        await self.links.add_veth(near, self.far_end, GROUP)
        for name in (near, self.far_end):
            await self._silence(name)
        await self.links.change(near, alias=self.mark, mtu=mtu, up=True, master=self.vnic.bridge)
        await self.links.change(
            self.far_end,
            alias=self.mark,
            address=None if mac is None else _far_address(mac),
            mtu=mtu,
            # Last, since this is the end that carries frames out.
            up=True if self.far_end_up else None,
        )

    async def _silence(self, name: str) -> None:
        await self.links.set_parameters(
            {parameter.format(name): value for parameter, value in _SILENT.items()}
        )

    async def _remove_ours(self, name: str) -> None:
        if await self._ours_or_none(name) is not None:
            await self.links.delete(name)

    async def _require_free(self, name: str) -> None:
        link = await self.links.get(name)
        if link is not None:
            owner = f"({link.alias}) " if link.alias else ""
            raise NameTaken(
                f"a device {name} {owner}exists already and was not made for this vNIC",
                f"find out whose it is (ip -d link show {name}) and remove it",
            )

    async def _ours_or_none(self, name: str) -> Link | None:
        """Look up a device of this vNIC, and of this VM if we know which."""
        link = await self.links.get(name)
        if link is None or link.group != GROUP:
            return None
        # An agent killed between making a device and naming its vNIC left it without an alias.
        # Made for a VM that VDSM did not name, it may be any VM's.
        ours = ("", marks.alias(self.vnic.id, None), self.mark)
        any_vm = self.vnic.vm_id is None and (link.alias or "").startswith(
            marks.vnic_alias(self.vnic.id)
        )
        return link if any_vm or (link.alias or "") in ours else None


def _far_address(mac: str) -> str:
    # As libvirt does with taps: a bridge takes the lowest address of its ports for its own, which
    # is not to change with every guest.
    return f"fe{mac[2:]}"


def owner_of(link: Link) -> Owner | None:
    """Tell whose a device is; None if it is none of ours."""
    return marks.owner(link.name, link.group, link.alias)


async def idle(links: Links) -> list[Idle]:
    """Give the devices of vNICs that no guest's tap is joined to.

    A plug is among them until libvirt has made the tap.

    Raises:
        HostError: the kernel did not answer.
    """
    return [one for stem in marks.stems(kernel.devices()) for one in await idle_of(links, stem)]


async def idle_of(links: Links, stem: str) -> list[Idle]:
    """Give the devices of vNICs, by the end of their names, that no guest's tap is joined to.

    Raises:
        HostError: the kernel did not answer.
    """
    if not kernel.bridge_ports("qbr" + stem) <= {"qvb" + stem}:
        return []
    by_owner: dict[Owner, list[Link]] = {}
    for prefix in PREFIXES:
        link = await links.get(prefix + stem)
        owner = None if link is None else owner_of(link)
        if link is not None and owner is not None:
            by_owner.setdefault(owner, []).append(link)
    named = [owner for owner in by_owner if owner.vnic_id is not None]
    if len(named) == 1:
        # Those that were not named yet are of the same plug.
        by_owner[named[0]] += by_owner.pop(Owner(), [])
    return [Idle(stem, owner, tuple(of_one)) for owner, of_one in by_owner.items()]


async def remove_unnamed(links: Links, devices: Idle) -> None:
    """Delete devices that an agent made and was killed before it named their vNIC.

    Raises:
        HostError: the kernel refused.
    """
    for seen in devices.links:
        link = await links.get(seen.name)
        if link is not None and link.index == seen.index and owner_of(link) == Owner():
            await links.delete(link.name)
