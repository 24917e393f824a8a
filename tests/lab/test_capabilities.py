# SPDX-License-Identifier: GPL-2.0-or-later
"""What VDSM's reports say of a host of OVN's, and that nothing ever damages them."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.conftest import Configure, PortMaker, VmMaker, new_mac
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.open_vswitch import SCHEMA
from tests.lab.harness.product import Product
from tests.lab.harness.service import Daemon
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vdsm_hooks import HookRun
from tests.lab.reports import KEY, own_capabilities, own_statistics
from vif_driver import __version__
from vif_driver.reporting import METRICS

REPORT = {"cpuCores": "2", "openstack_binding_host_ids": {"NUAGE": "theirs"}}
AT_ONCE = "[start]\ndeadline = 0\n[reconcile]\ngrace = 1\n"
SETUP = {"networks": {"net1": {"nic": "eth9"}}, "bondings": {}, "options": {}}
ROLLBACK = {"options": {"_inRollback": True}}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor with OVN."""
    with Lab(hypervisors=1) as started:
        yield started


@pytest.fixture
def at_once(configure: Configure) -> None:
    """No VM waits for its vNICs, and what is stale goes soon."""
    configure(AT_ONCE)


@pytest.fixture
def frozen(agent: Product) -> Iterator[Daemon]:
    """The agent, hanging until the end of the test."""
    agent.agent.suspend()
    yield agent.agent
    agent.agent.resume()


@pytest.fixture
def without_open_vswitch(host: Hypervisor, agent: Product) -> Iterator[None]:
    """A host on which Open vSwitch runs no more."""
    host.ovn_controller.stop()
    host.ovs.stop()
    yield
    host.start_ovs()
    host.ovn_controller.start()


def own(vdsm: Vdsm) -> dict[str, Any]:
    return own_capabilities(vdsm, REPORT)


def last(vdsm: Vdsm) -> HookRun:
    return vdsm.runs[-1]


def silent(vdsm: Vdsm) -> bool:
    run = last(vdsm)
    return (run.status, run.stdout, run.stderr) == (0, "", "")


# ---- capabilities --------------------------------------------------------------------------------


@pytest.mark.usefixtures("agent")
def test_the_capabilities_of_a_host_of_ovn(vdsm: Vdsm, host: Hypervisor, new_vm: VmMaker) -> None:
    vm = new_vm()
    vdsm.create_vm(vm)
    wait_until(lambda: own(vdsm)["ovn_controller_connected"], 20, "connected", interval=0.2)

    caps = vdsm.get_capabilities(REPORT)

    assert silent(vdsm)
    assert caps["cpuCores"] == "2"
    assert caps["openstack_binding_host_ids"] == {
        "NUAGE": "theirs",
        "OVIRT_PROVIDER_OVN": host.name,
        "OPEN_VSWITCH": host.name,
        "OPENSTACK_OVN": host.name,
    }
    assert caps["external_networks"] == {
        "schema": 1,
        "version": __version__,
        "chassis": host.name,
        "encapsulation": {"types": ["geneve"], "addresses": [host.tunnel_address]},
        "integration_bridge": {"name": "br-int", "exists": True},
        "ovn_controller_connected": True,
        "vnics": [
            {
                "vm_id": vm.id,
                "vnic_id": vm.nics[0].vnic_id,
                "mac": vm.nics[0].mac,
                "attachment": "ovn",
                "ready": True,
            }
        ],
    }


@pytest.mark.usefixtures("agent", "at_once")
def test_a_vnic_that_ovn_does_not_know_is_not_ready_until_it_does(
    vdsm: Vdsm, lab: Lab, network: Any
) -> None:
    nic = Nic.ovn(str(uuid.uuid4()), new_mac())
    vdsm.create_vm(Vm("unknown", [nic], dhcp=False))

    before = [vnic["ready"] for vnic in own(vdsm)["vnics"]]
    lab.central.add_port(network, nic.vnic_id, nic.mac)
    try:
        wait_until(
            lambda: [vnic["ready"] for vnic in own(vdsm)["vnics"]] == [True], 10, "it is ready"
        )
    finally:
        lab.central.remove_port(nic.vnic_id)

    assert before == [False]


@pytest.mark.usefixtures("agent")
def test_a_vnic_is_there_from_its_hot_plug_to_its_unplug(
    vdsm: Vdsm, new_vm: VmMaker, new_port: PortMaker
) -> None:
    vm, port = new_vm(), new_port()
    vdsm.create_vm(vm).wait_up()
    nic = Nic.ovn(port.name, port.mac)

    def ids() -> set[str]:
        return {vnic["vnic_id"] for vnic in own(vdsm)["vnics"]}

    before = ids()
    vdsm.hotplug(vm, nic)
    plugged = ids()
    vdsm.hotunplug(vm, nic)
    wait_until(lambda: ids() == before, 5, "it is gone")

    assert plugged == before | {nic.vnic_id} and len(before) == 1


