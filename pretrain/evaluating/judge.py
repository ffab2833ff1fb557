"""Encoders on tiles with classes or numbers: embedded, scored, and told to the page.

Tiles are read once for the colour histogram, which also finds the damaged ones, and once more for
each encoder; its features are scored and dropped, so that memory holds those of one at a time. Rows
are tiles, N in all (see `pretrain.labelling.labelled`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests import Manifest
from manifests.checks import short
from manifests.console import Display
from pretrain.embedding.encoders import Encoder
from pretrain.embedding.stream import stream_features
from pretrain.errors import CheckpointError, ConfigError
from pretrain.evaluating.finetune import TileRows, finetune
from pretrain.evaluating.firstlook import FirstLook, first_look
from pretrain.evaluating.protocol import TEST, TRAIN, Flags, Rows, Scored, Truth, score_features
from pretrain.labelling.labelled import SPLITS, Labelled
from pretrain.page.report import Extras
from pretrain.results.result import HISTOGRAM, METRICS, EncoderResult
from pretrain.results.settings import EvaluateSettings


@dataclass(frozen=True, slots=True)
class Work:
    """What stays the same for all encoders."""

    manifest: Manifest
    labelled: Labelled
    settings: EvaluateSettings
    device: str
    tell: Display


@dataclass(frozen=True, slots=True)
class Judged:
    """What the task's own part gave."""

    classes: tuple[str, ...]
    good: Flags
    """The tiles that count, (N,)."""
    why_not: str
    """Why others do not."""
    results: tuple[EncoderResult, ...]
    extras: Extras


@dataclass(frozen=True, slots=True)
class _Found:
    """One encoder's result, and what the page needs of it."""

    result: EncoderResult
    features: Rows
    """Of the shown tiles, (n, F)."""
    predictions: dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]]
    """Method → predictions for the shown tiles, (n,)."""


def judge_labels(work: Work, encoders: Sequence[Encoder]) -> Judged:
    """Put encoders and the colour histogram to the test on classes or numbers.

    Raises:
        ConfigError: no tile of a split, or of a class in train or test, can be read.
        CheckpointError: an encoder gives features that are no numbers.
        StoreError: a store is gone.
    """
    seen = first_look(work.labelled, work.settings, work.tell)
    truth = _truth(work, seen.good)
    found = [_of_encoder(work, seen, truth, encoder) for encoder in encoders]
    found.append(_of_histogram(work, seen, truth))
    return Judged(
        classes=work.labelled.classes,
        good=seen.good,
        why_not="damaged",
        results=tuple(one.result for one in found),
        extras=_extras(work, seen, found),
    )


def _truth(work: Work, good: Flags) -> Truth:
    """The truth of the tiles that could be read; refuses to go on where too few are left."""
    labelled = work.labelled
    for number, name in enumerate(SPLITS):
        if not (good & (labelled.split == number)).any():
            raise ConfigError(f"all tiles of the split {name} are damaged: cut them again")
    for number, name in enumerate(labelled.classes):
        for split in (TRAIN, TEST):
            mine = (labelled.targets == number) & (labelled.split == split)
            if not (good & mine).any():
                raise ConfigError(
                    f"all {int(mine.sum()):,} tiles of the class {short(name)} in {SPLITS[split]} "
                    "are damaged: cut them again, or leave the class out by --classes"
                )
    return Truth(
        task=labelled.task,
        classes=len(labelled.classes),
        targets=labelled.targets[good],
        units=labelled.units[good],
        split=labelled.split[good],
        resamples=work.settings.resamples,
        seed=work.settings.seed,
    )


