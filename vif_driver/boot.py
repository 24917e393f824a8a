# SPDX-License-Identifier: GPL-2.0-or-later
"""The boot pass: once per boot, before ovs-vswitchd, remove what VMs of an earlier boot left.

ovs-vswitchd, ovn-controller and libvirt start after it, so nothing can be captured by a row that
it is going to remove.  Whatever goes wrong is logged, and the host boots all the same.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vif_driver import config, journal, stale
from vif_driver.errors import VifError
from vif_driver.host import kernel
from vif_driver.host.ovsdb_once import OvsdbOnce, connect, reference
from vif_driver.journal import about

log = logging.getLogger(__name__)

#: Seconds for everything: the network waits for it.
TIMEOUT = 20.0

#: In ``external_ids`` of the host's row: the boot in which the pass was made.
BOOT_KEY = "vif-driver-boot-id"

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# Of a port all that libvirt and we set, and so all that is needed to put it back.
_COLUMNS = {
    "Open_vSwitch": ("external_ids",),
    "Bridge": ("name", "ports"),
    "Port": (
        "name",
        "interfaces",
        "external_ids",
        "other_config",
        "tag",
        "trunks",
        "vlan_mode",
        "qos",
    ),
    "Interface": ("name", "type", "options", "external_ids", "other_config", "mtu_request"),
    "QoS": ("type", "queues", "external_ids", "other_config"),
    "Queue": ("dscp", "external_ids", "other_config"),
}

_Tables = Mapping[str, Mapping[str, Mapping[str, Any]]]


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
    tables = database.select(_COLUMNS)
    if not tables["Open_vSwitch"]:
        log.info("a database that nothing was written to yet")
        return 0
    ((root, host),) = tables["Open_vSwitch"].items()
    if host["external_ids"].get(BOOT_KEY) == boot_id:
        log.info("the pass was made in this boot already")
        return 0
    ports = stale.left_behind(_ports(tables), bridge, kernel.has_device)
    gone = {port.uuid for port in ports}
    orphans = _orphans(tables, gone)
    for port in ports:
        extra = about(vm=port.vm_id, row=port.whole())
        log.info("removing %s, of an earlier boot", port, extra=extra)
    for table, uuid in orphans:
        extra = about(row={table: tables[table][uuid]})
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
        if _references(port.port["qos"])
    ]
    operations += [
        {"op": "delete", "table": table, "where": [["_uuid", "==", reference(uuid)]]}
        for table, uuid in orphans
    ]
    database.transact(operations)
    told = "%d ports and %d rows of QoS of an earlier boot removed"
    log.info(told, len(ports), len(orphans))
    return len(ports)


def _ports(tables: _Tables) -> Iterator[stale.Port]:
    for bridge in tables["Bridge"].values():
        for uuid in _references(bridge["ports"]):
            port = tables["Port"][uuid]
            parts = _references(port["interfaces"])
            if len(parts) == 1:  # a bond is no VM's
                yield stale.Port(uuid, bridge["name"], port, tables["Interface"][parts[0]])


def _orphans(tables: _Tables, gone: set[str]) -> list[tuple[str, str]]:
    """Give table and uuid of the rows of QoS that nothing uses once the ports are gone."""
    ports = (row for uuid, row in tables["Port"].items() if uuid not in gone)
    qos = stale.orphans(tables["QoS"], (used for row in ports for used in _references(row["qos"])))
    kept = (row for uuid, row in tables["QoS"].items() if uuid not in qos)
    used_queues = (queue[1] for row in kept for queue in row["queues"].values())
    queues = stale.orphans(tables["Queue"], used_queues)
    return [("QoS", uuid) for uuid in qos] + [("Queue", uuid) for uuid in queues]


def _references(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


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
