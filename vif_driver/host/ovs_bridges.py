# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges of Open vSwitch's and their uplinks, made and removed by ovs-vsctl(8); for root.

It does each in one transaction and waits until ovs-vswitchd has done it, too.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from typing import Any

from vif_driver.errors import HostError, Unavailable
from vif_driver.host.ovsdb_once import connect
from vif_driver.host.ovsdb_rows import references

# Seconds for ovs-vswitchd, and for a look.
_CHANGE, _LOOK = 30, 10.0


@dataclasses.dataclass(frozen=True)
class Bridge:
    """A bridge.

    Attributes:
        fail_mode: ``secure`` or ``standalone``; None where it isn't set.
        datapath_type: ``system``, ``netdev`` or nothing, which is ``system``.
        external_ids: its own.
        ports: the names of its ports, without that of the bridge itself.
    """

    fail_mode: str | None = None
    datapath_type: str = ""
    external_ids: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ports: tuple[str, ...] = ()


def look() -> dict[str, Bridge]:
    """Give the bridges by their names.

    Raises:
        Unavailable: Open vSwitch's database does not answer.
    """
    columns = ("name", "fail_mode", "datapath_type", "external_ids", "ports")
    with connect(_LOOK) as database:
        tables = database.select({"Bridge": columns, "Port": ("name",)})
    ports = {uuid: row["name"] for uuid, row in tables["Port"].items()}
    return {row["name"]: _bridge(row, ports) for row in tables["Bridge"].values()}


def add(name: str, bridge: Bridge) -> None:
    """Make a bridge, or see that one that is there is so; its ports aren't made.

    Raises:
        HostError: Open vSwitch did not.
    """
    # Quoted: to ovs-vsctl a colon or a comma would mean something, and others have set these.
    columns = [f"datapath_type={json.dumps(bridge.datapath_type)}"] * bool(bridge.datapath_type)
    columns += [
        f"external_ids:{json.dumps(key)}={json.dumps(value)}"
        for key, value in bridge.external_ids.items()
    ]
    if bridge.fail_mode is not None:
        columns.append(f"fail_mode={bridge.fail_mode}")
    setting = ["--", "set", "Bridge", name, *columns] if columns else []
    _vsctl("--may-exist", "add-br", name, *setting)


def remove(name: str) -> None:
    """Remove a bridge with its ports, if it is there.

    Raises:
        HostError: Open vSwitch did not.
    """
    _vsctl("--if-exists", "del-br", name)


def add_uplink(bridge: str, device: str) -> None:
    """Make a device a port of a bridge, if it isn't.

    Raises:
        HostError: Open vSwitch did not.
    """
    _vsctl("--may-exist", "add-port", bridge, device)


def remove_uplink(bridge: str, device: str) -> None:
    """Take a device out of a bridge, if it is in it.

    Raises:
        HostError: Open vSwitch did not.
    """
    _vsctl("--if-exists", "del-port", bridge, device)


def _vsctl(*arguments: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603
            ["ovs-vsctl", f"--timeout={_CHANGE}", "--", *arguments],  # noqa: S607
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise Unavailable(
            f"ovs-vsctl does not work ({error.strerror})", "install Open vSwitch"
        ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = lines[-1] if lines else f"it has not done so within {_CHANGE} s"
        raise HostError(
            f"ovs-vsctl {' '.join(arguments[:2])} fails ({why})", "see ovs-vswitchd.log"
        )


def _bridge(row: Mapping[str, Any], ports: Mapping[str, str]) -> Bridge:
    names = (ports.get(uuid) for uuid in references(row["ports"]))
    return Bridge(
        # OVSDB has a set of one as what is in it.
        fail_mode=row["fail_mode"] if isinstance(row["fail_mode"], str) else None,
        datapath_type=row["datapath_type"],
        external_ids=row["external_ids"],
        ports=tuple(sorted(name for name in names if name and name != row["name"])),
    )
