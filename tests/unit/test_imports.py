# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports run one way, from what decides down to what touches the host (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PACKAGE = _ROOT / "vif_driver"

# The rooms of the package, the lowest floor first.  A room may import from lower floors alone, and
# never from its own; so a room that needs another one stands above it.
_FLOORS = (
    {"__version__", "errors"},
    {"vnic", "interface_xml"},
    {"config", "journal", "marks", "tunnels", "wire"},
    {"host"},
    {"attachments", "protection", "stale", "switchover"},
    {"events", "inspection", "reconciliation"},
    {"configuration", "reporting"},
    {"agent", "boot", "ctl", "standalone"},
)
_FLOOR = {room: number for number, rooms in enumerate(_FLOORS) for room in rooms}

_MODULES = sorted(_PACKAGE.rglob("*.py"))


def _room(name: str) -> str:
    """Give the room of a module, or of a name in the package itself."""
    return [*name.split("."), "__init__"][1]


def _imported(module: Path) -> Iterator[str]:
    """Give what a module imports of the package, also within its functions."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            whole = node.module == "vif_driver"
            yield from (f"vif_driver.{one.name}" if whole else node.module for one in node.names)


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str]]:
    """Which room imports from which other."""
    found = set()
    for module in _MODULES:
        own = _room(".".join(module.relative_to(_ROOT).with_suffix("").parts))
        rooms = {_room(name) for name in _imported(module) if name.startswith("vif_driver")}
        found |= {(own, room) for room in rooms - {own}}
    return found


def test_no_room_imports_from_its_own_floor_or_a_higher_one(imports: set[tuple[str, str]]) -> None:
    upwards = {pair for pair in imports if _FLOOR[pair[1]] >= _FLOOR[pair[0]]}

    assert not upwards


def test_every_room_has_its_place_on_the_page() -> None:
    page = (_ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = {path.stem for path in _PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}

    unknown = {room for room in rooms - {"__init__", "__pycache__"} if f"`{room}`" not in page}

    assert not unknown
