# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices to which root has allowed anything to be done, for some time.

Each is a file in a folder of root's below /run, which no one else can write to: so neither the
agent nor anybody who takes it over can allow anything, and without the agent they hold as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import stat
from pathlib import Path

from vif_driver.errors import HostError
from vif_driver.host.starts import uptime

#: Where they are.
FOLDER = Path("/run/vif-driver/allowed")

#: Seconds; who forgets one is protected again the next day.
LONGEST = 8 * 3600.0

_MAX_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class Allowance:
    """That anything may be done to a device.

    Attributes:
        device: which.
        until: the end, in seconds since the host was booted.
        by: who allowed it.
    """

    device: str
    until: float
    by: str

    @property
    def seconds(self) -> float:
        """How long it still holds."""
        return self.until - uptime()


def is_device(name: str) -> bool:
    """Tell whether a device can be called so (dev_valid_name in the kernel's net/core/dev.c)."""
    return (
        0 < len(os.fsencode(name)) < 16
        and name not in (".", "..")
        and not any(char in "/:" or char.isspace() or not char.isprintable() for char in name)
    )


def all_(folder: Path = FOLDER) -> list[Allowance]:
    """Give those that hold, by their devices' names."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    found = (_read(folder, name) for name in names if is_device(name))
    return [one for one in found if one is not None and 0 < one.seconds <= LONGEST]


def allow(device: str, seconds: float, by: str, folder: Path = FOLDER) -> Allowance:
    """Allow anything to be done to a device, in the place of an earlier allowance.

    Args:
        device: which; :func:`is_device` holds.
        seconds: for how long.
        by: who does so.
        folder: where they are.

    Raises:
        HostError: it can't be noted.
    """
    allowance = Allowance(device, uptime() + min(seconds, LONGEST), by)
    # A name that no device can have.
    unfinished = folder / f":{device}"
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished.write_text(json.dumps({"until": allowance.until, "by": by}), encoding="utf-8")
        unfinished.chmod(0o644)
        unfinished.replace(folder / device)
    except OSError as error:
        raise HostError(
            f"{folder / device} cannot be written ({error.strerror})", "run it as root"
        ) from error
    return allowance


def revoke(device: str, folder: Path = FOLDER) -> bool:
    """End an allowance.

    Returns:
        False if there was none.

    Raises:
        HostError: it can't be ended.
    """
    held = any(one.device == device for one in all_(folder))
    try:
        with contextlib.suppress(FileNotFoundError):
            (folder / device).unlink()
    except OSError as error:
        raise HostError(
            f"{folder / device} cannot be removed ({error.strerror})", "run it as root"
        ) from error
    return held


def _read(folder: Path, name: str) -> Allowance | None:
    try:
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != _OWNER:
                raise OSError(errno.EPERM, "not root's")
            record = json.loads(file.read(_MAX_SIZE))
        return Allowance(name, float(record["until"]), str(record["by"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # in doubt nothing is allowed


# Root, whose the files have to be.
_OWNER = 0
