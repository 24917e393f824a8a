# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings in Open vSwitch's database, all of them changed in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vif_driver.configuration.change import Before, Change, Fact
from vif_driver.host import ovs_settings, ovsdb_once
from vif_driver.host.certificates import Credentials
from vif_driver.host.ovs_settings import Settings, Tls

# Seconds for all that is asked of the database, and until it listens after its start.
_TIMEOUT = 20.0


def look() -> Settings:
    """Read the settings.

    Raises:
        HostError, Unavailable: Open vSwitch's database refuses or does not answer.
    """
    with ovsdb_once.connect(_TIMEOUT) as database:
        return ovs_settings.read(database)


class OpenVSwitchSettings(Change):
    """Some settings have certain values.

    Args:
        maps: of each column (``external_ids``, ``other_config``) the keys, and their values; None
            for one that is not to be there.
        tls: the files for connections, or None for none at all; nothing to leave that alone.
    """

    kind = "open-vswitch"

    def __init__(
        self, maps: Mapping[str, Mapping[str, str | None]], tls: Sequence[Tls | None] = ()
    ) -> None:
        self._maps = maps
        self._tls = tls

    def facts(self) -> Sequence[Fact]:
        """See :class:`Change`."""
        now = look()
        found = [
            Fact(_said(key, value), now.maps[column].get(key) == value)
            for column, key, value in _each(self._maps)
        ]
        return found + [Fact(_tls_said(one), _same(now.tls, one)) for one in self._tls]

    def before(self) -> Before:
        """See :class:`Change`."""
        now = look()
        maps: dict[str, dict[str, list[str | None]]] = {}
        for column, key, value in _each(self._maps):
            maps.setdefault(column, {})[key] = [now.maps[column].get(key), value]
        tls = [[_noted(now.tls), _noted(one)] for one in self._tls]
        return {"maps": maps, "tls": tls}

    def make(self) -> None:
        """See :class:`Change`."""
        with ovsdb_once.connect(_TIMEOUT) as database:
            ovs_settings.change(database, self._maps, self._tls)

    @classmethod
    def take_back(cls, before: Before) -> str | None:
        """See :class:`Change`."""
        now = look()
        back: dict[str, dict[str, str | None]] = {}
        left = []
        for column, key, (was, becomes) in _each(before["maps"]):
            value = now.maps[column].get(key)
            if value == becomes != was:
                back.setdefault(column, {})[key] = was
            elif value != was:
                left.append(key)
        tls: list[Tls | None] = []
        for was, becomes in before["tls"]:
            if _noted(now.tls) == becomes != was:
                tls.append(_of_note(was))
            elif _noted(now.tls) != was:
                left.append("ssl")
        with ovsdb_once.connect(_TIMEOUT) as database:
            ovs_settings.change(database, back, tls)
        if not left:
            return None
        return f"{', '.join(left)} of Open vSwitch's database stays as it is: it was changed since"


def _each(maps: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    for column, values in maps.items():
        for key, value in values.items():
            yield column, key, value


def _said(key: str, value: str | None) -> str:
    return f"{key} is not set" if value is None else f"{key} is {value}"


def _tls_said(tls: Tls | None) -> str:
    if tls is None:
        return "Open vSwitch's database names no certificate"
    return f"ovn-controller's certificate is {tls.credentials.certificate}"


def _same(now: Tls | None, wanted: Tls | None) -> bool:
    """Compare the files; it does not matter who has set them."""
    if now is None or wanted is None:
        return now is wanted
    return now.credentials == wanted.credentials


def _noted(tls: Tls | None) -> list[Any] | None:
    return None if tls is None else [*map(str, tls.credentials.files), tls.is_ours]


def _of_note(noted: list[Any] | None) -> Tls | None:
    if noted is None:
        return None
    *files, is_ours = noted
    return Tls(Credentials(*map(Path, files)), is_ours)
