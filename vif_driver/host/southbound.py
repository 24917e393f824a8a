# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions to OVN's southbound database: one connection a question, no replica.

A host of oVirt's looks there only when something is wrong; a replica, even a small one, would be
another client for every host on the server that all of them share.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vif_driver.errors import HostError, Unavailable, VifError
from vif_driver.host import certificates, json_rpc, threads
from vif_driver.host.addresses import place
from vif_driver.host.certificates import Credentials

_T = TypeVar("_T")

DATABASE = "OVN_Southbound"

#: Seconds for an answer, all members of a cluster together.
TIMEOUT = 3.0

_INET = re.compile(r"(tcp|ssl):(\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:,\s]+):([0-9]{1,5})")


@dataclasses.dataclass(frozen=True)
class Remote:
    """Where a member of the database listens.

    Attributes:
        kind: ``tcp``, ``ssl`` or ``unix``.
        address: the host's name or address, or the socket's path.
        port: of TCP; 0 for a unix socket.
    """

    kind: str
    address: str
    port: int = 0

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.address}"
        return f"{self.kind}:{place(self.address, self.port)}"


@dataclasses.dataclass(frozen=True)
class Encap:
    """An end of tunnels: its kind, such as ``geneve``, and its address."""

    type: str
    ip: str


@dataclasses.dataclass(frozen=True)
class Chassis:
    """A host as the southbound database knows it.

    Attributes:
        name: its ``system-id``.
        hostname: what it says it is called.
        encaps: where its tunnels end.
    """

    name: str
    hostname: str
    encaps: tuple[Encap, ...] = ()


@dataclasses.dataclass(frozen=True)
class Binding:
    """A logical port.

    Attributes:
        logical_port: its name, the vNIC's id.
        type: empty for a VM's.
        chassis: the name of the host that has it now, or None.
        requested: the hosts that may have it, by name or hostname; none stands for any.
        up: whether that host has it in place; None where OVN is too old to say.
        localnets: the physical networks that its logical switch is joined to.
    """

    logical_port: str
    type: str
    chassis: str | None
    requested: tuple[str, ...]
    up: bool | None
    localnets: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Standing:
    """What a host must know before a logical port moves to it.

    Attributes:
        chassis: the name of the host that has the port now, or None.
        is_registered: whether the other host is known.
        shares_ports: whether this OVN lets two hosts have a port at a time (22.06 and later).
        northd: the version of ovn-northd; None where it doesn't say.
    """

    chassis: str | None
    is_registered: bool
    shares_ports: bool
    northd: tuple[int, ...] | None = None


def parse_remotes(text: str) -> list[Remote]:
    """Take ``ovn-remote`` apart: connection methods of ovsdb(7), separated by commas.

    Raises:
        HostError: it is malformed.
    """
    remotes = []
    for word in (part.strip() for part in text.split(",")):
        inet = _INET.fullmatch(word)
        if word.startswith("unix:") and len(word) > len("unix:"):
            remotes.append(Remote("unix", word.partition(":")[2]))
        elif inet and 0 < int(inet[3]) < 65536:
            remotes.append(Remote(inet[1], inet[2].strip("[]"), int(inet[3])))
        elif word.count(":") > 2 and "[" not in word:
            raise HostError(
                f"ovn-remote {text!r} has an IPv6 address without brackets",
                "write it like ssl:[2001:db8::1]:6642",
            )
        else:
            raise HostError(
                f"ovn-remote {text!r} is malformed",
                "write it like ssl:engine.example.com:6642, several separated by commas",
            )
    return remotes


