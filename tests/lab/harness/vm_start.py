# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's start that goes on while the test does something else."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

from vif_driver import wire

from .deadline import wait_until
from .hypervisor import Hypervisor
from .libvirt_daemon import libvirt
from .vdsm import Vdsm, Vm
from .vdsm_hooks import HookRun

STARTING = "/run/vif-driver/starting"

# Starts on a busy machine.
_TIMEOUT = 40.0


class VmStart:
    """VDSM starting a VM, in a thread.

    Args:
        vdsm: of the host.
        vm: which.
        paused: the engine asks for a paused start.
    """

    def __init__(self, vdsm: Vdsm, vm: Vm, *, paused: bool = False) -> None:
        self.vdsm = vdsm
        self.vm = vm
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(paused,), daemon=True)
        self._thread.start()

    def _run(self, paused: bool) -> None:
        try:
            self.vdsm.create_vm(self.vm, paused=paused)
        except BaseException as error:  # handed to whoever waits for the end
            self._error = error

    @property
    def over(self) -> bool:
        """Whether VDSM is done with it."""
        return not self._thread.is_alive()

    @property
    def held(self) -> bool:
        """Whether the VM stands still, VDSM's hook waits, and the agent knows that."""
        path = f"{STARTING}/{self.vm.id}"
        text = self.vdsm.host.read(path)
        return (
            not self.over
            and bool(text)
            and json.loads(text)["started"]
            and state(self.vdsm.host, self.vm) == "paused"
        )

    def wait_held(self) -> None:
        """Wait until it is held.

        Raises:
            TimeoutError: it isn't; also if VDSM was done without.
        """
        what = f"{self.vm.name} standing still, with VDSM's hook waiting"
        wait_until(lambda: self.held or self._require_unfinished(), _TIMEOUT, what)

    def stays_held(self, seconds: float = 1.0) -> bool:
        """Whether it is held for so long."""
        end = time.monotonic() + seconds
        while self.held:
            if time.monotonic() >= end:
                return True
            time.sleep(0.05)
        return False

    def join(self, timeout: float = _TIMEOUT) -> None:
        """Wait until VDSM is done with it, however.

        Raises:
            TimeoutError: it isn't.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the start of {self.vm.name} goes on after {timeout:g} s")

    def finish(self, timeout: float = _TIMEOUT) -> None:
        """Wait until VDSM is done with it; raises what the start ended with."""
        self.join(timeout)
        if self._error is not None:
            raise self._error

    @property
    def last_hook(self) -> HookRun:
        """The hook after_vm_start, when it has ended."""
        return self.vdsm.hooks.runs_of("after_vm_start", self.vm.id)[-1]

    def _require_unfinished(self) -> bool:
        if self.over:
            self.finish()
            raise TimeoutError(
                f"{self.vm.name} did not wait; it is {state(self.vdsm.host, self.vm)}"
            )
        return False


def state(host: Hypervisor, vm: Vm) -> str:
    """What libvirt says a VM does: ``running``, ``paused``, ``gone``, or a number."""
    known = {libvirt.VIR_DOMAIN_RUNNING: "running", libvirt.VIR_DOMAIN_PAUSED: "paused"}
    try:
        number = host.libvirt.connection.lookupByUUIDString(vm.id).state()[0]
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return "gone"
        raise
    return known.get(number, str(number))


def wait_running(host: Hypervisor, vm: Vm, timeout: float = _TIMEOUT) -> None:
    """Wait until a VM runs."""
    wait_until(lambda: state(host, vm) == "running", timeout, f"{vm.name} running")


def stays_paused(host: Hypervisor, vm: Vm, seconds: float) -> bool:
    """Whether a VM stands still for so long."""
    end = time.monotonic() + seconds
    while state(host, vm) == "paused":
        if time.monotonic() >= end:
            return True
        time.sleep(0.05)
    return False


def pending(host: Hypervisor) -> set[str]:
    """The VMs whose starts the agent remembers: none, in between."""
    folder = host.path(STARTING)
    return set(os.listdir(folder)) if folder.is_dir() else set()


def agent_status(host: Hypervisor) -> dict[str, Any]:
    """What the agent says of itself."""
    with socket.socket(socket.AF_UNIX) as agent:
        agent.settimeout(10)
        agent.connect(str(host.path(wire.SOCKET)))
        agent.sendall(wire.encode_request(wire.Request("status", {}, b"")))
        with agent.makefile("rb") as stream:
            reply = wire.decode_reply(stream.read())
    status: dict[str, Any] = json.loads(reply.data or b"")
    return status
