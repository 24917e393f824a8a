# SPDX-License-Identifier: GPL-2.0-or-later
"""What every way to connect a vNIC has in common."""

from __future__ import annotations

import abc
import logging
from collections.abc import Awaitable
from types import TracebackType
from typing import Callable

from vif_driver.config import Config
from vif_driver.errors import HostError, NameTaken, Unavailable
from vif_driver.host import Host, kernel, ovsdb_socket
from vif_driver.interface_xml import Connection
from vif_driver.vnic import Vnic, VnicIdentity

log = logging.getLogger(__name__)


class Attachment(abc.ABC):
    """One way to connect a vNIC.

    The steps, in the order of a vNIC's life: :meth:`connection` goes into the XML,
    :meth:`prepare` before libvirt acts (for a VM that arrives by migration in its parts, as more of
    the vNIC becomes known), :meth:`finish` after it did; :meth:`is_ready` once the
    provider's agent has connected it, too; :meth:`release` once the vNIC is gone, and also before
    it is prepared, of whatever an earlier attempt left.

    Args:
        config: the configuration.
        host: what this process may use.
    """

    #: The name of the attachment, as logs and documentation use it.
    name: str

    #: Whether :meth:`finish` is wanted the moment that the tap exists: somebody else looks at it.
    finishes_early: bool = False

    def __init__(self, config: Config, host: Host) -> None:
        self.config = config
        self.host = host

    @abc.abstractmethod
    def is_there(self, vnic: VnicIdentity) -> bool:
        """Tell whether this attachment has made anything for the vNIC on this host."""

    @abc.abstractmethod
    def connection(self, vnic: VnicIdentity) -> Connection:
        """Say where the XML is to connect the interface.  Touches nothing."""

    async def prepare(self, vnic: Vnic) -> None:
        """Make what libvirt must find; of this vNIC nothing is there yet.

        Raises:
            VifError: the vNIC cannot be connected; the host is as it was.
        """
        async with Undo() as undo:
            await self.expect(vnic, undo)
            await self.connect(vnic, undo)

    @abc.abstractmethod
    async def expect(self, vnic: VnicIdentity, undo: Undo) -> None:
        """Make the devices that libvirt must find, or see that it will find them.

        Args:
            vnic: which; of one that arrives by migration more is not known yet.
            undo: learns how to take back what is made here.

        Raises:
            VifError: the vNIC cannot be connected.
        """

    async def adapt(self, vnic: Vnic) -> None:  # noqa: B027, there may be nothing to do
        """Give the devices what was not known of the vNIC when they were made.

        Raises:
            HostError: the kernel refused.
        """

    async def connect(self, vnic: Vnic, undo: Undo) -> None:  # noqa: B027, see above
        """Do what is left before libvirt acts, or before a VM that arrives runs here.

        Args:
            vnic: which.
            undo: learns how to take back what is made here.

        Raises:
            VifError: the vNIC cannot be connected.
        """

    @abc.abstractmethod
    async def finish(self, vnic: VnicIdentity) -> None:
        """Do what can only be done once libvirt has made the tap, and check its work.

        Raises:
            VifError: the vNIC is not connected as it should be.
        """

    @abc.abstractmethod
    def is_ready(self, vnic: VnicIdentity) -> bool:
        """Tell whether the provider's agent has connected the vNIC, by what this host shows.

        Raises:
            Unavailable: it cannot be seen at the moment.
        """

    @abc.abstractmethod
    async def wait_ready(self, vnic: VnicIdentity, timeout: float) -> bool:
        """Wait until the vNIC is ready; False if ``timeout`` seconds pass first."""

    @abc.abstractmethod
    async def user(self, vnic: VnicIdentity) -> str | None:
        """Give the id of the VM whose tap the vNIC has now; None if there is no tap."""

    @abc.abstractmethod
    async def release(self, vnic: VnicIdentity) -> None:
        """Remove everything on this host that was made for the vNIC and carries our mark.

        Without a ``vm_id``, whichever VM it was made for.

        Raises:
            VifError: a guest uses it, or something could not be removed.
        """

    async def require_integration_bridge(self) -> None:
        """Make sure that there is something to plug into.

        Raises:
            HostError: there is no integration bridge, or Open vSwitch does not run.
        """
        name = self.config.integration_bridge
        ovsdb = self.host.ovsdb
        if ovsdb is not None:
            await ovsdb.wait_connected()
            present = ovsdb.has_bridge(name)
        elif ovsdb_socket.is_down():
            raise Unavailable(
                "Open vSwitch does not run on this host", "start it: systemctl start openvswitch"
            )
        else:
            present = kernel.has_device(name)
        if not present:
            raise HostError(
                f"the integration bridge {name} does not exist",
                "start ovn-controller or Neutron's Open vSwitch agent, which make it, or correct "
                "integration_bridge in vif-driver.conf",
            )

    async def claim_tap_name(self, vnic: VnicIdentity) -> None:
        """Make sure that nothing else is called as the vNIC's tap will be.

        That is a device, and a row of Open vSwitch: it would give a new device of that name the
        row's ``iface-id`` and VLAN at once, and libvirt's ``--may-exist add-port`` sets neither
        VLAN nor anything else of a row that is there.  A row of libvirt's without its tap is
        stale, and deleted.

        Raises:
            NameTaken: there is a device, or the row is somebody else's.
        """
        require_free(vnic.tap)
        ovsdb = self.host.ovsdb
        if ovsdb is None or not ovsdb.replica.connected:
            return
        port = ovsdb.port(vnic.tap)
        if port is None:
            return
        if port.bridge != self.config.integration_bridge or not port.made_by_libvirt:
            raise NameTaken(
                f"Open vSwitch has a port {port.name} on {port.bridge} that is somebody else's",
                f"remove it if nothing uses it: ovs-vsctl del-port {port.name}",
            )
        log.warning("%s: deleting a stale port of that name: %s", vnic, port)
        await ovsdb.delete_port(port.name, port.external_ids)


