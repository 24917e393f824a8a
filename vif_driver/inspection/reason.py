# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a vNIC does not work, in one clause, in time."""

from __future__ import annotations

import asyncio
import logging

from vif_driver.config import Config
from vif_driver.host import Host
from vif_driver.inspection.finding import Finding, State
from vif_driver.inspection.sight import Sight
from vif_driver.inspection.trace import trace
from vif_driver.inspection.vnics import of_identity
from vif_driver.vnic import VnicIdentity

log = logging.getLogger(__name__)

#: Seconds, whatever hangs.
TIMEOUT = 3.0

# Seconds for the southbound database, which is the slowest to say no.
_PATIENCE = 1.5

# What such a hop says is that the vNIC isn't ready, not why.
_SYMPTOMS = ("flows", "vlan")


async def likely_reason(vnic: VnicIdentity, config: Config, host: Host) -> str:
    """Tell why a vNIC is not ready, as far as can be found out at once.

    Args:
        vnic: which.
        config: the configuration.
        host: what this process may use.

    Returns:
        One clause with what to do.  It comes within :data:`TIMEOUT` seconds, and nothing raises.
    """
    seen: list[Finding] = []
    try:
        await asyncio.wait_for(_look(vnic, config, host, seen), TIMEOUT)
    except asyncio.TimeoutError:
        log.debug("%s: looking for the reason took too long", vnic)
    except Exception as error:
        log.warning("%s: looking for the reason failed: %r", vnic, error)
    return _clause(vnic, seen)


async def _look(vnic: VnicIdentity, config: Config, host: Host, seen: list[Finding]) -> None:
    async with Sight(config, host, _PATIENCE) as sight:
        # libvirt is not asked: whoever waits for the vNIC knows about its VM.
        hops = trace(of_identity(vnic, sight), sight, with_vm=False)
        try:
            async for hop in hops:
                seen.append(hop)
                if hop.is_bad:
                    return
        finally:
            await hops.aclose()


def _clause(vnic: VnicIdentity, seen: list[Finding]) -> str:
    unseen = [hop for hop in seen if hop.state is State.UNKNOWN]
    wrong = next((hop for hop in seen if hop.is_bad), None)
    if wrong is None:
        told = "; ".join(hop.detail for hop in unseen) or "nothing wrong was found on its way"
        return f"{told}; look again: vifctl trace {vnic.id}"
    if wrong.name in _SYMPTOMS and unseen:
        return f"{wrong.detail}, and {unseen[-1].detail}; {unseen[-1].remedy or wrong.remedy}"
    return str(wrong)
