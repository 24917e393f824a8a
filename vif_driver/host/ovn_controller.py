# SPDX-License-Identifier: GPL-2.0-or-later
"""ovn-controller on this host: whether it runs, and what it says of itself."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import connections, json_rpc, processes, threads
from vif_driver.host.addresses import Ip
from vif_driver.host.southbound import Remote, parse_remotes

NAME = "ovn-controller"

#: Where OVN's packages have it write its pid file; the control socket is beside it.
FOLDERS = (Path("/run/ovn"), Path("/var/run/ovn"))

#: The chassis' name, where the file is there (ovn-controller(8), system-id-override).
SYSTEM_ID_OVERRIDE = Path("/etc/ovn/system-id-override")

#: Seconds for an answer; it is one from memory, between two rounds of work.
TIMEOUT = 1.0


@dataclasses.dataclass(frozen=True)
class Controller:
    """An ovn-controller that runs.

    Attributes:
        pid: its process id.
        socket: the path of its control socket, or None if it is not where packages put it.
    """

    pid: int
    socket: Path | None

    async def connected(self, timeout: float = TIMEOUT) -> bool:
        """Tell whether it is connected to the southbound database.

        Raises:
            HostError: it does not answer.
            Unavailable: this process may not ask it.
        """
        return await self._ask("connection-status", timeout) == "connected"

    async def version(self, timeout: float = TIMEOUT) -> str | None:
        """Give its version, such as ``23.03.1``; None if what it says is not understood.

        Raises:
            HostError: it does not answer.
            Unavailable: this process may not ask it.
        """
        found = re.search(r"\b(\d+(?:\.\d+)+)", await self._ask("version", timeout))
        return None if found is None else found[1]

    async def _ask(self, command: str, timeout: float) -> str:
        if self.socket is None:
            raise Unavailable(
                "the control socket of ovn-controller is not in /run/ovn", "ask it by ovn-appctl"
            )
        path = str(self.socket)
        try:
            answer = await threads.run(
                lambda: json_rpc.ask_unix(path, command, [], timeout), timeout + 0.5, NAME
            )
        except PermissionError as error:
            raise Unavailable("only root may ask ovn-controller", "run vifctl as root") from error
        except (OSError, ValueError, json_rpc.Refused, asyncio.TimeoutError) as error:
            why = str(error) or f"no answer within {timeout:g} s"
            raise HostError(
                f"ovn-controller does not answer on {path} ({why})",
                "see ovn-controller.log; restart it: systemctl restart ovn-controller",
            ) from error
        return str(answer).strip()


def find(folders: tuple[Path, ...] = FOLDERS) -> Controller | None:
    """Find the ovn-controller that runs; None if none does."""
    for folder in folders:
        try:
            process = int((folder / f"{NAME}.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if processes.runs(process, NAME):
            return Controller(process, folder / f"{NAME}.{process}.ctl")
    other = processes.find(NAME)
    return None if other is None else Controller(other, None)


def seems_connected(remote: str) -> bool | None:
    """Tell whether it is connected to the southbound database, by what everybody may see.

    To ask it is root's.  Seen are its process and the kernel's connections: one that stands, to a
    member of the database, of a process of its user that isn't this one.

    Args:
        remote: the value of ``ovn-remote``.

    Returns:
        None if that can't be seen: a database on a unix socket, a malformed ``remote``, or a
        kernel that doesn't tell.
    """
    controller = find()
    uid = None if controller is None else processes.user(controller.pid)
    if uid is None:
        return False
    try:
        members = parse_remotes(remote)
        if any(member.kind == "unix" for member in members):
            return None
        standing = connections.established()
    except HostError:
        return None
    ours = connections.own_sockets()
    return any(
        found.uid == uid
        and found.inode not in ours
        and any(_is_at(member, found.address, found.port) for member in members)
        for found in standing
    )


def _is_at(member: Remote, address: Ip, port: int) -> bool:
    """Tell whether a member may be what is at an address; one's name is not looked up."""
    try:
        return member.port == port and ipaddress.ip_address(member.address) == address
    except ValueError:
        return member.port == port


async def installed_version() -> tuple[int, ...] | None:
    """Give the version of the ovn-controller that is installed; None if that can't be found out.

    To ask the one that runs is root's.
    """

    def ask() -> str:
        done = subprocess.run(  # noqa: S603
            [NAME, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return done.stdout

    try:
        told = await threads.run(ask, TIMEOUT + 0.5, "version")
    except (OSError, subprocess.SubprocessError, asyncio.TimeoutError):
        return None
    found = re.match(rf"{NAME} (\d+(?:\.\d+)+)", told)
    return None if found is None else tuple(map(int, found[1].split(".")))


def setting(settings: Mapping[str, str], key: str) -> str | None:
    """Give a setting of OVN's: one for this chassis' name goes first (ovn-controller(8)).

    Args:
        settings: ``external_ids`` of the host in Open vSwitch's database.
        key: such as ``ovn-remote``.
    """
    own = settings.get(f"{key}-{chassis_name(settings.get('system-id'))}")
    return own if own is not None else settings.get(key)


def chassis_name(configured: str | None, override: Path = SYSTEM_ID_OVERRIDE) -> str | None:
    """Give the name under which ovn-controller registers this host.

    Args:
        configured: ``external_ids:system-id`` of Open vSwitch's database.
        override: the file that goes before it.
    """
    try:
        named = override.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        named = ""
    return named or configured
