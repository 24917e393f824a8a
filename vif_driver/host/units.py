# SPDX-License-Identifier: GPL-2.0-or-later
"""Units of systemd's: whether they run and start at boot, and how that is changed; for root."""

from __future__ import annotations

import dataclasses
import subprocess

from vif_driver.errors import HostError, Unavailable

# Seconds.  A unit that starts has 90 by default (systemd-system.conf(5), DefaultTimeoutStartSec).
_LOOK, _CHANGE = 10.0, 120.0

_ENABLED = {"enabled": True, "enabled-runtime": True, "disabled": False}


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit as it is.

    Attributes:
        name: such as ``ovn-controller.service``.
        is_there: it is installed.
        is_active: it runs, or is being started.
        is_enabled: it starts at boot; None if that can't be said of it (it is masked, or has no
            [Install] section, so that only another unit starts it).
    """

    name: str
    is_there: bool
    is_active: bool
    is_enabled: bool | None


def look(name: str) -> Unit:
    """Look at a unit.

    Raises:
        Unavailable: systemd does not answer.
    """
    properties = ("LoadState", "ActiveState", "UnitFileState")
    told = _systemctl("show", f"--property={','.join(properties)}", "--", name, timeout=_LOOK)
    if told.returncode:
        raise Unavailable(f"systemd does not tell of {name} ({_why(told)})", "see systemctl status")
    found = dict(line.partition("=")[::2] for line in told.stdout.splitlines())
    return Unit(
        name,
        is_there=found.get("LoadState") not in (None, "not-found", "masked"),
        is_active=found.get("ActiveState") in ("active", "reloading", "activating"),
        is_enabled=_ENABLED.get(found.get("UnitFileState", "")),
    )


def first(*names: str) -> Unit | None:
    """Give the first of some units that is installed; distributions name them differently."""
    return next((unit for unit in map(look, names) if unit.is_there), None)


def restarts(name: str) -> int:
    """Give how often systemd has started a unit again by itself since it was started.

    Raises:
        Unavailable: systemd does not answer.
    """
    told = _systemctl("show", "--property=NRestarts", "--value", "--", name, timeout=_LOOK)
    if told.returncode or not told.stdout.strip().isdigit():
        raise Unavailable(f"systemd does not tell of {name} ({_why(told)})", "see systemctl status")
    return int(told.stdout)


def start(name: str) -> None:
    """Start a unit, and wait for it.

    Raises:
        HostError: it does not start.
    """
    _do("start", name)


def stop(name: str) -> None:
    """Stop a unit, and wait for it; see :func:`start`."""
    _do("stop", name)


def restart(name: str) -> None:
    """Stop and start a unit; see :func:`start`."""
    _do("restart", name)


def enable(name: str) -> None:
    """Have a unit start at boot; see :func:`start`."""
    _do("enable", name)


def disable(name: str) -> None:
    """Have a unit not start at boot; see :func:`start`."""
    _do("disable", name)


def _do(verb: str, name: str) -> None:
    # One that has failed too often would be refused the start that somebody asks for by hand.
    if verb in ("start", "restart"):
        _systemctl("reset-failed", "--", name, timeout=_LOOK)
    done = _systemctl(verb, "--", name, timeout=_CHANGE)
    if done.returncode:
        raise HostError(
            f"systemctl {verb} {name} fails ({_why(done)})",
            f"see systemctl status {name} and journalctl -u {name}",
        )


def _systemctl(verb: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            ["systemctl", "--no-ask-password", verb, *arguments],  # noqa: S607
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            # Ctrl+C is for who called us, and decides what becomes of it.
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(
            f"systemctl {verb} does not work ({error})", "see journalctl -b for why"
        ) from error


def _why(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[0].strip() if lines else f"exit status {done.returncode}"
