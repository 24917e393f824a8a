# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl doctor``: everything on this host that vNICs depend on."""

from __future__ import annotations

from collections.abc import Sequence

from vif_driver.ctl import FINE, WRONG, service, text
from vif_driver.ctl.look import LEFT_OUT, is_root, look
from vif_driver.events import NAMES
from vif_driver.inspection.doctor import examine, hooks
from vif_driver.inspection.finding import Finding, State
from vif_driver.inspection.sight import Sight


def run(*, as_json: bool) -> int:
    """Check the host and show what was found."""

    async def work(sight: Sight) -> list[Finding]:
        return [*service.check(), *hooks.check(NAMES), *await examine(sight)]

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


def _summary(findings: Sequence[Finding]) -> str:
    words = {State.BAD: "wrong", State.WARNING: "with a warning", State.UNKNOWN: "not known"}
    counts = {state: sum(one.state is state for one in findings) for state in words}
    told = [f"{counts[state]} {word}" for state, word in words.items() if counts[state]]
    return f"{len(findings)} findings: " + (", ".join(told) or "all is well")
