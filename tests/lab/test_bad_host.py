# SPDX-License-Identifier: GPL-2.0-or-later
"""Hooks on a host that isn't as it should be, and many of them at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.conftest import CONFIGURATION, new_mac
from tests.lab.harness.hypervisor import VDSM_USER, Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import SOCKET, Product
from tests.lab.harness.vdsm_hooks import HookError, HookRunner
from tests.lab.neutron_vnics import settings  # noqa: F401

VM_ID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One hypervisor without OVN."""
    with Lab(hypervisors=1, ovn=False) as started:
        yield started


@pytest.fixture(params=["with agent", "without agent"])
def hooks(
    request: pytest.FixtureRequest, host: Hypervisor, product: Product
) -> Iterator[HookRunner]:
    """VDSM's runner of hooks, on a host with the agent, and on one without."""
    if request.param == "without agent":
        product.stop()
    yield HookRunner(host)
    if request.param == "without agent":
        product.start()


def ovn_nic() -> Nic:
    return Nic.ovn(str(uuid.uuid4()), new_mac())


def hybrid_nic() -> Nic:
    return Nic.openstack("OPEN_VSWITCH", str(uuid.uuid4()), new_mac())


def plug(hooks: HookRunner, nic: Nic, event: str = "before_device_create") -> bytes:
    return hooks.run(event, nic.xml().encode(), vm_id=VM_ID, device_custom=nic.custom)


def refusal(hooks: HookRunner, nic: Nic) -> str:
    """The one line with which a plug is refused; nothing may have changed."""
    devices = hooks.machine.devices()
    with pytest.raises(HookError) as refused:
        plug(hooks, nic)
    run = hooks.runs[-1]
    assert hooks.machine.devices() == devices
    assert run.status == 2 and run.result == run.given
    assert run.stderr.count("\n") == 1 and "Traceback" not in run.stderr
    assert nic.vnic_id in run.stderr and VM_ID in run.stderr
    return refused.value.stderr


def test_without_an_integration_bridge_the_user_is_told_what_to_do(
    hooks: HookRunner, host: Hypervisor
) -> None:
    host.vsctl("del-br", "br-int")
    try:
        line = refusal(hooks, ovn_nic())
    finally:
        host.ovs.add_bridge("br-int", "fail_mode=secure")

    assert "br-int does not exist; start ovn-controller" in line


def test_without_open_vswitchs_database_the_user_is_told_what_to_do(
    hooks: HookRunner, host: Hypervisor
) -> None:
    host.ovs.database.stop()
    try:
        line = refusal(hooks, ovn_nic())
    finally:
        host.ovs.database.start()
        host.ovs.wait_configured()

    assert "systemctl start openvswitch" in line


def test_the_agent_finds_the_database_again(host: Hypervisor, product: Product) -> None:
    hooks = HookRunner(host)
    host.ovs.database.kill()
    host.ovs.database.start()
    host.ovs.wait_configured()
    nic = hybrid_nic()

    plug(hooks, nic)

    port = host.ovs.port(f"qvo{nic.vnic_id[:11]}")
    plug(hooks, nic, "after_device_destroy")
    assert port["trunks"] == 4095


def test_without_open_vswitchs_daemon_a_hybrid_plug_leaves_nothing(
    host: Hypervisor, product: Product
) -> None:
    devices, ports = host.devices(), host.ovs.ports()
    host.ovs.vswitchd.stop()
    try:
        line = refusal(HookRunner(host), hybrid_nic())
    finally:
        host.restart_vswitchd()

    assert "systemctl status ovs-vswitchd" in line
    assert (host.devices(), host.ovs.ports()) == (devices, ports)


def test_a_user_who_is_not_vdsm_is_not_answered(host: Hypervisor, product: Product) -> None:
    host.run("chmod 666 " + SOCKET)
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('" + SOCKET + "');"
        "s.sendall(b'vif1 status 0 0\\n'); print(len(s.recv(4096)))"
    )

    as_nobody = host.run(["python3", "-c", ask], user="nobody", check=False)
    as_vdsm = host.run(["python3", "-c", ask], user=VDSM_USER)

    assert as_nobody.stdout.strip() in ("0", "")
    assert int(as_vdsm.stdout) > 50
    assert "refused a call from user 65534" in product.log()


def test_a_misspelt_setting_stops_the_agent_with_one_line(
    host: Hypervisor, product: Product
) -> None:
    before = host.read(CONFIGURATION)
    host.write(CONFIGURATION, "[neutron]\nfirewal_driver = auto\n")
    try:
        done = host.run(["/usr/sbin/vif-agent"], check=False)
    finally:
        host.write(CONFIGURATION, before)

    assert done.returncode == 1
    assert "[neutron] firewal_driver is not a setting" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("make", [ovn_nic, hybrid_nic])
def test_fifty_hooks_at_once_are_all_answered(
    host: Hypervisor, product: Product, make: Callable[[], Nic]
) -> None:
    hooks = HookRunner(host)
    nics = [make() for _ in range(50)]
    devices, ports = host.devices(), host.ovs.ports()
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda nic: plug(hooks, nic), nics))
        during = host.ovs.ports() - ports
        list(pool.map(lambda nic: plug(hooks, nic, "after_device_destroy"), nics))

    assert all(nic.tap.encode() in result for nic, result in zip(nics, results))
    assert len(during) == (50 if make is hybrid_nic else 0)
    assert (host.devices(), host.ovs.ports()) == (devices, ports)
    assert all(run.status == 0 and not run.stderr for run in hooks.runs)


def test_plugs_and_unplugs_of_one_vnic_at_once_end_in_order(
    host: Hypervisor, product: Product
) -> None:
    hooks, nic = HookRunner(host), hybrid_nic()
    devices, ports = host.devices(), host.ovs.ports()
    events = ["before_nic_hotplug", "after_nic_hotplug_fail"] * 10
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda event: plug(hooks, nic, event), events))
    plug(hooks, nic, "after_nic_hotplug_fail")

    assert (host.devices(), host.ovs.ports()) == (devices, ports)
    assert all(run.status == 0 for run in hooks.runs)
