# SPDX-License-Identifier: GPL-2.0-or-later
"""The certificate with which this host speaks to OVN's databases: key, certificate and CA."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import ssl
import subprocess
from pathlib import Path

from vif_driver.errors import HostError, Unavailable
from vif_driver.host import json_rpc, ovsdb_socket

#: Where oVirt's host deploy puts them (role ovirt-host-deploy-ovn-certificates of the engine).
FOLDER = Path("/etc/pki/vdsm/ovn")

#: Their names there, and those of the copies that a service which is not root is handed.
NAMES = ("ovn-key.pem", "ovn-cert.pem", "ca-cert.pem")

#: The columns that Open vSwitch's database has them in, and options of ovs-monitor-ipsec.
COLUMNS = ("private_key", "certificate", "ca_cert")

# The service is handed copies when it starts; it may not read the files themselves.
_RESTART = "then on this host: systemctl restart vif-agent"

#: What to do about a host that has none.
ENROLL_FIRST = "enroll the host's certificates in the engine (Installation > Enroll Certificate)"

#: What to do about a certificate of this host that is not accepted.
ENROLL = (
    "enroll the host's certificates anew in the engine (Installation > Enroll Certificate), "
    f"{_RESTART}"
)

#: What to do about a server's.
COMPARE = f"see that both sides have certificates of one CA that have not expired, {_RESTART}"

# Seconds for the openssl command.
_TIMEOUT = 5.0


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Three files in PEM format.

    Attributes:
        key: the private key.
        certificate: what belongs to it.
        ca: who signs the certificates of both sides.
    """

    key: Path
    certificate: Path
    ca: Path

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return self.key, self.certificate, self.ca


def find(folder: Path = FOLDER) -> Credentials | None:
    """Find the host's credentials; None if there are none.

    Copies that systemd handed this service go first, unless they are empty: a unit must name
    something even where the host has no certificate.
    """
    handed = os.environ.get("CREDENTIALS_DIRECTORY")
    for place in ([Path(handed)] if handed else []) + [folder]:
        credentials = in_folder(place)
        if all(map(_has_content, credentials.files)):
            return credentials
    return None


def in_folder(folder: Path = FOLDER) -> Credentials:
    """Give the names that the credentials have in a folder, whether or not they are there."""
    return Credentials(*(folder / name for name in NAMES))


def of_open_vswitch(ovsdb: Path = ovsdb_socket.SOCKET, timeout: float = 1.0) -> Credentials | None:
    """Give the files that Open vSwitch was told (``ovs-vsctl set-ssl``); None if it was not.

    ovn-controller uses those as well.  Blocks.

    Args:
        ovsdb: the socket of Open vSwitch's database.
        timeout: seconds.

    Raises:
        Unavailable: the database does not answer, or not this process.
    """
    question = {"op": "select", "table": "SSL", "where": [], "columns": COLUMNS}
    try:
        answer = json_rpc.ask_unix(str(ovsdb), "transact", ["Open_vSwitch", question], timeout)
        rows = answer[0]["rows"]
    except (OSError, ValueError, LookupError, json_rpc.Refused) as error:
        raise Unavailable(
            f"Open vSwitch's database does not tell its certificates ({error})", "run as root"
        ) from error
    return Credentials(*(Path(rows[0][column]) for column in COLUMNS)) if rows else None


def of_process(process: int, proc: Path = Path("/proc")) -> Credentials | None:
    """Give the files that a daemon of OVN's was told on its command line; None if it wasn't.

    The options are those of ovn-controller(8) and all of its family; packages set them by
    ``OVN_CONTROLLER_OPTS``.
    """
    try:
        raw = (proc / str(process) / "cmdline").read_bytes()
    except OSError:
        return None
    words = raw.decode("utf-8", "replace").split("\0")
    found = [
        _option(words, names)
        for names in (("-p", "--private-key"), ("-c", "--certificate"), ("-C", "--ca-cert"))
    ]
    if any(value is None for value in found):
        return None
    return Credentials(*(Path(value) for value in found if value is not None))


def context(credentials: Credentials) -> ssl.SSLContext:
    """Make what a TLS connection to a database of OVN's needs.

    The other side must have a certificate of the CA.  Its name is not compared, as no client of
    OVSDB does: the CA is the deployment's own (Open vSwitch's documentation, "Open vSwitch with
    SSL").

    Raises:
        HostError: the files cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_key(made, credentials)
    _load_cas(made, credentials.ca)
    return made


def missing(server: str) -> HostError:
    """Say that this host has none for a server that wants one."""
    return HostError(
        f"this host has no certificate for {server} in {FOLDER}",
        ENROLL_FIRST,
    )


def refusal(server: str, error: Exception) -> HostError | None:
    """Say whose certificate was not accepted, if that is what ended a connection.

    Args:
        server: the other side, as in "the southbound database on ssl:192.0.2.1:6642".
        error: how the connection ended.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return HostError(
            f"the certificate of {server} is not accepted ({error.verify_message})",
            COMPARE,
        )
    alert = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if "ALERT" in alert:
        return refused(server, alert.replace("_", " ").lower().partition("alert ")[2])
    return None


