# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""The likely reason: one clause, in time, whatever hangs or fails."""

from __future__ import annotations

import asyncio
import time

import pytest

from vif_driver.config import Config
from vif_driver.errors import Unavailable
from vif_driver.host import Host
from vif_driver.inspection import likely_reason, reason
from vif_driver.inspection.sight import Sight
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import VNIC_ID, OvsdbServer
from .inspected_host import Devices, Vms, inspected
from .traced_vnic import TAP, Fakes, fakes, links, neutron_host, ovn_host  # noqa: F401

VNIC = VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, None)


def reason_of(server: OvsdbServer, links: Devices, vnic: VnicIdentity = VNIC) -> str:
    async def look(sight: Sight) -> str:
        return await likely_reason(vnic, sight.config, sight.host)

    return inspected(look, server, links, Vms(None))


def test_the_reason_is_the_first_bad_hop_with_its_remedy(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    fakes.binding = None

    assert reason_of(ovn_host, links) == (
        f"the southbound database has no logical port {VNIC_ID}; check the port at the provider; "
        "if it is gone, remove the vNIC in the engine and add it again"
    )


def test_the_reason_of_a_neutron_vnic(
    neutron_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    fakes.running.clear()

    assert reason_of(neutron_host, links, VnicIdentity(VNIC_ID, Plugin.OPEN_VSWITCH, None)) == (
        "Neutron's Open vSwitch agent does not run on this host; "
        "systemctl start neutron-openvswitch-agent"
    )


def test_what_could_not_be_asked_is_told_with_the_symptom(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes
) -> None:
    ovn_host.vsctl("remove", "Interface", TAP, "external_ids", "ovn-installed")
    fakes.binding = Unavailable("the southbound database does not answer", "check ovn-remote")

    assert reason_of(ovn_host, links) == (
        f"ovn-controller has not installed the flows of {TAP}, and the southbound database does "
        "not answer; check ovn-remote"
    )


def test_a_reason_comes_in_time_whatever_hangs_and_the_loop_goes_on(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(Sight, "binding", hang)
    monkeypatch.setattr(reason, "TIMEOUT", 0.3)
    ticks = 0

    async def look(sight: Sight) -> str:
        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        told = await likely_reason(VNIC, sight.config, sight.host)
        ticking.cancel()
        return told

    begun = time.monotonic()
    told = inspected(look, ovn_host, links)

    assert time.monotonic() - begun < 10
    assert ticks > 10
    assert f"vifctl trace {VNIC_ID}" in told


def test_a_reason_never_raises(
    ovn_host: OvsdbServer, links: Devices, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Sight, "binding", fail)

    assert "look again" in reason_of(ovn_host, links)


@pytest.mark.parametrize("plugin", Plugin)
def test_a_host_that_lets_nothing_be_asked_gives_a_reason(
    plugin: Plugin, devices: set[str]
) -> None:
    vnic = VnicIdentity(VNIC_ID, plugin, None)

    told = asyncio.run(likely_reason(vnic, Config(), Host()))

    assert ";" in told
