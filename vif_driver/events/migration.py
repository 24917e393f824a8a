# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of a live migration, on both hosts.

What a hook returns on the destination is ignored: the XML of the VM comes from the source.  So all
that can be done there is to have ready what that XML names, which is the same on both hosts.
"""

from __future__ import annotations

import functools
import logging
from typing import Protocol

from vif_driver import attachments, switchover, vnic
from vif_driver.attachments import Attachment
from vif_driver.attachments.base import Undo
from vif_driver.config import Config
from vif_driver.errors import BadRequest, ConfigError, one_line
from vif_driver.events.nic import NicEvents
from vif_driver.events.turns import Turns
from vif_driver.events.vacancy import Vacancy
from vif_driver.events.vm import Starting
from vif_driver.host import Host
from vif_driver.host.starts import FORGOTTEN, Start, Starts
from vif_driver.interface_xml import Interface, interface_if_any
from vif_driver.journal import about
from vif_driver.vnic import Vnic, VnicIdentity
from vif_driver.wire import Reply, Request

log = logging.getLogger(__name__)


class Coordinator(Starting, Protocol):
    """Who has the provider's network follow the VM; the agent does."""

    async def arriving(self, subject: VnicIdentity, attachment: Attachment) -> str:
        """Get ready for a vNIC whose VM is about to arrive.

        Returns:
            What VDSM's log is to say, or nothing.

        Raises:
            HostError: the vNIC would have no network here.
        """

    def arrived(self, subject: VnicIdentity) -> None:
        """VDSM says that the VM is here."""

    def leaving(self, subject: VnicIdentity) -> None:
        """VDSM is about to move the VM of a vNIC away."""

    def left(self, subject: VnicIdentity) -> None:
        """VDSM says that the VM is gone."""

    async def cancel(self, vm_id: str) -> None:
        """Take back what was done for a VM that does not arrive after all, and forget it."""


class MigrationEvents:
    """Answers VDSM's events about a vNIC whose VM moves.

    Args:
        config: the configuration.
        host: what this process may use.
        starts: the VMs that are being started, or arrive.
        turns: who may work on which vNIC.
        coordinator: who has the network follow; None without the agent.
        nic: answers what is to be done as in the rest of a vNIC's life.
        trouble: what is wrong with the configuration; no vNIC is plugged then.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        starts: Starts,
        turns: Turns,
        coordinator: Coordinator | None,
        nic: NicEvents,
        trouble: ConfigError | None = None,
    ) -> None:
        self._config = config
        self._host = host
        self._starts = starts
        self._turns = turns
        self._coordinator = coordinator
        self._nic = nic
        self._trouble = trouble
        self._vacancy = Vacancy(config, host, starts)

    async def leaving(self, request: Request) -> Reply:
        """before_device_migrate_source: the VM is about to go."""
        subject = self._nic.identify(request)
        if self._coordinator is not None:
            self._coordinator.leaving(subject)
        return Reply()

    async def arriving(self, request: Request) -> Reply:
        """before_device_migrate_destination: have ready what the VM's XML names."""
        interface = interface_if_any(request.data)
        identity = vnic.identify(request.properties)
        if identity.vm_id is None:
            raise BadRequest("VDSM did not say which VM arrives", "migrate it through VDSM")
        async with Undo() as undo:
            if self._coordinator is not None:
                # One vNIC that is refused ends the migration of the VM.
                cancel = functools.partial(self._coordinator.cancel, identity.vm_id)
                undo.on_failure("arrival", cancel)
            return await self._have_ready(request, identity, interface)

    async def _have_ready(
        self, request: Request, identity: VnicIdentity, interface: Interface | None
    ) -> Reply:
        if self._trouble is not None:
            raise ConfigError(self._trouble.what, self._trouble.remedy)
        attachment = self._choose(request, identity, interface)
        subject = _as_far_as_known(request, identity, interface)
        message = ""
        # What was made is taken back while it is still this vNIC's turn.
        async with self._turns.of(subject.tap), Undo() as undo:
            await self._vacancy.require_unused(subject)
            await self._vacancy.clear(subject)
            if self._coordinator is not None:
                self._expect(subject)
            await attachment.expect(subject, undo)
            if isinstance(subject, Vnic):
                await attachment.connect(subject, undo)
            if self._coordinator is not None:
                message = await self._coordinator.arriving(subject, attachment)
            elif subject.plugin in switchover.PLUGINS:
                message = (
                    f"vif-driver: the move of {subject} is not coordinated: vif-agent does not run "
                    "on this host; start it: systemctl restart vif-agent"
                )
        extra = about(subject, event=request.event)
        log.info("%s: expected, by %s", subject, attachment.name, extra=extra)
        return Reply(message=one_line(message))

    async def arrived(self, request: Request) -> Reply:
        """after_device_migrate_destination: the VM is here."""
        subject = self._nic.identify(request)
        if self._coordinator is not None:
            self._coordinator.arrived(subject)
        name = self._other_name(subject)
        if name is not None:
            extra = about(subject, event=request.event)
            log.info("%s: an older driver plugged it, as %s", subject, name, extra=extra)
            return Reply()
        return await self._nic.plugged(request)

    async def left(self, request: Request) -> Reply:
        """after_device_migrate_source: the VM is gone."""
        subject = self._nic.identify(request)
        if self._coordinator is not None:
            self._coordinator.left(subject)
        return await self._nic.unplugged(request)

    async def destroyed(self, request: Request) -> Reply:
        """after_device_destroy: the VM is gone, or has not arrived."""
        subject = self._nic.identify(request)
        if self._coordinator is not None and subject.vm_id is not None:
            await self._coordinator.cancel(subject.vm_id)
        return await self._nic.unplugged(request)

    def _choose(
        self, request: Request, identity: VnicIdentity, interface: Interface | None
    ) -> Attachment:
        """Give the attachment by which the source has connected the vNIC."""
        connection = None if interface is None else interface.connection
        for way in attachments.candidates(identity, self._config, self._host):
            if connection is not None and way.connection(identity).bridge == connection.bridge:
                return way
        groups = vnic.parse_security_groups(request.properties.get("security_groups"))
        return attachments.choose(identity, groups, self._config, self._host)

    def _other_name(self, subject: VnicIdentity) -> str | None:
        """Give the name that libvirt has chosen for a vNIC's tap, if it isn't ours.

        Older drivers name no tap in the XML, with which a VM that they started also comes here.
        """
        ovsdb = self._host.ovsdb
        if ovsdb is None or attachments.found(subject, self._config, self._host):
            return None
        wanted = {"iface-id": subject.id, "vm-id": subject.vm_id}.items()
        found = (port for port in ovsdb.ports() if wanted <= port.external_ids.items())
        return next((port.name for port in found), None)

    def _expect(self, subject: VnicIdentity) -> None:
        assert subject.vm_id is not None  # noqa: S101, asked before
        start = self._starts.get(subject.vm_id)
        if (
            start is None
            or not start.arrives
            or start.seen
            or start.started
            or start.age > FORGOTTEN
            or not start.continues(subject)
        ):
            start = Start(subject.vm_id, resume=False, arrives=True)
        self._starts.put(start.with_vnic(subject))


def _as_far_as_known(
    request: Request, identity: VnicIdentity, interface: Interface | None
) -> VnicIdentity:
    if interface is None or interface.mac is None:
        return identity
    return vnic.parse(request.properties, interface.mac, interface.mtu)
