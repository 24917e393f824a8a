# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent answers to VDSM's reports, and when it writes its metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from vif_driver import reporting
from vif_driver.agent import reporter
from vif_driver.agent.readiness import Readiness
from vif_driver.agent.reconcile import Counts, Reconciler
from vif_driver.agent.reporter import Reporter
from vif_driver.agent.switchover import Switchover
from vif_driver.config import Config
from vif_driver.events.host import HostEvents
from vif_driver.host import Host, kernel, link_statistics, ovn_controller, ovsdb_socket
from vif_driver.host.domains import Domains
from vif_driver.host.ovsdb import Ovsdb
from vif_driver.inspection.vnics import ExternalVnic
from vif_driver.marks import BOOT_KEY, BOOT_REMOVED_KEY
from vif_driver.reporting import metrics
from vif_driver.reporting.counts import Switchovers
from vif_driver.vnic import Plugin, VnicIdentity
from vif_driver.wire import Reply, Request

from .conftest import MAC, VM_ID, VNIC_ID, OvsdbServer
from .test_survey import Libvirt

REPORT = b'{"cpuCores": "2"}'
EVENT = Request("before_nic_hotplug", {"vmId": VM_ID.upper()}, b"")


class Looks:
    """Stands in for what is seen on the host.

    Attributes:
        vnics: the external vNICs.
        connected: whether ovn-controller is.
        looked: how often that was looked at.
        dropped: by the devices' indexes.
        outdated: the VMs of which libvirt is to be asked anew.
    """

    def __init__(self) -> None:
        self.vnics: tuple[ExternalVnic, ...] = ()
        self.connected: bool | None = True
        self.looked = 0
        self.dropped: dict[int, tuple[int, int]] = {}
        self.outdated: list[str] = []

    def seems_connected(self, _remote: str) -> bool | None:
        self.looked += 1
        return self.connected


@dataclasses.dataclass
class Stage:
    """An agent's part that reports."""

    reporter: Reporter
    events: HostEvents
    looks: Looks
    counts: Counts
    switchovers: Switchovers

    async def says(self, event: str, report: bytes = REPORT) -> Reply:
        answer = {
            "after_get_caps": self.events.capabilities,
            "after_get_stats": self.events.statistics,
        }[event]
        return await answer(Request(event, {}, report))

    async def capabilities(self) -> dict[str, Any]:
        return document(await self.says("after_get_caps"))

    async def statistics(self) -> dict[str, Any]:
        found: dict[str, Any] = document(await self.says("after_get_stats"))["external_networks"]
        return found


def document(reply: Reply) -> dict[str, Any]:
    assert (reply.status, reply.message) == (0, "") and reply.data is not None
    found: dict[str, Any] = json.loads(reply.data)
    return found


OnStage = Callable[..., Any]


@pytest.fixture
def metrics_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of metrics; its folder is there."""
    path = tmp_path / "metrics" / "vif-driver.prom"
    path.parent.mkdir()
    monkeypatch.setattr(metrics.MetricsFile.__init__, "__defaults__", (path,))
    assert path.name == reporting.METRICS.name
    return path


@pytest.fixture
def on_stage(monkeypatch: pytest.MonkeyPatch, metrics_file: Path) -> OnStage:
    """Run a scenario on a host: ``on_stage(scenario, server)``; without a server has no OVS."""

    def run(scenario: Callable[[Stage], Awaitable[Any]], server: OvsdbServer | None = None) -> Any:
        async def main() -> Any:
            looks, counts, switchovers = Looks(), Counts(), Switchovers()
            monkeypatch.setattr(ovn_controller, "seems_connected", looks.seems_connected)
            monkeypatch.setattr(link_statistics, "dropped", lambda: looks.dropped)
            monkeypatch.setattr(ovn_controller, "SYSTEM_ID_OVERRIDE", Path("/nonexistent"))
            ovsdb = None if server is None else Ovsdb(server.socket)
            if ovsdb is not None:
                ovsdb.replica.open()
                await ovsdb.replica.wait_connected()
            libvirt = cast(Domains, Libvirt())
            reports = Reporter(
                Config(),
                Host(ovsdb=ovsdb, domains=libvirt),
                libvirt,
                cast(Readiness, type("", (), {"waiting": [1, 2]})),
                cast(Reconciler, type("", (), {"counts": counts})),
                cast(Switchover, type("", (), {"counts": switchovers})),
            )

            async def vnics() -> tuple[ExternalVnic, ...]:
                return looks.vnics

            monkeypatch.setattr(reports._survey, "vnics", vnics)
            monkeypatch.setattr(reports._survey, "outdated", looks.outdated.append)
            try:
                stage = Stage(reports, HostEvents(reports), looks, counts, switchovers)
                return await asyncio.wait_for(scenario(stage), 10)
            finally:
                await reports.close()
                if ovsdb is not None:
                    ovsdb.replica.close()

        return asyncio.run(main())

    return run


@pytest.fixture
def ovn_host(ovsdb_server: OvsdbServer) -> OvsdbServer:
    """Open vSwitch's database on a host of OVN."""
    for setting in ("system-id=c1", "hostname=h1", "ovn-remote=tcp:192.0.2.1:6642"):
        ovsdb_server.vsctl("set", "Open_vSwitch", ".", f"external_ids:{setting}")
    return ovsdb_server


