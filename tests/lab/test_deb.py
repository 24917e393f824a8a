# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian package, on a host that systemd has booted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.harness.command import run_command
from tests.lab.harness.lab import Lab
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.product import BOOT_PASS, UNITS, SystemdProduct
from tests.lab.harness.systemd_hypervisor import SystemdHypervisor
from tests.lab.harness.vm_start import agent_status

PACKAGE = "/var/tmp/vif-driver.deb"
# What is there with the package only.
OURS = (
    "/etc/vif-driver",
    "/run/vif-driver",
    "/usr/lib/python3/dist-packages/vdsm",
    "/usr/lib/python3/dist-packages/vif_driver",
    "/usr/libexec/vdsm",
    "/usr/libexec/vif-driver",
    "/usr/share/vif-driver",
    "/var/lib/vif-driver",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout."""
    folder = tmp_path_factory.mktemp("deb")
    make = ["make", "--no-print-directory", "-C", str(PROJECT), "deb", f"DEBDIR={folder}"]
    run_command("here", make, timeout=120)
    (found,) = folder.glob("*.deb")
    return found


@pytest.fixture(scope="module")
def host(built: Path) -> Iterator[SystemdHypervisor]:
    """A hypervisor with systemd, on which it is not installed yet."""
    with Lab(hypervisors=1, ovn=False, systemd=True) as lab:
        host = lab.hosts[0]
        assert isinstance(host, SystemdHypervisor)
        shutil.copy(built, host.path(PACKAGE))
        yield host


@pytest.fixture
def installed(host: SystemdHypervisor) -> SystemdProduct:
    """The package on it, for the first time or once more."""
    host.run(["dpkg", "--install", PACKAGE])
    product = SystemdProduct(host)
    product.agent.wait_ready()
    return product


def test_an_installed_agent_runs_and_starts_at_boot(
    host: SystemdHypervisor, installed: SystemdProduct
) -> None:
    enabled = host.output(["systemctl", "is-enabled", *UNITS]).split()

    assert enabled == ["enabled"] * 3
    assert agent_status(host)["pid"] == installed.agent.pid
    assert host.run(["dpkg", "--verify", "vif-driver"]).stdout == ""


def test_an_upgrade_restarts_the_agent(host: SystemdHypervisor, installed: SystemdProduct) -> None:
    before = installed.agent.pid

    host.run(["dpkg", "--install", PACKAGE])

    assert installed.agent.wait_new(before)


def test_when_it_is_purged_nothing_is_left(
    host: SystemdHypervisor, installed: SystemdProduct
) -> None:
    before = [path for path in OURS if host.exists(path)]
    host.run(["touch", "/var/lib/vif-driver/neutron.json"])  # as on one of Neutron's hosts
    host.run(["systemctl", "restart", BOOT_PASS])
    noted = host.vsctl("get", "Open_vSwitch", ".", "external_ids")

    host.run(["dpkg", "--purge", "vif-driver"])

    assert before == list(OURS)
    assert [path for path in OURS if host.exists(path)] == []
    assert "vif-driver-boot-id" in noted
    assert "vif-driver" not in host.vsctl("get", "Open_vSwitch", ".", "external_ids")
    assert "vif-" not in host.output(["systemctl", "list-units", "--all", "--plain", "--no-legend"])
    assert "vif-agent" not in host.output(["getfacl", "-c", "/run/openvswitch/db.sock"])
