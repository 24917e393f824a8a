# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host of OVN's is to be like: what was asked for, checked, and the settings it means."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping

from vif_driver.errors import ConfigError, HostError, VifError, one_line
from vif_driver.host.addresses import Ip, is_host_name
from vif_driver.host.certificates import COLUMNS, Credentials
from vif_driver.host.southbound import Encap, Remote, parse_remotes

#: Where the southbound database listens if nothing else is said (ovn-sb(5)).
PORT = 6642

#: Kinds of tunnels that ovn-controller makes (ovn-controller(8), ovn-encap-type).
ENCAPS = ("geneve", "vxlan")

#: What is set where nobody has set anything else: as ovirt-provider-ovn-driver did.  A host that
#: works hard answers late, and is not to be taken for dead.  Milliseconds, and seconds.
PATIENCE = {"ovn-remote-probe-interval": "60000", "ovn-openflow-probe-interval": "60"}

#: All keys of ``external_ids`` that make a host one of OVN's, and are its alone.
KEYS = ("ovn-remote", "ovn-encap-type", "ovn-encap-ip", *PATIENCE)


@dataclasses.dataclass(frozen=True)
class Central:
    """Where a member of the southbound database listens."""

    address: Ip
    port: int = PORT

    def method(self, kind: str) -> str:
        """Give it as a connection method of ovsdb(7), of kind ``ssl`` or ``tcp``."""
        return str(Remote(kind, str(self.address), self.port))


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a host is to be like.

    Attributes:
        centrals: the members of the southbound database.
        tunnel: this host's address for tunnels, or the name of VDSM's network that has it.
        fqdn: what it is to be called; None to leave that alone.
        encaps: kinds of tunnels.
        credentials: with which it speaks TLS; None for plain TCP.
        ipsec: tunnels can be encrypted by IPsec.
        ipsec_may_fail: if that can't be had, all else is to be so nevertheless.
    """

    centrals: tuple[Central, ...]
    tunnel: Ip | str
    fqdn: str | None = None
    encaps: tuple[str, ...] = ("geneve",)
    credentials: Credentials | None = None
    ipsec: bool = False
    ipsec_may_fail: bool = False

    @property
    def remote(self) -> str:
        """The value of ``ovn-remote``."""
        kind = "tcp" if self.credentials is None else "ssl"
        return ",".join(central.method(kind) for central in self.centrals)

    def shares_central(self, remote: str) -> bool:
        """Tell whether a value of ``ovn-remote`` leads to the same database, as far as that shows.

        One member in common will do, and it may listen at another port by now, or speak TLS.
        """
        try:
            there = {_canonical(member.address) for member in parse_remotes(remote)}
        except VifError:
            return False
        return any(str(central.address) in there for central in self.centrals)

    def ends(self, tunnel: Ip) -> set[Encap]:
        """Give what the southbound database is to have of this host's tunnels."""
        return {Encap(kind, str(tunnel)) for kind in self.encaps}

    def external_ids(self, tunnel: Ip, name: str, now: Mapping[str, str]) -> dict[str, str]:
        """Give the settings.

        Args:
            tunnel: this host's address for tunnels.
            name: its chassis' name.
            now: those that there are.

        Raises:
            HostError: one that there is would keep ours from having an effect.
        """
        settings = {
            "ovn-remote": self.remote,
            "ovn-encap-type": ",".join(self.encaps),
            "ovn-encap-ip": str(tunnel),
            # A site's own stay.
            **{key: now.get(key, value) for key, value in PATIENCE.items()},
        }
        for key, value in settings.items():
            if now.get(f"{key}-{name}", value) != value:
                raise HostError(
                    f"external_ids:{key}-{name} of Open vSwitch's database goes before {key}",
                    f"take it away: ovs-vsctl remove Open_vSwitch . external_ids {key}-{name}",
                )
        return settings if self.fqdn is None else {**settings, "system-id": self.fqdn}


def ipsec_keys(credentials: Credentials) -> dict[str, str]:
    """Give the settings in ``other_config`` by which ovs-monitor-ipsec knows its certificate.

    (OVN's tutorial "Encrypt Tunnels with IPsec".)
    """
    return {name: str(path) for name, path in zip(COLUMNS, credentials.files)}


def parse_centrals(text: str) -> tuple[Central, ...]:
    """Read where the southbound database listens: addresses, separated by commas.

    Raises:
        ConfigError: one is none.
    """
    words = [word.strip() for word in text.split(",")]
    return tuple(dict.fromkeys(_parse_central(word) for word in words))


def parse_fqdn(text: str) -> str:
    """Read the name that the host is to have.

    Raises:
        ConfigError: it is none of DNS, and no address, which is the name of a host that was added
            to the engine by it.
    """
    if not is_host_name(text) and not _is_ip(text):
        raise ConfigError(
            f"{one_line(text, 80)!r} is no host name", "give this host's name as the engine has it"
        )
    return text


def parse_encaps(text: str) -> tuple[str, ...]:
    """Read kinds of tunnels, separated by commas.

    Raises:
        ConfigError: there is no such kind.
    """
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if word not in ENCAPS:
            raise ConfigError(
                f"there are no tunnels of kind {one_line(word, 40)!r}",
                f"give {' or '.join(ENCAPS)}, or both with a comma",
            )
    return words


def _parse_central(word: str) -> Central:
    match = re.fullmatch(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?|([^\[\]:]*):([0-9]{1,5})", word)
    text, port = word, str(PORT)
    if match is not None:
        text, port = match[1] or match[3] or "", match[2] or match[4] or port
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(
            f"{one_line(word, 80)!r} is no IP address of OVN's southbound database",
            "give its address, such as 192.0.2.1 or 2001:db8::1, not its name",
        ) from None
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        raise ConfigError(
            f"OVN's southbound database cannot be at {address}", "give an address that routers know"
        )
    if not 0 < int(port) < 65536:
        raise ConfigError(f"there is no port {port}", "give one from 1 to 65535")
    return Central(address, int(port))


def _canonical(address: str) -> str:
    """Give an address as it is usually written; anything else as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _is_ip(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_link_local
    except ValueError:
        return False
