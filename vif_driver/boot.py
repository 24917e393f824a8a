# SPDX-License-Identifier: GPL-2.0-or-later
"""The boot pass: once per boot, before ovs-vswitchd, remove what VMs of an earlier boot left.

ovs-vswitchd, ovn-controller and libvirt start after it, so nothing can be captured by a row that
it is going to remove.  Whatever goes wrong is logged, and the host boots all the same.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vif_driver import config, journal, stale
from vif_driver.errors import VifError
from vif_driver.host import kernel, ovsdb_rows
from vif_driver.host.ovsdb_once import OvsdbOnce, connect
from vif_driver.host.ovsdb_rows import Tables, reference, references
from vif_driver.journal import about

log = logging.getLogger(__name__)

#: Seconds for everything: the network waits for it.
TIMEOUT = 20.0

#: In ``external_ids`` of the host's row: the boot in which the pass was made.
BOOT_KEY = "vif-driver-boot-id"

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_TABLES = {
    "Open_vSwitch": ("external_ids",),
    "Bridge": ("name", "ports"),
    **ovsdb_rows.COLUMNS,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pass; the exit status is 0 whatever comes of it.

    Args:
        arguments: the id of this boot, as systemd has it (``%b``); read from the kernel if none.
    """
    journal.configure("vif-driver-boot")
    try:
        settings = config.load()
        given = sys.argv[1:] if arguments is None else arguments
        boot_id = given[0] if given else BOOT_ID.read_text(encoding="ascii").strip()
        boot_id = boot_id.replace("-", "")
        with connect(TIMEOUT) as database:
            run(database, settings.integration_bridge, boot_id)
    except VifError as error:
        log.error("what VMs of an earlier boot left was not removed: %s", error)
    except Exception:
        log.exception("what VMs of an earlier boot left was not removed")
    return 0


def run(database: OvsdbOnce, bridge: str, boot_id: str) -> int:
    """Make the pass, unless it was made in this boot.

    Args:
        database: Open vSwitch's.
        bridge: the integration bridge.
        boot_id: of this boot.

    Returns:
        How many ports were removed.

    Raises:
        HostError, Unavailable: the database refused, or did not answer; nothing was removed.
    """
    tables = database.select(_TABLES)
    if not tables["Open_vSwitch"]:
        log.info("a database that nothing was written to yet")
        return 0
    ((root, host),) = tables["Open_vSwitch"].items()
    if host["external_ids"].get(BOOT_KEY) == boot_id:
        log.info("the pass was made in this boot already")
        return 0
    ports = stale.left_behind(ovsdb_rows.ports(tables["Bridge"], tables), bridge, kernel.has_device)
    gone = {port.uuid for port in ports}
    orphans = _orphans(tables, gone)
    for port in ports:
        extra = about(vm=port.vm_id, row=port.record(), row_id=port.uuid)
        log.info("removing %s, of an earlier boot", port, extra=extra)
    for table, uuid in orphans:
        extra = about(row={table: tables[table][uuid]}, row_id=uuid)
        log.info("removing %s %s of a VM, which nothing uses", table, uuid, extra=extra)
    operations = [_remember(root, boot_id)]
    if ports:
        operations.append(_remove(tables["Bridge"], bridge, gone))
    # The server looks for references to a row before it removes the rows that nothing refers to.
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
    database.transact(operations)
    told = "%d ports and %d rows of QoS of an earlier boot removed"
    log.info(told, len(ports), len(orphans))
    return len(ports)


def _orphans(tables: Tables, gone: set[str]) -> list[tuple[str, str]]:
    """Give table and uuid of the rows of QoS that nothing uses once the ports are gone."""
    ports = (row for uuid, row in tables["Port"].items() if uuid not in gone)
    qos = stale.orphans(tables["QoS"], (used for row in ports for used in references(row["qos"])))
    kept = (row for uuid, row in tables["QoS"].items() if uuid not in qos)
    used_queues = (queue for row in kept for queue in row["queues"].values())
    queues = stale.orphans(tables["Queue"], used_queues)
    return [("QoS", uuid) for uuid in qos] + [("Queue", uuid) for uuid in queues]


def _remember(root: str, boot_id: str) -> dict[str, Any]:
    return {
        "op": "mutate",
        "table": "Open_vSwitch",
        "where": [["_uuid", "==", reference(root)]],
        "mutations": [
            ["external_ids", "delete", ["set", [BOOT_KEY]]],
            ["external_ids", "insert", ["map", [[BOOT_KEY, boot_id]]]],
        ],
    }


def _remove(
    bridges: Mapping[str, Mapping[str, Any]], bridge: str, ports: set[str]
) -> dict[str, Any]:
    """Take ports off their bridge; the server removes rows that nothing refers to any more."""
    owner = next(uuid for uuid, row in bridges.items() if row["name"] == bridge)
    return {
        "op": "mutate",
        "table": "Bridge",
        "where": [["_uuid", "==", reference(owner)]],
        "mutations": [["ports", "delete", ["set", [reference(port) for port in sorted(ports)]]]],
    }
