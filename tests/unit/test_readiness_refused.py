# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that was refused a vNIC, as another one has it, and is cleaned up after by VDSM."""

from __future__ import annotations

import asyncio

from vif_driver.vnic import VnicIdentity

from .stage import VNIC, OnStage, Stage, a_moment

REFUSED_VM = "8e555951-0ed1-22e2-c356-600edf85fbe3"


def test_the_vnic_of_the_vm_that_has_it_is_watched_on(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> list[VnicIdentity]:
        stage.readiness.watch(VNIC, hot_plug=True)
        await a_moment()
        stage.readiness.unplugged(VnicIdentity(VNIC.id, VNIC.plugin, REFUSED_VM))
        await asyncio.sleep(0)
        await a_moment()
        return [waiting.vnic for waiting in stage.readiness.waiting]

    assert on_stage(scenario) == [VNIC]