def a_vnic(attachment: str = "ovn", *, ready: bool | None = True) -> ExternalVnic:
    plugin = Plugin.OPEN_VSWITCH if attachment == "ovs_hybrid" else Plugin.OVIRT_PROVIDER_OVN
    identity = VnicIdentity(VNIC_ID, plugin, VM_ID)
    return ExternalVnic(identity, attachment, identity.tap, MAC, ready=ready)


# ---- capabilities ----------------------------------------------------------------------------


def test_a_host_of_ovn_tells_its_names_and_its_vnics(
    on_stage: OnStage, ovn_host: OvsdbServer
) -> None:
    async def scenario(stage: Stage) -> dict[str, Any]:
        stage.looks.vnics = (a_vnic(), a_vnic(ready=False))
        return await stage.capabilities()

    caps = on_stage(scenario, ovn_host)

    assert caps["cpuCores"] == "2"
    assert caps["openstack_binding_host_ids"] == {
        "OVIRT_PROVIDER_OVN": "c1",
        "OPEN_VSWITCH": "h1",
        "OPENSTACK_OVN": "h1",
    }
    own = caps["external_networks"]
    assert (own["chassis"], own["ovn_controller_connected"]) == ("c1", True)
    assert own["integration_bridge"] == {"name": "br-int", "exists": True}
    assert [vnic["ready"] for vnic in own["vnics"]] == [True, False]


def test_a_host_that_is_none_of_ovns_does_not_look_for_ovn_controller(
    on_stage: OnStage, ovsdb_server: OvsdbServer
) -> None:
    async def scenario(stage: Stage) -> tuple[Any, int]:
        own = (await stage.capabilities())["external_networks"]
        return own["ovn_controller_connected"], stage.looks.looked

    assert on_stage(scenario, ovsdb_server) == (None, 0)


