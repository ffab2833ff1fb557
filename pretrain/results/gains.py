"""By how much an encoder is better than the baseline, and than the first encoder that was given.

Both are scored on the same test units and the same resamples, so their difference has an interval
of its own: it is narrower than those of the two, since what is hard for one is mostly hard for
both. A gain is of the task's first metric and above 0 where the encoder is better, also for errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pretrain.results.result import BASELINE, FIRST, LESS_IS_BETTER, METRICS, EncoderResult
from pretrain.scoring.intervals import Interval, difference


def with_gains(results: Sequence[EncoderResult], task: str) -> tuple[EncoderResult, ...]:
    """The results, each encoder with its gains over the last one and over the first one.

    Args:
        results: scored with one seed on the same test units; the baseline is the last.
    """
    *encoders, baseline = results
    metric = METRICS[task][0]
    told = []
    for place, found in enumerate(encoders):
        gains = {BASELINE: _gains(found, baseline, metric)}
        if place:
            gains[FIRST] = _gains(found, encoders[0], metric)
        told.append(replace(found, gains=gains))
    return (*told, baseline)


def _gains(found: EncoderResult, other: EncoderResult, metric: str) -> Mapping[str, Interval]:
    """Method → gain, of the methods that both have."""
    gains = {}
    for method, scores in found.scores.items():
        if method in other.scores:
            pair = scores[metric], other.scores[method][metric]
            gains[method] = difference(*(pair[::-1] if metric in LESS_IS_BETTER else pair))
    return gains
