# SPDX-License-Identifier: GPL-2.0-or-later
"""The events in the life of a vNIC: plugged, changed, gone."""

from __future__ import annotations

import functools
import logging
import re
import time
import weakref
from collections.abc import Callable

from vif_driver import attachments, vnic
from vif_driver.attachments.base import Undo
from vif_driver.config import Config
from vif_driver.errors import BadRequest, ConfigError, HostError, one_line
from vif_driver.events.turns import Turns
from vif_driver.events.vacancy import Vacancy
from vif_driver.events.vm import Readiness
from vif_driver.host import Host
from vif_driver.host.starts import FORGOTTEN, Start, Starts
from vif_driver.interface_xml import Connection, Interface, interface_if_any
from vif_driver.journal import about
from vif_driver.vnic import Vnic, VnicIdentity
from vif_driver.wire import Reply, Request

log = logging.getLogger(__name__)

#: Of libvirt's start flags (virDomainCreateFlags), the one that lets a VM stand still at first.
START_PAUSED = 1


class NicEvents:
    """Answers VDSM's events about one ``<interface>``.

    Args:
        config: the configuration.
        host: what this process may use.
        starts: the VMs that are being started.
        readiness: who waits until vNICs work; None without the agent.
        trouble: what is wrong with the configuration; no vNIC is plugged then.
        turns: who may work on which vNIC.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        starts: Starts,
        readiness: Readiness | None,
        trouble: ConfigError | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._trouble = trouble
        self._config = config
        self._host = host
        self._starts = starts
        self._readiness = readiness
        # The last request that plugged, for as long as its caller waits for the answer.
        self._plugs: weakref.WeakValueDictionary[str, Request] = weakref.WeakValueDictionary()
        self._turns = turns or Turns()
        self._vacancy = Vacancy(config, host, starts)

    @staticmethod
    def identify(request: Request) -> VnicIdentity:
        """Tell which vNIC an event is about, where nothing else that VDSM hands over is of use.

        Raises:
            NotAnInterface: some other device of a VM with our properties.
        """
        interface_if_any(request.data)
        return vnic.identify(request.properties)

    async def create(self, request: Request) -> Reply:
        """before_device_create: plug, and have the VM stand still until its vNICs work."""
        return await self._plug(request, self._begin)

    async def plug(self, request: Request) -> Reply:
        """before_nic_hotplug: connect the XML and prepare the host."""
        return await self._plug(request, lambda _request, _subject: 0)

    async def _plug(self, request: Request, begin: Callable[[Request, Vnic], int]) -> Reply:
        interface = Interface(request.data)
        subject = vnic.parse(request.properties, interface.mac, interface.mtu)
        if self._trouble is not None:
            # How it would be connected is not known, nor what would filter it.
            raise ConfigError(self._trouble.what, self._trouble.remedy)
        attachment = attachments.choose(subject, subject.security_groups, self._config, self._host)
        dropped = interface.connect(attachment.connection(subject))
        async with self._turns.of(subject.tap), Undo() as undo:
            await self._vacancy.require_unused(subject)
            await self._vacancy.clear(subject)
            self._plugs[subject.tap] = request
            undo.on_failure("start", functools.partial(self._forget, subject))
            launch_flags = begin(request, subject)
            await attachment.prepare(subject)
        for what in dropped:
            self._log(request, subject, f"dropped {what}, which libvirt refuses on such a port")
        self._log(request, subject, f"prepared by {attachment.name}")
        return Reply(data=interface.to_bytes(), launch_flags=launch_flags)

    async def plugged(self, request: Request) -> Reply:
        """after_device_create, after_nic_hotplug: finish and check libvirt's work."""
        subject = self.identify(request)
        async with self._turns.of(subject.tap):
            found = attachments.found(subject, self._config, self._host)
            if not found:
                raise HostError(
                    "nothing of the vNIC is there after libvirt plugged it",
                    "see libvirtd's log; the vNIC has no network until it is plugged again",
                )
            await found[0].finish(subject)
        self._log(request, subject, f"plugged by {found[0].name}")
        if self._readiness is not None:
            self._readiness.watch(subject, hot_plug=request.event == "after_nic_hotplug")
        return Reply()

    async def unplugged(self, request: Request) -> Reply:
        """after_device_destroy, after_nic_hotunplug, after_nic_hotplug_fail: leave nothing."""
        subject = self.identify(request)
        async with self._turns.of(subject.tap):
            await self._forget(subject)
            for attachment in attachments.found(subject, self._config, self._host):
                await attachment.release(subject)
        self._log(request, subject, "released")
        return Reply()

    async def withdraw(self, request: Request) -> None:
        """Take back a plug whose caller is gone, unless the vNIC was plugged again meanwhile."""
        subject = vnic.identify(request.properties)
        async with self._turns.of(subject.tap):
            if self._plugs.get(subject.tap) is request:
                await self._forget(subject)
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

    def _begin(self, request: Request, subject: Vnic) -> int:
        """Remember that the VM is being started with the vNIC; give the launch flags it needs.

        Raises:
            HostError: it cannot be remembered.
        """
        if self._readiness is None or subject.vm_id is None:
            return 0
        start = self._starts.get(subject.vm_id)
        if (
            start is None
            or start.started
            or start.arrives
            or start.age > FORGOTTEN
            or not start.continues(subject)
        ):
            start = Start(subject.vm_id, resume=self._may_pause(request))
        self._starts.put(start.with_vnic(subject))
        return START_PAUSED if start.resume else 0

    def _may_pause(self, request: Request) -> bool:
        """Tell whether it is for us to have a VM wait, by the first request of its start."""
        flags = request.properties.get(vnic.LAUNCH_FLAGS)
        if flags is None or not self._config.start_deadline:
            return False
        # They are still as VDSM wrote them: paused is what somebody else wants.
        return not _parse_flags(flags) & START_PAUSED

    async def _forget(self, subject: VnicIdentity) -> None:
        """Take a vNIC that is gone off the start of its VM."""
        if self._readiness is None:
            return
        try:
            self._readiness.unplugged(subject)
        except HostError as error:
            # What is left of the vNIC is to go all the same.
            log.error("%s: %s", subject, error, extra=about(subject))

    async def _live_connection(self, subject: VnicIdentity, mac: str) -> Connection | None:
        """Give the connection of the running interface if it is this vNIC's."""
        from vif_driver.host.domains import Domains  # heavy, and only this event needs it

        if subject.vm_id is None:
            return None
        domains = self._host.domains or Domains(read_only=True)
        try:
            xml = await domains.interface_xml(subject.vm_id, mac)
        except HostError as error:
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
        took = time.monotonic() - request.received
        extra = about(subject, event=request.event, seconds=took)
        log.info("%s", one_line(f"{subject}: {request.event}: {what}"), extra=extra)


def _parse_flags(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise BadRequest(f"the launch flags {text!r} are no number", "start the VM through VDSM")
    return int(text)
