# SPDX-License-Identifier: GPL-2.0-or-later
"""VDSM while it starts VMs, and an agent or the stand-in that answers."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from vif_driver.agent.readiness import Readiness
from vif_driver.config import Config
from vif_driver.errors import ConfigError
from vif_driver.events import Events
from vif_driver.host import Host
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.host.starts import Start, Starts, uptime
from vif_driver.wire import Reply, Request

from .conftest import VDSM_INTERFACE, VM_ID, VNIC_ID
from .vms import Vms

OTHER_VM = "8d444840-9dc0-11d1-b245-5ffdce74fad2"
FIRST, SECOND = VNIC_ID, "4d2be2fa" + VNIC_ID[8:]
LONG_AGO = 3600.0


class Vdsm:
    """Asks as VDSM's hooks do, about VMs and vNICs by their ids."""

    def __init__(self, folder: Path, properties: dict[str, str]) -> None:
        (folder / "released").mkdir()
        self.starts = Starts(folder / "starting", folder / "released")
        self.vms = Vms()
        self.config = Config()
        self.ovsdb: Ovsdb | None = None
        self.trouble: ConfigError | None = None
        self._properties = properties

    def says(
        self,
        event: str,
        vnic_id: str = VNIC_ID,
        *,
        vm_id: str | None = VM_ID,
        flags: str | None = "0",
        agent: bool = True,
    ) -> Reply:
        """Have an agent (or the stand-in) answer an event."""
        properties = {**self._properties, "vnic_id": vnic_id, "vmId": vm_id, "launch_flags": flags}
        set_ones = {name: value for name, value in properties.items() if value is not None}

        async def main() -> Reply:
            host = Host(ovsdb=self.ovsdb, domains=self.vms.domains)
            readiness = Readiness(self.config, host, self.vms.domains, self.starts)
            waits = readiness if agent else None
            events = Events(self.config, host, self.starts, waits, self.trouble)
            try:
                return await events.handle(Request(event, set_ones, VDSM_INTERFACE))
            finally:
                await readiness.close()

        return asyncio.run(main())

    def creates(self, vnic_id: str = VNIC_ID, **more: str | bool | None) -> Reply:
        return self.says("before_device_create", vnic_id, **more)  # type: ignore[arg-type]

    @property
    def start(self) -> Start:
        """The one start there is."""
        (start,) = self.starts.all()
        return start

    @property
    def vnics(self) -> list[str]:
        """Those that the VM is started with."""
        return [vnic.id for vnic in self.start.vnics]

    def ages(self, seconds: float) -> None:
        """Have the start begun some time ago."""
        self.starts.put(dataclasses.replace(self.start, since=uptime() - seconds))
