# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811, pytest finds fixtures by their names
"""vifctl doctor: hosts of OVN's with one thing broken after the other, and healed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.harness.certificates import give
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.hypervisor import PHYSICAL_BRIDGE, Hypervisor
from tests.lab.harness.lab import Lab
from tests.lab.harness.product import Product
from tests.lab.harness.vdsm import Vm
from tests.lab.vifctl import PORT, TAP, bad, broken, product, vifctl, vm  # noqa: F401
from tests.unit.southbound_server import Authority
from vif_driver.host.certificates import FOLDER

HOOKS = "/usr/libexec/vdsm/hooks"


@dataclass(frozen=True)
class Breakage:
    """A way to break a host.

    Attributes:
        check: the finding that must name it.
        words: what it must say.
        break_it: breaks it.
        heal: makes it well again.
    """

    check: str
    words: str
    break_it: Callable[[Hypervisor], object]
    heal: Callable[[Hypervisor], object]


def set_external_id(key: str, value: str) -> Callable[[Hypervisor], object]:
    return lambda host: host.vsctl("set", "Open_vSwitch", ".", f"external_ids:{key}={value}")


def restore(key: str) -> Callable[[Hypervisor], object]:
    return lambda host: set_external_id(key, host.external_ids[key])(host)


def shell(command: str) -> Callable[[Hypervisor], object]:
    return lambda host: host.run(command)


def unsecure(host: Hypervisor) -> None:
    host.ovn_controller.suspend()
    host.vsctl("del-fail-mode", "br-int")


BREAKAGES = {
    "ovn-controller stopped": Breakage(
        "ovn-controller",
        "does not run",
        lambda host: host.ovn_controller.stop(),
        lambda host: host.ovn_controller.start(),
    ),
    "ovn-controller hangs": Breakage(
        "ovn-controller",
        "does not answer",
        lambda host: host.ovn_controller.suspend(),
        lambda host: host.ovn_controller.resume(),
    ),
    "encap ip of another host": Breakage(
        "ovn-encap",
        "192.0.2.99 is no address of this host",
        set_external_id("ovn-encap-ip", "192.0.2.99"),
        restore("ovn-encap-ip"),
    ),
    "encap ip malformed": Breakage(
        "ovn-encap",
        "'192.0.2' is not an IP address",
        set_external_id("ovn-encap-ip", "192.0.2"),
        restore("ovn-encap-ip"),
    ),
    "encap device down": Breakage(
        "ovn-encap",
        f"{PHYSICAL_BRIDGE}, which has ovn-encap-ip 192.0.2.11, is down",
        lambda host: host.ip(f"link set {PHYSICAL_BRIDGE} down"),
        lambda host: host.restore_tunnel_address(),
    ),
    "MTU too small": Breakage(
        "mtu",
        "has room for 1342",
        lambda host: host.ip(f"route replace 192.0.2.12/32 dev {PHYSICAL_BRIDGE} mtu 1400"),
        lambda host: host.ip("route del 192.0.2.12/32"),
    ),
    "integration bridge not secure": Breakage(
        "integration bridge",
        "standalone",
        unsecure,
        # It sets the mode itself.
        lambda host: host.ovn_controller.resume(),
    ),
    "wrong ovn-remote": Breakage(
        "ovn-remote",
        "does not answer on tcp:192.0.2.1:1 (Connection refused)",
        set_external_id("ovn-remote", "tcp:192.0.2.1:1"),
        restore("ovn-remote"),
    ),
    "ovn-remote without brackets": Breakage(
        "ovn-remote",
        "IPv6 address without brackets",
        set_external_id("ovn-remote", '"ssl:2001:db8::1:6642"'),
        restore("ovn-remote"),
    ),
    "hook removed": Breakage(
        "hooks",
        "after_vm_start/50_vif_driver is not there",
        shell(f"mv {HOOKS}/after_vm_start/50_vif_driver /root/"),
        shell(f"mv /root/50_vif_driver {HOOKS}/after_vm_start/"),
    ),
    "hook not executable": Breakage(
        "hooks",
        "before_device_create/50_vif_driver is not executable",
        shell(f"chmod 444 {HOOKS}/before_device_create/50_vif_driver"),
        shell(f"chmod 555 {HOOKS}/before_device_create/50_vif_driver"),
    ),
    "another driver's hook": Breakage(
        "hooks",
        "rewrites the same XML",
        shell(f"install -m 755 /bin/true {HOOKS}/before_device_create/ovirt_provider_ovn_hook"),
        shell(f"rm {HOOKS}/before_device_create/ovirt_provider_ovn_hook"),
    ),
    "libvirt stopped": Breakage(
        "libvirt",
        "libvirt does not",
        lambda host: host.libvirt.stop(),
        lambda host: host.libvirt.start(),
    ),
    "socket of somebody else": Breakage(
        "agent's socket",
        "does not belong to vdsm",
        shell("chown root /run/vif-driver/agent.sock"),
        shell("chown vdsm /run/vif-driver/agent.sock"),
    ),
    "two ports with one id": Breakage(
        "vnics",
        f"2 vNICs have the id {PORT}",
        shell(
            f"ovs-vsctl --no-wait add-port br-int again -- set Interface again type=internal"
            f" external_ids:iface-id={PORT} external_ids:vm-id=none"
            " external_ids:attached-mac=fa:16:3e:00:00:01"
        ),
        shell("ovs-vsctl del-port again"),
    ),
    "a port without a device": Breakage(
        "rows",
        "have no device: tapffffffff-ff",
        shell(
            "ovs-vsctl --no-wait add-port br-int tapffffffff-ff -- set Interface tapffffffff-ff"
            " external_ids:iface-id=ffffffff-ffff-4fff-8fff-ffffffffffff external_ids:vm-id=none"
            " external_ids:attached-mac=fa:16:3e:00:00:01"
        ),
        shell("ovs-vsctl --if-exists del-port tapffffffff-ff"),
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_the_doctor_names_what_is_broken_and_sees_it_healed(
    host: Hypervisor, vm: Vm, breakage: Breakage
) -> None:
    breakage.break_it(host)
    with broken(lambda: breakage.heal(host)):
        answer = vifctl(host, "doctor")
    wait_until(lambda: vifctl(host, "doctor").status == 0, 60, "a healthy host")

    details = [
        check["detail"]
        for check in answer.json["checks"]
        if check["name"] == breakage.check and check["state"] in ("bad", "warning", "unknown")
    ]
    assert any(breakage.words in detail for detail in details), answer.json


def test_the_doctor_names_a_stopped_agent(host: Hypervisor, product: Product, vm: Vm) -> None:
    product.stop()
    with broken(product.start):
        stopped, listed = vifctl(host, "doctor"), vifctl(host, "list")

    assert (stopped.status, bad(stopped)) == (1, {"agent": "vif-agent does not run"})
    assert (listed.status, listed.json["vnics"][0]["ready"]) == (0, True)


def test_the_doctor_names_a_host_with_the_same_tunnel_address(
    lab: Lab, host: Hypervisor, vm: Vm
) -> None:
    with broken(lambda: wait_until(lambda: vifctl(host, "doctor").status == 0, 60, "health")):
        host.ovn_controller.stop()
        lab.central.sbctl("chassis-del", host.name)
        lab.central.sbctl("chassis-add", "former", "geneve", host.tunnel_address)
        host.ovn_controller.start()
        answer = vifctl(host, "doctor")
        lab.central.sbctl("chassis-del", "former")

    assert answer.status == 1
    assert f"the chassis former () has this host's tunnel address {host.tunnel_address}" in (
        answer.text("southbound chassis")
    )


def test_the_doctor_names_a_host_of_the_same_name(lab: Lab, host: Hypervisor, vm: Vm) -> None:
    with broken(lambda: wait_until(lambda: vifctl(host, "doctor").status == 0, 60, "health")):
        host.ovn_controller.suspend()
        host.vsctl("set", "Open_vSwitch", ".", "external_ids:system-id=hv2")
        answer = vifctl(host, "doctor")
        host.vsctl("set", "Open_vSwitch", ".", "external_ids:system-id=hv1")
        host.ovn_controller.resume()

    assert "the chassis hv2 is registered by hv2, and this host is hv1" in (
        answer.text("southbound chassis")
    )


def test_the_doctor_names_an_integration_bridge_that_is_gone(host: Hypervisor, vm: Vm) -> None:
    # ovn-controller would make it again at once; another name has the same effect.
    host.write("/etc/vif-driver/vif-driver.conf", "[host]\nintegration_bridge = br-gone\n")
    with broken(lambda: host.run("rm /etc/vif-driver/vif-driver.conf")):
        answer = vifctl(host, "doctor")

    assert "br-gone does not exist" in answer.text("integration bridge")
    assert "ovn-controller uses br-int" in answer.text("integration bridge")


# ---- TLS -----------------------------------------------------------------------------------------


def test_a_host_that_reaches_ovn_by_tls(lab: Lab, host: Hypervisor, vm: Vm) -> None:
    authority = Authority.make(Path(host.path("/root")) / "ca")
    lab.central.listen("sb", authority.sign("central"))
    files = map(str, give(host, authority.sign("hv1")).files)
    host.vsctl("set-ssl", *files)
    set_external_id("ovn-remote", '"ssl:192.0.2.1:6642"')(host)

    def heal() -> None:
        lab.central.listen("sb")
        restore("ovn-remote")(host)
        host.vsctl("del-ssl")
        wait_until(lambda: vifctl(host, "doctor").status == 0, 60, "a healthy host")

    with broken(heal):
        wait_until(lambda: vifctl(host, "doctor").status == 0, 60, "a host that is well by TLS")
        well = vifctl(host, "doctor")
        give(host, authority.sign("soon", days=7))
        late = vifctl(host, "doctor")
        host.path(FOLDER / "ovn-cert.pem").unlink()
        gone = vifctl(host, "doctor")

    assert "ovn-cert.pem, good until" in well.text("certificate")
    assert well.text("ovn-remote") == "ssl:192.0.2.1:6642: it answers, 2 hosts"
    assert (late.status, late.text("certificate")) == (
        0,
        f"{FOLDER}/ovn-cert.pem expires in 6 days",
    )
    assert bad(gone)["certificate"] == f"{FOLDER}/ovn-cert.pem is not there"
