# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl doctor``: everything on this host that vNICs depend on."""

from __future__ import annotations

from collections.abc import Sequence

from vif_driver.configuration import record
from vif_driver.ctl import FINE, WRONG, service, text
from vif_driver.ctl.look import LEFT_OUT, is_root, look
from vif_driver.errors import VifError
from vif_driver.events import NAMES
from vif_driver.inspection.doctor import examine, hooks
from vif_driver.inspection.finding import Finding, State, bad, of_error, ok
from vif_driver.inspection.sight import Sight


def run(*, as_json: bool) -> int:
    """Check the host and show what was found."""

    async def work(sight: Sight) -> list[Finding]:
        before = [*service.check(), *hooks.check(NAMES), *_configuration()]
        return [*before, *await examine(sight)]

    findings = look(work)
    left_out = [] if is_root() else [LEFT_OUT]
    if as_json:
        text.print_json(
            {"checks": [text.as_dict(finding) for finding in findings], "left_out": left_out}
        )
    else:
        text.print_findings(findings)
        print(_summary(findings))
        for line in left_out:
            print(line)
    return WRONG if any(finding.is_bad for finding in findings) else FINE


def _configuration() -> list[Finding]:
    """Tell of a configuration that somebody has killed; only root can see that."""
    if not is_root():
        return []
    try:
        command = record.interrupted()
    except VifError as error:
        return [of_error("configuration", error)]
    if command is None:
        return [ok("configuration", "no vifctl configure was interrupted")]
    return [
        bad(
            "configuration",
            f"{command} was interrupted: the host is half configured",
            "run it again, or anything else of vifctl configure to have it put back",
        )
    ]


def _summary(findings: Sequence[Finding]) -> str:
    words = {State.BAD: "wrong", State.WARNING: "with a warning", State.UNKNOWN: "not known"}
    counts = {state: sum(one.state is state for one in findings) for state in words}
    told = [f"{counts[state]} {word}" for state, word in words.items() if counts[state]]
    return f"{len(findings)} findings: " + (", ".join(told) or "all is well")
