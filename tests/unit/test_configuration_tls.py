# SPDX-License-Identifier: GPL-2.0-or-later
"""Key, certificate and CA are judged before anything is changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vif_driver.configuration import tls
from vif_driver.errors import HostError
from vif_driver.host.certificates import Credentials, in_folder

from .southbound_server import Authority

GIVEN = "give files that fit together, in PEM format"


@pytest.fixture(scope="module")
def good(authority: Authority) -> Credentials:
    """Files with nothing wrong."""
    return authority.sign("good")


def refused(credentials: Credentials) -> str:
    with pytest.raises(HostError) as raised:
        tls.check(credentials)
    return str(raised.value)


def test_files_that_fit_together_will_do(good: Credentials) -> None:
    tls.check(good)


def test_a_file_that_is_not_there_is_named(good: Credentials, tmp_path: Path) -> None:
    missing = dataclasses.replace(good, key=tmp_path / "key.pem")

    assert refused(missing) == f"{tmp_path}/key.pem is not there; {GIVEN}, or say --no-ssl"


def test_those_of_host_deploy_come_from_the_engine() -> None:
    told = refused(in_folder(Path("/etc/pki/vdsm/ovn")))

    assert told.startswith("/etc/pki/vdsm/ovn/ovn-key.pem is not there; enroll the host's")


def test_a_path_that_ovn_controller_would_not_find_is_refused(good: Credentials) -> None:
    told = refused(dataclasses.replace(good, ca=Path("ca.pem")))

    assert told == "ca.pem is no absolute path; ovn-controller has to find it, too"


def test_a_key_of_another_certificate_is_refused(good: Credentials, authority: Authority) -> None:
    mixed = dataclasses.replace(good, key=authority.sign("other").key)

    assert refused(mixed) == f"the key {mixed.key} does not belong to {good.certificate}; {GIVEN}"


def test_a_certificate_of_another_ca_is_refused(good: Credentials, tmp_path: Path) -> None:
    foreign = dataclasses.replace(good, ca=Authority.make(tmp_path / "theirs").certificate)

    assert f"{good.certificate} is not accepted" in refused(foreign)


def test_one_that_has_expired_is_refused(authority: Authority) -> None:
    late = authority.sign("late", days=-1)

    assert f"{late.certificate} expired on 2" in refused(late)


def test_so_is_a_ca_that_has_expired(authority: Authority, good: Credentials) -> None:
    late = dataclasses.replace(good, ca=authority.expired())

    assert f"{late.ca} expired on 2" in refused(late)


@pytest.mark.parametrize("is_first", [True, False])
def test_one_that_was_renewed_may_be_there_still(
    authority: Authority, good: Credentials, tmp_path: Path, is_first: bool
) -> None:
    both = [authority.expired().read_text(), authority.certificate.read_text()]
    (tmp_path / "bundle.pem").write_text("".join(both if is_first else reversed(both)))

    tls.check(dataclasses.replace(good, ca=tmp_path / "bundle.pem"))


def test_what_is_no_certificate_is_refused(good: Credentials, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing\n")

    told = refused(dataclasses.replace(good, certificate=tmp_path / "cert.pem"))

    assert "cannot be used" in told
    assert told.endswith(GIVEN)
