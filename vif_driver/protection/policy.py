# SPDX-License-Identifier: GPL-2.0-or-later
"""Which setupNetworks requests are refused, and in which words."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

from vif_driver.protection.changes import BOND, BRIDGE, Change, Running, What, changes
from vif_driver.protection.foundation import Foundation, How, Purpose
from vif_driver.protection.known import Protected
from vif_driver.protection.request import DYNAMIC, UNKNOWN, Network, SetupRequest

# The devices that a message names with what to do about them; the others are in the journal.
_NAMED = 4

_WHEN_SEEN = "as it was last seen, and what would become of it cannot be told now"

# What a network may do to a device whose addresses it has from then on.
_HANDED_ON = (What.TAKEN, What.SWITCHED, What.TAGGED)

_TO_DO_IT = "to do it deliberately: vifctl protect"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A reason why a request must not pass.

    Attributes:
        device: the protected one, by which the change can be allowed.
        change: what the request would do to it, a clause.
        protected: what it does, as in "carries this host's OVN tunnels".
    """

    device: str
    change: str
    protected: str

    def __str__(self) -> str:
        return f"{self.change}, but {self.device} {self.protected}"


def judge(
    request: SetupRequest,
    running: Running,
    foundation: Foundation,
) -> list[Refusal]:
    """Tell why a request must not pass.

    Args:
        request: what VDSM is to change.
        running: what it has written down of how things are.
        foundation: what external networks stand on.

    Returns:
        One reason a device; none at all if it may.
    """
    if request.restores:
        return []
    asked = list(changes(request, running, foundation.snapshot, foundation.switch))
    found: dict[str, Refusal] = {}
    for device, text in _Judge(foundation, asked).refusals():
        found.setdefault(device, Refusal(device, text, foundation.describe(device)))
    return list(found.values())


def judge_blindly(request: SetupRequest, running: Running, known: Protected) -> list[Refusal]:
    """Tell why a request must not pass while the host cannot be looked at.

    Args:
        request: what VDSM is to change.
        running: what it has written down of how things are.
        known: what was protected when it could be seen.

    Returns:
        One reason for each protected device that it names in what it would change.
    """
    if request.restores:
        return []
    news = SetupRequest(
        {name: one for name, one in request.networks.items() if not running.repeats(one)},
        {name: one for name, one in request.bonds.items() if not running.repeats(one)},
    )
    found: dict[str, Refusal] = {}
    for name, where in news.names.items():
        device = name if name in known.devices else None
        if device is None and name in news.networks:
            device = known.networks.get(name)
        if device is not None:
            does = f"{known.devices.get(device, 'is protected')} {_WHEN_SEEN}"
            found.setdefault(device, Refusal(device, f"{where} would change {name}", does))
    return list(found.values())


def message(refusals: Sequence[Refusal]) -> str:
    """Put reasons into the line that the administrator is shown."""
    more = f", and {len(refusals) - 1} more" if len(refusals) > 1 else ""
    devices = [f"--allow {refusal.device}" for refusal in refusals[:_NAMED]]
    options = " ".join(devices)
    return f"setupNetworks refused: {refusals[0]}{more}; {_TO_DO_IT} {options} --for 10m"


