# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs that are being started paused, or that arrive, each a small file below /run.

It is all that cannot be read again from Open vSwitch, the kernel or libvirt: libvirt doesn't tell
who wanted a VM paused.  An agent that was killed finds here whom it has to resume; a hook without
the agent, running as VDSM's user, finds here that it has to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

from vif_driver.errors import HostError
from vif_driver.vnic import Plugin, VnicIdentity, is_uuid

log = logging.getLogger(__name__)

#: The agent's files, one a VM, which everybody may read.
FOLDER = Path("/run/vif-driver/starting")

#: Here VDSM's user notes the token of a start whose VM it has resumed without the agent, which it
#: has no right to forget in the agent's place.
RELEASED = Path("/run/vif-driver/released")


def uptime() -> float:
    """Give the seconds since the host was booted, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


#: Seconds within which VDSM has libvirt start a VM, after it has asked about the first vNIC.
START_TIME = 120.0

#: Seconds after which what is known of a start is certainly not of this one: the host may be slow,
#: and a VM whose start was taken for a new one in the middle would stay paused.
FORGOTTEN = 3600.0

#: More than a host can have; each takes a file below /run.
MAX_STARTS = 1024

_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclasses.dataclass(frozen=True)
class Start:
    """A VM between the first of its vNICs and the moment in which it runs.

    Attributes:
        vm_id: the VM.
        vnics: its vNICs of external networks, as far as VDSM has told.
        resume: it is for us to let it run; otherwise somebody else asked for a paused start.
        started: VDSM has said that libvirt has it.
        arrives: it comes from another host by migration.
        seen: libvirt has, or had, the VM that arrives.
        token: tells this start from others of the same VM.
        since: when it began, in seconds since the host was booted.
    """

    vm_id: str
    vnics: tuple[VnicIdentity, ...] = ()
    resume: bool = True
    started: bool = False
    arrives: bool = False
    seen: bool = False
    token: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    since: float = dataclasses.field(default_factory=uptime)

    @property
    def age(self) -> float:
        """For how many seconds it has been under way."""
        return uptime() - self.since

    def has(self, vnic: VnicIdentity) -> bool:
        """Tell whether a vNIC of that id is among them."""
        return any(other.id == vnic.id for other in self.vnics)

    def continues(self, vnic: VnicIdentity) -> bool:
        """Tell whether a vNIC that VDSM asks about belongs to this start, or begins another one.

        VDSM asks about each vNIC once.  A hook asks again if the agent ended before it replied:
        about the last one, then.  Of a start with no other vNIC nothing is lost by beginning anew.
        """
        return not self.has(vnic) or (len(self.vnics) > 1 and self.vnics[-1].id == vnic.id)

    def with_vnic(self, vnic: VnicIdentity) -> Start:
        """Give the same start with one more vNIC, unless it has that already."""
        if self.has(vnic):
            return self
        identity = VnicIdentity(vnic.id, vnic.plugin, self.vm_id)
        return dataclasses.replace(self, vnics=(*self.vnics, identity))


class Starts:
    """The starts under way.

    Nobody but the agent writes the files; it reads them once.

    Args:
        folder: where the files are.
        released: where those are noted that were dealt with without the agent.
    """

    def __init__(self, folder: Path = FOLDER, released: Path = RELEASED) -> None:
        self._folder = folder
        self._released = released
        self._known: dict[str, Start] | None = None

    def get(self, vm_id: str) -> Start | None:
        """Look up the start of a VM; None if there is none that is still to be dealt with."""
        start = self._read(vm_id) if self._known is None else self._known.get(vm_id)
        return None if start is None or self._is_released(start) else start

    def all(self) -> list[Start]:
        """Give every start that is still to be dealt with."""
        return [start for start in self._all().values() if not self._is_released(start)]

    def of_vnic(self, vnic: VnicIdentity) -> list[Start]:
        """Give the starts, of whatever VM, with a vNIC of that id."""
        starts = [start for start in self._all().values() if start.has(vnic)]
        return [start for start in starts if not self._is_released(start)]

    def older_than(self, seconds: float) -> list[Start]:
        """Give the starts that began so long ago."""
        return [start for start in self._all().values() if start.age > seconds]

    def put(self, start: Start) -> None:
        """Remember a start, in the place of an earlier one of that VM.

        Raises:
            HostError: it can't be written.
        """
        path = self._folder / start.vm_id
        unfinished = path.with_name(f".{start.vm_id}")
        try:
            if not self._folder.exists():  # systemd-tmpfiles makes it where the agent is a service
                self._folder.mkdir(exist_ok=True)
                self._folder.chmod(0o755)
            known = self._all()
            if start.vm_id not in known and len(known) >= MAX_STARTS:
                raise OSError(errno.EDQUOT, f"{MAX_STARTS} VMs are being started")
            unfinished.write_bytes(_encode(start))
            # VDSM's user reads it when there is no agent, whatever our umask is.
            unfinished.chmod(0o644)
            unfinished.replace(path)
            known[start.vm_id] = start
        except OSError as error:
            raise HostError(
                f"{path} cannot be written ({error.strerror}), so the VM would not be resumed",
                "see that /run has space left and belongs to whom systemd-tmpfiles gives it",
            ) from error

    def forget(self, vm_id: str) -> None:
        """Forget the start of a VM."""
        self._all().pop(vm_id, None)
        with contextlib.suppress(FileNotFoundError):
            (self._folder / vm_id).unlink()

    def forget_released(self) -> None:
        """Forget the starts that were dealt with without the agent."""
        for start in list(self._all().values()):
            if self._is_released(start):
                self.forget(start.vm_id)

    def release(self, start: Start) -> None:
        """Note, as VDSM's user, that a start was dealt with without the agent.

        Raises:
            HostError: it can't be noted.
        """
        path = self._released / start.token
        try:
            path.touch(mode=0o644)
        except OSError as error:
            raise HostError(
                f"{path} cannot be made ({error.strerror})", "restart vif-agent"
            ) from error

    def _all(self) -> dict[str, Start]:
        if self._known is None:
            try:
                names = sorted(os.listdir(self._folder))
            except FileNotFoundError:
                names = []
            starts = [start for start in map(self._read, names) if start is not None]
            self._known = {start.vm_id: start for start in starts}
        return self._known

    def _read(self, vm_id: str) -> Start | None:
        if not is_uuid(vm_id):  # a row of the database says anything
            return None
        path = self._folder / vm_id
        try:
            return _decode(vm_id, path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is not understood (%r) and disregarded", path, error)
            return None

    def _is_released(self, start: Start) -> bool:
        return os.path.lexists(self._released / start.token)


def _encode(start: Start) -> bytes:
    vnics = [{"id": vnic.id, "plugin": vnic.plugin.value} for vnic in start.vnics]
    return json.dumps(
        {
            "token": start.token,
            "resume": start.resume,
            "started": start.started,
            "arrives": start.arrives,
            "seen": start.seen,
            "since": start.since,
            "vnics": vnics,
        }
    ).encode()


def _decode(vm_id: str, data: bytes) -> Start:
    record: dict[str, Any] = json.loads(data)
    token = record["token"]
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"token {token!r}")
    vnics = []
    for entry in record["vnics"]:
        if not is_uuid(entry["id"]):
            raise ValueError(f"vNIC {entry['id']!r}")
        vnics.append(VnicIdentity(entry["id"], Plugin(entry["plugin"]), vm_id))
    return Start(
        vm_id=vm_id,
        vnics=tuple(vnics),
        resume=record["resume"] is True,
        started=record["started"] is True,
        arrives=record.get("arrives") is True,
        seen=record.get("seen") is True,
        token=token,
        since=float(record["since"]),
    )