def _of_encoder(work: Work, seen: FirstLook, truth: Truth, encoder: Encoder) -> _Found:
    started = time.perf_counter()
    features = _embedded(work, encoder)
    if not seen.good.all():  # to take all of them would be to copy all
        features = features[seen.good]
    seconds = {"embed": time.perf_counter() - started}
    if not np.isfinite(features).all():
        raise CheckpointError(
            f"{encoder.name} gives features that are no numbers: its weights are damaged, or not "
            "meant for tiles like these"
        )
    scored = _scored(work, features, truth, encoder.name, seconds)
    if work.settings.finetune:
        started = time.perf_counter()
        tuned = finetune(
            TileRows(work.manifest, work.labelled.parts, work.settings.threads),
            np.flatnonzero(seen.good),
            encoder,
            truth,
            device=work.device,
            tell=work.tell,
        )
        scored.add("finetune", tuned.said, truth)
        scored.chosen["epoch"] = tuned.epoch
        seconds["finetune"] = time.perf_counter() - started
        _say(work, encoder.name, scored, ("finetune",))
    result = EncoderResult(
        name=encoder.name,
        arch=encoder.arch,
        library=encoder.library,
        features=encoder.features,
        sha256=encoder.sha256,
        mpp=encoder.mpp,
        kind="encoder",
        scores=scored.scores,
        chosen=scored.chosen,
        confusion=scored.confusion,
        curve=scored.curve,
        seconds=seconds,
        damaged=int((~seen.good).sum()),
    )
    return _found(result, features, seen, truth, scored)


def _of_histogram(work: Work, seen: FirstLook, truth: Truth) -> _Found:
    features, seconds = seen.histograms[seen.good], {"embed": seen.seconds}
    scored = _scored(work, features, truth, HISTOGRAM, seconds)
    result = EncoderResult(
        name=HISTOGRAM,
        arch="histogram",
        library="histotile",
        features=features.shape[1],
        sha256=None,
        mpp=(),
        kind="baseline",
        scores=scored.scores,
        chosen=scored.chosen,
        confusion=scored.confusion,
        curve=scored.curve,
        seconds=seconds,
        damaged=int((~seen.good).sum()),
    )
    return _found(result, features, seen, truth, scored)


def _embedded(work: Work, encoder: Encoder) -> Rows:
    """Features float32 (N, F) of all tiles; the network is on the CPU again afterwards."""
    count = len(work.labelled.targets)
    features = np.empty((count, encoder.features), dtype=np.float32)
    for batch in stream_features(
        work.manifest,
        work.labelled.parts,
        encoder,
        device=work.device,
        batch_size=work.settings.batch_size,
        threads=work.settings.threads,
    ):
        end = batch.first + len(batch.features)
        features[batch.first : end] = batch.features
        work.tell.update(f"{encoder.name}: features", end, count)
    encoder.model.cpu()
    return features


def _scored(
    work: Work, features: Rows, truth: Truth, name: str, seconds: dict[str, float]
) -> Scored:
    started = time.perf_counter()
    scored = score_features(features, truth, curve=work.settings.curve)
    seconds["score"] = time.perf_counter() - started
    for note in scored.notes:
        work.tell.say(f"Note: {name}: {note}")
    _say(work, name, scored, ("knn", "linear"))
    return scored


def _say(work: Work, name: str, scored: Scored, methods: Sequence[str]) -> None:
    main = METRICS[work.settings.task][0]
    parts = [f"{method} {scored.scores[method][main].value:.3f}" for method in methods]
    work.tell.say(f"{name}: {main} {', '.join(parts)}")


def _found(
    result: EncoderResult, features: Rows, seen: FirstLook, truth: Truth, scored: Scored
) -> _Found:
    """With features and predictions of the tiles that the page shows."""
    # Rows number all tiles; features those that could be read, predictions the test ones of these.
    place = np.cumsum(seen.good) - 1
    of_shown = place[seen.shown]
    among_test = (np.cumsum(truth.of(TEST)) - 1)[of_shown]
    predictions = {method: said[among_test] for method, said in scored.predicted.items()}
    return _Found(result, features[of_shown], predictions)


def _extras(work: Work, seen: FirstLook, found: Sequence[_Found]) -> Extras:
    return Extras(
        thumbnails=seen.thumbnails,
        names=seen.names,
        targets=work.labelled.targets[seen.shown],
        units=work.labelled.units[seen.shown],
        features=tuple(one.features for one in found),
        predictions=tuple(one.predictions for one in found),
    )
