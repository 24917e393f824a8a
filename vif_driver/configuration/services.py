# SPDX-License-Identifier: GPL-2.0-or-later
"""A service of the host: that it runs, and starts at boot."""

from __future__ import annotations

from collections.abc import Sequence

from vif_driver.configuration.change import Before, Change, Fact
from vif_driver.errors import HostError
from vif_driver.host import units

#: Open vSwitch's names on EL, and on Debian.
OPEN_VSWITCH = ("openvswitch.service", "openvswitch-switch.service")


class ServiceState(Change):
    """A unit of systemd's runs, or starts at boot, or does not.

    Args:
        name: of the unit, with its suffix.
        active: whether it is to run; None if that is to stay.
        enabled: whether it is to start at boot; None if that is to stay.  A unit of which that
            can't be said is left alone.
        keeps_running: it is not stopped again: others may use it by then.
    """

    kind = "service"

    def __init__(
        self,
        name: str,
        *,
        active: bool | None = None,
        enabled: bool | None = None,
        keeps_running: bool = False,
    ) -> None:
        self._name = name
        self._active = active
        self._enabled = enabled
        self._keeps_running = keeps_running

    def facts(self) -> Sequence[Fact]:
        """See :class:`Change`."""
        unit = units.look(self._name)
        if not unit.is_there:
            if self._active or self._enabled:
                raise HostError(
                    f"this host has no {self._name}",
                    f"install what it is part of; if it is masked: systemctl unmask {self._name}",
                )
            return []
        found = []
        if self._enabled is not None and unit.is_enabled is not None:
            what = "starts" if self._enabled else "does not start"
            found.append(Fact(f"{self._name} {what} at boot", unit.is_enabled == self._enabled))
        if self._active is not None:
            what = "runs" if self._active else "does not run"
            found.append(Fact(f"{self._name} {what}", unit.is_active == self._active))
        return found

    def before(self) -> Before:
        """See :class:`Change`."""
        unit = units.look(self._name)
        return {
            "name": self._name,
            "active": None if self._active is None or self._keeps_running else unit.is_active,
            "enabled": None if self._enabled is None else unit.is_enabled,
        }

    def make(self) -> None:
        """See :class:`Change`."""
        _bring(self._name, self._active, self._enabled)

    @classmethod
    def take_back(cls, before: Before) -> str | None:
        """See :class:`Change`."""
        _bring(before["name"], before["active"], before["enabled"])
        return None


class Restart(Change):
    """A service that runs is started anew, to read the files that were changed.

    If they are taken back it is started anew once more, after all of them.  So it is made last,
    but noted first, by :meth:`Transaction.note <.transaction.Transaction.note>`.

    Args:
        name: of the unit, with its suffix.
    """

    kind = "restart"

    def __init__(self, name: str) -> None:
        self._name = name

    def facts(self) -> Sequence[Fact]:
        """See :class:`Change`; who makes one has something to restart for."""
        return [Fact(f"{self._name} was restarted", False)]

    def before(self) -> Before:
        """See :class:`Change`."""
        return {"name": self._name, "active": units.look(self._name).is_active}

    def make(self) -> None:
        """See :class:`Change`."""
        units.restart(self._name)

    @classmethod
    def take_back(cls, before: Before) -> str | None:
        """See :class:`Change`."""
        return None

    @classmethod
    def settle(cls, before: Before) -> None:
        """See :class:`Change`."""
        if before["active"]:
            units.restart(before["name"])


def _bring(name: str, active: bool | None, enabled: bool | None) -> None:
    """Bring a unit to a state; None stands for that it has."""
    unit = units.look(name)
    if not unit.is_there:
        return
    if enabled is not None and unit.is_enabled is not None and unit.is_enabled != enabled:
        (units.enable if enabled else units.disable)(name)
    if active is not None and unit.is_active != active:
        (units.start if active else units.stop)(name)
