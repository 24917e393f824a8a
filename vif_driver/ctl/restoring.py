# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl reconcile --list`` and ``--restore``: what was removed, and how it comes back."""

from __future__ import annotations

import asyncio
import dataclasses

from vif_driver import config
from vif_driver.config import Config
from vif_driver.ctl import FINE, text
from vif_driver.ctl.look import require_root
from vif_driver.errors import HostError, one_line
from vif_driver.host import Host, journal_reader, kernel
from vif_driver.host.domains import Domains
from vif_driver.host.journal_reader import Removal
from vif_driver.host.ovsdb_once import OvsdbOnce, connect
from vif_driver.host.ovsdb_rows import PortRows
from vif_driver.host.starts import Starts
from vif_driver.reconciliation import in_use, restoring
from vif_driver.reconciliation.leftovers import Judge
from vif_driver.reconciliation.restoring import BadRecord, Removed

# Seconds for all that is asked of the database.
_TIMEOUT = 20.0

_HEADINGS = ("TIME", "ID", "WHAT")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What was put back.

    Attributes:
        removed: it, as it is now.
        spared: it was marked so that it is not removed again.
        notes: what is to be said of it.
    """

    removed: Removed
    spared: bool
    notes: tuple[str, ...]


def show(*, as_json: bool) -> int:
    """Show what can be put back."""
    require_root("vifctl reconcile")
    # A row of which there are several lines was not removed at the first attempt.
    latest = {removal.uuid: removal for removal in journal_reader.removals()}
    removals = sorted(latest.values(), key=lambda removal: removal.time)
    if as_json:
        listed = [
            {"time": removal.time.isoformat(), "id": removal.uuid, "what": _what(removal)}
            for removal in removals
        ]
        text.print_json({"removals": listed, "left_out": []})
    elif removals:
        rows = [
            (f"{removal.time:%Y-%m-%d %H:%M:%S}", removal.uuid, _what(removal))
            for removal in removals
        ]
        text.print_table([_HEADINGS, *rows])
    else:
        print("the journal knows of nothing that was removed")
    return FINE


def run(uuid: str, *, as_json: bool) -> int:
    """Put back what had this uuid."""
    require_root("vifctl reconcile")
    settings = config.load()
    removed = _find(uuid)
    with connect(_TIMEOUT) as database:
        restored = restore(database, settings, removed)
    if as_json:
        told = {
            "restored": str(restored.removed),
            "id": uuid,
            "skip_cleanup": restored.spared,
            "notes": list(restored.notes),
            "left_out": [],
        }
        text.print_json(told)
    else:
        print(f"put back: {one_line(str(restored.removed))}")
        for note in restored.notes:
            print(one_line(note))
    return FINE


def restore(database: OvsdbOnce, settings: Config, removed: Removed) -> Restored:
    """Put something back.

    Args:
        database: Open vSwitch's.
        settings: the configuration.
        removed: what is to be put back.

    Raises:
        NameTaken: it is there already.
        HostError, Unavailable: the database refuses or does not answer, or libvirt does not.
    """
    bridge = settings.integration_bridge
    tables = database.select(restoring.NEEDED)
    hindrance = restoring.hindrance(removed, bridge, tables)
    if hindrance is not None:
        raise hindrance
    restored = _as_it_will_stay(removed, settings)
    try:
        database.transact(restoring.operations(restored.removed, tables))
    except HostError:
        # Somebody was faster; what he did is the better reason.
        now = database.select(restoring.NEEDED)
        hindrance = restoring.hindrance(removed, bridge, now)
        if hindrance is None:
            raise
        raise hindrance from None
    return restored


def _find(uuid: str) -> Removed:
    # If there are several lines, the row was not removed at the first attempt.
    found = max(journal_reader.removals(uuid), key=lambda removal: removal.time, default=None)
    if found is None:
        raise HostError(
            f"the journal knows of no removed row {uuid}",
            "vifctl reconcile --list shows those that it knows of",
        )
    return restoring.parse(found.record, found.uuid)


def _what(removal: Removal) -> str:
    try:
        return one_line(str(restoring.parse(removal.record, removal.uuid)))
    except BadRecord as error:
        return one_line(f"cannot be put back: {error.what}")


def _as_it_will_stay(removed: Removed, settings: Config) -> Restored:
    """Give what is to be put back in a form in which the agent leaves it alone."""
    if isinstance(removed, PortRows) and kernel.has_device(removed.name):
        return Restored(removed, False, ())
    judge = asyncio.run(_judge(settings))
    if isinstance(removed, PortRows):
        if judge.why_port_stays(removed) is not None:
            return Restored(removed, False, ())
        note = (
            f"its device is gone and libvirt has no VM {removed.vm_id}: it is marked "
            "skip_cleanup=true, or vif-agent would remove it again; once it may go: "
            f"ovs-vsctl remove Interface {removed.name} external_ids skip_cleanup"
        )
        return Restored(restoring.spared(removed), True, (note,))
    if judge.is_there(removed.vm_id):
        return Restored(removed, False, ())
    note = (
        f"libvirt has no VM {removed.vm_id}: vif-agent removes it again after "
        f"{settings.grace:g} s if nothing uses it by then"
    )
    return Restored(removed, False, (note,))


async def _judge(settings: Config) -> Judge:
    domains = Domains()
    try:
        used = await in_use.ask(Host(domains=domains))
    finally:
        await domains.close()
    return Judge(settings, Starts(), used)
