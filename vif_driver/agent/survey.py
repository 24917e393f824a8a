# SPDX-License-Identifier: GPL-2.0-or-later
"""The external vNICs of this host, known at any moment without asking everybody anew.

VDSM wants them every few seconds, of a host with hundreds.  So what each source has told is kept
until that source says that something has changed; and it is looked at only when somebody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
from typing import TYPE_CHECKING

from vif_driver import marks
from vif_driver.config import Config
from vif_driver.errors import HostError, Unavailable
from vif_driver.host import Host, kernel, link_events, ovn_controller
from vif_driver.host.domains import Domain, Domains
from vif_driver.marks import Owner

if TYPE_CHECKING:
    from vif_driver.inspection.vnics import ExternalVnic, Vm

log = logging.getLogger(__name__)

#: Seconds that libvirt may take; if it needs longer, what it said last counts.
PATIENCE = 0.5

#: Seconds until libvirt is asked again after it has not answered, unless it is heard of before.
RETRY = 60.0

# Seconds after the kernel's word on a device within which /sys may still show the old state.
_MOMENT = 0.1


class Survey:
    """Looks at the host's vNICs when it is asked.

    Args:
        config: the configuration.
        host: what the agent may use.
        domains: libvirt's VMs, watched.
    """

    def __init__(self, config: Config, host: Host, domains: Domains) -> None:
        self._config = config
        self._host = host
        self._domains = domains
        self._running = contextlib.ExitStack()
        self._links: link_events.Changes | None = None
        # What libvirt has said, and of which VMs it is to be asked anew.
        self._vms: dict[str, Vm] | None = None
        self._answers = 0
        self._outdated: set[str] = set()
        self._all_outdated = True
        self._not_before = -math.inf
        self._asking: asyncio.Task[None] | None = None
        # What the vNICs below were put together from, and when; in the loop's time.
        self._vnics: tuple[ExternalVnic, ...] = ()
        self._basis: tuple[object, ...] = ()
        self._looked = -math.inf
        self._changed = -math.inf

    def start(self) -> None:
        """Begin to listen to the sources; must be called in the running loop."""
        self._links = link_events.Changes()
        self._running.callback(self._links.close)
        self._running.callback(self._domains.subscribe(self._on_domain))

    async def close(self) -> None:
        """Stop."""
        self._running.close()
        self._links = None
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def outdated(self, vm_id: str) -> None:
        """Have libvirt be asked about a VM anew: VDSM has plugged something, or unplugged it."""
        self._outdated.add(vm_id)
        self._not_before = -math.inf

    async def vnics(self) -> tuple[ExternalVnic, ...]:
        """Give the external vNICs: those of libvirt's VMs, and whatever else has a tap."""
        now = asyncio.get_running_loop().time()
        if self._links is None or self._links.any():
            self._changed = now
        devices_changed = self._looked <= self._changed + _MOMENT
        devices = kernel.devices() if devices_changed else set()
        if devices_changed:
            self._doubt_vms(devices)
        await self._ask_libvirt()
        basis = self._facts()
        if devices_changed or basis != self._basis:
            self._vnics = tuple(self._look(devices or kernel.devices()))
            self._basis, self._looked = basis, now
        return self._vnics

    def _facts(self) -> tuple[object, ...]:
        """Give what tells whether anything but devices has changed."""
        ovsdb = self._host.ovsdb
        if ovsdb is None:
            return (self._answers,)
        return self._answers, ovsdb.replica.generation, ovsdb.replica.connected

    def _look(self, devices: set[str]) -> list[ExternalVnic]:
        from vif_driver.inspection import vnics  # much to load, and not every host is asked

        ovsdb = self._host.ovsdb
        sources = vnics.Sources(
            devices=devices,
            owners=_owners(devices),
            vms=None if self._vms is None else self._vms.values(),
        )
        if ovsdb is not None and ovsdb.replica.connected:
            sources = dataclasses.replace(
                sources,
                ports=ovsdb.ports(self._config.integration_bridge),
                ovn_is_set=bool(ovn_controller.setting(ovsdb.settings(), "ovn-remote")),
            )
        found = vnics.combine(sources, self._config, self._host)
        # A row that a VM has left behind is no vNIC.
        return [vnic for vnic in found if vnic.has_interface or vnic.guest_tap in devices]

    # ---- libvirt -----------------------------------------------------------------------------

    def _on_domain(self, vm_id: str | None) -> None:
        if vm_id is None:
            self._all_outdated = True
        else:
            self._outdated.add(vm_id)
        self._not_before = -math.inf

    def _doubt_vms(self, devices: set[str]) -> None:
        """Ask anew about the VMs that have a vNIC without a tap: it may be unplugged."""
        for vm in (self._vms or {}).values():
            if any(vnic.guest_tap not in devices for vnic in vm.plugged):
                self._outdated.add(vm.id)

    async def _ask_libvirt(self) -> None:
        """Have libvirt's VMs be as it has them, if it answers soon."""
        loop = asyncio.get_running_loop()
        wanted = self._all_outdated or self._outdated
        if self._asking is None and wanted and loop.time() >= self._not_before:
            if not self._domains.connected:
                return  # it will be heard of
            self._asking = loop.create_task(self._refresh())
            self._asking.add_done_callback(self._asked)
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=PATIENCE)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled() and task.exception() is not None:
            log.error("libvirt's VMs were not read", exc_info=task.exception())

    async def _refresh(self) -> None:
        whole, self._all_outdated = self._all_outdated, False
        wanted, self._outdated = self._outdated, set()
        self._not_before = asyncio.get_running_loop().time() + RETRY
        domains: list[Domain | None] = []
        untold: set[str] = set()
        try:
            if whole:
                domains += await self._domains.all()
            for vm_id in () if whole else sorted(wanted):
                try:
                    domains.append(await self._domains.get(vm_id))
                except Unavailable:
                    raise
                except HostError as error:  # of this one alone
                    log.debug("what is known of VM %s may be out of date: %s", vm_id, error)
                    untold.add(vm_id)
        except HostError as error:
            log.debug("what is known of the VMs may be out of date: %s", error)
            self._all_outdated = self._all_outdated or whole
            self._outdated |= wanted
            return
        self._outdated |= untold
        wanted -= untold
        if not untold:
            self._not_before = -math.inf
        known = {} if whole or self._vms is None else dict(self._vms)
        for vm_id in wanted:
            known.pop(vm_id, None)
        for domain in domains:
            if domain is not None:
                known[domain.id] = self._read(domain)
                await asyncio.sleep(0)  # there are others to be answered, too
        self._vms = known
        self._answers += 1

    def _read(self, domain: Domain) -> Vm:
        from vif_driver.inspection import vnics  # see above

        return vnics.read_vm(domain, self._config.integration_bridge)


def _owners(devices: set[str]) -> dict[str, Owner]:
    """Give whose the devices of vNICs are, of each vNIC one device."""
    found = {}
    for stem in marks.stems(devices):
        for name in (prefix + stem for prefix in marks.PREFIXES):
            owner = name in devices and marks.owner(name, kernel.group(name), kernel.alias(name))
            if owner:
                found[name] = owner
                break
    return found
