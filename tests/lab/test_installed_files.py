# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make install` gives to whom: nobody but root may change any of it, or gains by it."""

from __future__ import annotations

import os
import stat
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.lab.harness.product import install_into

HOOKS = "usr/libexec/vdsm/hooks"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with nothing but what was installed, by somebody whose umask is careless."""
    root = tmp_path_factory.mktemp("root")
    before = os.umask(0o002)
    try:
        install_into(root)
    finally:
        os.umask(before)
    return root


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_there_is_no_rule_for_sudo(root: Path) -> None:
    named = {str(path.relative_to(root)) for path in root.rglob("*") if "sudo" in path.name}
    telling = {str(path) for path in files(root) if b"NOPASSWD" in path.read_bytes()}

    assert len(files(root)) > 100
    assert named | telling == set()


def test_hooks_are_for_everybody_to_run_and_for_nobody_to_change(root: Path) -> None:
    hooks = files(root / HOOKS)

    assert len(hooks) == 16
    assert {(stat.S_IMODE(hook.stat().st_mode), hook.stat().st_uid) for hook in hooks} == {
        (0o555, 0)
    }


def test_nobody_but_root_may_write_to_any_of_it(root: Path) -> None:
    def open_to_others(path: Path) -> bool:
        status = path.lstat()
        return status.st_uid != 0 or (
            not path.is_symlink() and bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        )

    assert [str(path) for path in files(root) if open_to_others(path)] == []


def test_nothing_runs_as_somebody_else_than_who_starts_it(root: Path) -> None:
    special = stat.S_ISUID | stat.S_ISGID

    assert [str(path) for path in files(root) if path.stat().st_mode & special] == []
    assert [str(path) for path in files(root) if "security.capability" in os.listxattr(path)] == []


@pytest.mark.parametrize(("name", "port"), [("geneve", "6081"), ("vxlan", "4789")])
def test_each_kind_of_tunnel_has_a_service_of_the_firewalls(
    root: Path, name: str, port: str
) -> None:
    path = root / f"usr/lib/firewalld/services/vif-driver-{name}.xml"

    service = ElementTree.parse(path).getroot()

    assert [found.attrib for found in service.findall("port")] == [
        {"protocol": "udp", "port": port}
    ]
    assert service.findtext("short") and service.findtext("description")
