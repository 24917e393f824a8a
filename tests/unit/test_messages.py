# SPDX-License-Identifier: GPL-2.0-or-later
"""What is taken for a message when docs/messages.md is compared with the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.messages import collect

# Of a text that is put together from itself no more than once.
_GROWING = ["it grows", "… and grows"]


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ('raise VifError(f"the bridge {name} is gone", "make it")', ["the bridge … is gone"]),
        ('class Mine(VifError): ...\nraise Mine("no way out", "")', ["no way out"]),
        ('raise ValueError("of Python\'s own")', []),
        ('log.warning("%s left %d rows", name, 3)', ["… left … rows"]),
        ('log.error("%s: %s", subject, error)', []),
        ('log.info("all is well")', []),
        ('log.warning("%s", one_line(f"seen before: {what}"))', ["seen before: …"]),
        ('bad("agent", "it does not run", "start it")', ["it does not run"]),
        ('_UNIT = "vif-agent"\nbad("x", f"{_UNIT} is dead", "")', ["vif-agent is dead"]),
        (
            'why = "no answer came"\nif late:\n    why = "it came late"\nraise VifError(why, "")',
            ["it came late", "no answer came"],
        ),
        ('bad("x", "too old" if old else "too new", "")', ["too new", "too old"]),
        ('raise errors.VifError(what="it is gone", remedy="make it")', ["it is gone"]),
        ('what = "it grows"\nwhat = f"{what} and grows"\nbad("x", what, "")', _GROWING),
        ('print("what was asked for")', []),
        ('print(f"vifctl: no {x} here", file=sys.stderr)', ["vifctl: no … here"]),
        ('def own(name):\n    return "is a bridge"', ["is a bridge"]),
        ('def _down(wish):\n    yield f"{wish} is down"', ["… is down"]),
    ],
)
def test_what_is_said_is_found_with_holes_for_what_is_put_in(
    tmp_path: Path, source: str, texts: list[str]
) -> None:
    module = tmp_path / "module.py"
    module.write_text(f"class VifError: ...\n{source}\n", encoding="utf-8")

    found = collect([module], tmp_path)

    assert sorted(one.text for one in found) == texts
