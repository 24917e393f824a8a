# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""How vNICs of Neutron with Open vSwitch are plugged, directly and through a Linux bridge."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

import pytest

from tests.lab.conftest import new_mac
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.nic import Nic
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vdsm, Vm
from tests.lab.harness.vdsm_hooks import HookError
from tests.lab.neutron_plugs import (  # noqa: F401
    attribute,
    configured,
    filtered_in_openvswitch,
    host,
    lab,
    running,
    settings,
    wire,
)
from tests.lab.neutron_vnics import a_vm, name, ours, vdsm  # noqa: F401

GROUP = "9e1b0c7a-0000-4000-8000-000000000001"


# ---- Open vSwitch, direct ------------------------------------------------------------------------


@pytest.mark.usefixtures("filtered_in_openvswitch")
def test_a_direct_port_carries_nothing_until_it_is_wired(vdsm: Vdsm, host: Hypervisor) -> None:
    first, second = a_vm(), a_vm()
    with running(vdsm, first, second) as (_, target):
        dead = not first.running.reaches(target, timeout=2)
        wire(host, name(first, "tap"))
        wire(host, name(second, "tap"))

        assert dead
        assert first.running.reaches(target)


@pytest.mark.usefixtures("filtered_in_openvswitch")
def test_a_direct_port_is_dead_in_the_transaction_that_makes_it(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm()
    with running(vdsm, vm):
        log = host.output(["ovsdb-tool", "show-log", "-mm", "/etc/openvswitch/conf.db"])
        record = next(r for r in log.split("\nrecord ") if name(vm, "tap") in r)

        assert "trunks=[4095]" in record


@pytest.mark.usefixtures("filtered_in_openvswitch")
def test_a_change_of_the_link_leaves_a_wired_port_wired(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm()
    with running(vdsm, vm):
        wire(host, name(vm, "tap"))
        vdsm.update_nic(vm, vm.nics[0], link_up=False)
        vdsm.update_nic(vm, vm.nics[0], link_up=True)

        assert host.ovs.port(name(vm, "tap"))["tag"] == 5


def test_a_vm_of_an_older_driver_is_not_cut_off_by_a_change_of_the_link(
    vdsm: Vdsm, host: Hypervisor, configured: Callable[[str], None]
) -> None:
    configured("[neutron]\nfirewall_driver = openvswitch\n")
    vm = a_vm()
    hook = host.path("/usr/libexec/vdsm/hooks/before_device_create/50_vif_driver")
    kept = hook.read_bytes()
    older = (
        "#!/bin/sh\nsed -i -e '/filterref/d' -e \"s|<source.*|<source bridge='br-int'/>"
        "<virtualport type='openvswitch'><parameters interfaceid='$vnic_id'/></virtualport>|\""
        ' "$_hook_domxml"\n'
    )
    hook.chmod(0o755)
    hook.write_text(older)
    try:
        vdsm.create_vm(vm)
    finally:
        hook.write_bytes(kept)
        hook.chmod(0o555)
    tap = host.ovs.interface_of(vm.nics[0].vnic_id)["name"]
    wire(host, tap)

    vdsm.update_nic(vm, vm.nics[0], link_up=False)
    vdsm.update_nic(vm, vm.nics[0], link_up=True)

    port = host.ovs.port(tap)
    vdsm.destroy_vm(vm)
    assert tap.startswith("vnet")
    assert (port["tag"], port["trunks"]) == (5, [])


# ---- Open vSwitch with a Linux bridge ------------------------------------------------------------


def test_a_hybrid_port_carries_nothing_until_it_is_wired(vdsm: Vdsm, host: Hypervisor) -> None:
    first, second = a_vm(), a_vm(security_groups=GROUP)
    with running(vdsm, first, second) as (_, target):
        dead = not first.running.reaches(target, timeout=2)
        wire(host, name(first, "qvo"))
        wire(host, name(second, "qvo"))

        assert dead
        assert first.running.reaches(target)


def test_rules_on_the_tap_of_a_hybrid_bridge_block_and_pass_traffic(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    first, second = a_vm(), a_vm()
    rule = f"FORWARD -m physdev --physdev-is-bridged --physdev-out {name(second, 'tap')} -j DROP"
    # Whatever the host's sysctls say: the bridge itself asks for filtering.
    host.run("sysctl -qw net.bridge.bridge-nf-call-iptables=0")
    with running(vdsm, first, second) as (_, target):
        wire(host, name(first, "qvo"))
        wire(host, name(second, "qvo"))
        before = first.running.reaches(target)
        host.run(f"iptables -w -A {rule}")
        blocked = not first.running.reaches(target, timeout=2)
        host.run(f"iptables -w -D {rule}")

        assert before and blocked
        assert first.running.reaches(target)


def test_a_hybrid_port_says_whose_it_is_when_it_appears(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm()
    with running(vdsm, vm):
        interface = host.ovs.interface(name(vm, "qvo"))
        port = host.ovs.port(name(vm, "qvo"))

        assert interface["external_ids"] == {
            "iface-id": vm.nics[0].vnic_id,
            "iface-status": "active",
            "attached-mac": vm.nics[0].mac,
            "vm-id": vm.id,
            "vif-driver": "ovs_hybrid",
        }
        assert port["external_ids"] == {"vif-driver": "ovs_hybrid"}
        assert port["other_config"] == {"transient": "true"}
        assert port["trunks"] == 4095


def test_the_mtu_holds_along_the_whole_path(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm(mtu=1300)
    with running(vdsm, vm):
        devices = [name(vm, prefix) for prefix in ("tap", "qbr", "qvb", "qvo")]

        assert [attribute(host, f"{device}/mtu") for device in devices] == ["1300"] * 4


def test_a_port_that_was_left_behind_does_not_keep_its_vlan(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm()
    vdsm.create_vm(vm)
    wire(host, name(vm, "qvo"))
    vm.running.destroy()

    vdsm.create_vm(vm)

    port = host.ovs.port(name(vm, "qvo"))
    vdsm.destroy_vm(vm)
    assert (port["tag"], port["trunks"]) == ([], 4095)


def test_a_row_of_the_taps_name_does_not_take_the_tap_from_its_filter(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm()
    host.vsctl(
        *["--no-wait", "add-port", "br-int", name(vm, "tap"), "--"],
        *["set", "Interface", name(vm, "tap"), "external_ids:vm-id=gone"],
        "external_ids:attached-mac=fa:16:3e:ff:ff:ff",
    )
    with running(vdsm, vm):
        assert not host.ovs.port(name(vm, "tap"))


def test_a_vnic_that_is_no_longer_filtered_leaves_nothing_of_its_bridge(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm()
    vdsm.create_vm(vm)
    vm.running.destroy()
    nic = Nic.openstack("OPEN_VSWITCH", vm.nics[0].vnic_id, vm.nics[0].mac, security_groups="")
    direct = Vm(vm.name, [nic], id=vm.id, dhcp=False)

    with running(vdsm, direct):
        assert ours(host) == {name(vm, "tap")}


def test_a_vm_whose_second_nic_is_refused_leaves_nothing_of_its_first(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm()
    taken = Nic.openstack("OPEN_VSWITCH", str(uuid.uuid4()), new_mac())
    vm.nics.append(taken)
    host.ip(f"link add qbr{taken.vnic_id[:11]} type bridge")
    try:
        with pytest.raises(HookError):
            vdsm.create_vm(vm)
        vdsm.destroy_vm(vm)
        left = ours(host)
    finally:
        host.ip(f"link del qbr{taken.vnic_id[:11]}")

    assert left == {f"qbr{taken.vnic_id[:11]}"}


def test_two_filtered_nics_of_one_vm_are_plugged(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm()
    vm.nics.append(Nic.openstack("OPEN_VSWITCH", str(uuid.uuid4()), new_mac()))
    with running(vdsm, vm):
        taps = {tap for tap in ours(host) if tap.startswith("tap")}

        assert taps == {nic.tap for nic in vm.nics}


def test_a_vnic_that_a_running_vm_has_is_refused_to_another(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm()
    other = Vm("vm-other", list(vm.nics), dhcp=False)
    with running(vdsm, vm):
        before = ours(host)
        with pytest.raises(HookError) as refused:
            vdsm.create_vm(other)
        vdsm.destroy_vm(other)

        assert f"already that of VM {vm.id}, which runs" in refused.value.stderr
        assert ours(host) == before


def test_the_late_end_of_one_vm_takes_nothing_from_the_next_that_has_its_vnic(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    first = a_vm()
    vdsm.create_vm(first)
    first.running.destroy()
    second = Vm("vm-second", list(first.nics), dhcp=False)
    nic = first.nics[0]
    hook = ("before_device_create", nic.xml().encode())
    vdsm.hooks.run(*hook, vm_id=second.id, device_custom=nic.custom)
    before = ours(host)

    vdsm.destroy_vm(first)

    kept = ours(host)
    vdsm.destroy_vm(second)
    assert kept == before and before


@pytest.mark.parametrize("plugin", ["OPEN_VSWITCH", "LINUX_BRIDGE"])
def test_a_change_of_the_link_leaves_a_nic_on_its_own_bridge(
    vdsm: Vdsm, host: Hypervisor, plugin: str
) -> None:
    vm = a_vm(plugin)
    with running(vdsm, vm):
        before = ours(host)
        vdsm.update_nic(vm, vm.nics[0], link_up=False)
        vdsm.update_nic(vm, vm.nics[0], link_up=True)
        on_bridge = set(host.output(f"ls /sys/class/net/{name(vm, 'qbr')}/brif").split())

        assert ours(host) == before
        assert on_bridge & {name(vm, "tap"), name(vm, "qtp")}


def test_a_plug_after_a_power_cut_does_not_come_up_in_its_old_vlan(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm()
    vdsm.create_vm(vm)
    wire(host, name(vm, "qvo"))
    vm.running.destroy()
    # What a power cut leaves: the row, and no device.
    host.ip(f"link del {name(vm, 'qvb')}", f"link del {name(vm, 'qbr')}")

    vdsm.create_vm(vm)

    port = host.ovs.port(name(vm, "qvo"))
    vdsm.destroy_vm(vm)
    assert (port["tag"], port["trunks"]) == ([], 4095)


def test_a_nic_is_hot_plugged_on_a_hybrid_bridge_and_taken_out(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm()
    extra = Nic.openstack("OPEN_VSWITCH", str(uuid.uuid4()), new_mac())
    with running(vdsm, vm):
        before = ours(host)
        vdsm.hotplug(vm, extra)
        plugged = ours(host) - before
        vdsm.hotunplug(vm, extra)

        assert plugged == {p + extra.vnic_id[:11] for p in ("tap", "qbr", "qvb", "qvo")}
        assert ours(host) == before


def test_a_hot_plug_that_libvirt_refuses_leaves_nothing(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm()
    wrong = Nic.openstack("OPEN_VSWITCH", str(uuid.uuid4()), new_mac(), model="no such model")
    with running(vdsm, vm):
        before = ours(host)
        with pytest.raises(Exception, match="Model name"):
            vdsm.hotplug(vm, wrong)

        assert ours(host) == before


def test_a_bridge_that_a_guest_uses_is_not_taken_from_under_it(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm()
    with running(vdsm, vm):
        before = ours(host)
        xml = vdsm.live_xml(vm, vm.nics[0])
        custom = vm.nics[0].custom
        vdsm.hooks.run("after_device_destroy", xml, vm_id=vm.id, device_custom=custom)
        run = vdsm.runs[-1]

        assert run.status == 1 and "still on the bridge" in run.stderr
        assert ours(host) == before


def test_an_agent_killed_in_the_middle_of_a_plug_is_made_good_by_the_next_one(
    vdsm: Vdsm, host: Hypervisor, product: Product
) -> None:
    vm = a_vm()
    # The plug stands still where it waits for ovs-vswitchd to take the port up.
    host.ovs.vswitchd.suspend()
    failures: list[BaseException] = []

    def plug() -> None:
        try:
            vdsm.create_vm(vm)
        except HookError as error:
            failures.append(error)

    plugging = threading.Thread(target=plug)
    plugging.start()
    try:
        wait_until(lambda: host.ovs.port(name(vm, "qvo")), 10, "the port in the middle of the plug")
        product.kill()
        plugging.join()
    finally:
        host.ovs.vswitchd.resume()
    half_made = ours(host)
    product.start()

    with running(vdsm, vm):
        whole = ours(host)
        interface = host.ovs.interface(name(vm, "qvo"))

    assert "vif-agent does not answer" in str(failures[0])
    assert half_made == {name(vm, prefix) for prefix in ("qbr", "qvb", "qvo")}
    assert whole == half_made | {name(vm, "tap")}
    assert interface["ofport"] > 0


def test_a_plug_that_fails_late_leaves_nothing(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm()
    host.ovs.vswitchd.suspend()
    try:
        with pytest.raises(HookError) as failed:
            vdsm.create_vm(vm)
    finally:
        host.ovs.vswitchd.resume()

    assert "ovs-vswitchd did not take port" in failed.value.stderr
    wait_until(lambda: not ours(host), 30, "nothing left")


@pytest.mark.parametrize("prefix", ["qbr", "qvb", "qvo", "tap"])
def test_a_device_of_somebody_else_is_left_to_him(
    vdsm: Vdsm, host: Hypervisor, prefix: str
) -> None:
    vm = a_vm()
    host.ip(f"link add {name(vm, prefix)} type bridge")
    try:
        with pytest.raises(HookError) as refused:
            vdsm.create_vm(vm)
        kept = ours(host)
    finally:
        host.ip(f"link del {name(vm, prefix)}")

    assert name(vm, prefix) in refused.value.stderr
    assert kept == {name(vm, prefix)}


def test_a_port_of_somebody_else_is_left_to_him(vdsm: Vdsm, host: Hypervisor) -> None:
    vm = a_vm()
    host.vsctl("--no-wait", "add-port", "br-int", name(vm, "qvo"))
    try:
        with pytest.raises(HookError) as refused:
            vdsm.create_vm(vm)
        kept = ours(host)
    finally:
        host.vsctl("del-port", name(vm, "qvo"))

    assert "not made for this vNIC" in refused.value.stderr
    assert kept == {name(vm, "qvo")}
