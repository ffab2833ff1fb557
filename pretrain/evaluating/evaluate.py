"""From encoders and a labelled manifest to an evaluation: what `histopretrain evaluate` does.

All encoders are opened before any work. Tiles are read once for the colour histogram, which also
finds the damaged ones, and once more for each encoder; its features are scored and dropped, so that
memory holds those of one at a time. Rows are tiles, N in all (see `pretrain.evaluating.labelled`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests import Manifest, load_manifest
from manifests.console import Display
from manifests.errors import ManifestError
from manifests.files import sha256
from pretrain.device import pick_device
from pretrain.embedding.encoders import Encoder, check_mpp, named_apart, open_encoder
from pretrain.embedding.stream import stream_features
from pretrain.embedding.wanted import wanted_tiles
from pretrain.errors import CheckpointError, ConfigError
from pretrain.evaluating.finetune import TileRows, finetune
from pretrain.evaluating.firstlook import FirstLook, first_look
from pretrain.evaluating.labelled import SPLITS, Labelled, label_tiles
from pretrain.evaluating.protocol import TEST, Flags, Rows, Scored, Truth, score_features
from pretrain.evaluating.report import Extras
from pretrain.evaluating.result import (
    HISTOGRAM,
    METRICS,
    EncoderResult,
    Evaluation,
    LeakNote,
    SplitNote,
)
from pretrain.evaluating.settings import SEGMENTATION, EvaluateSettings


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation, and what only its page needs."""

    evaluation: Evaluation
    extras: Extras


def evaluate(
    encoders: Sequence[str],
    manifest: str | Path,
    settings: EvaluateSettings,
    tell: Display | None = None,
) -> Evaluation:
    """Compare encoders, and a colour histogram, on tiles whose truth is known.

    Args:
        encoders: names as `open_encoder` takes them.
        manifest: the tiles and their labels.
        tell: where to say how far it is.

    Raises:
        HistotileError: an encoder, the labels, the split or a store is not as it should be.
    """
    return evaluate_fully(encoders, manifest, settings, tell).evaluation


def evaluate_fully(
    encoders: Sequence[str],
    manifest: str | Path,
    settings: EvaluateSettings,
    tell: Display | None = None,
) -> Evaluated:
    """As `evaluate`, with what the page shows besides."""
    tell = tell or Display("tiles", quiet=True)
    device = pick_device(settings.device)
    opened = open_all(encoders, settings)
    loaded = load_manifest(manifest)
    split = None if settings.split is None else load_manifest(settings.split)
    mpps = {part.mpp for part in wanted_tiles(loaded, mpp=settings.mpp)}
    if len(mpps) == 1:
        # What cannot be right is told before the long search for leaks.
        _check_mpps(opened, mpps, settings)
    labelled = label_tiles(
        loaded,
        settings.label,
        split=split,
        task=settings.task,
        by=settings.by or None,
        leaks=settings.leaks,
        near=settings.near,
        unlabelled=settings.unlabelled,
        # Those of segmentation are names for the values of masks.
        classes=() if settings.task == SEGMENTATION else settings.classes,
        mpp=settings.mpp,
        seed=settings.seed,
        display=tell,
    )
    _check_mpps(opened, {part.mpp for part in labelled.parts}, settings)
    work = _Work(loaded, labelled, settings, device, tell)
    judge = _masks_judged if settings.task == SEGMENTATION else _labels_judged
    judged = judge(work, opened)
    return Evaluated(
        Evaluation(
            task=settings.task,
            label=settings.label,
            classes=judged.classes,
            manifest_sha256=manifest_digest(manifest),
            image_size=settings.image_size,
            seed=settings.seed,
            resamples=settings.resamples,
            split=split_note(labelled, judged.good, judged.why_not),
            encoders=judged.results,
        ),
        judged.extras,
    )


def _check_mpps(
    encoders: Sequence[Encoder], mpps: set[tuple[float, float]], settings: EvaluateSettings
) -> None:
    for encoder in encoders:
        check_mpp(encoder, mpps, any_mpp=settings.any_mpp)


def open_all(names: Sequence[str], settings: EvaluateSettings) -> list[Encoder]:
    """Open every encoder before any work.

    Raises:
        ConfigError, CheckpointError: one cannot be had, or two have one name.
    """
    opened = [open_encoder(name, size=settings.image_size, seed=settings.seed) for name in names]
    named_apart(opened)
    return opened


def manifest_digest(manifest: str | Path) -> str:
    """sha256 of a manifest's file, 64 hexadecimal digits."""
    path = Path(manifest)
    file = path / "manifest.json" if path.is_dir() else path
    try:
        return sha256(file.read_bytes())
    except OSError as error:
        raise ManifestError(f"{file} cannot be read ({error.strerror})") from error


