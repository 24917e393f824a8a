# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""How vNICs of Neutron with Linux bridge are plugged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.nic import DUMMY_BRIDGE, Nic
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
)
from tests.lab.neutron_vnics import a_vm, name, ours, vdsm  # noqa: F401


def test_the_device_for_the_linux_bridge_agent_is_on_no_bridge_and_down(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm("LINUX_BRIDGE")
    with running(vdsm, vm):
        tap = name(vm, "tap")

        assert not host.exists(f"/sys/class/net/{tap}/master")
        assert not int(attribute(host, f"{tap}/flags"), 16) & 1
        assert attribute(host, f"{tap}/mtu") == "1442"


def test_a_device_that_an_agent_took_and_that_was_left_behind_is_made_anew(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm("LINUX_BRIDGE")
    vdsm.create_vm(vm)
    host.ip("link add brq-old type bridge", f"link set {name(vm, 'tap')} master brq-old up")
    vm.running.destroy()

    vdsm.create_vm(vm)

    enslaved = host.exists(f"/sys/class/net/{name(vm, 'tap')}/master")
    vdsm.destroy_vm(vm)
    host.ip("link del brq-old")
    assert not enslaved


@pytest.mark.usefixtures("filtered_in_openvswitch")
def test_a_plug_by_another_plugin_does_not_touch_the_port_of_a_running_vm(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    vm = a_vm()
    same = Nic.openstack("LINUX_BRIDGE", vm.nics[0].vnic_id, vm.nics[0].mac)
    with running(vdsm, vm):
        before = ours(host)
        with pytest.raises(HookError) as refused:
            vdsm.create_vm(Vm("vm-other", [same], dhcp=False))

        assert f"a device {name(vm, 'tap')} exists already" in refused.value.stderr
        assert ours(host) == before
        assert host.ovs.port(name(vm, "tap"))


def test_guests_reach_each_other_once_the_agent_has_taken_their_devices(
    vdsm: Vdsm, host: Hypervisor
) -> None:
    first, second = a_vm("LINUX_BRIDGE"), a_vm("LINUX_BRIDGE")
    with running(vdsm, first, second) as (_, target):
        alone = not first.running.reaches(target, timeout=2)
        host.ip("link add brq-test type bridge", "link set brq-test up")
        for vm in (first, second):
            host.ip(f"link set {name(vm, 'tap')} master brq-test up")
        together = first.running.reaches(target)
        host.ip("link del brq-test")

    assert alone and together


def test_where_the_dummy_bridge_is_asked_for_the_tap_is_taken_off_it(
    vdsm: Vdsm, host: Hypervisor, configured: Callable[[str], None]
) -> None:
    configured("[neutron]\nlinux_bridge_plug = dummy_bridge\n")
    host.run(["ip", "link", "add", DUMMY_BRIDGE, "type", "bridge"])
    vm = a_vm("LINUX_BRIDGE")
    try:
        with running(vdsm, vm):
            tap = name(vm, "tap")
            assert ours(host) == {tap}
            assert not host.exists(f"/sys/class/net/{tap}/master")
    finally:
        host.run(["ip", "link", "del", DUMMY_BRIDGE])
