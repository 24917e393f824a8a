# SPDX-License-Identifier: GPL-2.0-or-later
"""Where OpenStack's message queue is, as ``[DEFAULT] transport_url`` says it.

The form is oslo.messaging's: ``rabbit://user:password@host:port,user:password@host:port/virtual``,
with everything but letters, digits and ``-._~`` of its parts percent-encoded; so no ``$``, which
oslo.config would replace, and no quote is in it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from vif_driver.errors import ConfigError, one_line
from vif_driver.host.addresses import is_host_name, place

#: RabbitMQ's.
PORT = 5672

# Bytes; more is no password but a wrong file.
_LONGEST = 1024


@dataclasses.dataclass(frozen=True)
class MessageQueue:
    """What an agent has to know of it.

    Attributes:
        hosts: names or addresses, and ports.
        user: None to use RabbitMQ's own default.
        password: of that user; never shown.
        virtual_host: an empty text is RabbitMQ's default.
    """

    hosts: Sequence[tuple[str, int]]
    user: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    virtual_host: str = ""

    def __post_init__(self) -> None:
        """See that oslo.messaging can use it.

        Raises:
            ConfigError: it can't.
        """
        for text, what in ((self.user, "user's name"), (self.password, "password")):
            # It hands the URL on to kombu with all of these quoted anew but for the slash, which
            # ends the host there (_transform_transport_url in its impl_rabbit.py).
            if "/" in (text or ""):
                raise ConfigError(
                    f"the {what} has a slash, which OpenStack's services cannot use in it",
                    "give that user another one at the message queue",
                )

    @property
    def url(self) -> str:
        """The ``transport_url``, a secret."""
        login = ""
        if self.user is not None:
            login = f"{_quoted(self.user)}:{_quoted(self.password or '')}@"
        places = ",".join(f"{login}{place(host, port)}" for host, port in self.hosts)
        return f"rabbit://{places}/{_quoted(self.virtual_host)}"

    def __str__(self) -> str:
        """What may be shown."""
        places = ", ".join(place(host, port) for host, port in self.hosts)
        return places if self.user is None else f"{places} as {one_line(self.user)}"


def parse_host(text: str) -> tuple[str, int]:
    """Understand ``HOST``, ``HOST:PORT``, an IPv6 address, or ``[ADDRESS]:PORT``.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"\[([^\[\]]+)\](?::([0-9]{1,5}))?|([^:\[\]]+)(?::([0-9]{1,5}))?", text)
    host, port = text, None
    if match is not None:
        host, port = match[1] or match[3], match[2] or match[4]
    if match is None or match[1]:
        is_host = _is_ipv6(host)
    else:
        is_host = is_host_name(host) and not _is_wrong_ipv4(host)
    number = PORT if port is None else int(port)
    if not is_host or not 0 < number < 1 << 16:
        raise ConfigError(
            f'"{one_line(text, 80)}" is no host of a message queue',
            "give a name or an address, and a port if it isn't 5672, as in mq.example.com:5672",
        )
    return host, number


def ports(url: str) -> frozenset[int]:
    """Give the ports of a ``transport_url``'s hosts; none if it isn't RabbitMQ's."""
    match = re.fullmatch(r"rabbit://([^/?#]*)(?:[/?#].*)?", url)
    places = [] if match is None else [one for one in match[1].split(",") if one]
    found = (re.search(r":([0-9]{1,5})$", one.rpartition("@")[2]) for one in places)
    return frozenset(PORT if port is None else int(port[1]) for port in found)


def read_password(raw: bytes, source: str) -> str:
    """Take a password from what was read: one line.

    Args:
        raw: the bytes, with or without a line end.
        source: where they are from.

    Raises:
        ConfigError: there is none, or more than that.
    """
    remedy = "put the password, and nothing else, into its first line"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{one_line(source)} is no text", remedy) from None
    lines = text.splitlines()
    if len(raw) > _LONGEST or len(lines) != 1 or not lines[0].strip():
        raise ConfigError(f"{one_line(source)} holds no password", remedy)
    if not lines[0].isprintable():
        raise ConfigError(f"the password in {one_line(source)} has control characters", remedy)
    return lines[0]


def read_password_file(path: Path) -> str:
    """Read a password from a file.

    Raises:
        ConfigError: it cannot be read, or holds none.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LONGEST + 1)
    except OSError as error:
        raise ConfigError(
            one_line(f"the password file {path} cannot be read ({error.strerror})"),
            "give another one with --password-file",
        ) from error
    return read_password(raw, str(path))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text


def _is_wrong_ipv4(text: str) -> bool:
    if not re.fullmatch(r"[0-9.]+", text):
        return False
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return True
    return False


def _quoted(text: str) -> str:
    return quote(text, safe="")
