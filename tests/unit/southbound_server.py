# SPDX-License-Identifier: GPL-2.0-or-later
"""A real ovsdb-server with OVN's southbound schema, and certificates for it."""

from __future__ import annotations

import dataclasses
import datetime
import subprocess
import uuid
from pathlib import Path
from typing import Any

from vif_driver.host.certificates import Credentials

from . import programs
from .database_server import DatabaseServer, create, free_port, tls_options

SCHEMA = "/usr/share/ovn/ovn-sb.ovsschema"

_CA = """\
[ca]
default_ca = own
[own]
certificate = {folder}/ca.pem
private_key = {folder}/ca-key.pem
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
"""


class SouthboundServer(DatabaseServer):
    """OVN's southbound database, with nothing in it but what ovn-northd begins with.

    Args:
        folder: for its files.
        tls: listen with these instead of in the clear.
    """

    NAME = "OVN_Southbound"

    def __init__(self, folder: Path, tls: Credentials | None = None) -> None:
        database = folder / "sb.db"
        create(database, SCHEMA)
        port = free_port()
        kind = "tcp" if tls is None else "ssl"
        self.remote = f"{kind}:127.0.0.1:{port}"
        arguments = [f"--remote=p{kind}:{port}:127.0.0.1", *tls_options(tls)]
        super().__init__(folder, database, *arguments, port=port)
        self.start()
        self.reset()

    def reset(self) -> None:
        """Have nothing else in it any more."""
        self.replace([{"op": "insert", "table": "SB_Global", "row": {}}])

    # ---- rows ------------------------------------------------------------------------------------

    def add_chassis(self, name: str, ip: str, hostname: str = "") -> None:
        self.transact(*_chassis(name, ip, hostname or name))

    def add_many_chassis(self, number: int) -> None:
        """Add hosts with names and addresses of their own, in a few transactions."""
        for begin in range(0, number, 50):
            hosts = range(begin, min(begin + 50, number))
            each = (_chassis(f"host{n:04}", f"10.1.{n // 250}.{n % 250}", "x" * 300) for n in hosts)
            self.transact(*(operation for pair in each for operation in pair))

    def add_port(
        self,
        name: str,
        *,
        chassis: str | None = None,
        options: dict[str, str] | None = None,
        localnet: str | None = None,
    ) -> None:
        """Add a logical port, on a switch of its own that may lead to a physical network."""
        switch = {"op": "insert", "table": "Datapath_Binding", "uuid-name": "switch"}
        operations = [{**switch, "row": {"tunnel_key": uuid.uuid4().int % 100_000 + 1}}]
        row = {"logical_port": name, "options": ["map", list((options or {}).items())]}
        operations.append(_port(row, key=1))
        if localnet is not None:
            network = ["map", [["network_name", localnet]]]
            row = {"logical_port": f"out-{name}", "type": "localnet", "options": network}
            operations.append(_port(row, key=2))
        self.transact(*operations)
        if chassis is not None:
            self.bind(name, chassis)

    def bind(self, name: str, chassis: str) -> None:
        """Have a host have a logical port."""
        where = [["name", "==", chassis]]
        select = {"op": "select", "table": "Chassis", "where": where, "columns": ["_uuid"]}
        (answer,) = self.transact(select)
        row = {"chassis": answer["rows"][0]["_uuid"], "up": True}
        where = [["logical_port", "==", name]]
        self.transact({"op": "update", "table": "Port_Binding", "where": where, "row": row})


def _chassis(name: str, ip: str, hostname: str) -> list[dict[str, Any]]:
    encap = {"type": "geneve", "ip": ip, "chassis_name": name}
    chassis = {"name": name, "hostname": hostname, "encaps": ["named-uuid", f"encap_{name}"]}
    return [
        {"op": "insert", "table": "Encap", "row": encap, "uuid-name": f"encap_{name}"},
        {"op": "insert", "table": "Chassis", "row": chassis},
    ]


def _port(row: dict[str, Any], key: int) -> dict[str, Any]:
    more = {"datapath": ["named-uuid", "switch"], "tunnel_key": key}
    return {"op": "insert", "table": "Port_Binding", "row": {**row, **more}}


@dataclasses.dataclass(frozen=True)
class Authority:
    """A CA of the test's own.

    Attributes:
        folder: where its files are.
    """

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.pem"

    @classmethod
    def make(cls, folder: Path) -> Authority:
        folder.mkdir()
        _openssl(
            *f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 400 "
            f"-subj /CN={folder.name} -keyout {folder}/ca-key.pem -out {folder}/ca.pem".split()
        )
        return cls(folder)

    def sign(self, name: str, *, days: int = 365) -> Credentials:
        """Make a key and a certificate; with negative ``days`` one that has expired."""
        key, request = self.folder / f"{name}-key.pem", self.folder / f"{name}.csr"
        made = self.folder / f"{name}-cert.pem"
        _openssl(
            *f"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} "
            f"-keyout {key} -out {request}".split()
        )
        self._certify(request, made, days)
        return Credentials(key, made, self.certificate)

    def expired(self) -> Path:
        """Make the certificate that the CA itself had before it was renewed."""
        request, made = self.folder / "old-ca.csr", self.folder / "old-ca.pem"
        _openssl(
            *f"req -new -key {self.folder}/ca-key.pem -subj /CN={self.folder.name} "
            f"-out {request}".split()
        )
        extensions = self.folder / "old-ca.ext"
        extensions.write_text("basicConstraints = critical, CA:TRUE\n")
        self._certify(request, made, -1, "-extfile", str(extensions))
        return made

    def _certify(self, request: Path, made: Path, days: int, *more: str) -> None:
        (self.folder / "index.txt").touch()
        configuration = self.folder / "ca.conf"
        configuration.write_text(_CA.format(folder=self.folder))
        # "openssl x509" makes none that has expired.
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
        _openssl(
            *f"ca -batch -notext -config {configuration} -in {request} -out {made} "
            f"-startdate 20200101000000Z -enddate {end:%Y%m%d%H%M%SZ}".split(),
            *more,
        )


def _openssl(*arguments: str) -> None:
    programs.run("openssl", *arguments, stderr=subprocess.PIPE)