class _Judge:
    def __init__(self, foundation: Foundation, asked: Sequence[Change]) -> None:
        self._foundation = foundation
        self._asked = asked

    def refusals(self) -> Iterator[tuple[str, str]]:
        """Give devices and what would be done to them, some more than once."""
        lost: dict[tuple[str | None, str], Change] = {}
        for change in self._asked:
            for pair in self._cuts(change):
                lost.setdefault(pair, change)
        texts: dict[str, str] = {}
        for (upper, lower), change in lost.items():
            texts.setdefault(lower, change.text)
            if upper is not None and (upper, How.MEMBER) in self._foundation.uppers(lower):
                texts.setdefault(
                    upper, f"{change.text}, so that {upper} would keep none of its members"
                )
        for change in self._asked:
            if change.what is What.NAMED and self._is_taken(change):
                yield change.device, change.text
        broken = self._foundation.broken(lost)
        for blamed in broken.values():
            yield from ((device, texts[device]) for device in blamed)
        # Of what stands on nothing it does not matter how large its packets may be.
        sound = [purpose for purpose in self._foundation.purposes if purpose not in broken]
        for change in self._asked:
            if change.what is What.ADDRESSED:
                yield from self._of_addresses(change, sound)
            elif change.what is What.SIZED:
                yield from self._of_size(change, sound)

    def _cuts(self, change: Change) -> Iterator[tuple[str | None, str]]:
        """Give what a change cuts: a device from the one above it, or from the top."""
        device = change.device
        for upper, how in self._foundation.uppers(device):
            if self._is_cut(change, upper, how):
                yield upper, device

    def _is_cut(self, change: Change, upper: str | None, how: How) -> bool:
        what = change.what
        if upper is None and what in _HANDED_ON and self._is_inherited(change):
            return False
        if what in (What.REMOVED, What.BONDED, What.SWITCHED):
            return True
        if what is What.TAKEN:
            # The kernel gives a VLAN its packets before any bridge sees them.
            return how is not How.VLAN
        if what is What.USED:
            # What becomes of an address on it is told with the addresses.
            is_top = how is How.TOP and not self._foundation.addresses(change.device)
            return is_top or how in (How.PORT, How.MEMBER)
        if what is What.RELEASED:
            return upper == change.upper
        return what is What.TAGGED and change.tag in self._foundation.tags(change.device)

    def _is_inherited(self, change: Change) -> bool:
        """Tell whether a network takes a device over with all that it is at the top for."""
        purposes = [
            purpose
            for purpose in self._foundation.carried(change.device)
            if purpose.device == change.device
        ]
        return change.after is not None and all(
            purpose.address is not None and _keeps(purpose, None, change.after)
            for purpose in purposes
        )

    def _of_addresses(
        self, change: Change, sound: Collection[Purpose]
    ) -> Iterator[tuple[str, str]]:
        for purpose in self._foundation.addresses(change.device):
            if purpose in sound and not _keeps(purpose, change.before, change.after):
                own = f" than {_written(purpose)}" if change.after is not None else ""
                yield change.device, change.text + own

    def _of_size(self, change: Change, sound: Collection[Purpose]) -> Iterator[tuple[str, str]]:
        link = self._foundation.snapshot.devices.get(change.device)
        if link is not None and change.mtu < link.mtu:
            needed = self._foundation.needed_mtu(change.device, sound)
            if change.mtu < needed:
                sizes = f"from {link.mtu} to {change.mtu}, and tunnels need {needed}"
                yield change.device, f"{change.text} {sizes}"

    def _is_taken(self, change: Change) -> bool:
        """Tell whether a name is that of something that is nobody's to use."""
        return self._foundation.own(change.device) is not None or self._is_in_the_way(change)

    def _is_in_the_way(self, change: Change) -> bool:
        """Tell whether something would be made under the name of a protected device."""
        if change.made is None or not self._foundation.carried(change.device):
            return False
        interface = self._foundation.switch.by_name.get(change.device)
        is_vdsm_port = interface is not None and interface.type == "internal"
        # What is of the kind already is not made; if it is somebody else's, its links tell.
        return not (
            (change.made == BRIDGE and self._foundation.snapshot.kind(change.device) == "bridge")
            or (change.made != BOND and is_vdsm_port and change.device not in self._bridges())
        )

    def _bridges(self) -> Collection[str]:
        return self._foundation.switch.by_bridge.keys()


def _keeps(purpose: Purpose, before: Network | None, after: Network | None) -> bool:
    """Tell whether an address at which tunnels begin is there afterwards."""
    address = purpose.address
    if address is None:
        return True
    wanted = "" if after is None else after.address(address.ip.version)
    if wanted == _written(purpose):
        return True
    was = UNKNOWN if before is None else before.address(address.ip.version)
    if was == UNKNOWN:
        # What a device has for some time only, nobody has given it by hand.
        return wanted in DYNAMIC and not address.lasting
    return was == wanted


def _written(purpose: Purpose) -> str:
    address = purpose.address
    return "" if address is None else f"{address.ip}/{address.length}"
