"""One look at all tiles: which are damaged, their colours, and pictures of some for the page.

Rows are tiles, N in all (see `pretrain.labelling.labelled`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from manifests.codec import Rgb
from manifests.console import Display
from pretrain.embedding.stream import stream_tiles
from pretrain.evaluating.protocol import TEST, Flags, Integers, Rows
from pretrain.labelling.labelled import Labelled
from pretrain.page.map import choose_points
from pretrain.page.pictures import THUMBNAIL_SIDE, shrunk
from pretrain.results.settings import EvaluateSettings
from pretrain.scoring.histogram import BINS, colour_histogram

_MOST_SHOWN = 1500
"""Test tiles on the page."""


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What one look at all tiles gave."""

    good: Flags
    """Tiles that could be read, (N,)."""
    histograms: Rows
    """float32 (N, 48)."""
    shown: Integers
    """Rows of the test tiles that the page shows, (n,)."""
    thumbnails: Rgb
    """uint8 (n, h, w, 3)."""
    names: tuple[str, ...]
    """Of these, `slide/group/index`, (n,)."""
    seconds: float


def first_look(labelled: Labelled, settings: EvaluateSettings, tell: Display) -> FirstLook:
    """Read all tiles once.

    Raises:
        StoreError: a store is gone. A damaged tile raises nothing; it is not `good`.
    """
    count = len(labelled.targets)
    test = np.flatnonzero(labelled.split == TEST)
    chosen = test[choose_points(labelled.targets[test], _MOST_SHOWN, settings.seed)]
    side = min(THUMBNAIL_SIDE, *(part.size for part in labelled.parts))
    good = np.ones(count, dtype=np.bool_)
    histograms = np.zeros((count, 3 * BINS), dtype=np.float32)
    small: list[Rgb] = []
    started = time.perf_counter()
    for batch in stream_tiles(
        labelled.manifest,
        labelled.parts,
        batch_size=settings.batch_size,
        threads=settings.threads,
    ):
        end = batch.first + len(batch.tiles)
        histograms[batch.first : end] = colour_histogram(batch.tiles, BINS)
        good[list(batch.damaged)] = False
        inside = chosen[(chosen >= batch.first) & (chosen < end)]
        small += list(shrunk(batch.tiles[inside - batch.first], side)) if len(inside) else []
        tell.update("colours", end, count)
    kept = good[chosen]
    if damaged := int((~good).sum()):
        what = "1 damaged tile counts" if damaged == 1 else f"{damaged:,} damaged tiles count"
        tell.say(f"Note: {what} for no encoder")
    names = list(_names(labelled))
    return FirstLook(
        good=good,
        histograms=histograms,
        shown=chosen[kept],
        thumbnails=np.stack(small)[kept],
        names=tuple(names[row] for row in chosen[kept].tolist()),
        seconds=time.perf_counter() - started,
    )


def _names(labelled: Labelled) -> Iterator[str]:
    for part in labelled.parts:
        for index in part.indices.tolist():
            yield f"{part.entry.id}/{part.group}/{index}"
