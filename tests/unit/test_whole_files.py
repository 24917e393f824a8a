# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are written in one go keep what a new content does not change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vif_driver.host import whole_files

LABEL = "security.selinux"
CONTEXT = b"system_u:object_r:neutron_conf_t:s0"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A file with an SELinux label of its own, such as root can give it anywhere."""
    path = tmp_path / "file"
    path.write_text("old")
    try:
        os.setxattr(path, LABEL, CONTEXT)
    except OSError as error:
        pytest.skip(f"a label can't be set here: {error}")
    return path


def test_a_label_stays(labelled: Path) -> None:
    whole_files.replace(labelled, b"new", mode=0o640)

    assert labelled.read_text() == "new"
    assert os.getxattr(labelled, LABEL) == CONTEXT


def test_a_file_without_a_label_gets_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    before = os.listxattr(tmp_path / "file")

    whole_files.replace(tmp_path / "file", b"new", mode=0o640)

    assert os.listxattr(tmp_path / "file") == before


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")

    whole_files.replace(tmp_path / "link", b"new", mode=0o640)

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
