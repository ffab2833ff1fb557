"""How much better encoders are than colours and than the first encoder, as a table of words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pretrain.page.figures import METHOD_NAMES, METRIC_NAMES, number
from pretrain.results.result import BASELINE, FIRST, METRICS, Evaluation
from pretrain.scoring.intervals import Interval


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference in words."""

    value: str
    """With its sign."""
    bounds: str
    """Both bounds in words; empty where there are none."""
    sure: str
    """`better` or `worse`; empty where the interval holds 0, or there is none."""


@dataclass(frozen=True, slots=True)
class GainTable:
    """A row for each encoder, a column for each method and each that it is compared with."""

    metric: str
    columns: tuple[tuple[str, str], ...]
    """Method, and the name of whom the encoder is compared with."""
    rows: tuple[tuple[str, tuple[Gain, ...]], ...]


def gain_table(evaluation: Evaluation, names: tuple[str, ...]) -> GainTable | None:
    """The gains of all encoders; None where there are none."""
    found = [(n, e.gains) for n, e in zip(names, evaluation.encoders, strict=True) if e.gains]
    columns = [
        (against, method)
        for against in (BASELINE, FIRST)
        for method in dict.fromkeys(m for _, gains in found for m in gains.get(against, {}))
    ]
    if not columns:
        return None
    other = {BASELINE: names[-1], FIRST: names[0]}
    return GainTable(
        METRIC_NAMES[METRICS[evaluation.task][0]],
        tuple((METHOD_NAMES.get(method, method), other[against]) for against, method in columns),
        tuple(
            (name, tuple(_gain(gains.get(against, {}).get(method)) for against, method in columns))
            for name, gains in found
        ),
    )


def _gain(found: Interval | None) -> Gain:
    if found is None or not math.isfinite(found.value):
        return Gain("–", "", "")
    numbers = (found.value, found.low, found.high)
    value, low, high = (number(v) if v < 0 else f"+{number(v)}" for v in numbers)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return Gain(value, "", "")
    sure = "better" if found.low > 0 else "worse" if found.high < 0 else ""
    return Gain(value, f"{low} to {high}", sure)
