# SPDX-License-Identifier: GPL-2.0-or-later
"""As whom libvirt is asked, and where the password is; libvirt's test driver asks for one, too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import libvirt
import pytest

from vif_driver.errors import Unavailable
from vif_driver.host import domains
from vif_driver.host.domains import Domains


def version() -> int:
    """Ask libvirt something."""

    async def main() -> int:
        asked = Domains()
        try:
            return await asked.version()
        finally:
            await asked.close()

    return asyncio.run(main())


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A libvirt that lets in nobody but VDSM's user with the password ``secret``."""
    node = tmp_path / "node.xml"
    node.write_text(f"<node><auth><user password='secret'>{domains.SASL_USER}</user></auth></node>")
    monkeypatch.setattr(domains, "URI", f"test://{node}")
    monkeypatch.setattr(domains, "PASSWORD", tmp_path / "vdsms")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("content", ["secret", "secret\n", "secret\nmore"])
def test_the_password_is_the_first_line_of_vdsms_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "vdsms").write_text(content)

    assert version() > 0


@pytest.mark.usefixtures("guarded")
def test_a_service_takes_the_password_that_systemd_hands_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / domains.CREDENTIAL).write_text("secret\n")
    (tmp_path / "vdsms").write_text("another")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert version() > 0


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("handed", [None, ""])
def test_a_credential_that_is_missing_or_empty_leaves_it_to_vdsms_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handed: str | None
) -> None:
    if handed is not None:
        (tmp_path / domains.CREDENTIAL).write_text(handed)
    (tmp_path / "vdsms").write_text("secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert version() > 0


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("password", [None, "wrong"])
def test_without_the_password_libvirt_does_not_answer(tmp_path: Path, password: str | None) -> None:
    if password is not None:
        (tmp_path / "vdsms").write_text(password)

    with pytest.raises(Unavailable, match="uthentication"):
        version()


def test_a_question_that_is_not_known_is_not_answered() -> None:
    assert domains._give_credentials([[libvirt.VIR_CRED_REALM, "", "", None, None]], None) == -1
