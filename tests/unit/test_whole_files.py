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


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a daemon's user, with a link of his that leads to a secret of root's."""
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "daemon"
    folder.mkdir()
    link = folder / "file"
    link.symlink_to("../secret")
    if os.geteuid() == 0:
        os.chown(link, 65534, 65534, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)  # so that the link is somebody else's
    return link


def test_a_link_of_somebody_elses_is_not_written_through(theirs: Path) -> None:
    with pytest.raises(PermissionError, match="is a symbolic link of user"):
        whole_files.replace(theirs, b"new", mode=0o640)

    assert theirs.read_text() == "secret"
    assert theirs.is_symlink()


def test_nor_is_it_read_through(theirs: Path) -> None:
    with pytest.raises(PermissionError, match="is a symbolic link of user"):
        whole_files.read(theirs)


def test_nor_does_a_link_to_a_folder_lead_anywhere(theirs: Path) -> None:
    link = theirs.with_name("plugins")
    theirs.rename(link)
    link.unlink()
    link.symlink_to("..")
    if os.geteuid() == 0:
        os.chown(link, 65534, 65534, follow_symlinks=False)

    with pytest.raises(PermissionError, match="is a symbolic link of user"):
        whole_files.replace(link / "new", b"new", mode=0o640)

    assert not (link / "new").exists()


def test_nobody_waits_for_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="no regular file"):
        whole_files.read(tmp_path / "pipe")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "one")

    with pytest.raises(OSError, match="symbolic links"):
        whole_files.read(tmp_path / "one")
