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
from vif_driver.errors import Unavailable
from vif_driver.host import Host
from vif_driver.interface_xml import Connection, Interface
from vif_driver.vnic import Plugin, Vnic
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
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def plug(self, request: Request) -> Reply:
        """before_device_create, before_nic_hotplug: connect the XML and prepare the host."""
        interface = Interface(request.data)
        subject = vnic.parse(request.properties, interface.mac, interface.mtu)
        attachment = attachments.choose(subject, self._config, self._host)
        dropped = interface.connect(attachment.connection(subject))
        async with self._turn(subject):
            await attachment.prepare(subject)
        for what in dropped:
            log.info("%s: dropped %s, which libvirt refuses on such a port", subject, what)
        log.info("%s: %s: prepared by %s", subject, request.event, attachment.name)
        return Reply(data=interface.to_bytes())

    async def plugged(self, request: Request) -> Reply:
        """after_device_create, after_nic_hotplug: finish and check libvirt's work."""
        interface = Interface(request.data)
        subject = vnic.parse(request.properties, interface.mac, interface.mtu)
        attachment = self._attachment_of(subject, interface)
        async with self._turn(subject):
            await attachment.finish(subject)
        log.info("%s: %s: plugged by %s", subject, request.event, attachment.name)
        return Reply()

    async def unplugged(self, request: Request) -> Reply:
        """after_device_destroy, after_nic_hotunplug, after_nic_hotplug_fail: leave nothing."""
        interface = Interface(request.data)
        subject = vnic.parse(request.properties, interface.mac, interface.mtu)
        async with self._turn(subject):
            for attachment in attachments.candidates(subject, self._config, self._host):
                await attachment.release(subject)
        log.info("%s: %s: released", subject, request.event)
        return Reply()

    async def update(self, request: Request) -> Reply:
        """before_update_device: keep the connection in the XML that VDSM made anew.

        VDSM builds it from its own model, which has no ``<virtualport>``.  libvirt compares it
        with the running interface: whatever says where that is connected must be as it is, also
        where an older driver or other settings connected it.
        """
        interface = Interface(request.data)
        subject = vnic.parse(request.properties, interface.mac, interface.mtu)
        attachment = attachments.choose(subject, self._config, self._host)
        live = await self._live_connection(subject)
        interface.connect(live or attachment.connection(subject))
        log.info("%s: %s: connection kept", subject, request.event)
        return Reply(data=interface.to_bytes())

    def _attachment_of(self, subject: Vnic, interface: Interface) -> attachments.Attachment:
        """Give the attachment that the interface was plugged with, told by its XML."""
        for attachment in attachments.candidates(subject, self._config, self._host):
            if attachment.connection(subject) == interface.connection:
                return attachment
        return attachments.choose(subject, self._config, self._host)

    async def _live_connection(self, subject: Vnic) -> Connection | None:
        """Give the connection of the running interface if it is this vNIC's."""
        from vif_driver.host import domains  # heavy, and only this event needs it

        if subject.vm_id is None:
            return None
        try:
            xml = await domains.interface_xml(subject.vm_id, subject.mac)
        except Unavailable:
            # OVN's connection has nothing but what follows from the vNIC.  With Neutron's Open
            # vSwitch agent the dead VLAN must be in the update exactly if it is in the domain.
            if subject.plugin is Plugin.OPEN_VSWITCH:
                raise
            return None
        live = None if xml is None else Interface(xml).connection
        if live is None:
            return None
        ways = attachments.candidates(subject, self._config, self._host)
        bridges = {way.connection(subject).bridge for way in ways}
        if live.bridge not in bridges or live.interface_id not in (None, subject.id):
            return None
        return live

    @contextlib.asynccontextmanager
    async def _turn(self, subject: Vnic) -> AsyncIterator[None]:
        """One event at a time for vNICs whose devices have the same names."""
        lock = self._turns.setdefault(subject.tap, asyncio.Lock())
        async with lock:
            yield
