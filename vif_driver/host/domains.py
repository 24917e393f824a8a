# SPDX-License-Identifier: GPL-2.0-or-later
"""Running domains, as libvirt knows them."""

from __future__ import annotations

import asyncio
import logging

import libvirt
from lxml import etree

from vif_driver.errors import Unavailable

log = logging.getLogger(__name__)

URI = "qemu:///system"


async def interface_xml(vm_id: str, mac: str) -> bytes | None:
    """Give the live XML of a domain's interface; libvirt's read-only socket asks for no password.

    Args:
        vm_id: the VM's UUID.
        mac: the interface's MAC address, in lower case.

    Returns:
        The ``<interface>`` element, or None if there is no such domain or interface.

    Raises:
        Unavailable: libvirt does not answer.
    """
    domain_xml = await asyncio.get_running_loop().run_in_executor(None, _domain_xml, vm_id)
    if domain_xml is None:
        return None
    for interface in etree.fromstring(domain_xml).iterfind("devices/interface"):
        address = interface.find("mac")
        if address is not None and (address.get("address") or "").lower() == mac:
            interface.tail = None
            element: bytes = etree.tostring(interface, encoding="UTF-8")
            return element
    return None


def _domain_xml(vm_id: str) -> str | None:
    try:
        connection = libvirt.openReadOnly(URI)
        try:
            text: str = connection.lookupByUUIDString(vm_id).XMLDesc(0)
            return text
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise Unavailable(
            f"libvirt does not tell about VM {vm_id} ({error})",
            "check libvirtd: virsh -r -c qemu:///system list",
        ) from error


def _discard(_context: object, error: object) -> None:
    # What libvirt reports is raised as an exception; by default it is printed as well, and a
    # hook's stderr is what VDSM shows to the user.
    log.debug("libvirt: %s", error)


libvirt.registerErrorHandler(_discard, None)
