"""A picture of an experiment: for each labelled set a panel, for each variant its seeds as dots.

SVG as text, drawn by hand: pixels, y downwards. Filled dots are the linear probe, hollow ones the
neighbours' vote, and a bar stands at the mean of the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

NAMES_PX, PANEL_PX, ROW_PX, HEAD_PX, FOOT_PX = 290, 230, 30, 40, 44
_METHODS = (("linear", "#1f5fa8", -5), ("knn", "#c2571a", 5))
"""A method, its colour, and how far above (-) or below a row's middle it is drawn."""

Values = Sequence[float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One set: for each method and row the values of the seeds, () where there is none."""

    title: str
    axis: str
    values: Mapping[str, Sequence[Values]]


def draw(rows: Sequence[str], panels: Sequence[Panel]) -> str:
    """The picture of some variants (rows, from above) on some sets."""
    width = NAMES_PX + PANEL_PX * len(panels)
    height = HEAD_PX + ROW_PX * len(rows) + FOOT_PX
    parts = [_text(NAMES_PX - 12, _middle(n) + 4, row, "end") for n, row in enumerate(rows)]
    for number, panel in enumerate(panels):
        parts += _panel(NAMES_PX + PANEL_PX * number, panel, len(rows))
    parts += _legend(height - 10)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        '<rect width="100%" height="100%" fill="white"/>\n'
        '<g font-family="sans-serif" font-size="12" fill="#333">\n'
        + "\n".join(parts)
        + "\n</g></svg>\n"
    )


def bounds(panel: Panel) -> tuple[float, float]:
    """Lowest and highest value of an axis: a little wider than what is drawn."""
    flat = [value for rows in panel.values.values() for row in rows for value in row]
    low, high = (min(flat), max(flat)) if flat else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.05
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """Two to seven round values between two others: 1, 2 or 5 apart at a power of ten."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * of for of in (1, 2, 5, 10) if power * of >= rough)
    first = math.ceil(low / step)
    return [step * number for number in range(first, math.floor(high / step) + 1)]


def _middle(row: int) -> float:
    return HEAD_PX + ROW_PX * (row + 0.5)


def _panel(left: float, panel: Panel, rows: int) -> list[str]:
    low, high = bounds(panel)
    inside = PANEL_PX - 30
    bottom = HEAD_PX + ROW_PX * rows

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * inside

    parts = [_text(left + inside / 2, 18, panel.title, "middle", bold=True)]
    parts.append(_text(left + inside / 2, 33, panel.axis, "middle"))
    for value in ticks(low, high):
        x = place(value)
        parts.append(f'<path d="M{x:.1f} {HEAD_PX}V{bottom}" stroke="#ddd"/>')
        parts.append(_text(x, bottom + 14, f"{value:.3g}", "middle"))
    for row in range(rows):
        parts.append(f'<path d="M{left} {_middle(row):.1f}h{inside}" stroke="#eee"/>')
    for method, colour, shift in _METHODS:
        for row, values in enumerate(panel.values.get(method, ())):
            parts += _dots([place(v) for v in values], _middle(row) + shift, method, colour)
    return parts


def _dots(places: Values, y: float, method: str, colour: str) -> list[str]:
    if not places:
        return []
    fill = colour if method == "linear" else "white"
    mean = sum(places) / len(places)
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}" stroke="{colour}"/>'
        for x in places
    ]
    bar = f'<path d="M{mean:.1f} {y - 5:.1f}v10" stroke="{colour}" stroke-width="2"/>'
    return [*dots, bar]


def _legend(y: float) -> list[str]:
    names = {"linear": "linear probe", "knn": "nearest neighbours"}
    parts = []
    for number, (method, colour, _) in enumerate(_METHODS):
        x = NAMES_PX + 190 * number
        parts += _dots([x], y - 4, method, colour)[:1]
        parts.append(_text(x + 10, y, f"{names[method]}, a dot a seed", "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
