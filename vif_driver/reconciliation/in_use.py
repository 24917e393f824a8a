# SPDX-License-Identifier: GPL-2.0-or-later
"""What libvirt's VMs use."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lxml import etree

from vif_driver.errors import Unavailable

if TYPE_CHECKING:
    from vif_driver.host import Host
    from vif_driver.host.domains import Domain


@dataclasses.dataclass(frozen=True)
class InUse:
    """What the VMs of this host use, whatever they do: run, stand still, or just arrive.

    Attributes:
        domains: the VMs.
        vms: their ids.
        devices: the taps and bridges that their XML names.
    """

    domains: tuple[Domain, ...]
    vms: frozenset[str]
    devices: frozenset[str]


async def ask(host: Host, vm_id: str | None = None) -> InUse:
    """Ask libvirt.

    Args:
        host: what this process may use.
        vm_id: ask about no other VM than this.

    Raises:
        HostError, Unavailable: it does not answer, and so nothing is known to be unused.
    """
    if host.domains is None:
        raise Unavailable("libvirt was not asked", "run vifctl as root")
    if vm_id is None:
        domains = await host.domains.all()
    else:
        domain = await host.domains.get(vm_id)
        domains = [] if domain is None else [domain]
    devices = {name for domain in domains for name in _devices(domain.xml)}
    return InUse(tuple(domains), frozenset(domain.id for domain in domains), frozenset(devices))


def _devices(xml: bytes) -> set[str]:
    interfaces = etree.fromstring(xml).find("devices")
    names: set[str | None] = set()
    if interfaces is not None:
        names.update(target.get("dev") for target in interfaces.iterfind("interface/target"))
        names.update(source.get("bridge") for source in interfaces.iterfind("interface/source"))
    return {name for name in names if name}
