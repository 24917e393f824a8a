# SPDX-License-Identifier: GPL-2.0-or-later
"""What VDSM has written down."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from vif_driver.host.vdsm_config import Entries, Unreadable
from vif_driver.protection.request import Network, parse_network


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """VDSM's folder of networks, to which it leads by a link."""
    netconf = tmp_path / "netconf"
    save(netconf, {})
    return netconf / "nets"


def save(netconf: Path, networks: dict[str, Any], suffix: str = "KvHmQd3z") -> None:
    """Write everything anew, as VDSM does: into another folder, then the link is replaced."""
    folder = netconf.with_name(f"netconf.{suffix}")
    for kind in ("nets", "bonds"):
        (folder / kind).mkdir(parents=True)
    for name, attributes in networks.items():
        (folder / "nets" / name).write_text(json.dumps(attributes))
    link = netconf.with_name(f"{folder.name}.ln")
    link.symlink_to(folder)
    before = netconf.resolve()
    link.replace(netconf)
    if before != netconf:
        shutil.rmtree(before)


def note(nets: Path, name: str, **attributes: Any) -> None:
    (nets / name).write_text(json.dumps(attributes))


def test_every_network_has_a_file(nets: Path) -> None:
    note(nets, "tun", nic="eth0", vlan=5, bridged=False)
    note(nets, "a b", nic="eth1")

    found = Entries("nets", parse_network, nets.parent).all()

    assert found == {
        "tun": Network("tun", base="eth0", vlan=5, bridged=False),
        "a b": Network("a b", base="eth1"),
    }


def test_before_vdsm_has_written_anything_there_is_nothing(tmp_path: Path) -> None:
    assert Entries("nets", parse_network, tmp_path / "no").all() == {}


def test_what_vdsm_writes_anew_is_read_anew(nets: Path) -> None:
    entries = Entries("nets", parse_network, nets.parent)
    save(nets.parent, {"tun": {"nic": "eth0"}, "gone": {"nic": "eth1"}}, "aaaaaaaa")
    before = set(entries.all())

    save(nets.parent, {"tun": {"nic": "eth2"}}, "bbbbbbbb")

    assert before == {"tun", "gone"}
    assert entries.all() == {"tun": Network("tun", base="eth2")}


@pytest.mark.parametrize(("module", "call"), [(os, "scandir"), (Path, "open")])
def test_what_may_not_be_read_is_not_taken_for_nothing(
    nets: Path, monkeypatch: pytest.MonkeyPatch, module: object, call: str
) -> None:
    note(nets, "tun", nic="eth0")
    entries = Entries("nets", parse_network, nets.parent)

    def deny(path: Path, *_mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # Root, who may run this, may read whatever its mode.
    monkeypatch.setattr(module, call, deny)

    with pytest.raises(Unreadable, match=r"Permission denied: '.*/nets.*restorecon -RF"):
        entries.all()
    monkeypatch.undo()
    assert set(entries.all()) == {"tun"}


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b"null!", b"\xff", b'{"vlan": "x"}', b"[" * 100_000]
)
def test_one_that_is_damaged_is_left_out_and_the_others_are_not(nets: Path, damaged: bytes) -> None:
    note(nets, "good", nic="eth0")
    (nets / "bad").write_bytes(damaged)

    assert set(Entries("nets", parse_network, nets.parent).all()) == {"good"}


def test_what_is_no_file_is_left_out(nets: Path) -> None:
    (nets / "folder").mkdir()
    (nets / "dangling").symlink_to("nowhere")
    os.mkfifo(nets / "pipe")

    assert Entries("nets", parse_network, nets.parent).all() == {}


def test_a_file_is_read_again_only_when_it_is_another_one(nets: Path) -> None:
    read: list[str] = []

    def parse(name: str, content: object) -> object:
        read.append(name)
        return content

    note(nets, "same", nic="eth0")
    note(nets, "other", nic="eth0")
    entries = Entries("nets", parse, nets.parent)
    entries.all()
    note(nets, "new", nic="eth1")
    os.replace(nets / "new", nets / "other")

    found = entries.all()

    assert found["other"] == {"nic": "eth1"}
    assert sorted(read) == ["other", "other", "same"]


def test_one_that_is_removed_is_gone(nets: Path) -> None:
    note(nets, "tun", nic="eth0")
    entries = Entries("nets", parse_network, nets.parent)
    entries.all()

    (nets / "tun").unlink()

    assert entries.all() == {}
