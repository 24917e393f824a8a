# SPDX-License-Identifier: GPL-2.0-or-later
"""Running domains, as libvirt knows them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

import libvirt
from lxml import etree

from vif_driver.errors import Unavailable

log = logging.getLogger(__name__)

URI = "qemu:///system"

#: Seconds for an answer.
TIMEOUT = 5.0


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
    domain_xml = await _in_thread(lambda: _domain_xml(vm_id))
    if domain_xml is None:
        return None
    for interface in etree.fromstring(domain_xml).iterfind("devices/interface"):
        address = interface.find("mac")
        if address is not None and (address.get("address") or "").lower() == mac:
            interface.tail = None
            element: bytes = etree.tostring(interface, encoding="UTF-8")
            return element
    return None


async def _in_thread(call: Callable[[], str | None]) -> str | None:
    """Make a blocking call of libvirt's; a daemon that hangs must not hold up the process's end."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[str | None] = loop.create_future()

    def finish(result: str | None, error: Exception | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)

    def run() -> None:
        arguments: tuple[str | None, Exception | None]
        try:
            arguments = (call(), None)
        except Exception as error:
            arguments = (None, error)
        with contextlib.suppress(RuntimeError):  # nobody waits any more, the loop is closed
            loop.call_soon_threadsafe(finish, *arguments)

    threading.Thread(target=run, name="libvirt", daemon=True).start()
    try:
        return await asyncio.wait_for(outcome, TIMEOUT)
    except asyncio.TimeoutError:
        raise Unavailable(
            f"libvirt does not answer within {TIMEOUT:g} s", "restart libvirtd"
        ) from None


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
