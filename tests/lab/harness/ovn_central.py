# SPDX-License-Identifier: GPL-2.0-or-later
"""The central half of OVN: northbound and southbound database and northd, a machine of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from vif_driver.host.certificates import Credentials

from .certificates import give
from .machine import Machine
from .service import Service

DATABASES = {
    "nb": ("OVN_Northbound", "NB_Global", 6641),
    "sb": ("OVN_Southbound", "SB_Global", 6642),
}
SCHEMAS = {kind: f"/usr/share/ovn/ovn-{kind}.ovsschema" for kind in DATABASES}
LOGS = ("/var/log/ovn",)


@dataclass(frozen=True)
class Network:
    """A logical switch with a subnet, and the DHCP options its ports get.

    Attributes:
        name: of the logical switch.
        subnet: its addresses.
        gateway: address and MAC of the first address of the subnet: DHCP server and, once a
            router is attached, router.
        dhcp_options: uuid of the DHCP_Options row; '' when the network has none.
        mtu: bytes, told by DHCP.
    """

    name: str
    subnet: IPv4Network
    gateway: str
    gateway_mac: str
    dhcp_options: str
    mtu: int


@dataclass(frozen=True)
class LogicalPort:
    """A logical switch port.

    Attributes:
        name: of the port, a UUID: ``vnic_id`` and ``iface-id`` in its other lives.
        mac: its MAC.
        address: its IPv4 address; '' when OVN chooses (``dynamic``) or it has none.
    """

    name: str
    mac: str
    address: str
    network: str = field(default="")


def socket_of(server: Service) -> str:
    """Where a server of a database is reached on its machine."""
    return f"unix:/run/ovn/{server.name}_db.sock"


class Central(Machine):
    """The machine that runs OVN's databases and northd."""

    def prepare_files(self) -> None:
        super().prepare_files()
        for directory in ("/run/ovn", "/var/log/ovn", "/var/lib/ovn"):
            self.make_directory(directory)

    def services(self) -> list[Service]:
        """The daemons, in the order of their start."""
        return [*(server for kind in DATABASES for server in self.servers(kind)), self.northd]

    def servers(self, kind: str) -> list[Service]:
        """The servers of the database ``nb`` or ``sb``."""
        return [self.database(kind)]

    def database(self, kind: str) -> Service:
        """The server of the database ``nb`` or ``sb``, where it is one alone."""
        schema, table, _ = DATABASES[kind]
        return self.server(kind, kind, f"db:{schema},{table},connections")

    def server(self, kind: str, member: str, remote: str) -> Service:
        """A server of a database.

        Args:
            kind: of the database.
            member: what its files are called for.
            remote: where it listens besides its socket.
        """
        schema = DATABASES[kind][0]
        stem = f"/run/ovn/ovn{member}_db"
        argv = [
            "ovsdb-server",
            f"/var/lib/ovn/ovn{member}.db",
            f"--remote=punix:{stem}.sock",
            f"--remote={remote}",
            f"--private-key=db:{schema},SSL,private_key",
            f"--certificate=db:{schema},SSL,certificate",
            f"--ca-cert=db:{schema},SSL,ca_cert",
            f"--unixctl={stem}.ctl",
            f"--pidfile={stem}.pid",
            f"--log-file=/var/log/ovn/ovsdb-server-{member}.log",
            "-vconsole:off",
            "--detach",
            "--no-chdir",
        ]
        log = f"/var/log/ovn/ovsdb-server-{member}"
        name = f"ovn{member}"
        return Service(self, name, argv, pidfile=f"{stem}.pid", detaches=True, log=log)

    @property
    def northd(self) -> Service:
        """The translator between the two databases."""
        argv = [
            "ovn-northd",
            f"--ovnnb-db={self.sockets('nb')}",
            f"--ovnsb-db={self.sockets('sb')}",
            "--unixctl=/run/ovn/ovn-northd.ctl",
            "--pidfile=/run/ovn/ovn-northd.pid",
            "--log-file=/var/log/ovn/ovn-northd.log",
            "-vconsole:off",
            "--detach",
            "--no-chdir",
        ]
        pidfile = "/run/ovn/ovn-northd.pid"
        log = "/var/log/ovn/ovn-northd"
        return Service(self, "ovn-northd", argv, pidfile=pidfile, detaches=True, log=log)

    def start(self) -> None:
        """Boot it if need be, and start databases and northd; returns when they answer."""
        if not self.powered:
            self.boot()
        for kind in DATABASES:
            self.start_database(kind)
        self.northd.start()

    def start_database(self, kind: str) -> None:
        """Start the server of the database ``nb`` or ``sb``, with an empty one if there is none."""
        file = f"/var/lib/ovn/ovn{kind}.db"
        if not self.exists(file):
            self.run(["ovsdb-tool", "create", file, SCHEMAS[kind]])
        self.database(kind).start()
        control = self.nbctl if kind == "nb" else self.sbctl
        control("init")
        self.listen(kind)

    def listen(self, kind: str, credentials: Credentials | None = None) -> None:
        """Have the database ``nb`` or ``sb`` listen for the hosts.

        Args:
            kind: of the database.
            credentials: with TLS, and these; in the clear without.
        """
        control = self.nbctl if kind == "nb" else self.sbctl
        port = DATABASES[kind][2]
        if credentials is None:
            control("set-connection", f"ptcp:{port}:0.0.0.0")
            return
        # A folder for each: of files that change the server might see the one before the other.
        name = f"{credentials.certificate.parent.name}-{credentials.certificate.stem}"
        files = map(str, give(self, credentials, Path("/etc/ovn", name)).files)
        control("set-ssl", *files, "--", "set-connection", f"pssl:{port}:0.0.0.0")

    # ---- control -----------------------------------------------------------------------------

    def sockets(self, kind: str) -> str:
        """Where the database ``nb`` or ``sb`` is reached on this machine, all servers of it."""
        return ",".join(socket_of(server) for server in self.servers(kind))

    def asked(self, kind: str) -> Service:
        """The server of the database ``nb`` or ``sb`` that is asked about it here."""
        return self.database(kind)

    def nbctl(self, *arguments: str, timeout: float = 30.0) -> str:
        """Run ovn-nbctl and return its output."""
        return self._control("ovn-nbctl", "nb", arguments, timeout)

    def sbctl(self, *arguments: str, timeout: float = 30.0) -> str:
        """Run ovn-sbctl and return its output."""
        return self._control("ovn-sbctl", "sb", arguments, timeout)

    def _control(self, tool: str, kind: str, arguments: Sequence[str], timeout: float) -> str:
        database = f"--db={socket_of(self.asked(kind))}"
        limit = f"--timeout={max(1, round(timeout))}"
        return self.output([tool, database, limit, *arguments], timeout=timeout + 5)

    # ---- topology ----------------------------------------------------------------------------

    def add_network(
        self,
        name: str,
        subnet: str,
        *,
        dhcp: bool = True,
        mtu: int = 1442,
        other_config: Mapping[str, str] | None = None,
    ) -> Network:
        """Add a logical switch with a subnet.

        Args:
            name: of the logical switch.
            subnet: like ``10.0.0.0/24``; its first address is the gateway's.
            dhcp: give its ports DHCP options.
            mtu: what DHCP tells; 1442 fits a Geneve tunnel on an underlay of 1500 bytes.
            other_config: more columns for the switch.
        """
        network = IPv4Network(subnet)
        gateway = str(network[1])
        mac = "0a:00:" + ":".join(f"{byte:02x}" for byte in network.network_address.packed)
        settings = {"subnet": subnet, "exclude_ips": gateway, **(other_config or {})}
        columns = [f"other_config:{key}={json.dumps(value)}" for key, value in settings.items()]
        self.nbctl("ls-add", name, "--", "set", "logical_switch", name, *columns)
        options = ""
        if dhcp:
            answers = {
                "lease_time": "3600",
                "router": gateway,
                "server_id": gateway,
                "server_mac": mac,
                "mtu": str(mtu),
                "dns_server": gateway,
            }
            text = " ".join(f'"{key}"="{value}"' for key, value in answers.items())
            row = [f"cidr={json.dumps(subnet)}", f"options={text}"]
            options = self.nbctl("create", "DHCP_Options", *row)
        return Network(name, network, gateway, mac, options, mtu)

    def add_router(self, name: str, networks: Sequence[Network]) -> None:
        """Add a logical router that joins networks, by their gateway addresses."""
        command = ["lr-add", name]
        for network in networks:
            near, far = f"{name}-{network.name}", f"{network.name}-{name}"
            address = f"{network.gateway}/{network.subnet.prefixlen}"
            command += ["--", "lrp-add", name, near, network.gateway_mac, address]
            command += ["--", "lsp-add", network.name, far]
            command += ["--", "lsp-set-type", far, "router"]
            command += ["--", "lsp-set-addresses", far, "router"]
            command += ["--", "lsp-set-options", far, f"router-port={near}"]
        self.nbctl(*command)

    def add_port(
        self,
        network: Network,
        name: str,
        mac: str,
        address: str | IPv4Interface | None = "dynamic",
        *,
        port_security: bool = True,
        options: Mapping[str, str] | None = None,
        wait_for_hosts: bool = False,
    ) -> LogicalPort:
        """Add a logical switch port.

        Args:
            network: where.
            name: of the port, by custom a UUID.
            mac: its MAC.
            address: an IPv4 address, ``dynamic`` (OVN chooses), or None (the MAC alone).
            port_security: allow only what it was given.
            options: its ``options`` column, such as ``requested-chassis``.
            wait_for_hosts: return when all chassis have seen it.
        """
        addresses = mac if address is None else f"{mac} {address}"
        command = ["lsp-add", network.name, name, "--", "lsp-set-addresses", name, addresses]
        if port_security and address != "dynamic":
            command += ["--", "lsp-set-port-security", name, addresses]
        if network.dhcp_options and address is not None:
            command += ["--", "lsp-set-dhcpv4-options", name, network.dhcp_options]
        if options:
            pairs = [f"{key}={value}" for key, value in options.items()]
            command += ["--", "lsp-set-options", name, *pairs]
        self.nbctl(f"--wait={'hv' if wait_for_hosts else 'sb'}", *command)
        if address == "dynamic":
            chosen = self.nbctl("get", "Logical_Switch_Port", name, "dynamic_addresses")
            fixed = chosen.strip('"').split()[1]
        else:
            fixed = "" if address is None else str(address)
        return LogicalPort(name, mac, fixed, network.name)

    def remove_port(self, name: str) -> None:
        """Remove a logical switch port, if it is there."""
        self.nbctl("--if-exists", "lsp-del", name)

    # ---- state -------------------------------------------------------------------------------

    def chassis_id(self, name: str) -> str:
        """uuid of the chassis with that name (a host's system-id); '' when there is none."""
        found = self.sbctl("--bare", "--columns=_uuid", "find", "Chassis", f"name={name}")
        return found.strip()

    def bound_to(self, port: str) -> str:
        """Name of the chassis that a port is bound to; '' when it is bound to none."""
        columns = ("--bare", "--columns=chassis", "find", "Port_Binding")
        chassis = self.sbctl(*columns, f"logical_port={port}").strip()
        return self.sbctl("get", "Chassis", chassis, "name").strip('"') if chassis else ""

    def wait_up(self, port: str, timeout: float = 20.0) -> None:
        """Wait until the port is up.

        Raises:
            CommandError: it isn't within ``timeout`` seconds.
        """
        self.nbctl("wait-until", "Logical_Switch_Port", port, "up=true", timeout=timeout)

    def wait_bound(self, port: str, chassis: str, timeout: float = 20.0) -> None:
        """Wait until the port is bound to the chassis of that name.

        Raises:
            CommandError: it isn't within ``timeout`` seconds.
        """
        wanted = f"chassis={self.chassis_id(chassis)}"
        self.sbctl("wait-until", "Port_Binding", port, wanted, timeout=timeout)

    def wait_unbound(self, port: str, timeout: float = 20.0) -> None:
        """Wait until the port is bound to no chassis.

        Raises:
            CommandError: it still is after ``timeout`` seconds.
        """
        self.sbctl("wait-until", "Port_Binding", port, "chassis=[]", timeout=timeout)

    def wait_chassis(self, name: str, timeout: float = 20.0) -> None:
        """Wait until a host has registered itself."""
        self.sbctl("wait-until", "Chassis", name, timeout=timeout)

    def save_logs(self, target: Path) -> None:
        """Copy its logs and the databases' content to ``target``."""
        self.collect(target, LOGS)
        if self.powered:
            for name, control in (("northbound", self.nbctl), ("southbound", self.sbctl)):
                (target / f"{name}.show").write_text(control("show") + "\n")
