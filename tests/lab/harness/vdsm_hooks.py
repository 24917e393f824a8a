# SPDX-License-Identifier: GPL-2.0-or-later
"""Hooks, run exactly as VDSM runs them.

What counts: the user, the environment, the file the hook is given and what is made of its exit
status.  VDSM's own source is ``lib/vdsm/common/hooks.py``.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from .hypervisor import VDSM_USER
from .machine import Machine, User

HOOKS = PurePosixPath("/usr/libexec/vdsm/hooks")
ROOT_EVENTS = frozenset({"before_network_setup", "after_network_setup", "after_network_setup_fail"})
JSON_EVENTS = ROOT_EVENTS | {
    "before_get_caps",
    "after_get_caps",
    "before_get_stats",
    "after_get_stats",
    "before_get_vm_stats",
    "after_get_vm_stats",
}
ROOT = User("root", 0, 0, "/root")
STOP = 2
HOOK_TIMEOUT = 120.0
# What vdsmd.service, and supervdsmd.service for root, hand down.
ENVIRONMENT = {
    "LANG": "C",
    "LC_ALL": "C",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    "PYTHONPATH": ":/usr/lib/python3.9/site-packages/vdsm/hook",
    "INVOCATION_ID": "5f0c1d6a3b5e4c1f9a8c7b6d5e4f3a2b",
    "JOURNAL_STREAM": "8:31337",
    "SYSTEMD_EXEC_PID": "1234",
}


class HookError(Exception):
    """A hook made VDSM fail the operation; the text is what the user is shown."""

    def __init__(self, event: str, stderr: str) -> None:
        self.event = event
        self.stderr = stderr
        super().__init__(f"{event}: Hook Error: {stderr}")


@dataclass(frozen=True)
class HookRun:
    """One run of one hook.

    Attributes:
        event: such as ``before_device_create``.
        script: its file name.
        status: exit status; negative for a signal.
        stdout, stderr: what it wrote.
        seconds: how long it took.
        vm_id: of the VM it was run for; '' if none.
        properties: the custom properties it was given, the VM's and the device's.
        given, result: the content of the file before and after it.
    """

    event: str
    script: str
    status: int
    stdout: str
    stderr: str
    seconds: float
    vm_id: str
    properties: Mapping[str, str]
    given: bytes
    result: bytes


class HookRunner:
    """Runs a host's hooks, and remembers every run.

    Args:
        machine: the host.

    Attributes:
        runs: what was run, in the order of its end.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.runs: list[HookRun] = []
        self._lock = threading.Lock()

    def runs_of(self, event: str, vm_id: str = "") -> list[HookRun]:
        """The runs for an event (and a VM)."""
        return [run for run in self.runs if run.event == event and vm_id in ("", run.vm_id)]

    def scripts(self, event: str) -> list[str]:
        """Paths of the executable regular files in the event's directory, in name order."""
        directory = self.machine.path(HOOKS / event)
        if not directory.is_dir():
            return []
        found = []
        for name in sorted(os.listdir(directory)):
            mode = self.machine.path(HOOKS / event / name).stat().st_mode
            if stat.S_ISREG(mode) and mode & 0o111:
                found.append(str(HOOKS / event / name))
        return found

    def run_json(
        self, event: str, data: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Run an event whose data is JSON; see :meth:`run`."""
        text = self.run(event, json.dumps(data).encode(), vm_custom=environment)
        answer: dict[str, Any] = json.loads(text)
        return answer

    def run(
        self,
        event: str,
        data: bytes,
        *,
        vm_id: str = "",
        vm_custom: Mapping[str, str] | None = None,
        device_custom: Mapping[str, str] | None = None,
    ) -> bytes:
        """Run the hooks of an event.

        Args:
            event: its name.
            data: content of the file they are given.
            vm_id: of the VM, if the event is about one.
            vm_custom: custom properties of the VM; they win over the device's.
            device_custom: custom properties of the device.

        Returns:
            The file's content after the last hook.

        Raises:
            HookError: a hook of a ``before_*`` event failed.
        """
        scripts = self.scripts(event)
        if not scripts:
            return data
        user = ROOT if event in ROOT_EVENTS else VDSM_USER
        kind = "_hook_json" if event in JSON_EVENTS else "_hook_domxml"
        name = f"/tmp/tmp{secrets.token_hex(4)}"
        file = self.machine.path(name)
        custom = {**(device_custom or {}), **(vm_custom or {})}
        environment = {**self._base_environment(user), **custom, kind: name}
        if vm_id:
            environment["vmId"] = vm_id
        file.touch(mode=0o600, exist_ok=False)
        file.write_bytes(data)
        os.chown(file, user.uid, user.gid)
        failed, last_stderr = False, ""
        try:
            given = data
            for script in scripts:
                start = time.monotonic()
                # No argument, and nothing in the environment but what is listed.
                settings = [f"{key}={value}" for key, value in environment.items()]
                process = self.machine.popen(["env", "-i", *settings, script], user=user)
                stdout, stderr = process.communicate(timeout=HOOK_TIMEOUT)
                seconds = time.monotonic() - start
                status, given_now, given = process.returncode, given, file.read_bytes()
                record = HookRun(
                    event,
                    os.path.basename(script),
                    status,
                    stdout,
                    stderr,
                    seconds,
                    vm_id,
                    custom,
                    given_now,
                    given,
                )
                with self._lock:
                    self.runs.append(record)
                last_stderr = stderr
                failed = failed or status != 0
                if status == STOP:
                    break
            if failed and event.startswith("before_"):
                raise HookError(event, last_stderr)
            return file.read_bytes()
        finally:
            file.unlink(missing_ok=True)

    def _base_environment(self, user: User) -> dict[str, str]:
        return {**ENVIRONMENT, "HOME": user.home, "USER": user.name, "LOGNAME": user.name}
