# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs of a libvirt that does what a test says; stands in for host.domains.Domains."""

from __future__ import annotations

import asyncio
from typing import Callable, cast

from vif_driver.errors import HostError
from vif_driver.host.domains import Domains, Follower, Happening, Listener, State


class Vms:
    """The VMs, by their id, with what they do.

    Attributes:
        states: what each does.
        refusals: what libvirt says to the next attempts to resume one, before it obeys.
        deaf: what it says to every question, while it is not None.
        migrating: those that are being migrated.
        interfaces: their XML, by the name of the tap.
        fault: what a question fails with that it never should.
    """

    def __init__(self, states: dict[str, State] | None = None) -> None:
        self.states = states or {}
        self.refusals: list[Exception] = []
        self.deaf: HostError | None = None
        self.migrating: set[str] = set()
        self.interfaces: dict[str, bytes] = {}
        self.fault: Exception | None = None
        self._listeners: list[Listener] = []
        self._followers: list[Follower] = []
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def domains(self) -> Domains:
        return cast(Domains, self)

    def change(self, vm_id: str, state: State | None) -> None:
        """Have a VM do something else, or be gone, and libvirt tell so."""
        self.states.pop(vm_id, None)
        if state is not None:
            self.states[vm_id] = state
        told = {State.RUNNING: Happening.RUNS, None: Happening.GONE}
        self.tell(vm_id, told.get(state, Happening.OTHER))

    def tell(self, vm_id: str | None, happening: Happening = Happening.OTHER) -> None:
        """Tell of an event."""
        for follower in list(self._followers):
            follower(vm_id, happening)
        for listener in list(self._listeners):
            listener(vm_id)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # ---- as Domains has it -------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def follow(self, follower: Follower) -> Callable[[], None]:
        self._followers.append(follower)
        return lambda: None if follower not in self._followers else self._followers.remove(follower)

    async def is_migrating(self, vm_id: str) -> bool | None:
        if self.fault is not None:
            raise self.fault
        if self.deaf is not None:
            raise self.deaf
        return vm_id in self.migrating if vm_id in self.states else None

    async def interface_of_tap(self, vm_id: str, tap: str) -> bytes | None:
        if self.deaf is not None:
            raise self.deaf
        return self.interfaces.get(tap) if vm_id in self.states else None

    async def state(self, vm_id: str) -> State | None:
        if self.fault is not None:
            raise self.fault
        if self.deaf is not None:
            raise self.deaf
        return self.states.get(vm_id)

    async def wait_gone(self, vm_id: str) -> None:
        while self.deaf is not None or vm_id in self.states:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]

    async def wait_connected(self, timeout: float) -> bool:
        await asyncio.sleep(0 if self.deaf is None else timeout)
        return self.deaf is None

    async def resume(self, vm_id: str) -> bool:
        if self.refusals:
            raise self.refusals.pop(0)
        if self.states.get(vm_id) is not State.PAUSED:
            return False
        self.change(vm_id, State.RUNNING)
        return True
