# SPDX-License-Identifier: GPL-2.0-or-later
"""VDSM's events: which of them we answer, and with which exit status a failure is told.

By VDSM's rules (lib/vdsm/common/hooks.py) a hook that ends with 0 is done, 1 failed while the
others still run, 2 stops them all.  A failing ``before_*`` event of a device fails the operation
and shows the user what the last hook wrote to stderr; of ``after_*`` events it is only logged.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from vif_driver import vnic
from vif_driver.config import Config
from vif_driver.errors import BadRequest, ConfigError, NotAnInterface, VifError, one_line
from vif_driver.events.host import HostEvents, Reporter
from vif_driver.events.migration import Coordinator, MigrationEvents
from vif_driver.events.network_setup import NetworkSetupEvents
from vif_driver.events.nic import NicEvents
from vif_driver.events.turns import Turns
from vif_driver.events.vm import Readiness, VmEvents
from vif_driver.host import Host
from vif_driver.host.starts import Starts
from vif_driver.journal import about
from vif_driver.protection.guard import Guard
from vif_driver.wire import HOST_EVENTS, Declined, Reply, Request

log = logging.getLogger(__name__)

_Handler = Callable[[Request], Awaitable[Reply]]

#: A hook is installed for each of these.
NAMES: tuple[str, ...] = (
    "before_device_create",
    "after_vm_start",
    "before_nic_hotplug",
    "after_nic_hotplug",
    "after_nic_hotplug_fail",
    "after_device_create",
    "after_device_destroy",
    "after_nic_hotunplug",
    "before_update_device",
    "before_device_migrate_source",
    "before_device_migrate_destination",
    "after_device_migrate_destination",
    "after_device_migrate_source",
    *HOST_EVENTS,
)

#: Those in which VDSM reports, every few seconds or minutes.
REPORTS = ("after_get_caps", "after_get_stats")

#: Those after which something new is on the host.
PLUGS = ("before_device_create", "before_nic_hotplug")


class Events:
    """Answers events; nothing that it is given makes it raise anything but Declined.

    Args:
        config: the configuration.
        host: what this process may use.
        starts: the VMs that are being started.
        readiness: who waits until vNICs work; None without the agent, when nobody does.
        trouble: what is wrong with the configuration; ``config`` are the defaults then, by which
            nothing is plugged.
        turns: who may work on which vNIC.
        coordinator: who has the network follow VMs that move; None without the agent.
        reporter: who knows what VDSM's reports are to say; None without the agent.
        guard: who judges changes to the host's network for the agent; None without it.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        starts: Starts | None = None,
        readiness: Readiness | None = None,
        trouble: ConfigError | None = None,
        turns: Turns | None = None,
        coordinator: Coordinator | None = None,
        reporter: Reporter | None = None,
        guard: Guard | None = None,
    ) -> None:
        starts = starts or Starts()
        turns = turns or Turns()
        nic = self._nic = NicEvents(config, host, starts, readiness, trouble, turns)
        migration = MigrationEvents(config, host, starts, turns, coordinator, nic, trouble)
        reports = HostEvents(reporter)
        self._handlers: dict[str, _Handler] = {
            "before_device_create": nic.create,
            "after_vm_start": VmEvents(host, starts, readiness, coordinator).started,
            "before_nic_hotplug": nic.plug,
            "after_nic_hotplug": nic.plugged,
            "after_nic_hotplug_fail": nic.unplugged,
            "after_device_create": nic.plugged,
            "after_device_destroy": migration.destroyed,
            "after_nic_hotunplug": nic.unplugged,
            "before_update_device": nic.update,
            "before_device_migrate_source": migration.leaving,
            "before_device_migrate_destination": migration.arriving,
            "after_device_migrate_destination": migration.arrived,
            "after_device_migrate_source": migration.left,
            "after_get_caps": reports.capabilities,
            "after_get_stats": reports.statistics,
            "before_network_setup": NetworkSetupEvents(config, host, guard).requested,
        }

    async def handle(self, request: Request) -> Reply:
        """Answer one event.

        Raises:
            Declined: the hook is to find the answer by itself.
        """
        subject = describe(request)
        try:
            handler = self._handlers.get(request.event)
            if handler is None:
                raise BadRequest(
                    f"{request.event!r} is not an event of this driver", "remove the hook"
                )
            return await handler(request)
        except Declined:
            raise
        except NotAnInterface as error:
            # The VM's custom properties reach the hooks of all its devices.
            return Reply(message=one_line(f"vif-driver: {subject}: {error.what}; left alone"))
        except VifError as error:
            log.error("%s", one_line(f"{subject}: {error}"), extra=_fields(request))
            return failure(request.event, f"{subject}: {error}")
        except Exception as error:  # whatever it is, the user gets one line and VDSM a status
            log.exception("%s", one_line(f"{subject}: unexpected"), extra=_fields(request))
            return failure(
                request.event,
                f"{subject}: internal error ({type(error).__name__}: {error}); "
                "see the log of vif-agent",
            )

    async def withdraw(self, request: Request) -> None:
        """Take back what was done for a caller who could not be told of it."""
        if request.event not in PLUGS:
            return
        try:
            await self._nic.withdraw(request)
        except Exception as error:
            log.error("%s", one_line(f"{request.event}: could not be taken back: {error}"))


def _fields(request: Request) -> dict[str, dict[str, str]]:
    """Give what a log line about a request is about; what was not understood is left out."""
    took = time.monotonic() - request.received
    with contextlib.suppress(BadRequest):
        return about(vnic.identify(request.properties), event=request.event, seconds=took)
    with contextlib.suppress(BadRequest):
        vm_id = vnic.parse_vm_id(request.properties.get("vmId"))
        return about(vm=vm_id, event=request.event, seconds=took)
    return about(event=request.event, seconds=took)


def describe(request: Request) -> str:
    """Name an event and what it is about, before it is known whether the request makes sense."""
    if request.event in HOST_EVENTS:
        return request.event
    if request.event == "after_vm_start":
        return f"{request.event}: VM {request.properties.get('vmId') or 'without vmId'}"
    return f"{request.event}: {vnic.describe(request.properties)}"


def failure(event: str, message: str) -> Reply:
    """Give the reply that tells VDSM of a failure."""
    status = 2 if event.startswith("before_") else 1
    return Reply(status=status, message=one_line(f"vif-driver: {message}"))
