# SPDX-License-Identifier: GPL-2.0-or-later
"""A real ovsdb-server with OVN's southbound schema, and certificates for it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from vif_driver.host.certificates import Credentials

SCHEMA = "/usr/share/ovn/ovn-sb.ovsschema"
DATABASE = "OVN_Southbound"

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


class SouthboundServer:
    """OVN's southbound database, with nothing in it.

    Args:
        folder: for its files.
        tls: listen with these instead of in the clear.
    """

    def __init__(self, folder: Path, tls: Credentials | None = None) -> None:
        self.port = free_port()
        kind = "tcp" if tls is None else "ssl"
        self.remote = f"{kind}:127.0.0.1:{self.port}"
        self._socket = folder / "sb.sock"
        database = folder / "sb.db"
        subprocess.run(["ovsdb-tool", "create", database, SCHEMA], check=True)
        arguments = ["ovsdb-server", str(database), f"--remote=punix:{self._socket}"]
        arguments += [f"--remote=p{kind}:{self.port}:127.0.0.1", f"--unixctl={folder / 'sb.ctl'}"]
        arguments += [f"--log-file={folder / 'sb.log'}", "-vconsole:off", "--no-chdir"]
        if tls is not None:
            arguments += [f"--private-key={tls.key}", f"--certificate={tls.certificate}"]
            arguments += [f"--ca-cert={tls.ca}"]
        self._process = subprocess.Popen(arguments)
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail("ovsdb-server did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return self._socket.exists() and probe.connect_ex(("127.0.0.1", self.port)) == 0

    # ---- rows ------------------------------------------------------------------------------------

    def transact(self, *operations: dict[str, Any]) -> None:
        request = json.dumps([DATABASE, *operations])
        done = subprocess.run(
            ["ovsdb-client", "transact", f"unix:{self._socket}", request],
            check=True,
            capture_output=True,
            text=True,
        )
        assert '"error"' not in done.stdout, done.stdout

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
        answer = subprocess.run(
            [
                "ovn-sbctl",
                f"--db=unix:{self._socket}",
                "--bare",
                "--columns=_uuid",
                "find",
                "Chassis",
                f"name={chassis}",
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        row = {"chassis": ["uuid", answer.stdout.strip()], "up": True}
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
        (self.folder / "index.txt").touch()
        configuration = self.folder / "ca.conf"
        configuration.write_text(_CA.format(folder=self.folder))
        # "openssl x509" makes none that has expired.
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
        _openssl(
            *f"ca -batch -notext -config {configuration} -in {request} -out {made} "
            f"-startdate 20200101000000Z -enddate {end:%Y%m%d%H%M%SZ}".split()
        )
        return Credentials(key, made, self.certificate)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
