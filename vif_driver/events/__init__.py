# SPDX-License-Identifier: GPL-2.0-or-later
"""VDSM's events: which of them we answer, and with which exit status a failure is told.

By VDSM's rules (lib/vdsm/common/hooks.py) a hook that ends with 0 is done, 1 failed while the
others still run, 2 stops them all.  A failing ``before_*`` event of a device fails the operation
and shows the user what the last hook wrote to stderr; of ``after_*`` events it is only logged.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from vif_driver import vnic
from vif_driver.config import Config
from vif_driver.errors import BadRequest, NotAnInterface, VifError, one_line
from vif_driver.events.nic import NicEvents
from vif_driver.host import Host
from vif_driver.wire import Reply, Request

log = logging.getLogger(__name__)

_Handler = Callable[[Request], Awaitable[Reply]]

#: A hook is installed for each of these.
NAMES: tuple[str, ...] = (
    "before_device_create",
    "before_nic_hotplug",
    "after_nic_hotplug",
    "after_nic_hotplug_fail",
    "after_device_create",
    "after_device_destroy",
    "after_nic_hotunplug",
    "before_update_device",
)

#: Those after which something new is on the host.
PLUGS = ("before_device_create", "before_nic_hotplug")


class Events:
    """Answers events; nothing that it is given makes it raise.

    Args:
        config: the configuration.
        host: what this process may use.
    """

    def __init__(self, config: Config, host: Host) -> None:
        nic = self._nic = NicEvents(config, host)
        self._handlers: dict[str, _Handler] = {
            "before_device_create": nic.plug,
            "before_nic_hotplug": nic.plug,
            "after_nic_hotplug": nic.plugged,
            "after_nic_hotplug_fail": nic.unplugged,
            "after_device_create": nic.plugged,
            "after_device_destroy": nic.unplugged,
            "after_nic_hotunplug": nic.unplugged,
            "before_update_device": nic.update,
        }

    async def handle(self, request: Request) -> Reply:
        """Answer one event."""
        subject = f"{request.event}: {vnic.describe(request.properties)}"
        try:
            handler = self._handlers.get(request.event)
            if handler is None:
                raise BadRequest(
                    f"{request.event!r} is not an event of this driver", "remove the hook"
                )
            return await handler(request)
        except NotAnInterface as error:
            # The VM's custom properties reach the hooks of all its devices.
            return Reply(message=one_line(f"vif-driver: {subject}: {error.what}; left alone"))
        except VifError as error:
            log.error("%s", one_line(f"{subject}: {error}"))
            return failure(request.event, f"{subject}: {error}")
        except Exception as error:  # whatever it is, the user gets one line and VDSM a status
            log.exception("%s", one_line(f"{subject}: unexpected"))
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


def failure(event: str, message: str) -> Reply:
    """Give the reply that tells VDSM of a failure."""
    status = 2 if event.startswith("before_") else 1
    return Reply(status=status, message=one_line(f"vif-driver: {message}"))
