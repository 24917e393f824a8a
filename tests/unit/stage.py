# SPDX-License-Identifier: GPL-2.0-or-later
"""One VM that stands still, and the agent's readiness, which lets it run.

libvirt and the way the vNICs are connected are stand-ins that do what a test says.  The time is
virtual: the seconds that the agent waits for cost none.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vif_driver import attachments
from vif_driver.agent.readiness import Readiness
from vif_driver.config import Config
from vif_driver.host import Host
from vif_driver.host.domains import State
from vif_driver.host.starts import Start, Starts
from vif_driver.vnic import Plugin, VnicIdentity

from . import virtual_time
from .conftest import VM_ID, VNIC_ID
from .vms import Vms

VNIC = VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, VM_ID)
SECOND = VnicIdentity("4d2be2fa-4d6a-4f0e-9f5b-0d6c2a7b1e11", Plugin.OVIRT_PROVIDER_OVN, VM_ID)

#: Waits longer than any test takes, or hardly at all.
PATIENT = Config(start_deadline=60.0)
HASTY = Config(start_deadline=0.05)

#: What is wrong in this world.
REASON = "ovn-controller does not run; start it"

OnStage = Callable[..., Any]


class Way:
    """Stands in for the attachment of every vNIC."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.finished: list[str] = []
        self.refusal: Exception | None = None
        self.fault: Exception | None = None
        self._ready: set[str] = set()
        self._changed = asyncio.Event()

    def connect(self, vnic: VnicIdentity) -> None:
        """Have the provider's agent connect a vNIC."""
        self._ready.add(vnic.id)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def found(self, vnic: VnicIdentity, _config: Config, _host: Host) -> list[Way]:
        return [] if vnic.id in self.missing else [self]

    async def finish(self, vnic: VnicIdentity) -> None:
        self.finished.append(vnic.id)
        if self.refusal is not None:
            raise self.refusal

    def is_ready(self, vnic: VnicIdentity) -> bool:
        if self.fault is not None:
            raise self.fault
        return vnic.id in self._ready

    async def wait_ready(self, vnic: VnicIdentity, timeout: float) -> bool:
        async def ready() -> None:
            while not self.is_ready(vnic):
                await self._changed.wait()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ready(), timeout)
        return self.is_ready(vnic)


class Stage:
    """Everything that the agent's readiness has to do with."""

    def __init__(self, config: Config, starts: Starts) -> None:
        self.starts = starts
        self.vms = Vms({VM_ID: State.PAUSED})
        self.way = Way()
        self.readiness = Readiness(config, Host(), self.vms.domains, starts)
        self.closed = False

    def begin(self, *vnics: VnicIdentity, resume: bool = True) -> Start:
        """Remember a start, as before_device_create does."""
        start = Start(VM_ID, vnics or (VNIC,), resume)
        self.starts.put(start)
        return start

    def started(self, *vnics: VnicIdentity) -> asyncio.Task[str]:
        """Begin a start and have VDSM's hook tell that libvirt has the VM."""
        start = self.begin(*vnics)
        return asyncio.get_running_loop().create_task(self.readiness.started(start))

    async def close(self) -> None:
        """Have the agent end."""
        if not self.closed:
            self.closed = True
            await self.readiness.close()

    @property
    def state(self) -> State | None:
        return self.vms.states.get(VM_ID)


def run(
    scenario: Callable[[Stage], Awaitable[Any]],
    folder: Path,
    patch: pytest.MonkeyPatch,
    config: Config = PATIENT,
) -> Any:
    """Run a scenario.

    Args:
        scenario: what happens.
        folder: for the files of the starts.
        patch: puts the stand-ins in place.
        config: the configuration.
    """

    async def likely_reason(_vnic: VnicIdentity, _config: Config, _host: Host) -> str:
        return REASON

    async def main() -> Any:
        (folder / "released").mkdir()
        stage = Stage(config, Starts(folder / "starting", folder / "released"))
        patch.setattr(attachments, "found", stage.way.found)
        try:
            return await asyncio.wait_for(scenario(stage), 5)
        finally:
            await stage.close()

    inspection = ModuleType("vif_driver.inspection")
    inspection.likely_reason = likely_reason  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "vif_driver.inspection", inspection)
    return virtual_time.run(main())


async def a_moment() -> None:
    """Let everything happen that is to happen without anything else."""
    await asyncio.sleep(0.03)
