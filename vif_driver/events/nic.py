# SPDX-License-Identifier: GPL-2.0-or-later
"""The events in the life of a vNIC: plugged, changed, gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator

from vif_driver import attachments, vnic
from vif_driver.config import Config
from vif_driver.errors import BadRequest, HostError, NotAnInterface, Unavailable, one_line
from vif_driver.host import Host
from vif_driver.interface_xml import Connection, Interface
from vif_driver.vnic import Vnic, VnicIdentity
from vif_driver.wire import Reply, Request

log = logging.getLogger(__name__)


class NicEvents:
    """Answers VDSM's events about one ``<interface>``.

    Args:
        config: the configuration.
        host: what this process may use.
    """

    def __init__(self, config: Config, host: Host) -> None:
        self._config = config
        self._host = host
        # The last request that plugged, for as long as its caller waits for the answer.
        self._plugs: weakref.WeakValueDictionary[str, Request] = weakref.WeakValueDictionary()
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def plug(self, request: Request) -> Reply:
        """before_device_create, before_nic_hotplug: connect the XML and prepare the host."""
        interface = Interface(request.data)
        subject = vnic.parse(request.properties, interface.mac, interface.mtu)
        attachment = attachments.choose(subject, self._config, self._host)
        dropped = interface.connect(attachment.connection(subject))
        async with self._turn(subject):
            await self._clear(subject)
            self._plugs[subject.tap] = request
            await attachment.prepare(subject)
        for what in dropped:
            self._log(request, subject, f"dropped {what}, which libvirt refuses on such a port")
        self._log(request, subject, f"prepared by {attachment.name}")
        return Reply(data=interface.to_bytes())

    async def plugged(self, request: Request) -> Reply:
        """after_device_create, after_nic_hotplug: finish and check libvirt's work."""
        subject = self._identify(request)
        async with self._turn(subject):
            found = attachments.found(subject, self._config, self._host)
            if not found:
                raise HostError(
                    "nothing of the vNIC is there after libvirt plugged it",
                    "see libvirtd's log; the vNIC has no network until it is plugged again",
                )
            await found[0].finish(subject)
        self._log(request, subject, f"plugged by {found[0].name}")
        return Reply()

    async def unplugged(self, request: Request) -> Reply:
        """after_device_destroy, after_nic_hotunplug, after_nic_hotplug_fail: leave nothing."""
        subject = self._identify(request)
        async with self._turn(subject):
            for attachment in attachments.found(subject, self._config, self._host):
                await attachment.release(subject)
        self._log(request, subject, "released")
        return Reply()

    async def withdraw(self, request: Request) -> None:
        """Take back a plug whose caller is gone, unless the vNIC was plugged again meanwhile."""
        subject = vnic.identify(request.properties)
        async with self._turn(subject):
            if self._plugs.get(subject.tap) is request:
                for attachment in attachments.found(subject, self._config, self._host):
                    await attachment.release(subject)

    async def update(self, request: Request) -> Reply:
        """before_update_device: keep the connection in the XML that VDSM made anew.

        VDSM builds it from its own model, which has no ``<virtualport>``.  libvirt compares it
        with the running interface: whatever says where that is connected must be as it is, also
        where an older driver or other settings connected it.

        A refusal would be no protection: VDSM then takes the change back with XML that no hook
        has seen.  So what is not needed to find the vNIC is not looked at here.
        """
        interface = Interface(request.data)
        subject = vnic.identify(request.properties)
        live = await self._live_connection(subject, vnic.parse_mac(interface.mac))
        interface.connect(live or self._likely_connection(subject))
        self._log(request, subject, "connection kept")
        return Reply(data=interface.to_bytes())

    async def _clear(self, subject: Vnic) -> None:
        """Remove what an earlier plug of the vNIC left, in whatever VM and by whatever way.

        A port left behind would come up in the VLAN that it had, or be a second one for the
        provider's port.

        Raises:
            HostError: a running guest uses it.
        """
        identity = VnicIdentity(subject.id, subject.plugin, vm_id=None)
        for attachment in attachments.found(identity, self._config, self._host):
            await attachment.release(identity)

    def _identify(self, request: Request) -> VnicIdentity:
        """Tell which vNIC an ``after_*`` event is about.

        VDSM keeps no XML of the devices that a VM was started with: the file is empty then.  What
        it holds otherwise is of no use here but for the kind of device.

        Raises:
            NotAnInterface: some other device of a VM with our properties.
        """
        try:
            Interface(request.data)
        except NotAnInterface:
            raise
        except BadRequest:
            pass
        return vnic.identify(request.properties)

    async def _live_connection(self, subject: VnicIdentity, mac: str) -> Connection | None:
        """Give the connection of the running interface if it is this vNIC's."""
        from vif_driver.host import domains  # heavy, and only this event needs it

        if subject.vm_id is None:
            return None
        try:
            xml = await domains.interface_xml(subject.vm_id, mac)
        except Unavailable as error:
            log.warning("%s: %s; taking the vNIC for one that this driver plugged", subject, error)
            return None
        try:
            live = None if xml is None else Interface(xml).connection
        except BadRequest as error:
            log.warning("%s: in libvirt's own XML: %s", subject, error)
            return None
        if live is None:
            return None
        ways = attachments.candidates(subject, self._config, self._host)
        bridges = {way.connection(subject).bridge for way in ways}
        ours = live.interface_id == subject.id or (
            live.interface_id is None and live.bridge in bridges
        )
        return live if ours else None

    def _likely_connection(self, subject: VnicIdentity) -> Connection:
        """Give the connection that this driver makes, by what is there of the vNIC."""
        ways = attachments.found(subject, self._config, self._host)
        ways += attachments.candidates(subject, self._config, self._host)[-1:]
        return ways[0].connection(subject)

    @staticmethod
    def _log(request: Request, subject: VnicIdentity, what: str) -> None:
        log.info("%s", one_line(f"{subject}: {request.event}: {what}"))

    @contextlib.asynccontextmanager
    async def _turn(self, subject: VnicIdentity) -> AsyncIterator[None]:
        """One event at a time for vNICs whose devices have the same names."""
        lock = self._turns.setdefault(subject.tap, asyncio.Lock())
        async with lock:
            yield
