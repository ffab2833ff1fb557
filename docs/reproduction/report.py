"""Tables and pictures of what was measured: one Markdown file and one SVG an experiment.

A cell is the mean of the seeds, with the lowest and the highest behind it. A seed is also a split,
and splits differ in how hard they are: so variants are compared seed by seed, with the first one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from docs.reproduction import figures, measure
from docs.reproduction.plan import Experiment, Run, Variant
from docs.reproduction.steps import Bench

FOLDER = "report"
METHODS = {"linear": "linear", "knn": "k-NN"}

Results = dict[tuple[str, int], dict[str, dict[str, Any]]]
"""(Set, seed) → encoder's name → its part of an evaluation."""


def report(bench: Bench, experiments: Sequence[Experiment], seeds: int) -> None:
    """Write the table and the picture of each experiment of which something was measured."""
    results: Results = {
        (labelled.name, seed): measure.read_results(bench, labelled, seed)
        for labelled in measure.SETS
        for seed in range(seeds)
    }
    out = bench.out / FOLDER
    out.mkdir(exist_ok=True)
    for experiment in experiments:
        rows = rows_of(experiment, results, seeds)
        text = table(experiment, rows, trained(bench, experiment, seeds))
        (out / f"{experiment.name}.md").write_text(text, encoding="utf-8")
        (out / f"{experiment.name}.svg").write_text(picture(rows), encoding="utf-8")


class Row:
    """A variant, or the colour histogram: its scores by set, method and seed."""

    def __init__(self, name: str, results: Results, called: Callable[[int], str]) -> None:
        self.name = name
        self._results = results
        self._called = called

    def value(self, name: str, seed: int, method: str, metric: str) -> float | None:
        """A score; None where it was not measured."""
        found = self.interval(name, seed, method, metric)
        return None if found is None else found["value"]

    def interval(self, name: str, seed: int, method: str, metric: str) -> dict[str, float] | None:
        """A score with its bounds; None where it was not measured."""
        result = self._results[name, seed].get(self._called(seed))
        scores: dict[str, float] | None = None
        if result is not None:
            scores = result["scores"].get(method, {}).get(metric)
        return scores

    def values(self, labelled: measure.LabelledSet, method: str) -> dict[int, float]:
        """Seed → the main score on a set."""
        seeds = sorted(seed for name, seed in self._results if name == labelled.name)
        found = {s: self.value(labelled.name, s, method, labelled.main) for s in seeds}
        return {seed: value for seed, value in found.items() if value is not None}


def rows_of(experiment: Experiment, results: Results, seeds: int) -> list[Row]:
    """The variants of an experiment, and last the colour histogram."""

    def row(variant: Variant) -> Row:
        names = [measure.name_of(measure.encoder_of(variant, seed)) for seed in range(seeds)]
        return Row(variant.name, results, names.__getitem__)

    histogram = Row(measure.HISTOGRAM, results, lambda _: measure.HISTOGRAM)
    return [*(row(variant) for variant in experiment.variants), histogram]


def trained(bench: Bench, experiment: Experiment, seeds: int) -> dict[str, str]:
    """Variant → steps, tiles, and the seconds of its trainings, in words."""
    found = {}
    for variant in experiment.variants:
        seconds, tiles, steps = [], [], 0
        for seed in range(seeds):
            run = variant.run(seed)
            if run is None or not bench.is_done(f"run-{run.key}"):
                continue
            record = json.loads(bench.record(f"run-{run.key}").read_text(encoding="utf-8"))
            data = json.loads(bench.record(f"data-{run.data_key}").read_text(encoding="utf-8"))
            seconds.append(_step_seconds(bench, run))
            tiles.append(sum(data["tiles"]))
            steps = int(record["flags"].get("max-steps", 0))
        if seconds:
            told = f"{tiles[0]:,} | {steps} | {' · '.join(f'{s:.0f}' for s in seconds)}"
            found[variant.name] = told
    return found


def _step_seconds(bench: Bench, run: Run) -> float:
    """Seconds of all steps of a run, whether it was interrupted or not."""
    file = bench.out / "runs" / run.key / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return float(sum(run.flags["batch-size"] / line["images_per_s"] for line in lines))


def table(experiment: Experiment, rows: Sequence[Row], training: dict[str, str]) -> str:
    """The tables of an experiment as Markdown."""
    lines = [f"## {experiment.question}", "", *_scores(rows), ""]
    lines += ["Seed by seed, against the first row (linear probe):", "", *_differences(rows), ""]
    lines += ["Seed 0, with 95 % intervals over test groups or patients (linear probe):", ""]
    lines += [*_intervals(rows), ""]
    if training:
        lines += ["| trained | tiles | steps | seconds, a seed each |", "|---|--:|--:|--:|"]
        lines += [f"| {name} | {told} |" for name, told in training.items()]
        lines.append("")
    return "\n".join(lines)


def _scores(rows: Sequence[Row]) -> list[str]:
    columns = [(labelled, method) for labelled in measure.SETS for method in METHODS]
    heads = [f"{one.title}, {METHODS[how]} {one.metric}" for one, how in columns]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [spread(list(row.values(one, how).values())) for one, how in columns]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def _differences(rows: Sequence[Row]) -> list[str]:
    lines = [f"| | {' | '.join(one.title for one in measure.SETS)} |"]
    lines.append("|---" * (len(measure.SETS) + 1) + "|")
    for row in rows[1:]:
        cells = []
        for labelled in measure.SETS:
            first, own = rows[0].values(labelled, "linear"), row.values(labelled, "linear")
            cells.append(spread([own[s] - first[s] for s in own if s in first], signed=True))
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def _intervals(rows: Sequence[Row]) -> list[str]:
    lines = [f"| | {' | '.join(one.title for one in measure.SETS)} |"]
    lines.append("|---" * (len(measure.SETS) + 1) + "|")
    for row in rows:
        found = [row.interval(one.name, 0, "linear", one.main) for one in measure.SETS]
        cells = [
            "–" if one is None else f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
            for one in found
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """The mean, and the lowest and highest value behind it; a dash without any."""
    if not values:
        return "–"
    form = "+.3f" if signed else ".3f"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:{form}}"
    return f"{mean:{form}} ({min(values):{form}} to {max(values):{form}})"


def picture(rows: Sequence[Row]) -> str:
    """The picture of an experiment."""
    panels = [
        figures.Panel(
            title=labelled.title,
            axis=labelled.metric,
            values={
                method: [list(row.values(labelled, method).values()) for row in rows]
                for method in METHODS
            },
        )
        for labelled in measure.SETS
    ]
    return figures.draw([row.name for row in rows], panels)
