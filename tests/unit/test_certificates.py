# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's certificate: where it is found, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import datetime
import subprocess
from pathlib import Path

import pytest

from vif_driver.errors import HostError
from vif_driver.host import certificates, handed_credentials
from vif_driver.host.certificates import Credentials
from vif_driver.inspection.doctor.certificates import agents, judge
from vif_driver.inspection.finding import State

from . import programs
from .conftest import OvsdbServer
from .southbound_server import Authority


@pytest.fixture(scope="module")
def good(authority: Authority) -> Credentials:
    """A certificate with nothing wrong."""
    return authority.sign("good")


def put(folder: Path, text: str) -> Credentials:
    folder.mkdir()
    for name in certificates.NAMES:
        (folder / name).write_text(text)
    return certificates.in_folder(folder)


# ---- where they are ------------------------------------------------------------------------------


def test_what_the_service_was_handed_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed, usual = put(tmp_path / "handed", "key"), put(tmp_path / "usual", "key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed.key.parent))

    assert certificates.find(usual.key.parent) == handed


@pytest.mark.parametrize("nothing", ["", "\n"])
def test_empty_copies_are_disregarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing: str
) -> None:
    handed, usual = put(tmp_path / "handed", nothing), put(tmp_path / "usual", "key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed.key.parent))

    assert certificates.find(usual.key.parent) == usual


def test_two_files_of_three_are_none(tmp_path: Path) -> None:
    put(tmp_path / "usual", "key").ca.unlink()

    assert certificates.find(tmp_path / "usual") is None


@pytest.mark.parametrize(
    "options",
    [
        ["--private-key=/k", "--certificate=/c", "--ca-cert=/a"],
        ["-p", "/k", "-c", "/c", "-C", "/a"],
        ["-p/k", "-c/c", "-C/a"],
        ["--private-key", "/k", "--certificate", "/c", "--ca-cert", "/a"],
    ],
)
def test_the_options_of_a_daemon_are_understood(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "7").mkdir()
    words = ["ovn-controller", "unix:/run/db.sock", *options, "--detach", ""]
    (tmp_path / "7/cmdline").write_bytes("\0".join(words).encode())

    found = certificates.of_process(7, tmp_path)

    assert found == Credentials(Path("/k"), Path("/c"), Path("/a"))


def test_a_daemon_without_such_options_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"ovn-controller\0--pidfile=/p\0-vconsole:off\0")

    assert certificates.of_process(7, tmp_path) is None


def test_open_vswitch_tells_what_it_was_told(ovsdb_server: OvsdbServer) -> None:
    before = certificates.of_open_vswitch(ovsdb_server.socket)
    ovsdb_server.vsctl("set-ssl", "/k", "/c", "/a")

    told = certificates.of_open_vswitch(ovsdb_server.socket)

    assert (before, told) == (None, Credentials(Path("/k"), Path("/c"), Path("/a")))


# ---- what is wrong with them ---------------------------------------------------------------------


def test_a_good_one_is_good_until_its_end(good: Credentials) -> None:
    (finding,) = judge(good)
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=365)

    assert finding.state is State.OK
    assert f"good until {end:%Y-%m-%d}" in finding.detail


def test_one_that_ends_soon_is_a_warning(authority: Authority) -> None:
    (finding,) = judge(authority.sign("soon", days=10))

    assert finding.state is State.WARNING
    assert "soon-cert.pem expires in 9 days" in finding.detail


def test_one_that_has_ended_is_bad(authority: Authority) -> None:
    (finding,) = judge(authority.sign("late", days=-2))

    assert finding.state is State.BAD
    assert "late-cert.pem expired on" in finding.detail


def test_a_ca_that_was_renewed_is_as_good_as_the_new_one(
    authority: Authority, good: Credentials, tmp_path: Path
) -> None:
    both = authority.expired().read_text() + authority.certificate.read_text()
    (tmp_path / "bundle.pem").write_text(both)

    (finding,) = judge(dataclasses.replace(good, ca=tmp_path / "bundle.pem"))

    assert finding.state is State.OK


def test_a_trusted_certificate_that_is_no_cas_has_an_end_as_well(good: Credentials) -> None:
    assert certificates.last_expiry(good.certificate) == certificates.expiry(good.certificate)


def test_a_key_of_another_certificate_is_bad(authority: Authority, good: Credentials) -> None:
    (finding,) = judge(dataclasses.replace(good, key=authority.sign("other").key))

    assert finding.state is State.BAD
    assert "other-key.pem does not belong to" in finding.detail


def test_a_certificate_of_another_ca_is_bad(good: Credentials, tmp_path: Path) -> None:
    other = Authority.make(tmp_path / "other")

    (finding,) = judge(dataclasses.replace(good, ca=other.certificate))

    assert finding.state is State.BAD
    assert "good-cert.pem is not accepted (unable to get local issuer" in finding.detail


@pytest.mark.parametrize("field", ["key", "certificate", "ca"])
def test_a_file_that_is_missing_is_bad(good: Credentials, field: str) -> None:
    (finding,) = judge(dataclasses.replace(good, **{field: Path("/nonexistent.pem")}))

    assert finding.state is State.BAD
    assert finding.detail == "/nonexistent.pem is not there"


@pytest.mark.parametrize("field", ["key", "certificate", "ca"])
def test_a_file_of_something_else_is_bad(good: Credentials, tmp_path: Path, field: str) -> None:
    (tmp_path / "text.pem").write_text("no PEM")

    (finding,) = judge(dataclasses.replace(good, **{field: tmp_path / "text.pem"}))

    assert finding.state is State.BAD


def test_a_key_with_a_passphrase_does_not_ask_for_it(good: Credentials, tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    certificates._openssl(*f"ec -in {good.key} -aes256 -passout pass:secret -out {locked}".split())

    with pytest.raises(HostError, match=r"locked\.pem"):
        certificates.context(dataclasses.replace(good, key=locked))


def test_a_certificate_is_made_out_to_its_common_name(good: Credentials) -> None:
    assert certificates.names(good.certificate) == {"good"}


def test_a_certificate_is_made_out_to_its_names_of_dns(tmp_path: Path) -> None:
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=x/CN=hv"
    extension = "subjectAltName=DNS:hv1.example.com,IP:192.0.2.1,DNS:hv1"
    files = ["-keyout", tmp_path / "key", "-out", tmp_path / "cert"]
    programs.run(
        "openssl", "req", *options.split(), "-addext", extension, *files, stderr=subprocess.PIPE
    )

    assert certificates.names(tmp_path / "cert") == {"hv", "hv1.example.com", "hv1"}


# ---- what the agent has of it --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handed_over", "expected"),
    [("the same", []), ("an older one", [State.WARNING]), (None, [])],
)
def test_an_agent_that_has_another_one_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    handed_over: str | None,
    expected: list[State],
) -> None:
    own, copies = tmp_path / "own", tmp_path / "copies"
    for folder, content in ((own, "the same"), (copies, handed_over)):
        folder.mkdir()
        for name in certificates.NAMES:
            if content is not None:
                (folder / name).write_text(content)
    monkeypatch.setattr(certificates.in_folder, "__defaults__", (own,))
    monkeypatch.setattr(handed_credentials, "FOLDER", copies)

    assert [finding.state for finding in agents(certificates.in_folder())] == expected
