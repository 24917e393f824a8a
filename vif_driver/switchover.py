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


@dataclasses.dataclass(frozen=True)
class Change:
    """What to change of a port; None removes a key."""

    options: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    external_ids: Mapping[str, str | None] = dataclasses.field(default_factory=dict)


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
    options: Mapping[str, str],
    external_ids: Mapping[str, str],
    *,
    vm_id: str,
    source: str | None,
    destination: str,
    strategy: str,
) -> Change | None:
    """Let the destination bind the port in addition to the source.

    Args:
        options: of the port.
        external_ids: of the port.
        vm_id: the VM.
        source: the chassis that has the port by the southbound database; None if none has.
        destination: the chassis that is to have it.
        strategy: what the destination waits for before it takes part, such as ``rarp``.

    Returns:
        None if there is nobody to take turns with.
    """
    note = note_of(external_ids)
    if note is not None and note.destination != destination:
        # Of a move that has just ended northd may have told the southbound database nothing yet.
        ended = options.get(REQUESTED) == note.ours[REQUESTED] == note.destination
        source = note.destination if ended else source
    if source is None or source == destination:
        return None
    current = {key: options.get(key) for key in (REQUESTED, STRATEGY)}
    if note is not None:
        # Of a migration whose end nobody has seen: what was before that one counts.
        current = {key: _before(note, key, value) for key, value in current.items()}
    ours = {REQUESTED: f"{source},{destination}", STRATEGY: strategy}
    fresh = Note(vm_id, source, destination, before=current, ours=ours)
    return Change(ours, {NOTE: fresh.encode()})


def switch(
    options: Mapping[str, str], external_ids: Mapping[str, str], *, destination: str
) -> Change | None:
    """Have the destination alone bind the port: the guest runs there.

    Returns:
        None if no migration to there is noted.
    """
    note = note_of(external_ids)
    if note is None or note.destination != destination:
        return None
    ours = {REQUESTED: destination, STRATEGY: note.before[STRATEGY]}
    changes = {key: value for key, value in ours.items() if options.get(key) == note.ours[key]}
    switched = dataclasses.replace(note, ours={**note.ours, **changes})
    return Change(changes, {NOTE: switched.encode()})


def finish(
    options: Mapping[str, str], external_ids: Mapping[str, str], *, destination: str
) -> Change | None:
    """Leave nothing of ours in the port: the source has let go of it.

    Where the provider says which host may bind the port, it goes on saying so: the destination.

    Returns:
        None if no migration to there is noted.
    """
    note = note_of(external_ids)
    if note is None or note.destination != destination:
        return None
    changes: dict[str, str | None] = {}
    if options.get(REQUESTED) == note.ours[REQUESTED] and note.before[REQUESTED] is None:
        changes[REQUESTED] = None
    if options.get(STRATEGY) == note.ours[STRATEGY]:
        changes[STRATEGY] = note.before[STRATEGY]
    return Change(changes, {NOTE: None})


def undo(
    options: Mapping[str, str],
    external_ids: Mapping[str, str],
    *,
    vm_id: str,
    source: str | None = None,
    destination: str | None = None,
) -> Change | None:
    """Put everything back: the guest has stayed where it was.

    Args:
        options: of the port.
        external_ids: of the port.
        vm_id: the VM.
        source: the chassis where it has stayed, if that is who undoes it.
        destination: the chassis where it has not come, if that is.

    Returns:
        None if no such migration is noted.  A later one, from the destination to another host or
        back, is none.
    """
    note = note_of(external_ids)
    if (
        note is None
        or note.vm_id != vm_id
        or source not in (None, note.source)
        or destination not in (None, note.destination)
    ):
        return None
    changes = {
        key: note.before[key] for key in (REQUESTED, STRATEGY) if options.get(key) == note.ours[key]
    }
    return Change(changes, {NOTE: None})


def _before(note: Note, key: str, current: str | None) -> str | None:
    """Give an option as it was before a migration, unless somebody has written it since."""
    return note.before[key] if current == note.ours[key] else current
