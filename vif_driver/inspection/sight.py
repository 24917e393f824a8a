# SPDX-License-Identifier: GPL-2.0-or-later
"""One look at the host; what has been asked once is not asked again."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from vif_driver.config import Config
from vif_driver.errors import HostError, Unavailable, VifError
from vif_driver.host import Host, certificates, ovn_controller, processes, threads
from vif_driver.host.addresses import Ip, Route, devices_of, route
from vif_driver.host.links import Link, Links
from vif_driver.host.southbound import Binding, Chassis, Southbound

if TYPE_CHECKING:
    from vif_driver.host.certificates import Credentials
    from vif_driver.host.domains import Domain
    from vif_driver.host.ovsdb import Ovsdb

_T = TypeVar("_T")

# Seconds for a question to the host itself: libvirt, the kernel, the files below /proc.
_HOST_TIMEOUT = 2.0


class Sight:
    """What an inspection looks with.

    It belongs to one look: between two, everything may have changed.

    Args:
        config: the configuration.
        host: what this process may use.  Without ``links`` the devices are looked at over a
            connection of its own, which is never used to change one.
        patience: seconds for each question to another host.
        without_ovsdb: why ``host`` has no ``ovsdb``.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        patience: float = 3.0,
        without_ovsdb: VifError | None = None,
    ) -> None:
        self.config = config
        self.host = host
        self.patience = patience
        self._without_ovsdb = without_ovsdb or Unavailable(
            "Open vSwitch's database was not asked", "run vifctl as root"
        )
        self._own_links: Links | None = None
        self._answers: dict[str, asyncio.Future[Any]] = {}

    async def __aenter__(self) -> Sight:
        return self

    async def __aexit__(self, *_: object) -> None:
        for answer in self._answers.values():
            answer.cancel()
        if self._own_links is not None:
            await self._own_links.close()

    # ---- Open vSwitch ------------------------------------------------------------------------

    @property
    def ovsdb(self) -> Ovsdb:
        """Open vSwitch's database.

        Raises:
            Unavailable: it does not answer, or not this process.
        """
        ovsdb = self.host.ovsdb
        if ovsdb is None:
            raise self._without_ovsdb
        if not ovsdb.replica.connected:
            ovsdb.replica.table("Bridge")  # says what is wrong
        return ovsdb

    @property
    def settings(self) -> Mapping[str, str]:
        """``external_ids`` of the host in Open vSwitch's database.

        Raises:
            Unavailable: it does not answer, or not this process.
        """
        return self.ovsdb.settings()

    # ---- the kernel --------------------------------------------------------------------------

    async def link(self, name: str) -> Link | None:
        """Look a device up.

        Raises:
            HostError, Unavailable: the kernel did not answer.
        """
        return await self._of_host(f"link {name}", lambda: self._links.get(name))

    async def links(self) -> list[Link]:
        """Give all devices.

        Raises:
            HostError, Unavailable: the kernel did not answer.
        """
        return await self._of_host("links", self._links.all)

    async def addresses(self) -> dict[Ip, str]:
        """Give the addresses of this host and their devices.

        Raises:
            HostError, Unavailable: the kernel did not answer.
        """
        return await self._of_host("addresses", lambda: devices_of(self._links))

    async def route(self, destination: str) -> Route:
        """Look up the way to an address.

        Raises:
            HostError, Unavailable: there is none, or the kernel did not answer.
            ValueError: it is no address.
        """
        ip = ipaddress.ip_address(destination)
        return await self._of_host(f"route {ip}", lambda: route(self._links, ip))

    async def process(self, name: str) -> int | None:
        """Give the process id of a daemon; None if it does not run."""
        return await self._of_host(
            f"process {name}",
            lambda: threads.run(lambda: processes.find(name), _HOST_TIMEOUT, "processes"),
        )

    @property
    def _links(self) -> Links:
        if self.host.links is not None:
            return self.host.links
        if self._own_links is None:
            self._own_links = Links()
        return self._own_links

    # ---- libvirt -----------------------------------------------------------------------------

    async def domains(self) -> list[Domain]:
        """Give the VMs of this host.

        Raises:
            HostError, Unavailable: libvirt does not answer.
        """
        known = self.host.domains
        if known is None:
            raise Unavailable("libvirt was not asked", "run vifctl")
        return await self.once("domains", known.all)  # which has a deadline of its own

    # ---- OVN ---------------------------------------------------------------------------------

    async def controller(self) -> ovn_controller.Controller | None:
        """Find the ovn-controller that runs; None if none does."""
        return await self._of_host(
            "controller",
            lambda: threads.run(ovn_controller.find, _HOST_TIMEOUT, "processes"),
        )

    async def controller_connected(self) -> bool:
        """Tell whether it is connected to the southbound database.

        Raises:
            HostError: it does not answer.
            Unavailable: this process may not ask it, or there is none.
        """
        controller = await self.controller()
        if controller is None:
            raise Unavailable("ovn-controller does not run", "systemctl start ovn-controller")
        return await self.once("controller connected", controller.connected)

    @property
    def chassis_name(self) -> str | None:
        """The name of this host at OVN.

        Raises:
            Unavailable: Open vSwitch's database does not answer, or not this process.
        """
        return ovn_controller.chassis_name(self.settings.get("system-id"))

    @property
    def hostname(self) -> str:
        """What this host says to OVN that it is called."""
        return self.settings.get("hostname") or socket.gethostname()

    def ovn_setting(self, key: str) -> str | None:
        """Give a setting of OVN's: one for this chassis name goes first (ovn-controller(8)).

        Raises:
            Unavailable: Open vSwitch's database does not answer, or not this process.
        """
        return ovn_controller.setting(self.settings, key)

    async def binding(self, logical_port: str) -> Binding | None:
        """Look up a logical port in the southbound database.

        Raises:
            HostError, Unavailable: the database cannot be asked.
        """
        southbound = await self._southbound()
        return await self.once(
            f"binding {logical_port}", lambda: southbound.binding(logical_port, self.patience)
        )

    async def chassis(self) -> list[Chassis]:
        """Give all hosts that OVN knows.

        Raises:
            HostError, Unavailable: the database cannot be asked.
        """
        southbound = await self._southbound()
        return await self.once("chassis", lambda: southbound.chassis(self.patience))

    async def _southbound(self) -> Southbound:
        remote = self.ovn_setting("ovn-remote")
        if not remote:
            raise HostError(
                "ovn-remote is not set: this host knows no southbound database",
                "install the host anew in the engine, or run vdsm-tool ovn-config",
            )
        if "ssl:" not in remote:
            return Southbound(remote)
        return Southbound(remote, certificates.find() or await self.controllers_credentials())

    async def controllers_credentials(self) -> Credentials | None:
        """Give the certificate that ovn-controller uses; None if it was not told any.

        Raises:
            Unavailable: Open vSwitch's database does not answer, or not this process.
        """
        running = await self.controller()
        told = None
        if running is not None and running.socket is not None:
            # Its pid file tells it from any user's program of that name, which is not to say what
            # files we open.
            told = certificates.of_process(running.pid)
        if told is None:
            told = await self._of_host(
                "ssl table",
                lambda: threads.run(certificates.of_open_vswitch, _HOST_TIMEOUT, "certificates"),
            )
        return told

    # ---- inside ------------------------------------------------------------------------------

    async def _of_host(self, key: str, ask: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await asyncio.wait_for(self.once(key, ask), _HOST_TIMEOUT)
        except asyncio.TimeoutError:
            raise Unavailable(
                f"no answer within {_HOST_TIMEOUT:g} s ({key})",
                "see whether the host is overloaded",
            ) from None

    async def once(self, key: str, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask, or give the answer that the same question had; errors are answers, too."""
        known = self._answers.get(key)
        if known is None:
            known = self._answers[key] = asyncio.ensure_future(ask())
            # It may fail after the one who asked has stopped waiting.
            known.add_done_callback(lambda done: done.cancelled() or done.exception())
        # One who stops waiting must not take the answer from the others.
        answer: _T = await asyncio.shield(known)
        return answer