@pytest.mark.usefixtures("agent")
def test_a_vm_that_ends_takes_its_vnics_along(vdsm: Vdsm, new_vm: VmMaker) -> None:
    vm = new_vm()
    vdsm.create_vm(vm)
    wait_until(lambda: len(own(vdsm)["vnics"]) == 1, 10, "its vNIC", interval=0.2)

    vdsm.destroy_vm(vm)

    wait_until(lambda: own(vdsm)["vnics"] == [], 10, "no vNIC", interval=0.2)


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("who", ["ovn-controller", "southbound"])
def test_whether_ovn_controller_is_connected(
    vdsm: Vdsm, host: Hypervisor, lab: Lab, who: str
) -> None:
    daemon = host.ovn_controller if who == "ovn-controller" else lab.central.database("sb")

    def says(connected: bool) -> bool:
        return own(vdsm)["ovn_controller_connected"] is connected

    wait_until(lambda: says(True), 20, "connected", interval=0.5)
    daemon.stop()
    try:
        wait_until(lambda: says(False), 20, "not connected", interval=0.5)
    finally:
        daemon.start()
        lab.central.wait_chassis(host.name)
    wait_until(lambda: says(True), 40, "connected again", interval=0.5)


# ---- Open vSwitch is away ------------------------------------------------------------------------


@pytest.mark.usefixtures("without_open_vswitch")
def test_without_a_running_open_vswitch_reports_pass_in_silence(vdsm: Vdsm) -> None:
    told = own(vdsm)
    caps = vdsm.get_capabilities({"cpuCores": "2"})
    quiet = silent(vdsm)
    stats = own_statistics(vdsm)

    assert quiet and silent(vdsm)
    assert "openstack_binding_host_ids" not in caps
    assert (told["chassis"], told["integration_bridge"]["exists"]) == (None, None)
    assert stats["vnics"] == 0


def test_without_open_vswitch_reports_pass_in_silence(
    vdsm: Vdsm, host: Hypervisor, installed: list[Product]
) -> None:
    schema = host.path(SCHEMA)
    schema.rename(f"{schema}.away")
    try:
        installed[0].start()
        caps = vdsm.get_capabilities({"cpuCores": "2"})
        quiet = silent(vdsm)
        vdsm.get_stats()
    finally:
        host.path(f"{SCHEMA}.away").rename(host.path(SCHEMA))
        installed[0].stop()

    assert quiet and silent(vdsm)
    assert "openstack_binding_host_ids" not in caps
    assert caps["external_networks"]["vnics"] == []


# ---- the agent is away, or hangs -----------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_without_the_agent_reports_pass_in_silence(vdsm: Vdsm) -> None:
    caps = vdsm.get_capabilities(REPORT)
    quiet = silent(vdsm)
    stats = vdsm.get_stats({"memUsed": "10"})

    assert quiet and silent(vdsm)
    assert (caps, stats) == (REPORT, {"memUsed": "10"})


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(("event", "seconds"), [("after_get_caps", 5), ("after_get_stats", 2)])
def test_an_agent_that_hangs_costs_no_more_than_its_deadline(
    vdsm: Vdsm, event: str, seconds: float
) -> None:
    given = json.dumps(REPORT).encode()

    left = vdsm.hooks.run(event, given)

    run = last(vdsm)
    assert left == given
    assert run.status == 1 and "vif-agent does not answer" in run.stderr
    assert seconds <= run.seconds < seconds + 10


def test_an_agent_that_has_hung_answers_as_if_nothing_had_been(vdsm: Vdsm, agent: Product) -> None:
    agent.agent.suspend()
    for _ in range(3):
        vdsm.get_stats()
    agent.agent.resume()

    stats = own_statistics(vdsm)

    assert silent(vdsm) and stats["schema"] == 1


def test_an_agent_that_is_killed_in_the_middle_damages_nothing(vdsm: Vdsm, agent: Product) -> None:
    answers: list[dict[str, Any]] = []
    agent.agent.suspend()
    asking = threading.Thread(target=lambda: answers.append(vdsm.get_capabilities(REPORT)))
    asking.start()
    time.sleep(0.5)
    agent.kill()
    asking.join()

    assert answers == [REPORT]
    assert silent(vdsm)  # nor did time run out


# ---- large and damaged reports -------------------------------------------------------------------


def test_a_report_of_five_megabytes(vdsm: Vdsm, agent: Product) -> None:
    devices = [{"name": f"pci_0000_{number:06x}", "iommu": "x" * 80} for number in range(42_000)]
    large = {"hostDevices": devices}
    assert len(json.dumps(large)) > 5_000_000
    before = resident(vdsm.host, agent)

    answers = [vdsm.get_capabilities(large) for _ in range(12)]

    assert all(answer["hostDevices"] == devices for answer in answers)
    told = [answer[KEY] for answer in answers if KEY in answer]
    assert len(told) >= 8  # of the others the agent was late, on a busy computer
    assert all(each["schema"] == 1 for each in told)
    # The allocator keeps some room for the next one, but nothing of any is left.
    assert resident(vdsm.host, agent) < before + 30


