"""Draw the curves of runs: loss by step, and the k-NN score of the features, as one SVG picture.

`python -m tests.benchmarks.curves RUN [RUN ...] -o curves.svg` reads `metrics.jsonl` of each run
folder. The loss is averaged over ten steps or so, faint behind it as it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, MARGIN = 420, 260, 44
COLOURS = ("#1f5fa8", "#c2571a", "#3a7d44", "#7a3b8f")

Points = list[tuple[float, float]]


def read_points(run: Path, name: str) -> Points:
    """Step and value of a measure, where it was logged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def smoothed(points: Points, width: int) -> Points:
    """The mean of `width` neighbouring points, at the last of each."""
    starts = range(0, len(points) - width + 1, width)
    windows = [points[start : start + width] for start in starts]
    return [(window[-1][0], sum(value for _, value in window) / width) for window in windows]


class Panel:
    """A pair of axes at some distance from the left."""

    def __init__(self, left: float, title: str, points: Sequence[Points]) -> None:
        flat = [point for some in points for point in some]
        self._left = left
        self._steps = max(step for step, _ in flat) or 1
        low, high = min(value for _, value in flat), max(value for _, value in flat)
        margin = 0.05 * (high - low or 1)
        self._low, self._high = low - margin, high + margin
        self._parts = [self._text(left + WIDTH / 2, 20, title, "middle")]
        self._axes()

    def _place(self, step: float, value: float) -> tuple[float, float]:
        x = self._left + MARGIN + step / self._steps * (WIDTH - 1.5 * MARGIN)
        share = (value - self._low) / (self._high - self._low)
        return x, HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)

    def _text(self, x: float, y: float, text: str, anchor: str) -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

    def _axes(self) -> None:
        for share in (0, 0.25, 0.5, 0.75, 1):
            value = self._low + share * (self._high - self._low)
            x, y = self._place(0, value)
            right, _ = self._place(self._steps, value)
            self._parts.append(f'<path d="M{x:.1f} {y:.1f}H{right:.1f}" stroke="#ddd"/>')
            self._parts.append(self._text(x - 5, y + 4, f"{value:.2f}", "end"))
            step = round(share * self._steps)
            at, bottom = self._place(step, self._low)
            self._parts.append(self._text(at, bottom + 16, str(step), "middle"))
        middle, bottom = self._place(self._steps / 2, self._low)
        self._parts.append(self._text(middle, bottom + 32, "step", "middle"))

    def line(self, points: Points, colour: str, *, faint: bool = False, dots: bool = False) -> None:
        """Draw a curve."""
        places = [self._place(*point) for point in points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        look = f'stroke="{colour}" fill="none" stroke-width="{1 if faint else 2}"'
        self._parts.append(f'<path d="{path}" {look} opacity="{0.25 if faint else 1}"/>')
        if dots:
            circles = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"' for x, y in places)
            self._parts += [f'{circle} fill="{colour}"/>' for circle in circles]

    def svg(self) -> str:
        """All that was drawn."""
        return "\n".join(self._parts)


def draw(runs: Sequence[Path], names: Sequence[str]) -> str:
    """The picture of some runs."""
    losses = [read_points(run, "loss") for run in runs]
    scores = [read_points(run, "knn") for run in runs]
    left = Panel(0, "NT-Xent loss", losses)
    right = Panel(WIDTH, "k-NN score of the features", scores)
    legend = []
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        left.line(losses[number], colour, faint=True)
        left.line(smoothed(losses[number], max(1, len(losses[number]) // 50)), colour)
        right.line(scores[number], colour, dots=True)
        x = 20 + 200 * number
        legend.append(f'<path d="M{x} {HEIGHT + 8}h20" stroke="{colour}" stroke-width="3"/>')
        legend.append(f'<text x="{x + 26}" y="{HEIGHT + 12}">{escape(name)}</text>')
    size = f'width="{2 * WIDTH}" height="{HEIGHT + 24}"'
    font = 'font-family="sans-serif" font-size="11" fill="#333"'
    inside = "\n".join([left.svg(), right.svg(), *legend])
    paper = '<rect width="100%" height="100%" fill="white"/>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return f"{start}{paper}\n<g {font}>\n{inside}\n</g></svg>\n"


def main() -> None:
    """Read the runs and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", help="With commas between; by default the folders'.")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    names = options.names.split(",") if options.names else [run.name for run in options.runs]
    if len(names) != len(options.runs):
        parser.error(f"{len(options.runs)} runs need as many names, not {len(names)}")
    options.out.write_text(draw(options.runs, names), encoding="utf-8")


if __name__ == "__main__":
    main()