def split_note(labelled: Labelled, good: Flags, why_not: str) -> SplitNote:
    """What a result says of its split.

    Args:
        good: the tiles that count, (N,).
        why_not: why others do not.
    """
    members = [good & (labelled.split == number) for number in range(len(SPLITS))]
    leaks = labelled.leaks
    return SplitNote(
        by=labelled.by,
        tiles={name: int(of.sum()) for name, of in zip(SPLITS, members, strict=True)},
        units={
            name: len(np.unique(labelled.units[of]))
            for name, of in zip(SPLITS, members, strict=True)
        },
        near=labelled.near,
        val_from_train=labelled.val_from_train,
        left_out={**labelled.left_out, **({why_not: n} if (n := int((~good).sum())) else {})},
        leaks=None
        if leaks is None
        else LeakNote(leaks.policy, len(leaks.sentences), leaks.sentences, leaks.tiles),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """What stays the same for all encoders."""

    manifest: Manifest
    labelled: Labelled
    settings: EvaluateSettings
    device: str
    tell: Display


@dataclass(frozen=True, slots=True)
class _Found:
    """One encoder's result, and what the page needs of it."""

    result: EncoderResult
    features: Rows
    """Of the shown tiles, (n, F)."""
    predictions: dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]]
    """Method → predictions for the shown tiles, (n,)."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the task's own part gave."""

    classes: tuple[str, ...]
    good: Flags
    """The tiles that count, (N,)."""
    why_not: str
    """Why others do not."""
    results: tuple[EncoderResult, ...]
    extras: Extras


def _labels_judged(work: _Work, encoders: Sequence[Encoder]) -> _Judged:
    seen = first_look(work.labelled, work.settings, work.tell)
    truth = _truth(work, seen.good)
    found = [_of_encoder(work, seen, truth, encoder) for encoder in encoders]
    found.append(_of_histogram(work, seen, truth))
    return _Judged(
        classes=work.labelled.classes,
        good=seen.good,
        why_not="damaged",
        results=tuple(one.result for one in found),
        extras=_extras(work, seen, found),
    )


def _masks_judged(work: _Work, encoders: Sequence[Encoder]) -> _Judged:
    from pretrain.evaluating.maskedtiles import MaskedTiles
    from pretrain.evaluating.masks import find_masks
    from pretrain.evaluating.segment import evaluate_masks

    labelled, settings = work.labelled, work.settings
    masks = find_masks(
        work.manifest,
        labelled.parts,
        Path(str(settings.masks)),
        names=settings.classes,
        missing=settings.unlabelled,
    )
    tiles = MaskedTiles(work.manifest, labelled.parts, masks, labelled.split, labelled.units)
    results = evaluate_masks(
        encoders, tiles, settings, device=work.device, tell=lambda text: work.tell.say(text)
    )
    none = np.zeros((0, masks.size, masks.size), dtype=np.int64)
    pixels = np.zeros((*none.shape, 3), dtype=np.uint8)
    extras = Extras(pixels, (), none, np.zeros(0, dtype=np.int64))
    return _Judged(masks.classes, masks.has, "without a mask", results, extras)


def _truth(work: _Work, good: Flags) -> Truth:
    """The truth of the tiles that could be read; refuses to go on where too few are left."""
    labelled = work.labelled
    for number, name in enumerate(SPLITS):
        if not (good & (labelled.split == number)).any():
            raise ConfigError(f"all tiles of the split {name} are damaged: cut them again")
    return Truth(
        task=labelled.task,
        classes=len(labelled.classes),
        targets=labelled.targets[good],
        units=labelled.units[good],
        split=labelled.split[good],
        resamples=work.settings.resamples,
        seed=work.settings.seed,
    )


def _of_encoder(work: _Work, seen: FirstLook, truth: Truth, encoder: Encoder) -> _Found:
    started = time.perf_counter()
    features = _embedded(work, encoder)[seen.good]
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


def _of_histogram(work: _Work, seen: FirstLook, truth: Truth) -> _Found:
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


def _embedded(work: _Work, encoder: Encoder) -> Rows:
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
    work: _Work, features: Rows, truth: Truth, name: str, seconds: dict[str, float]
) -> Scored:
    started = time.perf_counter()
    scored = score_features(features, truth, curve=work.settings.curve)
    seconds["score"] = time.perf_counter() - started
    for note in scored.notes:
        work.tell.say(f"Note: {name}: {note}")
    _say(work, name, scored, ("knn", "linear"))
    return scored


def _say(work: _Work, name: str, scored: Scored, methods: Sequence[str]) -> None:
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


def _extras(work: _Work, seen: FirstLook, found: Sequence[_Found]) -> Extras:
    return Extras(
        thumbnails=seen.thumbnails,
        names=seen.names,
        targets=work.labelled.targets[seen.shown],
        units=work.labelled.units[seen.shown],
        features=tuple(one.features for one in found),
        predictions=tuple(one.predictions for one in found),
    )
