# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine and its tools are told of this host's external networks; docs/capabilities.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from vif_driver import __version__
from vif_driver.host.ovn_controller import chassis_name, setting
from vif_driver.inspection.vnics import ExternalVnic
from vif_driver.tunnels import words
from vif_driver.vnic import Plugin

#: Another number when a key is removed or means something else; a new key leaves it as it is.
SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What is known of the host.

    Attributes:
        settings: ``external_ids`` of the host in Open vSwitch's database; None where that does
            not answer, or there is none.
        bridge: the name of the integration bridge.
        bridge_exists: whether it is there; None if that is not known.
        controller_connected: whether ovn-controller is connected to the southbound database; None
            if that is not known, or this host is none of OVN's.
        vnics: the external vNICs.
    """

    settings: Mapping[str, str] | None
    bridge: str
    bridge_exists: bool | None
    controller_connected: bool | None
    vnics: Iterable[ExternalVnic]


def compose(known: Capabilities) -> dict[str, Any]:
    """Put into JSON's types what our key of the capabilities has."""
    settings = known.settings or {}
    kinds = setting(settings, "ovn-encap-type")
    addresses = setting(settings, "ovn-encap-ip")
    return {
        "schema": SCHEMA,
        "version": __version__,
        "chassis": _chassis(settings),
        "encapsulation": {"types": words(kinds), "addresses": words(addresses)},
        "integration_bridge": {"name": known.bridge, "exists": known.bridge_exists},
        "ovn_controller_connected": known.controller_connected,
        "vnics": [_vnic(vnic) for vnic in known.vnics],
    }


def binding_ids(settings: Mapping[str, str] | None) -> dict[str, str]:
    """Give the name of this host at each kind of provider, as far as it has one.

    The engine hands it to the provider as ``binding:host_id``.
    """
    if settings is None:
        return {}
    neutron = settings.get("odl_os_hostconfig_hostid") or settings.get("hostname")
    names = {
        Plugin.OVIRT_PROVIDER_OVN: _chassis(settings),
        Plugin.OPEN_VSWITCH: neutron,
        Plugin.OPENSTACK_OVN: neutron,
    }
    return {plugin.value: name for plugin, name in names.items() if name}


def _chassis(settings: Mapping[str, str]) -> str | None:
    # Without a database there is no ovn-controller, whatever name a file has for it.
    return chassis_name(settings.get("system-id")) if settings else None


def _vnic(vnic: ExternalVnic) -> dict[str, Any]:
    return {
        "vm_id": vnic.identity.vm_id,
        "vnic_id": vnic.id,
        "mac": vnic.mac,
        "attachment": vnic.attachment,
        "ready": vnic.ready,
    }
