# SPDX-License-Identifier: GPL-2.0-or-later
"""OVN, as this host is told to reach it: what the agent has to know when a VM moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from vif_driver.config import Config
from vif_driver.errors import HostError, Unavailable
from vif_driver.host import Host, certificates, ovn_controller
from vif_driver.host.northbound import Northbound, remotes_from
from vif_driver.host.northbound_rows import Edit, LogicalSwitchPort

#: Seconds for each of the two databases when a VM is about to arrive: the source waits.  Fifty VMs
#: that arrive at once share a processor, and who is given up is without network for longer.
PATIENCE = 5.0


class Ovn:
    """OVN's databases, and this host's part in it.

    Args:
        config: the configuration.
        host: what the agent may use.
    """

    def __init__(self, config: Config, host: Host) -> None:
        self._config = config
        self._host = host
        self._controller: tuple[int, ...] | None = None
        # A host with many VMs at a time is one client of the database, not many.
        self._editing = asyncio.Lock()

    @property
    def has_northbound(self) -> bool:
        """Whether the northbound database is to be used."""
        return self._config.northbound is not None

    async def location(self) -> tuple[str, str]:
        """Give ``ovn-remote``, and the name of this host at OVN.

        Raises:
            Unavailable: Open vSwitch's database does not answer.
            HostError: they are not set.
        """
        ovsdb = self._host.ovsdb
        if ovsdb is None:
            raise Unavailable("Open vSwitch is not installed on this host", "install openvswitch")
        await ovsdb.wait_connected()
        settings = ovsdb.settings()
        chassis = ovn_controller.chassis_name(settings.get("system-id"))
        remote = ovn_controller.setting(settings, "ovn-remote")
        if not remote or not chassis:
            raise HostError(
                "ovn-remote or system-id is not set in Open vSwitch's database",
                "install the host anew in the engine, or run vdsm-tool ovn-config",
            )
        return remote, chassis

    async def northbound(self, remote: str, ports: Sequence[str]) -> Northbound:
        """Begin to connect to the northbound database; the caller closes it.

        Args:
            remote: ``ovn-remote``, which suggests where it is.
            ports: the names of the ports whose rows are wanted.

        Raises:
            HostError: it is not to be used, or cannot be by the settings of this host.
            Unavailable: no name could be resolved.
        """
        if self._config.northbound is None:
            raise HostError("northbound = off in vif-driver.conf", "set it to auto")
        members = list(self._config.northbound) or remotes_from(remote)
        northbound = Northbound(members, certificates.find(), ports)
        await northbound.open(PATIENCE)
        return northbound

    async def edit_once(
        self,
        ports: Collection[str],
        what: str,
        change: Callable[[LogicalSwitchPort], Edit | None],
    ) -> list[str]:
        """Change ports in the northbound database by a connection that is made for it.

        Args:
            ports: the names of the ports whose rows are wanted.
            what: what this is about, for messages.
            change: says what changes of a port as it is now.

        Returns:
            The names of the ports that were changed.

        Raises:
            HostError: as of northbound().
            Unavailable: the database does not answer.
        """
        async with self._editing:
            remote, _ = await self.location()
            northbound = await self.northbound(remote, sorted(ports))
            try:
                await northbound.wait_connected(PATIENCE)
                return await northbound.edit(what, change)
            finally:
                northbound.close()

    async def controller_version(self) -> tuple[int, ...] | None:
        """Give the version of this host's ovn-controller; None if it cannot be told."""
        if self._controller is None:
            self._controller = await ovn_controller.installed_version()
        return self._controller