@pytest.mark.parametrize("event", ["after_get_caps", "after_get_stats"])
def test_a_host_without_open_vswitch_reports_in_silence(
    on_stage: OnStage, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(stage: Stage) -> dict[str, Any]:
        return document(await stage.says(event))

    report = on_stage(scenario)

    assert "openstack_binding_host_ids" not in report and report["cpuCores"] == "2"
    assert caplog.text == ""


def test_while_the_database_is_away_nothing_is_told_that_it_would_know(
    on_stage: OnStage, ovn_host: OvsdbServer
) -> None:
    async def scenario(stage: Stage) -> dict[str, Any]:
        ovsdb = stage.reporter._host.ovsdb
        assert ovsdb is not None
        ovn_host.stop()
        await ovsdb.replica.wait(lambda: not ovsdb.replica.connected, 5)
        return await stage.capabilities()

    caps = on_stage(scenario, ovn_host)

    assert "openstack_binding_host_ids" not in caps
    own = caps["external_networks"]
    assert (own["chassis"], own["integration_bridge"]["exists"]) == (None, None)


def test_a_database_that_is_just_being_restarted_is_waited_for(
    on_stage: OnStage, ovn_host: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovsdb_socket, "is_down", lambda: False)

    async def scenario(stage: Stage) -> dict[str, Any]:
        ovsdb = stage.reporter._host.ovsdb
        assert ovsdb is not None
        ovn_host.stop()
        await ovsdb.replica.wait(lambda: not ovsdb.replica.connected, 5)
        asyncio.get_running_loop().call_later(0.1, ovn_host.start)
        return await stage.capabilities()

    assert on_stage(scenario, ovn_host)["external_networks"]["chassis"] == "c1"


def test_for_ovn_controller_it_is_not_looked_each_time(
    on_stage: OnStage, ovn_host: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> tuple[int, int, Any]:
        for _ in range(5):
            await stage.capabilities()
            await stage.statistics()
        soon = stage.looks.looked
        monkeypatch.setattr(reporter, "CONTROLLER_AGE", (0.0, 0.0))
        stage.looks.connected = False
        own = (await stage.capabilities())["external_networks"]
        return soon, stage.looks.looked, own["ovn_controller_connected"]

    assert on_stage(scenario, ovn_host) == (1, 2, False)


# ---- statistics ------------------------------------------------------------------------------


def test_the_statistics_have_what_the_agent_has_counted(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> dict[str, Any]:
        stage.looks.vnics = (a_vnic(), a_vnic(ready=False))
        stage.counts.removed, stage.counts.plugged = 3, 4
        stage.switchovers.add(0.5)
        return await stage.statistics()

    found = on_stage(scenario)

    assert {key: value for key, value in found.items() if key not in ("schema", "since")} == {
        "vnics": 2,
        "not_ready": 1,
        "unknown": 0,
        "stale_removed": 3,
        "boot_stale_removed": None,
        "plugged_again": 4,
        "switchovers": 1,
        "switchover_worst_ms": 500.0,
        "hybrid_drops": {},
    }


@pytest.mark.parametrize(("this_boot", "told"), [(True, 7), (False, None)])
def test_what_the_boot_pass_has_removed_is_of_this_boot(
    on_stage: OnStage, ovn_host: OvsdbServer, this_boot: bool, told: int | None
) -> None:
    boot = kernel.boot_id() if this_boot else "0" * 32
    for key, value in {BOOT_KEY: boot, BOOT_REMOVED_KEY: "7"}.items():
        ovn_host.vsctl("set", "Open_vSwitch", ".", f"external_ids:{key}={value}")

    async def scenario(stage: Stage) -> Any:
        return (await stage.statistics())["boot_stale_removed"]

    assert on_stage(scenario, ovn_host) == told


def test_drops_are_those_of_hybrid_vnics(
    on_stage: OnStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = VNIC_ID[:11]
    indexes = {f"tap{short}": 11, f"qvo{short}": 12}
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: _index(indexes, name))

    async def scenario(stage: Stage) -> Any:
        stage.looks.vnics = (a_vnic(), a_vnic("ovs_hybrid"))
        stage.looks.dropped = {11: (1, 2), 12: (0, 4), 13: (99, 99)}
        return (await stage.statistics())["hybrid_drops"]

    assert on_stage(scenario) == {"tap": {"rx": 1, "tx": 2}, "qvo": {"rx": 0, "tx": 4}}


def _index(indexes: dict[str, int], name: str) -> int:
    try:
        return indexes[name]
    except KeyError:
        raise OSError(name) from None


# ---- faults ----------------------------------------------------------------------------------


def test_what_is_wrong_with_a_report_is_logged_once(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> list[Reply]:
        broken = [await stage.says("after_get_stats", b"{") for _ in range(5)]
        await stage.says("after_get_stats")
        return [*broken, await stage.says("after_get_stats", b"{")]

    replies = on_stage(scenario)

    assert {(reply.status, reply.data) for reply in replies} == {(1, None)}
    assert caplog.text.count("not the JSON that VDSM writes") == 2


def test_a_mistake_of_ours_is_no_flood_either(
    on_stage: OnStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> list[Reply]:
        monkeypatch.setattr(stage.reporter, "_bridge_exists", lambda: 1 / 0)
        return [await stage.says("after_get_caps") for _ in range(3)]

    replies = on_stage(scenario)

    assert {reply.status for reply in replies} == {1}
    assert "internal error" in replies[0].message and caplog.text.count("Traceback") == 1


# ---- events and metrics ----------------------------------------------------------------------


def test_events_are_counted_and_have_libvirt_asked_about_their_vm(on_stage: OnStage) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.reporter.answered(EVENT, Reply())
        stage.reporter.answered(EVENT, Reply(status=2))
        return stage.reporter.events, stage.reporter.events_failed, stage.looks.outdated

    assert on_stage(scenario) == (2, 1, [VM_ID, VM_ID])


@pytest.mark.parametrize("vm_id", ["", "no-uuid", "x" * 60_000])
def test_of_what_is_no_vm_libvirt_is_not_asked(on_stage: OnStage, vm_id: str) -> None:
    async def scenario(stage: Stage) -> list[str]:
        stage.reporter.answered(
            Request("before_nic_hotplug", {"vmId": vm_id}, b""), Reply(status=2)
        )
        return stage.looks.outdated

    assert on_stage(scenario) == []


def metric(path: Path, name: str) -> float | None:
    lines = path.read_text().splitlines() if path.exists() else []
    found = [float(line.split()[1]) for line in lines if line.startswith(f"{name} ")]
    return found[0] if found else None


def test_statistics_are_an_occasion_to_write_metrics(on_stage: OnStage, metrics_file: Path) -> None:
    async def scenario(stage: Stage) -> Any:
        stage.counts.removed = 3
        await stage.statistics()
        return metric(metrics_file, "vif_driver_stale_removed_total")

    assert on_stage(scenario) == 3


def test_metrics_are_not_written_all_the_time_but_in_the_end(
    on_stage: OnStage, metrics_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "PERIOD", 0.2)

    def removed() -> float | None:
        return metric(metrics_file, "vif_driver_stale_removed_total")

    async def scenario(stage: Stage) -> Any:
        await stage.statistics()
        stage.counts.removed = 3
        await stage.statistics()
        at_once = removed()
        while removed() == at_once:
            await asyncio.sleep(0.01)
        return at_once, removed()

    assert on_stage(lambda stage: asyncio.wait_for(scenario(stage), 5)) == (0, 3)


def test_metrics_that_have_not_changed_are_written_now_and_then(
    on_stage: OnStage, metrics_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "PERIOD", 0.0)

    async def scenario(stage: Stage) -> Any:
        await stage.statistics()
        written = metrics_file.stat().st_ino
        await stage.statistics()
        unchanged = metrics_file.stat().st_ino
        monkeypatch.setattr(reporter, "REFRESH", 0.0)
        await stage.statistics()
        return unchanged == written, metrics_file.stat().st_ino == written

    assert on_stage(scenario) == (True, False)


def test_an_event_is_an_occasion_to_write_metrics(
    on_stage: OnStage, metrics_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "PERIOD", 0.02)

    async def scenario(stage: Stage) -> Any:
        for _ in range(3):
            stage.reporter.answered(EVENT, Reply())
        await asyncio.sleep(0.3)
        return metric(metrics_file, "vif_driver_events_total")

    assert on_stage(scenario) == 3


def test_who_ends_leaves_no_metrics(on_stage: OnStage, metrics_file: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.statistics()

    on_stage(scenario)

    assert metrics_file.read_text() == ""


def test_without_the_library_reports_are_answered_and_it_is_said_once(
    on_stage: OnStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setattr(reporter, "PERIOD", 0.0)
    caplog.set_level(logging.INFO)

    async def scenario(stage: Stage) -> None:
        for removed in range(3):
            stage.counts.removed = removed
            await stage.statistics()

    on_stage(scenario)

    assert caplog.text.count("install python3-prometheus_client") == 1


def test_metrics_that_cannot_be_written_are_told_once(
    on_stage: OnStage,
    metrics_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics_file.parent.rmdir()
    monkeypatch.setattr(reporter, "PERIOD", 0.0)

    async def scenario(stage: Stage) -> None:
        for removed in range(3):
            stage.counts.removed = removed
            await stage.statistics()

    on_stage(scenario)

    assert caplog.text.count("the metrics cannot be written") == 1