class Southbound:
    """OVN's southbound database, as ovn-controller of this host is told to reach it.

    Args:
        remote: the value of ``ovn-remote``.
        credentials: for ``ssl``, which does not go without.

    Raises:
        HostError: ``remote`` is malformed.
    """

    def __init__(self, remote: str, credentials: Credentials | None = None) -> None:
        self._remotes = parse_remotes(remote)
        self._credentials = credentials

    async def binding(self, logical_port: str, timeout: float = TIMEOUT) -> Binding | None:
        """Look up a logical port by its name.

        Args:
            logical_port: the name.
            timeout: seconds.

        Raises:
            HostError, Unavailable: no member answers, or it refuses.
        """
        return await self._ask(lambda database: _binding(database, logical_port), timeout)

    async def standing(
        self, logical_port: str, chassis: str, timeout: float = TIMEOUT
    ) -> Standing | None:
        """Tell what a logical port's move to another host depends on; None if there is no port.

        Args:
            logical_port: its name.
            chassis: the name of the other host.
            timeout: seconds.

        Raises:
            HostError, Unavailable: no member answers, or it refuses.
        """
        return await self._ask(lambda database: _standing(database, logical_port, chassis), timeout)

    async def chassis(self, timeout: float = TIMEOUT) -> list[Chassis]:
        """Give every host that is registered.

        Raises:
            HostError, Unavailable: no member answers, or it refuses.
        """
        return await self._ask(_all_chassis, timeout)

    async def _ask(self, question: Callable[[_Database], _T], timeout: float) -> _T:
        try:
            return await threads.run(
                lambda: self._ask_members(question, timeout), timeout + 0.5, "southbound"
            )
        except asyncio.TimeoutError:  # a name that takes long to resolve
            raise Unavailable(
                f"the southbound database does not answer on {self._names} within {timeout:g} s",
                "check ovn-remote, the network and the firewall on the way there",
            ) from None

    def _ask_members(self, question: Callable[[_Database], _T], timeout: float) -> _T:
        """Ask one member of a cluster after the other; any of them can answer."""
        failure: VifError | None = None
        end = time.monotonic() + timeout
        for asked, remote in enumerate(self._remotes):
            left = end - time.monotonic()
            if left <= 0:
                break
            # Whoever hangs leaves their share of the time to the others.
            deadline = time.monotonic() + left / (len(self._remotes) - asked)
            try:
                with self._connect(remote, deadline) as stream:
                    return question(_Database(json_rpc.Connection(stream, deadline)))
            except VifError as error:
                failure = failure or error
            except (OSError, ValueError, json_rpc.Refused) as error:
                failure = failure or _failure(remote, error)
        raise failure or Unavailable(f"{self._names} were not asked in time", "try again")

    def _connect(self, remote: Remote, deadline: float) -> socket.socket:
        timeout = max(0.05, deadline - time.monotonic())
        if remote.kind == "unix":
            stream = socket.socket(socket.AF_UNIX)
            try:
                stream.settimeout(timeout)
                stream.connect(remote.address)
            except BaseException:
                stream.close()
                raise
            return stream
        tls = self._tls(remote) if remote.kind == "ssl" else None
        stream = socket.create_connection((remote.address, remote.port), timeout)
        if tls is None:
            return stream
        stream.settimeout(max(0.05, deadline - time.monotonic()))
        try:
            return tls.wrap_socket(stream)
        except BaseException:
            stream.close()
            raise

    def _tls(self, remote: Remote) -> ssl.SSLContext:
        if self._credentials is None:
            raise certificates.missing(str(remote))
        return certificates.context(self._credentials)

    @property
    def _names(self) -> str:
        return ", ".join(map(str, self._remotes))


