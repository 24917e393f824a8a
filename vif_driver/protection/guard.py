# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at this host, and judges what VDSM asks for."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path

from vif_driver.config import Config
from vif_driver.errors import HostError, Unavailable, one_line
from vif_driver.host import Host, neutron_agent, ovsdb_socket, switch, threads
from vif_driver.host.neutron_agent import Underlay
from vif_driver.host.snapshot import Snapshot, Snapshots
from vif_driver.host.switch import Switch
from vif_driver.host.vdsm_config import Entries, Unreadable
from vif_driver.protection import allowances, policy
from vif_driver.protection.changes import Running
from vif_driver.protection.foundation import Foundation
from vif_driver.protection.known import Known, Protected
from vif_driver.protection.policy import Refusal
from vif_driver.protection.request import SetupRequest, parse_bond, parse_network

log = logging.getLogger(__name__)

# Seconds.
_KERNEL_TIMEOUT = 5.0
_DATABASE_TIMEOUT = 3.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is to become of a request.

    Attributes:
        refusals: why it must not pass; nothing if it may.
        waived: what would be one more, if it had not been allowed, and by whom.
        blind: why the host, or what VDSM has written down, could not be looked at; None if it
            could.
    """

    refusals: tuple[Refusal, ...] = ()
    waived: tuple[tuple[Refusal, str], ...] = ()
    blind: HostError | None = None


class Guard:
    """Judges requests on this host; what it has read once it reads again only when it changed.

    Args:
        config: the configuration.
        host: what this process may use.  Without ``ovsdb``, Open vSwitch's database is asked over
            a connection of its own.
        known: where is noted what was protected.
    """

    def __init__(self, config: Config, host: Host, known: Known) -> None:
        self._config = config
        self._host = host
        self._networks = Entries("nets", parse_network)
        self._bonds = Entries("bonds", parse_bond)
        self._underlay: tuple[list[tuple[Path, int, int]], Underlay] = ([], Underlay())
        self._known = known
        self._snapshots = Snapshots()
        self._trouble = ""

    async def judge(self, request: SetupRequest) -> Verdict:
        """Judge a request."""
        running, blind = self._try_running()
        refusals: list[Refusal] = []
        try:
            foundation = await self.look()
            # What a network that is to go stands on, VDSM's notes alone may tell.
            if blind is None:
                refusals = policy.judge(request, running, foundation)
            self._note(foundation, running if blind is None else None)
        except HostError as error:
            blind = blind or error  # what root can read counts, whatever else is wrong
        except Exception as error:  # a fault of ours is not to keep the host from every change
            log.exception("setupNetworks could not be judged")
            kind = type(error).__name__
            blind = HostError(f"internal error ({kind}: {error})", "see the log of vif-agent")
        if blind is not None:
            refusals = policy.judge_blindly(request, running, self._known.get())
        allowed = self.allowed()
        return Verdict(
            tuple(refusal for refusal in refusals if refusal.device not in allowed),
            tuple(
                (refusal, allowed[refusal.device])
                for refusal in refusals
                if refusal.device in allowed
            ),
            blind,
        )

    async def look(self) -> Foundation:
        """Look at the host.

        Raises:
            HostError, Unavailable: it can't be read, or not the whole of it.
        """
        return await self._foundation(await self._switch())

    async def note(self) -> None:
        """Note what is protected, as far as Open vSwitch's database has ever told.

        Raises:
            HostError, Unavailable: the kernel did not answer.
        """
        ovsdb = self._host.ovsdb
        last = Switch() if ovsdb is None else ovsdb.last_switch()
        foundation = await self._foundation(last)
        running, blind = self._try_running()
        self._note(foundation, running if blind is None else None)

    def known(self) -> Protected:
        """Give what was protected when it was last seen."""
        return self._known.get()

    def running(self) -> Running:
        """Give what VDSM has written down.

        Raises:
            Unreadable: it is not for this process to read.
        """
        return Running(self._networks.all(), self._bonds.all())

    def allowed(self) -> dict[str, str]:
        """Give the devices to which anything may be done, and who says so."""
        by_hand = {one.device: one.by for one in allowances.all_()}
        return {**by_hand, **dict.fromkeys(self._config.allowed, "the configuration")}

    def _try_running(self) -> tuple[Running, HostError | None]:
        """Give what VDSM has written down, or why that is not known, which is logged once."""
        running, trouble = Running(), None
        try:
            running = self.running()
        except Unreadable as error:
            trouble = error
            if self._trouble != str(error):
                log.warning("%s", one_line(f"setupNetworks cannot be judged well: {error}"))
        self._trouble = "" if trouble is None else str(trouble)
        return running, trouble

    def _note(self, foundation: Foundation, running: Running | None) -> None:
        """Note what is protected; without what VDSM has written down its networks stay noted."""
        found = protected(foundation, Running() if running is None else running)
        if running is None:
            found = dataclasses.replace(found, networks=self._known.get().networks)
        self._known.put(found)

    async def _foundation(self, of_switch: Switch) -> Foundation:
        bridge = self._config.integration_bridge
        return Foundation(await self._snapshot(), of_switch, self._neutron(), bridge)

    async def _snapshot(self) -> Snapshot:
        unchanged = self._snapshots.unchanged()
        if unchanged is not None:
            return unchanged
        try:
            return await threads.run(self._snapshots.take, _KERNEL_TIMEOUT, "snapshot")
        except asyncio.TimeoutError:
            raise Unavailable("the kernel does not tell its network devices", "see dmesg") from None

    async def _switch(self) -> Switch:
        ovsdb = self._host.ovsdb
        if ovsdb is not None:
            await ovsdb.wait_connected()
            return ovsdb.switch()
        if not ovsdb_socket.SCHEMA.exists():
            return Switch()
        timeout = _DATABASE_TIMEOUT
        try:
            return await threads.run(lambda: switch.read_once(timeout), timeout + 0.5, "switch")
        except asyncio.TimeoutError:
            raise Unavailable(
                "Open vSwitch's database does not answer", "see ovsdb-server.log"
            ) from None

    def _neutron(self) -> Underlay:
        """Give what Neutron's agents are told; read anew when one of their files is another."""
        states = []
        for path in neutron_agent.files((*neutron_agent.CONFIG, *neutron_agent.LINUX_BRIDGE)):
            try:
                status = path.stat()
            except OSError:
                continue
            states.append((path, status.st_mtime_ns, status.st_size))
        if states != self._underlay[0]:
            self._underlay = states, neutron_agent.underlay()
        return self._underlay[1]


def protected(foundation: Foundation, running: Running) -> Protected:
    """Give what is protected, in the form in which it is noted."""
    devices = {device: foundation.describe(device) for device in foundation.devices}
    for name in (
        *foundation.integration_bridges,
        *(interface.name for interface in foundation.switch.interfaces),
    ):
        own = foundation.own(name)
        if own is not None:
            devices[name] = own
    networks: dict[str, str] = {}
    for network in running.networks.values():
        for device in (network.top, network.vlan_device):
            if device in devices:
                networks.setdefault(network.name, device)
    return Protected(devices, networks)
