# SPDX-License-Identifier: GPL-2.0-or-later
"""What a live migration does to a logical switch port, step by step; pure.

OVN lets a port be bound where ``requested-chassis`` says: on the first host, and on the others in
addition, where ``activation-strategy`` keeps it silent until the guest speaks there (ovn-nb(5),
Logical_Switch_Port options).  What stood there before is kept in the port's ``external_ids``, so
that whoever comes after an agent that died can finish its work or undo it.

Each step is decided by what the port is now.  What somebody else, the provider, wrote meanwhile
into an option of ours wins: it is left alone from then on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from vif_driver.host.northbound_rows import Edit, LogicalSwitchPort
from vif_driver.vnic import Plugin

#: The plugins whose ports are OVN's.
PLUGINS = (Plugin.OVIRT_PROVIDER_OVN, Plugin.OPENSTACK_OVN)

REQUESTED, STRATEGY = "requested-chassis", "activation-strategy"

#: The key of a port's ``external_ids`` under which a migration that is under way is noted.
NOTE = "vif-driver-migration"


# Strategies by the version of OVN that knows them first; they are listed with commas (ovn-nb(5)).
_STRATEGIES = (((25, 9), "rarp,garp,na"), ((0,), "rarp"))


def strategy(*versions: tuple[int, ...] | None) -> str:
    """Give what a destination can wait for; QEMU announces a guest by RARP, the guest by others.

    Args:
        versions: of all parts of OVN that have to know it; None where one is not known.
    """
    oldest = min(version or (0,) for version in versions)
    return next(names for since, names in _STRATEGIES if oldest >= since)


@dataclasses.dataclass(frozen=True)
class Note:
    """A migration that is under way.

    Attributes:
        vm_id: the VM.
        source: the chassis where the VM comes from.
        destination: the chassis where it goes.
        before: the options as they were; None stands for one that was not set.
        ours: the options as we wrote them last.
    """

    vm_id: str
    source: str
    destination: str
    before: Mapping[str, str | None]
    ours: Mapping[str, str | None]

    def encode(self) -> str:
        """Put it into the text that stands in the database."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))


def note_of(external_ids: Mapping[str, str]) -> Note | None:
    """Read the note in a port's ``external_ids``; None if there is none that is understood."""
    try:
        content = json.loads(external_ids[NOTE])
        note = Note(**content)
        texts = (note.vm_id, note.source, note.destination)
        if not all(isinstance(text, str) for text in texts):
            return None
        for options in (note.before, note.ours):
            if set(options) != {REQUESTED, STRATEGY}:
                return None
            if not all(value is None or isinstance(value, str) for value in options.values()):
                return None
    except (KeyError, TypeError, ValueError):
        return None
    return note


def announce(
    port: LogicalSwitchPort,
    *,
    vm_id: str,
    source: str | None,
    destination: str,
    strategy: str,
) -> Edit | None:
    """Let the destination bind the port in addition to the source.

    Args:
        port: as it is now.
        vm_id: the VM.
        source: the chassis that has the port by the southbound database; None if none has.
        destination: the chassis that is to have it.
        strategy: what the destination waits for before it takes part, such as ``rarp``.

    Returns:
        None if there is nobody to take turns with.
    """
    note = note_of(port.external_ids)
    if note is not None and note.destination != destination:
        # Of a move that has just ended northd may have told the southbound database nothing yet,
        # or that host the northbound one.  A VM that comes here is not here, whatever is bound.
        ended = port.options.get(REQUESTED) == note.ours[REQUESTED] == note.destination
        source = note.destination if ended or source in (None, destination) else source
    if source is None or source == destination:
        return None
    current = {key: port.options.get(key) for key in (REQUESTED, STRATEGY)}
    if note is not None:
        # Of a migration whose end nobody has seen: what was before that one counts.
        current = {key: _before(note, key, value) for key, value in current.items()}
    ours = {REQUESTED: f"{source},{destination}", STRATEGY: strategy}
    fresh = Note(vm_id, source, destination, before=current, ours=ours)
    return Edit(ours, {NOTE: fresh.encode()})