def reason(error: Exception) -> str:
    """Say in few words why a connection failed."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _failure(remote: Remote, error: Exception) -> VifError:
    """Say what is wrong with a member, in words that lead to the remedy."""
    server = f"the southbound database on {remote}"
    refusal = certificates.refusal(server, error)
    if refusal is not None:
        return refusal
    hung_up = isinstance(error, (ssl.SSLEOFError, ConnectionError))
    if remote.kind == "ssl" and hung_up and not isinstance(error, ConnectionRefusedError):
        # Of the server's word and the end of the connection either may come first.
        return certificates.refused(server, "it hangs up")
    if isinstance(error, json_rpc.Refused):
        return HostError(f"{server} refuses ({error})", "see its log")
    if isinstance(error, PermissionError):
        return Unavailable(f"this user may not connect to {remote}", "run as root")
    why = "no answer in time" if isinstance(error, socket.timeout) else reason(error)
    return Unavailable(
        f"the southbound database does not answer on {remote} ({why})",
        "check ovn-remote, the network and the firewall on the way there, and that it runs",
    )


class _Database:
    """The database over one connection."""

    def __init__(self, connection: json_rpc.Connection) -> None:
        self._connection = connection

    def select(self, table: str, *where: list[Any], columns: tuple[str, ...] = ()) -> list[Any]:
        """Give the rows that meet conditions, with all columns if none are named."""
        operation: dict[str, Any] = {"op": "select", "table": table, "where": list(where)}
        if columns:
            operation["columns"] = list(columns)
        (answer,) = self._connection.call("transact", [DATABASE, operation])
        if "error" in answer:
            raise json_rpc.Refused(f"{answer['error']}: {answer.get('details', '')}")
        rows: list[Any] = answer["rows"]
        return rows


def _binding(database: _Database, logical_port: str) -> Binding | None:
    # All columns: which there are depends on the version of OVN.
    rows = database.select("Port_Binding", ["logical_port", "==", logical_port])
    if not rows:
        return None
    row = rows[0]
    options = _map(row.get("options"))
    chassis = _chassis_of(database, row)
    same_switch = (["datapath", "==", row["datapath"]], ["type", "==", "localnet"])
    localnets = database.select("Port_Binding", *same_switch, columns=("options",))
    names = (_map(other["options"]).get("network_name", "") for other in localnets)
    up = _set(row.get("up"))
    return Binding(
        logical_port=logical_port,
        type=row.get("type", ""),
        chassis=chassis,
        requested=tuple(_words_of(options.get("requested-chassis", ""))),
        up=bool(up[0]) if up else None,
        localnets=tuple(sorted(name for name in names if name)),
    )


def _chassis_of(database: _Database, binding: Mapping[str, Any]) -> str | None:
    for reference in _set(binding.get("chassis")):
        for row in database.select("Chassis", ["_uuid", "==", reference], columns=("name",)):
            return str(row["name"])
    return None


def _standing(database: _Database, logical_port: str, chassis: str) -> Standing | None:
    for row in database.select("Port_Binding", ["logical_port", "==", logical_port]):
        registered = database.select("Chassis", ["name", "==", chassis], columns=("name",))
        return Standing(
            chassis=_chassis_of(database, row),
            is_registered=bool(registered),
            shares_ports="additional_chassis" in row,
            northd=_northd_version(database),
        )
    return None


def _northd_version(database: _Database) -> tuple[int, ...] | None:
    # "23.03.1-20.27.0-70.6": the first is OVN's own (ovn_get_internal_version).
    for row in database.select("SB_Global", columns=("options",)):
        told = _map(row["options"]).get("northd_internal_version", "").partition("-")[0]
        if re.fullmatch(r"\d+(?:\.\d+)+", told):
            return tuple(map(int, told.split(".")))
    return None


def _all_chassis(database: _Database) -> list[Chassis]:
    encaps: dict[str, Encap] = {
        row["_uuid"][1]: Encap(row["type"], row["ip"])
        for row in database.select("Encap", columns=("_uuid", "type", "ip"))
    }
    return [
        Chassis(
            name=row["name"],
            hostname=row["hostname"],
            encaps=tuple(encaps[ref[1]] for ref in _set(row["encaps"]) if ref[1] in encaps),
        )
        for row in database.select("Chassis", columns=("name", "hostname", "encaps"))
    ]


def _set(value: Any) -> list[Any]:
    """Give the elements of a set in OVSDB's notation (RFC 7047, 5.1): one stands for itself."""
    if value is None:
        return []
    if isinstance(value, list) and value[0] == "set":
        return list(value[1])
    return [value]


def _map(value: Any) -> Mapping[str, str]:
    """Give a map in OVSDB's notation."""
    return dict(value[1]) if isinstance(value, list) and value[0] == "map" else {}


def _words_of(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
