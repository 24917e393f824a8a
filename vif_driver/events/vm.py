# SPDX-License-Identifier: GPL-2.0-or-later
"""The events in the life of a VM as a whole: it has been started."""

from __future__ import annotations

import logging
from typing import Protocol

from vif_driver.errors import BadRequest
from vif_driver.host import Host
from vif_driver.host.starts import Start, Starts
from vif_driver.vnic import VnicIdentity, parse_vm_id
from vif_driver.wire import Reply, Request

log = logging.getLogger(__name__)


class Readiness(Protocol):
    """Who waits until vNICs work; the agent does."""

    async def started(self, start: Start) -> str:
        """Wait until every vNIC of a VM is ready, then let it run.

        Returns:
            What VDSM's log is to say, or nothing.
        """

    def watch(self, vnic: VnicIdentity, *, hot_plug: bool) -> None:
        """See that a vNIC that libvirt has plugged becomes ready, and log it.

        Args:
            vnic: which.
            hot_plug: into a VM that ran already; otherwise its VM's start may have waited for it.
        """

    def unplugged(self, vnic: VnicIdentity) -> None:
        """Forget a vNIC that is gone, and the start of its VM if that has none left."""


class Starting(Protocol):
    """Who is to know of VMs that are started; the agent is."""

    def started(self, start: Start) -> None:
        """VDSM has started a VM: no earlier migration of it matters any more."""


class VmEvents:
    """Answers VDSM's events about a VM.

    Args:
        host: what this process may use.
        starts: the VMs that are being started.
        readiness: who waits; None without the agent.
        starting: who else is to know of it; None without the agent.
    """

    def __init__(
        self,
        host: Host,
        starts: Starts,
        readiness: Readiness | None,
        starting: Starting | None,
    ) -> None:
        self._host = host
        self._starts = starts
        self._readiness = readiness
        self._starting = starting

    async def started(self, request: Request) -> Reply:
        """after_vm_start: the VM stands still, if it was us who asked for that."""
        vm_id = parse_vm_id(request.properties.get("vmId"))
        if vm_id is None:
            raise BadRequest("VDSM did not say which VM it started", "start it through VDSM")
        start = self._starts.get(vm_id)
        if start is None:
            return Reply()
        if self._readiness is None:
            return await self._resume_blindly(start)
        if self._starting is not None:
            self._starting.started(start)
        return Reply(message=await self._readiness.started(start))

    async def _resume_blindly(self, start: Start) -> Reply:
        """Let a VM run without knowing about its vNICs: a paused one would be worse."""
        if start.resume:
            from vif_driver.host.domains import Domains  # heavy, and only this event needs it

            await (self._host.domains or Domains()).resume(start.vm_id)
            log.warning("VM %s: resumed; whether its vNICs work is not known", start.vm_id)
        self._starts.release(start)
        return Reply()
