# SPDX-License-Identifier: GPL-2.0-or-later
"""The boot pass: once per boot, before ovs-vswitchd, remove what VMs of an earlier boot left.

ovs-vswitchd, ovn-controller and libvirt start after it, so nothing can be captured by a row that
it is going to remove.  Whatever goes wrong is logged, and the host boots all the same.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vif_driver import config, journal, marks, stale
from vif_driver.errors import HostError, Unavailable, VifError
from vif_driver.host import kernel, ovsdb_rows
from vif_driver.host.ovsdb_once import OvsdbOnce, connect
from vif_driver.host.ovsdb_rows import PortRows, Tables, reference, references
from vif_driver.journal import about
from vif_driver.marks import BOOT_KEY, BOOT_REMOVED_KEY, Owner

log = logging.getLogger(__name__)

#: Seconds for everything: the network waits for it.
TIMEOUT = 20.0

# Seconds between two attempts.
_PAUSE = 0.1

_HOST = {"Open_vSwitch": ("external_ids",)}
_PORTS = {"Bridge": ("name", "ports"), **ovsdb_rows.COLUMNS}


class Lost(Unavailable):
    """The database did not say whether it removed anything."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pass; the exit status is 0 whatever comes of it.

    Args:
        arguments: the id of this boot, as systemd has it (``%b``); read from the kernel if none.
    """
    journal.configure("vif-driver-boot")
    # Nothing here is in a cycle; to look for some among ten thousand rows is a tenth of the time.
    gc.disable()
    try:
        settings = config.load()
        given = sys.argv[1:] if arguments is None else arguments
        boot_id = given[0].replace("-", "") if given else kernel.boot_id()
        _make_pass(settings.integration_bridge, boot_id)
    except Lost as error:
        log.error("either all of this was removed or nothing: %s", error)
    except VifError as error:
        log.error("nothing that VMs of an earlier boot left was removed: %s", error)
    except Exception:
        log.exception("what VMs of an earlier boot left may not have been removed")
    finally:
        gc.enable()
    return 0


def _make_pass(bridge: str, boot_id: str) -> None:
    """Make the pass, and again as long as there is time if the database dies in the middle."""
    end = time.monotonic() + TIMEOUT
    died: Unavailable | None = None
    while True:
        try:
            with connect(end - time.monotonic(), is_starting=died is not None) as database:
                try:
                    run(database, bridge, boot_id)
                    return
                except Unavailable as error:
                    if died is None:
                        log.warning("again, as soon as the database answers again: %s", error)
                    # If all was removed after all, the database has it that the pass was made.
                    if not isinstance(died, Lost):
                        died = error
        except Unavailable as error:
            if isinstance(died, Lost):
                raise Lost(error.what, error.remedy) from error
            raise
        # While it is dying it may still let somebody connect, and hang up then.
        if time.monotonic() + _PAUSE >= end:
            raise died
        time.sleep(_PAUSE)


def run(database: OvsdbOnce, bridge: str, boot_id: str) -> int:
    """Make the pass, unless it was made in this boot.

    Args:
        database: Open vSwitch's.
        bridge: the integration bridge.
        boot_id: of this boot.

    Returns:
        How many ports were removed.

    Raises:
        Lost: the database did not answer in the end.
        HostError: it refused, or did not answer; nothing was removed.
    """
    hosts = database.select(_HOST)["Open_vSwitch"]
    if not hosts:
        log.info("a database that nothing was written to yet")
        return 0
    ((root, host),) = hosts.items()
    if host["external_ids"].get(BOOT_KEY) == boot_id:
        log.info("the pass was made in this boot already")
        return 0
    devices = kernel.devices()
    leftovers = _leftovers(devices)
    tables = database.select(_PORTS)
    ports = stale.left_behind(
        ovsdb_rows.ports(tables["Bridge"], tables),
        bridge,
        (devices - leftovers.keys()).__contains__,
    )
    orphans = _orphans(tables, {port.uuid for port in ports})
    noted = _remember(root, boot_id, len(ports) + len(orphans))
    answers = database.begin([noted, *_remove(bridge, ports, orphans)])
    # While the server works, which takes it as long as this.
    for port in ports:
        extra = about(vm=port.vm_id, row=port.record(), row_id=port.uuid)
        log.info("removing %s, of an earlier boot", port, extra=extra)
    for table, uuid in orphans:
        extra = about(row={table: tables[table][uuid]}, row_id=uuid)
        log.info("removing %s %s of a VM, which nothing uses", table, uuid, extra=extra)
    try:
        answers()
    except Unavailable as error:
        raise Lost(error.what, error.remedy) from error
    told = "%d ports and %d rows of QoS of an earlier boot removed"
    log.info(told, len(ports), len(orphans))
    if leftovers:
        _delete(leftovers)
    return len(ports)


def _orphans(tables: Tables, gone: set[str]) -> list[tuple[str, str]]:
    """Give table and uuid of the rows of QoS that nothing uses once the ports are gone."""
    ports = (row for uuid, row in tables["Port"].items() if uuid not in gone)
    used_qos = (used for row in ports for used in references(row["qos"]))
    qos = dict.fromkeys(stale.orphans(tables["QoS"], used_qos))
    kept = (row for uuid, row in tables["QoS"].items() if uuid not in qos)
    used_queues = (queue for row in kept for queue in row["queues"].values())
    queues = stale.orphans(tables["Queue"], used_queues)
    return [("QoS", uuid) for uuid in qos] + [("Queue", uuid) for uuid in queues]


def _remember(root: str, boot_id: str, removed: int) -> dict[str, Any]:
    facts = {BOOT_KEY: boot_id, BOOT_REMOVED_KEY: str(removed)}
    return {
        "op": "mutate",
        "table": "Open_vSwitch",
        "where": [["_uuid", "==", reference(root)]],
        "mutations": [
            ["external_ids", "delete", ["set", list(facts)]],
            ["external_ids", "insert", ["map", [list(fact) for fact in facts.items()]]],
        ],
    }


def _remove(
    bridge: str, ports: Sequence[PortRows], orphans: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    operations: list[dict[str, Any]] = []
    if ports:
        # Off their bridge: the server removes rows that nothing refers to any more.
        gone = ["set", [reference(port.uuid) for port in ports]]
        operations.append(
            {
                "op": "mutate",
                "table": "Bridge",
                "where": [["name", "==", bridge]],
                "mutations": [["ports", "delete", gone]],
            }
        )
    # It looks for references to a row before it does so.
    operations += [
        {
            "op": "update",
            "table": "Port",
            "where": [["_uuid", "==", reference(port.uuid)]],
            "row": {"qos": ["set", []]},
        }
        for port in ports
        if references(port.port["qos"])
    ]
    operations += [
        {"op": "delete", "table": table, "where": [["_uuid", "==", reference(uuid)]]}
        for table, uuid in orphans
    ]
    return operations


def _leftovers(devices: set[str]) -> dict[str, Owner]:
    """Give the devices that we made for vNICs and that no guest's tap is joined to, and whose.

    No device outlives a reboot, so there hardly is one.  But the first pass on a host may be made
    in the middle of a boot, after an agent was killed.

    Args:
        devices: the names of all.
    """
    found = {}
    for stem in marks.stems(devices):
        if kernel.bridge_ports(f"qbr{stem}") <= {f"qvb{stem}"}:
            for name in devices & {prefix + stem for prefix in marks.PREFIXES}:
                owner = marks.owner(name, kernel.group(name), kernel.alias(name))
                if owner is not None:
                    found[name] = owner
    return found


def _delete(leftovers: Mapping[str, Owner]) -> None:
    """Delete devices; one that can't be is logged, and the others go."""
    import asyncio

    from vif_driver.host.links import Links

    async def delete() -> None:
        links = Links()
        try:
            for name, owner in sorted(leftovers.items()):
                extra = about(vnic_id=owner.vnic_id, vm=owner.vm_id)
                log.info("removing device %s, which no guest uses", name, extra=extra)
                try:
                    await links.delete(name)
                except HostError as error:
                    log.error("%s was not removed: %s", name, error, extra=extra)
        finally:
            await links.close()

    asyncio.run(delete())
