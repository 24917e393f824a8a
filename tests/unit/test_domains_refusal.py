# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said where libvirt does not take VDSM's password; its test driver asks for one, too."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from vif_driver.errors import Unavailable
from vif_driver.host import domains
from vif_driver.host.domains import Domains

REFUSED = f"libvirt refuses the password of {domains.SASL_USER}"


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A libvirt with a password, and another one in VDSM's file."""
    node = tmp_path / "node.xml"
    node.write_text(f"<node><auth><user password='secret'>{domains.SASL_USER}</user></auth></node>")
    (tmp_path / "vdsms").write_text("another")
    monkeypatch.setattr(domains, "URI", f"test://{node}")
    monkeypatch.setattr(domains, "PASSWORD", tmp_path / "vdsms")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def refusal(asked: Domains) -> str:
    """Ask libvirt something, in vain; gives what is said."""

    async def main() -> None:
        try:
            await asked.version()
        finally:
            await asked.close()

    with pytest.raises(Unavailable) as error:
        asyncio.run(main())
    return str(error.value)


def test_a_wrong_password_is_told_with_what_to_do() -> None:
    said = refusal(Domains())

    assert REFUSED in said
    assert str(domains.PASSWORD) in said and "vdsm-tool configure" in said


def test_the_log_of_who_watches_libvirt_tells_it_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domains, "RECONNECT", (0.01, 0.01))
    attempts: list[Domains] = []
    attempt = Domains._open

    def counted(asked: Domains) -> object:
        attempts.append(asked)
        return attempt(asked)

    monkeypatch.setattr(Domains, "_open", counted)

    async def main() -> str:
        watching = Domains()
        watching.watch()
        while len(attempts) < 5:
            await asyncio.sleep(0.002)
        try:
            await watching.version()
        except Unavailable as error:
            return str(error)
        finally:
            await watching.close()
        return ""

    with caplog.at_level(logging.WARNING):
        said = asyncio.run(main())

    assert REFUSED in said
    assert [record.getMessage().count(REFUSED) for record in caplog.records] == [1]
