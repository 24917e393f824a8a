# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook as VDSM runs it, and an agent that says what a test wants.

The paths that are fixed in the hook, and the interpreter's command line without an agent, are the
only things that differ from what is installed.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from vif_driver import wire

from .conftest import VDSM_INTERFACE

ROOT = Path(__file__).parents[2]
#: What VDSM runs, and what that loads for an event that is ours.
SCRIPT = ROOT / "hooks.d/50_vif_driver"
SOURCE = ROOT / "hooks.d/vif_hook.py"


_A_THIRD = "bytes(8) + (300_000).to_bytes(8, sys.byteorder)"

#: Changes of the hook: how long it waits instead, for anybody or for the agent alone.
A_THIRD_OF_A_SECOND = {"seconds.to_bytes(8, sys.byteorder) + bytes(8)": _A_THIRD}
A_THIRD_OF_A_SECOND_FOR_THE_AGENT = {
    "limit(agent, seconds)": (
        f"agent.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, {_A_THIRD})"
    )
}


@dataclasses.dataclass
class Hook:
    """The hook, installed for every event below a folder."""

    folder: Path
    environment: dict[str, str]
    data: bytes = VDSM_INTERFACE
    changes: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def socket(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def file(self) -> Path:
        return self.folder / "hook_domxml"

    def install(self, event: str) -> Path:
        script = self.folder / event / "50_vif_driver"
        script.parent.mkdir(exist_ok=True)
        stub = SCRIPT.read_text().replace("#!/usr/bin/python3 -IS", f"#!{sys.executable} -IS")
        stub = stub.replace("/usr/libexec/vif-driver/", f"{self.folder}/")
        stub = stub.replace("/run/vif-driver/starting/", f"{self.folder}/starting/")
        source = SOURCE.read_text().replace(wire.SOCKET, str(self.socket))
        without_agent = self.folder / "without-agent"
        without_agent.write_text(
            (ROOT / "packaging/bin/without-agent")
            .read_text()
            .replace("#!/usr/bin/python3 -I", f"#!{sys.executable}")
        )
        without_agent.chmod(0o755)
        source = source.replace("/usr/libexec/vif-driver/without-agent", str(without_agent))
        source = source.replace("/run/vdsm/", f"{self.folder}/")
        for before, after in self.changes.items():
            assert before in source
            source = source.replace(before, after)
        (self.folder / "vif_hook.py").write_text(source)
        script.write_text(stub)
        script.chmod(0o755)
        return script

    def start_file(self, vm_id: str) -> Path:
        """Where the agent remembers the start of a VM."""
        return self.folder / "starting" / vm_id

    def launch_flags(self, vm_id: str) -> Path:
        """Where VDSM keeps the flags with which a VM is going to be started."""
        return self.folder / vm_id / "launchflags"

    def run(
        self, event: str = "before_device_create", under: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run the hook, ``under`` a command that changes what it may do."""
        if not self.file.exists():
            self.file.write_bytes(self.data)
        kind = "_hook_json" if event in wire.HOST_EVENTS else "_hook_domxml"
        return subprocess.run(
            [*under, self.install(event)],
            env={
                "PATH": os.defpath,
                "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
                kind: str(self.file),
                **self.environment,
            },
            capture_output=True,
            text=True,
            check=False,
            close_fds=False,
        )


class ScriptedAgent:
    """Listens on the hook's socket, keeps what it is asked, and gives the answers put in.

    An empty answer cuts the connection, and so does none at all; ``None`` keeps it open.
    """

    def __init__(self, path: Path) -> None:
        self.requests: list[bytes] = []
        self.answers: list[bytes | None] = []
        self._held: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.requests.append(receive(connection))
            answer = self.answers.pop(0) if self.answers else b""
            if answer is None:
                self._held.append(connection)
                continue
            with connection:
                connection.sendall(answer)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in (self._listener, *self._held):
            connection.close()


def receive(connection: socket.socket) -> bytes:
    """Receive a whole request."""
    received = connection.recv(1 << 20)
    header, _, rest = received.partition(b"\n")
    left = sum(map(int, header.split()[2:4])) - len(rest)
    while left > 0:
        part = connection.recv(1 << 20)
        if not part:
            break
        received += part
        left -= len(part)
    return received


def one_line(text: str) -> str:
    assert text.endswith("\n") and text.count("\n") == 1, text
    assert "Traceback" not in text
    return text
