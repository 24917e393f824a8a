# SPDX-License-Identifier: GPL-2.0-or-later
"""The changelog is about the version that this is."""

from __future__ import annotations

import re
from pathlib import Path

from vif_driver import __version__

_CHANGELOG = Path(__file__).parents[2] / "docs/CHANGELOG.md"


def test_the_newest_entry_is_that_of_this_version() -> None:
    versions = re.findall(r"^## (\S+)", _CHANGELOG.read_text(encoding="utf-8"), flags=re.M)

    assert versions[0] == __version__
