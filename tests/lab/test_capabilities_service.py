# SPDX-License-Identifier: GPL-2.0-or-later
"""VDSM's reports where the agent is a service: with few rights, in a box of systemd's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.harness.deadline import wait_until
from tests.lab.harness.lab import Lab
from tests.lab.harness.product import SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.unit import Unit
from tests.lab.harness.vdsm import Vdsm
from tests.lab.reports import own_capabilities, own_statistics
from vif_driver.reporting import METRICS


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with systemd, and OVN."""
    with Lab(hypervisors=1, systemd=True) as started:
        yield started


@pytest.fixture(scope="module")
def host(lab: Lab) -> SystemdHypervisor:
    """The hypervisor."""
    host = lab.hosts[0]
    assert isinstance(host, SystemdHypervisor)
    return host


@pytest.fixture(scope="module")
def product(host: SystemdHypervisor) -> SystemdProduct:
    """The product, installed as a package would; it runs."""
    product = SystemdProduct(host)
    product.install()
    product.start()
    return product


@pytest.fixture
def vdsm(host: SystemdHypervisor, product: SystemdProduct) -> Vdsm:
    """VDSM."""
    return Vdsm(host)


def own(vdsm: Vdsm) -> dict[str, Any]:
    found = own_capabilities(vdsm)
    assert (vdsm.runs[-1].status, vdsm.runs[-1].stderr) == (0, "")
    return found


def test_who_may_not_ask_ovn_controller_sees_whether_it_is_connected(
    vdsm: Vdsm, host: SystemdHypervisor, lab: Lab, product: SystemdProduct
) -> None:
    def says(connected: bool) -> bool:
        return own(vdsm)["ovn_controller_connected"] is connected

    assert host.read(f"/proc/{product.agent.pid}/status").count("Uid:\t0") == 0
    wait_until(lambda: says(True), 20, "connected", interval=0.5)
    lab.central.database("sb").stop()
    try:
        wait_until(lambda: says(False), 20, "not connected", interval=0.5)
    finally:
        lab.central.database("sb").start()
    wait_until(lambda: says(True), 40, "connected again", interval=0.5)


def test_the_names_of_the_host_are_known(vdsm: Vdsm, host: SystemdHypervisor) -> None:
    wait_until(lambda: own(vdsm)["chassis"] == host.name, 15, "the chassis", interval=0.2)

    assert vdsm.get_capabilities()["openstack_binding_host_ids"]["OPEN_VSWITCH"] == host.name


def test_a_large_report_is_read_by_a_process_of_the_service(vdsm: Vdsm) -> None:
    large = {"hostDevices": ["x" * 100] * 50_000}
    assert len(json.dumps(large)) > 5_000_000

    assert own_capabilities(vdsm, large)["schema"] == 1


def test_the_metrics_are_where_anybody_finds_them(
    vdsm: Vdsm, host: SystemdHypervisor, product: SystemdProduct
) -> None:
    own_statistics(vdsm)

    wait_until(lambda: "vif_driver_info" in host.read(METRICS), 15, "metrics")
    reader = host.run(["cat", str(METRICS)], user="vdsm")
    assert 'vif_driver_connected{part="ovsdb"} 1.0' in reader.stdout
    product.stop()
    assert host.read(METRICS) == ""
    product.start()


def test_after_a_boot_there_is_a_file_of_metrics_before_there_are_any(
    host: SystemdHypervisor, product: SystemdProduct
) -> None:
    host.run(["systemctl", "disable", "vif-agent.service", "vif-agent.socket"])
    try:
        host.reboot()
        before = host.path(METRICS).read_text()
    finally:
        host.run(["systemctl", "enable", "vif-agent.service", "vif-agent.socket"])
        product.start()

    assert before == ""
    assert Unit(host, "vif-agent.service").running