def unblock(port: LogicalSwitchPort, *, vm_id: str, source: str) -> Edit | None:
    """Have the destination take part before the guest speaks there: it stands still for the move.

    What is sent to the guest from now on waits for it in front of its new home and is answered as
    soon as it runs on.  The destination that waited for its first word would drop all of that.  If
    the guest goes on where it was, nothing is lost either: the source has the port as before.

    Args:
        port: as it is now.
        vm_id: the VM.
        source: the chassis where it stands still.

    Returns:
        None if no such migration is noted, or nothing is to be waited for.
    """
    note = note_of(port.external_ids)
    if note is None or note.vm_id != vm_id or note.source != source:
        return None
    if note.ours[REQUESTED] == note.destination or note.ours[STRATEGY] is None:
        return None
    if any(port.options.get(key) != value for key, value in note.ours.items()):
        return None  # somebody else's word
    waiting_for_nothing = dataclasses.replace(note, ours={**note.ours, STRATEGY: None})
    return Edit({STRATEGY: None}, {NOTE: waiting_for_nothing.encode()})


def switch(port: LogicalSwitchPort, *, destination: str) -> Edit | None:
    """Have the destination alone bind the port: the guest runs there.

    Returns:
        None if no migration to there is noted.
    """
    note = note_of(port.external_ids)
    if note is None or note.destination != destination:
        return None
    ours = {REQUESTED: destination, STRATEGY: note.before[STRATEGY]}
    changes = {key: value for key, value in ours.items() if port.options.get(key) == note.ours[key]}
    switched = dataclasses.replace(note, ours={**note.ours, **changes})
    return Edit(changes, {NOTE: switched.encode()})


def finish(port: LogicalSwitchPort, *, destination: str) -> Edit | None:
    """Leave nothing of ours in the port: the source has let go of it.

    Where the provider says which host may bind the port, that is the destination from now on.

    Returns:
        None if no migration to there is noted.
    """
    note = note_of(port.external_ids)
    if note is None or note.destination != destination:
        return None
    changes: dict[str, str | None] = {}
    if port.options.get(REQUESTED) == note.ours[REQUESTED]:
        changes[REQUESTED] = None if note.before[REQUESTED] is None else destination
    if port.options.get(STRATEGY) == note.ours[STRATEGY]:
        changes[STRATEGY] = note.before[STRATEGY]
    return Edit(changes, {NOTE: None})


def finish_from_source(port: LogicalSwitchPort, *, vm_id: str, source: str) -> Edit | None:
    """Do what the destination would have done to the end, had it not died: the VM is gone.

    It need not even have switched.  The VM runs there, has run there, or was destroyed where it
    was; whoever starts it again is not to be kept from the port by a host that is dead.

    Args:
        port: as it is now.
        vm_id: the VM.
        source: the chassis where it is gone.

    Returns:
        None if no such migration is noted: the destination has finished it.
    """
    note = note_of(port.external_ids)
    if note is None or note.vm_id != vm_id or note.source != source:
        return None
    return finish(port, destination=note.destination)


def undo(
    port: LogicalSwitchPort,
    *,
    vm_id: str,
    source: str | None = None,
    destination: str | None = None,
) -> Edit | None:
    """Put everything back: the guest has stayed where it was.

    Args:
        port: as it is now.
        vm_id: the VM.
        source: the chassis where it has stayed, if that is who undoes it.
        destination: the chassis where it has not come, if that is.

    Returns:
        None if no such migration is noted.  A later one, from the destination to another host or
        back, is none.
    """
    note = note_of(port.external_ids)
    if (
        note is None
        or note.vm_id != vm_id
        or source not in (None, note.source)
        or destination not in (None, note.destination)
    ):
        return None
    changes = {
        key: note.before[key]
        for key in (REQUESTED, STRATEGY)
        if port.options.get(key) == note.ours[key]
    }
    return Edit(changes, {NOTE: None})


def _before(note: Note, key: str, current: str | None) -> str | None:
    """Give an option as it was before a migration, unless somebody has written it since."""
    return note.before[key] if current == note.ours[key] else current
