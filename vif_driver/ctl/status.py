# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl status``: how the agent and what it needs are, and what waits for what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vif_driver.ctl import FINE, WRONG, service, text
from vif_driver.ctl.look import LEFT_OUT, is_root, look
from vif_driver.errors import VifError, one_line
from vif_driver.inspection.doctor import ovn
from vif_driver.inspection.doctor.libvirt import connection
from vif_driver.inspection.doctor.open_vswitch import bridge, database, is_installed
from vif_driver.inspection.finding import Finding, bad, of_error, ok
from vif_driver.inspection.sight import Sight


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of the whole.

    Attributes:
        agent: what is known of the agent.
        parts: what it needs.
    """

    agent: service.Service
    parts: tuple[Finding, ...]

    @property
    def waiting(self) -> list[Mapping[str, Any]]:
        """The vNICs that somebody waits for, if the agent is new enough to tell."""
        known = self.agent.state.get("waiting")
        return [one for one in known if isinstance(one, dict)] if isinstance(known, list) else []

    @property
    def findings(self) -> list[Finding]:
        """Everything, the agent first."""
        return [*_agent(self.agent), *self.parts]


def run(*, as_json: bool) -> int:
    """Show it."""
    status = look(_look)
    left_out = [] if is_root() else [LEFT_OUT]
    if as_json:
        text.print_json(
            {
                "agent": {
                    **status.agent.state,
                    "running": status.agent.running,
                    "answers": status.agent.answers,
                },
                "parts": [text.as_dict(finding) for finding in status.parts],
                "waiting": status.waiting,
                "left_out": left_out,
            }
        )
    else:
        text.print_findings(status.findings)
        for one in status.waiting:
            print(one_line(_waits(one)))
        for line in left_out:
            print(line)
    return WRONG if any(finding.is_bad for finding in status.findings) else FINE


async def _look(sight: Sight) -> Status:
    parts: list[Finding] = []
    checks = [("open vswitch", database), ("integration bridge", bridge), ("libvirt", connection)]
    if is_installed():
        checks.insert(2, ("ovn-controller", ovn.controller))
    for name, check in checks:
        try:
            parts += await check(sight)
        except VifError as error:
            parts.append(of_error(name, error))
    return Status(service.look(), tuple(parts))


def _agent(agent: service.Service) -> list[Finding]:
    if not agent.running:
        return [bad("agent", "does not run", "systemctl start vif-agent")]
    if agent.answers is None:
        return [ok("agent", "runs")]
    if agent.error is not None:
        # What cannot be asked is elsewhere unknown; of the agent it is wrong.
        return [bad("agent", agent.error.what, agent.error.remedy)]
    state = agent.state
    findings = [ok("agent", f"runs, version {state.get('version')}, process {state.get('pid')}")]
    findings += service.complaints(state)
    answered, failed = state.get("events_answered", 0), state.get("events_failed", 0)
    findings.append(ok("events", f"{answered} answered, {failed} of them with a failure"))
    if "stale_removed" in state:
        removed, plugged = state["stale_removed"], state.get("plugged_again", 0)
        told = f"{removed} left by VMs removed, {plugged} lost by VMs plugged again"
        findings.append(ok("reconciliation", told))
    return findings


def _waits(one: Mapping[str, Any]) -> str:
    seconds = one.get("seconds")
    since = f"{seconds:.0f} s" if isinstance(seconds, (int, float)) else "?"
    what = {"start": "its VM's start", "hot plug": "a hot plug"}.get(str(one.get("for")), "?")
    return (
        f"waiting  {since:>5}  vNIC {one.get('vnic_id', '?')} ({one.get('attachment', '?')}) of VM "
        f"{one.get('vm_id', '?')} for {what}"
    )
