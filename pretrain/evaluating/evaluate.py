"""From encoders and a labelled manifest to an evaluation: what `histopretrain evaluate` does.

All encoders are opened before any work, and what cannot be right is told before it. Rows are tiles,
N in all (see `pretrain.labelling.labelled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests import load_manifest
from manifests.console import Display
from pretrain.device import pick_device
from pretrain.digest import manifest_digest
from pretrain.embedding.encoders import Encoder, check_mpp, named_apart, open_encoder
from pretrain.embedding.wanted import wanted_tiles
from pretrain.evaluating.judge import Judged, Work, judge_labels
from pretrain.labelling.labelled import SPLITS, Labelled, label_tiles
from pretrain.page.report import Extras
from pretrain.results.gains import with_gains
from pretrain.results.result import (
    Evaluation,
    LeakNote,
    SplitNote,
)
from pretrain.results.settings import SEGMENTATION, EvaluateSettings


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
    opened = _open_all(encoders, settings)
    loaded, digest = load_manifest(manifest), manifest_digest(manifest)
    split, split_digest = None, None
    if settings.split is not None:
        split, split_digest = load_manifest(settings.split), manifest_digest(settings.split)
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
    work = Work(loaded, labelled, settings, device, tell)
    judge = _masks_judged if settings.task == SEGMENTATION else judge_labels
    judged = judge(work, opened)
    return Evaluated(
        Evaluation(
            task=settings.task,
            label=settings.label,
            classes=judged.classes,
            manifest_sha256=digest,
            image_size=settings.image_size,
            seed=settings.seed,
            resamples=settings.resamples,
            split=_split_note(labelled, judged, split_digest),
            encoders=with_gains(judged.results, settings.task),
        ),
        judged.extras,
    )


def _check_mpps(
    encoders: Sequence[Encoder], mpps: set[tuple[float, float]], settings: EvaluateSettings
) -> None:
    for encoder in encoders:
        check_mpp(encoder, mpps, any_mpp=settings.any_mpp)


def _open_all(names: Sequence[str], settings: EvaluateSettings) -> list[Encoder]:
    """Open every encoder before any work.

    Raises:
        ConfigError, CheckpointError: one cannot be had, or two have one name.
    """
    opened = [open_encoder(name, size=settings.image_size, seed=settings.seed) for name in names]
    named_apart(opened)
    return opened


def _split_note(labelled: Labelled, judged: Judged, digest: str | None) -> SplitNote:
    """What a result says of its split."""
    good = judged.good
    members = [good & (labelled.split == number) for number in range(len(SPLITS))]
    leaks = labelled.leaks
    return SplitNote(
        by=labelled.by,
        tiles={name: int(of.sum()) for name, of in zip(SPLITS, members, strict=True)},
        units={
            name: len(np.unique(labelled.units[of]))
            for name, of in zip(SPLITS, members, strict=True)
        },
        manifest_sha256=digest,
        near=labelled.near,
        val_from_train=labelled.val_from_train,
        left_out={
            **labelled.left_out,
            **({judged.why_not: n} if (n := int((~good).sum())) else {}),
        },
        leaks=None
        if leaks is None
        else LeakNote(leaks.policy, len(leaks.sentences), leaks.sentences, leaks.tiles),
    )


def _masks_judged(work: Work, encoders: Sequence[Encoder]) -> Judged:
    from pretrain.segmenting.maskedtiles import MaskedTiles
    from pretrain.segmenting.masks import find_masks
    from pretrain.segmenting.segment import evaluate_masks

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
    return Judged(masks.classes, masks.has, "without a mask", results, extras)
