# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of what was measured, as SVG: a text that any browser shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tests.lab.harness.machine import PROJECT

WIDTH, HEIGHT, MARGIN = 720, 360, 60
LOWEST, HIGHEST = 10.0, 10_000.0  # ms; the scale is a logarithmic one


def gaps(ways: Mapping[str, Sequence[tuple[float, float]]], name: str) -> None:
    """Draw for each way to migrate the time without an answer, and the guest's own blackout.

    Args:
        ways: by their names the migrations, each with both in seconds.
        name: of the file below build/.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        '<text x="12" y="22">ms without an answer (dots), and of the guest\'s own blackout '
        "(bars), by migration</text>",
    ]
    for tick in (10, 100, 1000, 10_000):
        y = _y(tick)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - 10}" y1="{y}" y2="{y}" stroke="#ccc"/>')
        parts.append(f'<text x="{MARGIN - 8}" y="{y + 4}" text-anchor="end">{tick}</text>')
    column = (WIDTH - MARGIN - 20) / max(1, len(ways))
    for index, (way, runs) in enumerate(ways.items()):
        left = MARGIN + index * column
        parts.append(
            f'<text x="{left + column / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{way}</text>'
        )
        step = column / (len(runs) + 1)
        for number, (outage, blackout) in enumerate(runs, start=1):
            x = left + number * step
            y = _y(blackout * 1000)
            parts.append(
                f'<line x1="{x - step / 3:.1f}" x2="{x + step / 3:.1f}" y1="{y}" y2="{y}" '
                'stroke="#888" stroke-width="3"/>'
            )
            colour = "#c22" if outage > blackout else "#27a"
            parts.append(f'<circle cx="{x:.1f}" cy="{_y(outage * 1000)}" r="4" fill="{colour}"/>')
    parts.append("</svg>")
    target = PROJECT / "build" / name
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _y(milliseconds: float) -> float:
    """Give the height of a value; what is beyond the scale stands at its end."""
    share = (math.log10(min(max(milliseconds, LOWEST), HIGHEST)) - math.log10(LOWEST)) / (
        math.log10(HIGHEST) - math.log10(LOWEST)
    )
    return round(HEIGHT - MARGIN + 20 - share * (HEIGHT - 2 * MARGIN), 1)
