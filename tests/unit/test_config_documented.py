# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/configuration.md and the installed file have every key, with what holds without it."""

from __future__ import annotations

import configparser
import dataclasses
import enum
import re
from pathlib import Path

import pytest

from vif_driver import config
from vif_driver.config import Config

_ROOT = Path(__file__).parents[2]

# A key's heading on the page.
_KEY = re.compile(r"### (?P<key>\w+) =(?P<default>.*)")


@dataclasses.dataclass(frozen=True)
class Described:
    """What the page has of a key.

    Attributes:
        default: the text of its default.
        text: what is said of it.
    """

    default: str
    text: str


def _described() -> dict[tuple[str, str], Described]:
    page = (_ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^## ", page, flags=re.M)[1:]:
        section = part.splitlines()[0].strip("[]")
        for text in re.split(r"^(?=### )", part, flags=re.M)[1:]:
            heading, _, body = text.partition("\n")
            match = _KEY.fullmatch(heading)
            if match is not None:
                found[section, match["key"]] = Described(match["default"].strip(), body)
    return found


def _installed() -> dict[tuple[str, str], str]:
    lines = (_ROOT / "packaging/vif-driver.conf").read_text(encoding="utf-8").splitlines()
    parser = configparser.ConfigParser(interpolation=None)
    # A key that is commented out has no blank behind the sign.
    shown = (re.sub(r"^#(?=\w+ =)", "", line) for line in lines)
    parser.read_string("\n".join(shown))
    return {
        (section, key): value
        for section in parser.sections()
        for key, value in parser.items(section)
    }


def _known() -> list[tuple[str, str]]:
    """Give what the parser itself names when a key is misspelt."""
    return list(config._SETTINGS)


def test_the_page_and_the_installed_file_have_the_keys_that_there_are() -> None:
    assert sorted(_described()) == sorted(_known())
    assert sorted(_installed()) == sorted(_known())


def test_everything_that_can_be_set_has_a_key() -> None:
    attributes = {setting.attribute or key for (_, key), setting in config._SETTINGS.items()}

    assert attributes == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize(("section", "key"), _known())
def test_the_default_that_is_told_is_the_default(tmp_path: Path, section: str, key: str) -> None:
    told = _described()[section, key].default
    file = tmp_path / "vif-driver.conf"
    file.write_text(f"[{section}]\n{key} = {told}\n", encoding="utf-8")

    assert config.load(file) == Config()
    assert _installed()[section, key] == told


@pytest.mark.parametrize(("section", "key"), _known())
def test_what_a_key_can_be_set_to_is_told(section: str, key: str) -> None:
    default = getattr(Config(), config._SETTINGS[section, key].attribute or key)
    text = _described()[section, key].text

    if isinstance(default, float):
        assert re.search(r"Seconds, \d+ to \d+", text)
    elif isinstance(default, bool):
        assert {"`yes`", "`no`"} <= set(re.findall("`[a-z]+`", text))
    elif isinstance(default, enum.Enum):
        assert all(f"`{one.value}`" in text for one in type(default))
    else:
        assert text.strip()