class Undo:
    """What to take back, last first, if the block that it guards fails.

    ``async with Undo() as undo:`` runs the registered steps when the block raises, and forgets
    them when it doesn't.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def on_failure(self, what: str, step: Callable[[], Awaitable[object]]) -> None:
        """Register a step.

        Args:
            what: the step, for the log.
            step: makes the awaitable that takes it back.
        """
        self._steps.append((what, step))

    async def __aenter__(self) -> Undo:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        for what, step in reversed(self._steps):
            try:
                await step()
            except Exception as failure:
                # The other steps still have to be taken back, and the reason of the first failure
                # is the one that the user must see.
                log.error("could not take back (%s): %s", what, failure)


def known_link(vnic: VnicIdentity) -> tuple[str | None, int | None]:
    """Give the MAC address and the MTU of a vNIC as far as they are known."""
    return (vnic.mac, vnic.mtu) if isinstance(vnic, Vnic) else (None, None)


async def wait_in_ovsdb(host: Host, condition: Callable[[], bool], timeout: float) -> bool:
    """Wait for what Open vSwitch's database is to show, also over its restarts.

    Returns:
        False if ``timeout`` seconds pass first, or this process may not look.
    """
    ovsdb = host.ovsdb
    if ovsdb is None:
        return False
    replica = ovsdb.replica
    return await replica.wait(lambda: replica.connected and condition(), timeout)


def needs_agent(why: str) -> Unavailable:
    """Give the error of a process that may not do what is needed."""
    return Unavailable(
        f"vif-agent does not answer, and {why}",
        "restart it (systemctl restart vif-agent), then repeat the operation",
    )


def require_free(name: str) -> None:
    """Make sure that libvirt can make the guest's tap.

    Raises:
        NameTaken: there is a device of that name.
    """
    if kernel.has_device(name):
        raise NameTaken(
            f"a device {name} exists already: the vNIC is plugged on this host, or another vNIC "
            f"or program took the name",
            f"find out whose it is: virsh -r list; ovs-vsctl list interface {name}",
        )
