# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documentation refers to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGES = sorted(
    page
    for folder in ("", "docs", "firewalld", "selinux", "packaging", "packaging/ansible")
    for page in (_ROOT / folder).glob("*.md")
)

# [text](target), and the same of a picture; the text may go over lines.
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def _links(page: Path) -> list[str]:
    """Give the targets of a page's links that lead to files of ours."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [
        match["target"]
        for match in _LINK.finditer(text)
        if not re.match(r"[a-z]+:", match["target"])
    ]


def _anchors(page: Path) -> set[str]:
    """Give the anchors that a page has by its headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def _is_broken(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page if not path else (page.parent / path)
    if not target.exists():
        return True
    return bool(anchor) and anchor not in _anchors(target)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.relative_to(_ROOT).as_posix())
def test_every_link_leads_to_something_that_is_there(page: Path) -> None:
    broken = [link for link in _links(page) if _is_broken(page, link)]

    assert not broken


def test_every_page_can_be_found_from_the_index() -> None:
    index = _ROOT / "docs/index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _links(index)}

    lost = {page.name for page in index.parent.glob("*.md")} - {path.name for path in linked}

    assert lost <= {index.name}
