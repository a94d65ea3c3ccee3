#!/usr/bin/env python3
"""Draws docs/figures/budget.svg from the series of a simulated week: `scripts/budget.py [CSV]`.

The test budget::week writes target/budget.csv, a week with ROADSTEAD_BUDGET=1008; docs/figures/budget.csv is the run that the
documentation shows."""

import csv
import sys
from html import escape
from pathlib import Path

from bench.plot import COLOURS, STYLE, WIDTH

FIGURES = Path(__file__).parent.parent / "docs/figures"
LEFT, RIGHT, HEIGHT, GAP = 60, 20, 150, 60
LIMIT, RESERVE = 100, 20
MORE_STYLE = """\
.axis { stroke: #9ca3af; stroke-width: 1 }
.reserve { stroke: #d97706; stroke-dasharray: 4 4 }
polyline { fill: none; stroke-width: 1.5 }
"""


def panel(top, title, rows, lines, highest, marks):
    """A line chart from `top` on: `lines` are {name: (colour, column)}."""
    hours = float(rows[-1]["hours"])
    bottom = top + HEIGHT
    parts = [f'<text class="title" x="{LEFT}" y="{top - 12}">{escape(title)}</text>']
    x = lambda hour: LEFT + (WIDTH - LEFT - RIGHT) * hour / hours
    y = lambda value: bottom - HEIGHT * value / highest
    for value in marks:
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for day in range(int(hours // 24) + 1):
        parts.append(f'<line class="axis" x1="{x(day * 24):.1f}" x2="{x(day * 24):.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x(day * 24):.1f}" y="{bottom + 18}" text-anchor="middle">{day}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for name, (colour, column) in lines.items():
        points = " ".join(f'{x(float(row["hours"])):.1f},{y(float(row[column])):.1f}' for row in rows)
        parts.append(f'<polyline stroke="{colour}" points="{points}"/>')
        last = rows[-1]
        label = f"{name}: {last[column]}" if len(lines) > 1 else name
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{y(float(last[column])) - 6:.1f}" text-anchor="end">{escape(label)}</text>')
    return parts, y


def main():
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES / "budget.csv"
    rows = list(csv.DictReader(source.open()))
    left, y = panel(
        30, "Pulls that the registry allows, of 100 in six hours", rows, {"": (COLOURS["roadstead"], "left")}, LIMIT, (0, 50, 100)
    )
    left.append(f'<line class="reserve" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(RESERVE)}" y2="{y(RESERVE)}"/>')
    left.append(f'<text x="{LEFT - 8}" y="{y(RESERVE) + 4}" text-anchor="end">{RESERVE}</text>')
    highest = max(int(row["refused_without"]) for row in rows)
    lines = {
        "without the gateway": (COLOURS["nginx"], "refused_without"),
        "with it, of images never pulled before": (COLOURS["roadstead"], "refused"),
    }
    refused, _ = panel(30 + HEIGHT + GAP, "Pulls refused so far, by day", rows, lines, highest * 1.1, (0, highest))
    height = 30 + 2 * HEIGHT + GAP + 30
    title = "A simulated week of CI on one address's quota"
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    text = "\n".join([frame, f"<style>{STYLE}{MORE_STYLE}</style>", *left, *refused, "</svg>", ""])
    (FIGURES / "budget.svg").write_text(text)


if __name__ == "__main__":
    main()
