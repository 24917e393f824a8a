# SPDX-License-Identifier: GPL-2.0-or-later
"""How vif-agent is, by what it says and by what can be seen of it."""

from __future__ import annotations

import contextlib
import dataclasses
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vif_driver import wire
from vif_driver.ctl.agent import NotAdmitted, ask_status
from vif_driver.errors import Unavailable, VifError
from vif_driver.host import processes, units
from vif_driver.inspection.finding import Finding, bad, ok, warning

NAME = "vif-agent"

#: The user that VDSM runs hooks as.
VDSM_USER = "vdsm"

_START = "start it: systemctl start vif-agent; see journalctl -u vif-agent"


@dataclasses.dataclass(frozen=True)
class Service:
    """What is known of the agent.

    Attributes:
        running: whether its process, or its unit, is there.
        answers: whether it answers; None to a user whom it does not talk to.
        state: what it answered.
        error: why there is no answer.
    """

    running: bool
    answers: bool | None
    state: Mapping[str, Any]
    error: VifError | None


def look(path: str = wire.SOCKET) -> Service:
    """Ask the agent, and look for it where it does not answer."""
    try:
        return Service(True, True, ask_status(path), None)
    except NotAdmitted as error:
        return Service(_is_there(), None, {}, error)
    except VifError as error:
        return Service(_is_there(), False, {}, error)


def check(path: str = wire.SOCKET, user: str = VDSM_USER) -> list[Finding]:
    """Check the agent and its socket."""
    service = look(path)
    if not service.running:
        return [bad("agent", "vif-agent does not run", _START)]
    if service.answers is False:
        return [bad("agent", str(service.error), "restart it: systemctl restart vif-agent")]
    if service.answers is None:
        return [ok("agent", "vif-agent runs")]
    version, process = service.state.get("version", "?"), service.state.get("pid", "?")
    findings = [
        ok("agent", f"vif-agent {version} answers, process {process}"),
        *complaints(service.state),
    ]
    return [*findings, _check_socket(Path(path), user)]


def complaints(state: Mapping[str, Any]) -> list[Finding]:
    """Say what the agent itself says is wrong."""
    findings = []
    if state.get("configuration_error"):
        findings.append(
            bad(
                "agent",
                f"vif-agent plugs no vNIC: {state['configuration_error']}",
                "then restart it: systemctl restart vif-agent",
            )
        )
    if state.get("libvirt_connected") is False:
        findings.append(
            bad(
                "agent",
                "vif-agent is not connected to libvirt: VMs that it let start paused are not "
                "resumed",
                "see journalctl -u vif-agent; check libvirtd: virsh -c qemu:///system list",
            )
        )
    return findings


def _check_socket(path: Path, user: str) -> Finding:
    name = "agent's socket"
    try:
        owner = pwd.getpwnam(user).pw_uid
    except KeyError:
        return warning(name, f"this host has no user {user}", "install VDSM")
    found = path.stat()
    if found.st_uid != owner:
        return bad(
            name,
            f"{path} does not belong to {user}: hooks cannot reach the agent",
            "restart vif-agent",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        return bad(name, f"{path} lets others than {user} connect", "restart vif-agent")
    return ok(name, f"{path} belongs to {user}")


def _is_there() -> bool:
    with contextlib.suppress(Unavailable):  # no systemd here
        if units.look(f"{NAME}.service").is_active:
            return True
    return processes.find(NAME) is not None