def resident(host: Hypervisor, product: Product) -> float:
    """The agent's memory in MiB."""
    status = host.read(f"/proc/{product.agent.pid}/status")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("report", [b"[]", b"{", b"", b'{"openstack_binding_host_ids": 1}'])
def test_a_damaged_report_is_left_alone(vdsm: Vdsm, report: bytes) -> None:
    left = vdsm.hooks.run("after_get_caps", report)

    assert left == report
    assert last(vdsm).status == 1 and "left alone" in last(vdsm).stderr


@pytest.mark.usefixtures("agent")
def test_many_reports_at_once_are_all_whole(vdsm: Vdsm, host: Hypervisor) -> None:
    script = (
        "for n in $(seq 40); do"
        " (f=$(mktemp); echo '{\"n\": '$n'}' > $f;"
        " _hook_json=$f /usr/libexec/vdsm/hooks/after_get_caps/50_vif_driver;"
        " echo $(cat $f); rm $f) & done; wait"
    )

    done = host.run(["sh", "-c", script], user="vdsm")

    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(report["n"] for report in reports) == list(range(1, 41))
    # A computer that is busy with something else may take too long for one or another.
    given_up = len(re.findall("not (?:done )?within [45] s", done.stderr))
    assert sum("external_networks" in report for report in reports) == 40 - given_up


# ---- statistics and metrics ----------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
def test_the_statistics_and_the_metrics_say_the_same(
    vdsm: Vdsm, host: Hypervisor, agent: Product, new_vm: VmMaker
) -> None:
    vm = new_vm()
    vdsm.create_vm(vm)
    host.ovs.wait_ready(vm.nics[0].tap)
    row = f"tap{uuid.uuid4().hex[:8]}-aa"
    host.vsctl(
        *["--no-wait", "add-port", "br-int", row, "--", "set", "Interface", row],
        *[f"external_ids:vm-id={uuid.uuid4()}", f"external_ids:iface-id={uuid.uuid4()}"],
        "external_ids:attached-mac=fa:16:3e:00:00:01",
    )

    wait_until(
        lambda: own_statistics(vdsm)["stale_removed"] == 1, 15, "it was removed", interval=0.5
    )
    found = own_statistics(vdsm)
    wait_until(
        lambda: metric(host, "vif_driver_stale_removed_total") == 1, 30, "metrics", interval=0.5
    )

    assert (found["vnics"], found["not_ready"], found["unknown"]) == (1, 0, 0)
    assert (found["plugged_again"], found["hybrid_drops"]) == (0, {})
    assert metric(host, 'vif_driver_vnics{attachment="ovn",state="ready"}') == 1
    assert metric(host, 'vif_driver_connected{part="ovn_controller"}') == 1
    assert host.path(METRICS).stat().st_mode & 0o777 == 0o644
    agent.stop()
    assert host.read(METRICS) == ""


def metric(host: Hypervisor, name: str) -> float | None:
    lines = [line.rpartition(" ") for line in host.read(METRICS).splitlines()]
    found = [float(value) for which, _, value in lines if which == name]
    return found[0] if found else None


# ---- before_network_setup ------------------------------------------------------------------------


@pytest.mark.usefixtures("agent")
def test_a_request_for_the_network_passes_as_it_was(vdsm: Vdsm) -> None:
    given = json.dumps({"request": SETUP}, indent=3).encode()

    left = vdsm.hooks.run("before_network_setup", given)

    assert left == given and silent(vdsm)


@pytest.mark.usefixtures("installed")
def test_a_request_for_the_network_passes_without_the_agent(vdsm: Vdsm) -> None:
    assert vdsm.setup_networks(**SETUP) == {"request": SETUP}
    assert silent(vdsm)


@pytest.mark.usefixtures("frozen")
def test_the_hosts_network_is_brought_back_while_the_agent_hangs(vdsm: Vdsm) -> None:
    vdsm.setup_networks(**ROLLBACK)

    # Sooner than the hook's own deadline of 10 s.
    assert last(vdsm).status == 0 and last(vdsm).seconds < 9.5


@pytest.mark.usefixtures("agent")
def test_the_network_is_none_of_vdsms_users_business(host: Hypervisor) -> None:
    script = (
        "f=$(mktemp); echo '{}' > $f;"
        " _hook_json=$f /usr/libexec/vdsm/hooks/before_network_setup/50_vif_driver; echo $?; rm $f"
    )

    done = host.run(["sh", "-c", script], user="vdsm")

    assert done.stdout == "2\n" and "for root only" in done.stderr
