# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl protect``: what external networks stand on, and who may change it nevertheless.

What is allowed is written by this process itself: the folder is root's, so the kernel sees to it
that nobody else does, and it works without the agent as well.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vif_driver import config, journal
from vif_driver.ctl import FINE, WRONG, text
from vif_driver.ctl.look import look, require_root
from vif_driver.errors import HostError, one_line
from vif_driver.inspection.sight import Sight
from vif_driver.protection import allowances
from vif_driver.protection.allowances import Allowance
from vif_driver.protection.foundation import VNIC
from vif_driver.protection.guard import Guard, protected
from vif_driver.protection.known import Known, Protected

_HEADINGS = ("DEVICE", "ALLOWED", "BECAUSE IT")

_COMMAND = "vifctl protect"


def show(*, as_json: bool) -> int:
    """Show what is protected, and what is allowed."""
    require_root(_COMMAND)
    found, blind, enabled = look(_find)
    by_hand = {one.device: one for one in allowances.all_()}
    always = config.load().allowed
    if as_json:
        told = {
            "enabled": enabled,
            "devices": [
                {"device": device, "does": does, **_allowed(device, by_hand, always)}
                for device, does in found.devices.items()
            ],
            "networks": [
                {"network": name, "device": device} for name, device in found.networks.items()
            ],
            "allowed": [
                {"device": one.device, "seconds": round(one.seconds), "by": one.by}
                for one in by_hand.values()
            ],
            "trouble": blind,
            "left_out": [],
        }
        text.print_json(told)
        return FINE if blind is None else WRONG
    rows = [
        (device, _allowed_text(device, by_hand, always), one_line(does))
        for device, does in found.devices.items()
        if not does.startswith(VNIC)
    ]
    rows += [
        (device, _allowed_text(device, by_hand, always), "is not protected")
        for device in sorted({*by_hand, *always} - found.devices.keys())
    ]
    if rows:
        text.print_table([_HEADINGS, *rows])
    else:
        print("no external network stands on anything of this host")
    vnics = sum(does.startswith(VNIC) for does in found.devices.values())
    if vnics:
        print(f"and {vnics} more, of vNICs")
    for name, device in found.networks.items():
        print(one_line(f"VDSM's network {name} is protected with {device}"))
    if blind is not None:
        print(one_line(f"this is how it was last seen: {blind}"))
    if not enabled:
        print("nothing is refused: vif-driver.conf has [protection] enabled = no")
    return FINE if blind is None else WRONG


def allow(devices: Sequence[str], seconds: float, *, as_json: bool) -> int:
    """Allow anything to be done to devices for some time."""
    require_root(_COMMAND)
    who = caller()
    allowed = [allowances.allow(device, seconds, who) for device in devices]
    for one in allowed:
        told = f"anything may be done to {one.device} for {_duration(one.seconds)}, {who} says"
        journal.send("vifctl", told)
    if as_json:
        listed = [{"device": one.device, "seconds": round(one.seconds)} for one in allowed]
        text.print_json({"allowed": listed, "left_out": []})
    else:
        for one in allowed:
            print(f"setupNetworks may do anything to {one.device} for {_duration(one.seconds)}")
            if not Path("/sys/class/net", one.device).exists():
                print(f"vifctl: there is no device {one.device}", file=sys.stderr)
    return FINE


def revoke(devices: Sequence[str], *, as_json: bool) -> int:
    """End what was allowed."""
    require_root(_COMMAND)
    revoked = [device for device in devices if allowances.revoke(device)]
    for device in revoked:
        journal.send("vifctl", f"{device} is protected again, {caller()} says")
    if as_json:
        text.print_json({"revoked": revoked, "left_out": []})
    else:
        for device in devices:
            was = "is protected again" if device in revoked else "was not allowed by vifctl"
            print(f"{device} {was}")
    return FINE if len(revoked) == len(devices) else WRONG


def caller() -> str:
    """Name who runs this command: root, and who became root."""
    login = _login_name()
    return "root" if login in (None, "root") else f"{login} (as root)"


def _login_name() -> str | None:
    # The kernel's word for who logged in, whoever he has become (pam_loginuid(8)).
    try:
        uid = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
        return pwd.getpwuid(uid).pw_name
    except (OSError, ValueError, KeyError, OverflowError):
        name = os.environ.get("SUDO_USER")
        return one_line(name, 32) if name else None


async def _find(sight: Sight) -> tuple[Protected, str | None, bool]:
    guard = Guard(sight.config, sight.host, Known(None))
    enabled = sight.config.protects
    try:
        return protected(await guard.look(), guard.running()), None, enabled
    except HostError as error:
        return guard.known(), str(error), enabled


def _allowed(
    device: str, by_hand: Mapping[str, Allowance], always: frozenset[str]
) -> dict[str, object]:
    one = by_hand.get(device)
    return {"allowed": one is not None or device in always, "by": None if one is None else one.by}


def _allowed_text(device: str, by_hand: Mapping[str, Allowance], always: frozenset[str]) -> str:
    one = by_hand.get(device)
    if one is not None:
        return f"{_duration(one.seconds)} by {one.by}"
    return "always" if device in always else "-"


def _duration(seconds: float) -> str:
    whole = max(1, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    parts = [f"{hours}h"] * bool(hours) + [f"{minutes}m"] * bool(minutes)
    parts += [f"{whole % 60}s"] * bool(whole % 60 or not parts)
    return " ".join(parts)
