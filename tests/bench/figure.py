# SPDX-License-Identifier: GPL-2.0-or-later
"""What a figure is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.bench.bench import Bench


@dataclass(frozen=True)
class Measured:
    """What a measurement gave.

    Attributes:
        value: in the figure's unit.
        how: one sentence: what was run against what, how often, and the raw medians.
    """

    value: float
    how: str


@dataclass(frozen=True)
class Figure:
    """Something to measure.

    Attributes:
        name: by which it is asked for.
        unit: of its value.
        limit: the highest value that is acceptable; None if it is for the record only.
        measure: measures it.
    """

    name: str
    unit: str
    limit: float | None
    measure: Callable[[Bench], Measured]

    def entry(self, measured: Measured) -> dict[str, Any]:
        """Put the result into the form that build/bench.json has it in."""
        value = round(measured.value, 4)
        return {
            "name": self.name,
            "value": value,
            "unit": self.unit,
            "limit": self.limit,
            "ok": None if self.limit is None else value <= self.limit,
            "how": measured.how,
        }