def refused(server: str, why: str) -> HostError:
    """Say that a server does not accept this host's; see above."""
    return HostError(f"{server} refuses this host's certificate ({why})", ENROLL)


def expiry(certificate: Path) -> datetime.datetime:
    """Tell when a certificate expires: the first of its file, others are of who signed it.

    Raises:
        HostError: it cannot be read.
    """
    text = _openssl("x509", "-noout", "-enddate", "-in", str(certificate))
    return _moment(text.strip().partition("=")[2], certificate)


def last_expiry(bundle: Path) -> datetime.datetime:
    """Tell when the last of the CAs in a file expires: where one is renewed, both are there.

    Raises:
        HostError: it cannot be read.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load_cas(made, bundle)
    ends = [_moment(str(ca["notAfter"]), bundle) for ca in made.get_ca_certs()]
    # It leaves out what doesn't call itself a CA, and yet may be trusted.
    return max(ends) if ends else expiry(bundle)


def names(certificate: Path) -> set[str]:
    """Give the names that a certificate is made out to: its common name, and those of DNS.

    Raises:
        HostError: it cannot be read.
    """
    options = ("-noout", "-subject", "-nameopt", "multiline", "-ext", "subjectAltName")
    text = _openssl("x509", *options, "-in", str(certificate))
    common = re.findall(r"^ *commonName *= (.*)$", text, re.M)
    return {*common, *re.findall(r"DNS:([^,\s]+)", text)}


def require_signed(credentials: Credentials) -> None:
    """Make sure that the certificate was signed by the CA, whatever the dates say.

    Raises:
        HostError: it was not, or that cannot be told.
    """
    files = ("-CAfile", str(credentials.ca), str(credentials.certificate))
    _openssl("verify", "-no_check_time", "-partial_chain", *files)


def require_pair(credentials: Credentials) -> None:
    """Make sure that the key belongs to the certificate, and that both can be read.

    Raises:
        HostError: it doesn't, or they cannot.
    """
    _load_key(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), credentials)


def _load_cas(made: ssl.SSLContext, bundle: Path) -> None:
    try:
        made.load_verify_locations(cafile=str(bundle))
    except ssl.SSLError as error:
        raise HostError(f"{bundle} holds no certificate ({_reason(error)})", ENROLL) from error
    except OSError as error:
        raise _unreadable(bundle, error) from error


def _moment(text: str, certificate: Path) -> datetime.datetime:
    try:
        seconds = ssl.cert_time_to_seconds(text)
    except ValueError as error:
        raise HostError(f"{certificate} does not say when it expires", ENROLL) from error
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)


def _load_key(made: ssl.SSLContext, credentials: Credentials) -> None:
    for path in (credentials.key, credentials.certificate):
        try:
            path.open("rb").close()
        except OSError as error:
            raise _unreadable(path, error) from error
    try:
        # A key with a passphrase is to fail, not to ask on the terminal.
        made.load_cert_chain(str(credentials.certificate), str(credentials.key), lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"the key {credentials.key} does not belong to {credentials.certificate}"
        else:
            what = (
                f"{credentials.key} and {credentials.certificate} cannot be used ({_reason(error)})"
            )
        raise HostError(what, ENROLL) from error


def _openssl(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["openssl", *arguments],  # noqa: S607
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(
            f"the command openssl does not run ({error})", "install the package openssl"
        ) from error
    if done.returncode:
        found = re.search(r"error \d+ at \d+ depth lookup: *(.+)", done.stdout + done.stderr)
        lines = done.stderr.strip().splitlines()
        why = found[1] if found else (lines[0] if lines else "no reason given")
        raise HostError(f"{arguments[-1]} is not accepted ({why})", ENROLL)
    return done.stdout


def _unreadable(path: Path, error: OSError) -> HostError:
    if isinstance(error, PermissionError):
        return Unavailable(f"{path} may not be read by this user", "run as root")
    return HostError(f"{path} cannot be read ({error.strerror or error})", ENROLL)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _has_content(path: Path) -> bool:
    # Where there is no such file, systemd hands over the default of the unit: an empty line.
    try:
        return path.stat().st_size > 1
    except OSError:
        return False


def _option(words: list[str], names: tuple[str, str]) -> str | None:
    short, long = names
    for word, following in zip(words, [*words[1:], ""]):
        if word.startswith(f"{long}="):
            return word.partition("=")[2]
        if word in names:
            return following
        if word.startswith(short) and not word.startswith("--"):
            return word[len(short) :]
    return None
