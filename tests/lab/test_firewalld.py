# SPDX-License-Identifier: GPL-2.0-or-later
"""Tunnels and a real firewalld, on a host with a kernel and a datapath as users' hosts have them.

The other host is an ordinary one of the lab: what matters is what comes in on the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import new_mac
from tests.lab.harness.deadline import wait_until
from tests.lab.harness.firewall import Firewall
from tests.lab.harness.hypervisor import Hypervisor
from tests.lab.harness.kernel_host import KernelHost
from tests.lab.harness.lab import Lab
from tests.lab.harness.pings import Probe, add_probe
from tests.lab.harness.product import install_on

SERVICES = "/usr/lib/firewalld/services"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A host with a kernel of its own, and one without; and OVN."""
    with Lab(hypervisors=0) as lab:
        lab.add_hypervisor("hv1", KernelHost)
        lab.add_hypervisor("hv2", Hypervisor)
        lab.start()
        yield lab


@pytest.fixture(scope="module")
def host(lab: Lab) -> Hypervisor:
    """The host with the firewall, on which the product is installed."""
    install_on(lab.hosts[0])
    return lab.hosts[0]


@pytest.fixture(scope="module")
def probes(lab: Lab, host: Hypervisor) -> list[Probe]:
    """One on each host, on one network; they reach each other through a Geneve tunnel."""
    network = lab.central.add_network("net1", "10.0.0.0/24")
    made = []
    for each in lab.hosts:
        port = lab.central.add_port(network, f"probe-{each.name}", new_mac())
        address, row = f"{port.address}/24", f"external_ids:iface-id={port.name}"
        made.append(add_probe(each, f"probe-{each.name}", port.mac, address, Interface=row))
        lab.central.wait_up(port.name)
    wait_until(lambda: made[1].reaches(address_of(made[0])), 30, "the tunnel")
    return made


@pytest.fixture(scope="module")
def firewall(host: Hypervisor, probes: list[Probe]) -> Firewall:
    """The firewall of the first host, from now on; nothing but ssh and DHCP is open."""
    firewall = Firewall(host)
    firewall.start()
    return firewall


def address_of(probe: Probe) -> str:
    shown = probe.host.output(f"ip -n {probe.name} -4 -o addr show dev eth0")
    return shown.split()[3].partition("/")[0]


def use(lab: Lab, kind: str) -> None:
    """Have OVN make its tunnels of a kind."""
    for host in lab.hosts:
        host.vsctl("set", "Open_vSwitch", ".", f"external_ids:ovn-encap-type={kind}")
    for host in lab.hosts:
        wait_until(lambda: host.ovs.rows("Interface", f"type={kind}"), 60, f"a {kind} tunnel")  # noqa: B023


# In this order: of the first, the connection stays known to the kernel.
@pytest.mark.parametrize("kind", ["geneve", "vxlan"])
def test_a_tunnel_passes_when_its_service_is_enabled(
    lab: Lab, probes: list[Probe], firewall: Firewall, kind: str
) -> None:
    inner, outer = probes
    use(lab, kind)
    assert not outer.reaches(address_of(inner), timeout=2)

    firewall.command(f"--add-service=vif-driver-{kind}")

    wait_until(lambda: outer.reaches(address_of(inner)), 60, f"passage for {kind}")


def test_firewalld_has_no_services_of_these_names_itself() -> None:
    own = {path.stem for path in Path(SERVICES).glob("*.xml")}

    assert "ipsec" in own  # which is for tunnels with IPsec
    assert not [
        name for name in own if name.startswith("vif-driver") or name in ("geneve", "vxlan")
    ]
