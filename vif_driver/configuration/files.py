# SPDX-License-Identifier: GPL-2.0-or-later
"""A file of the host's configuration."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path

from vif_driver.configuration.change import Before, Change, Fact
from vif_driver.errors import HostError
from vif_driver.host import whole_files


class FileContent(Change):
    """A file has a certain content, or is not there.

    A file that is there keeps owner and permissions; a new one belongs to whom its folder
    belongs.

    Args:
        path: which; its folder is there.
        content: all of it, or None if there is to be no such file.
        what: the content, for people; it has no secret.
        mode: permissions of a new file.
    """

    kind = "file"

    def __init__(self, path: Path, content: bytes | None, what: str, mode: int = 0o644) -> None:
        self._path = path
        self._content = content
        self._what = what
        self._mode = mode

    def facts(self) -> Sequence[Fact]:
        """See :class:`Change`."""
        return [Fact(self._what, content_of(self._path) == self._content)]

    def before(self) -> Before:
        """See :class:`Change`."""
        return {
            "path": str(self._path),
            "was": _encoded(content_of(self._path)),
            "becomes": _encoded(self._content),
        }

    def make(self) -> None:
        """See :class:`Change`."""
        _write(self._path, self._content, self._mode)

    @classmethod
    def take_back(cls, before: Before) -> str | None:
        """See :class:`Change`."""
        path = Path(before["path"])
        was, becomes = _decoded(before["was"]), _decoded(before["becomes"])
        _tidy(path)
        now = content_of(path)
        if now == was:
            return None
        if now != becomes:
            return f"{path} stays as it is: it was changed since"
        _write(path, was, 0o600)
        return None


def content_of(path: Path) -> bytes | None:
    """Give a file's content; None if there is no such file.

    Raises:
        HostError: it cannot be read.
    """
    try:
        return whole_files.read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"{path} cannot be read ({error.strerror})", "see to it") from error


def _write(path: Path, content: bytes | None, mode: int) -> None:
    try:
        if content is None:
            whole_files.remove(path)
            return
        try:
            status = whole_files.look(path)
            # Not what makes a program run as its owner: a file of configuration is none.
            mode, owner = status.st_mode & 0o777, (status.st_uid, status.st_gid)
        except FileNotFoundError:
            folder = os.stat(whole_files.follow(path).parent)
            owner = (folder.st_uid, folder.st_gid)
        whole_files.replace(path, content, mode=mode, owner=owner)
    except OSError as error:
        raise HostError(
            f"{path} cannot be written ({error.strerror})", "see that root may write it"
        ) from error


def _tidy(path: Path) -> None:
    try:
        whole_files.tidy(path)
    except OSError as error:
        raise HostError(
            f"{path} cannot be written ({error.strerror})", "see that root may write it"
        ) from error


def _encoded(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode("ascii")


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
