"""Which tiles a page shows, and where they stand on a map of two dimensions.

Features are (n, F); a map's points are float64 (n, 2), x to the right and y down, 0 to 1. Maps are
of directions: features are scaled to length 1 first, as for nearest neighbours. Axes mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_POINTS = 1500
"""More points hide each other, and t-SNE of as many takes seconds for each encoder."""

_FEWEST_FOR_TSNE = 30
_PERPLEXITY = 30.0
_COMPONENTS = 50
_START_SPREAD = 1e-4

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """The points of a map."""

    points: Floats
    """(n, 2), x and y, 0 to 1."""
    method: str
    """`t-SNE`, or `PCA` where there are too few tiles for it."""


def choose_points(
    targets: npt.NDArray[np.integer] | npt.NDArray[np.floating], most: int, seed: int
) -> Integers:
    """Which of N tiles to show: drawn by chance, evenly over classes.

    A class with fewer tiles than its even share gives all of them, and the others give more.

    Args:
        targets: class numbers (N,); of values that are no integers, all are one class.

    Returns:
        Row numbers, ascending, at most `most`; the same for the same arguments.
    """
    classes = targets if np.issubdtype(targets.dtype, np.integer) else np.zeros(len(targets), int)
    names, counts = np.unique(classes, return_counts=True)
    drawn = np.random.default_rng((seed, len(targets))).permutation(len(targets))
    chosen: list[Integers] = []
    left = min(most, len(targets))
    for place, which in enumerate(np.argsort(counts, kind="stable")):
        quota = min(int(counts[which]), -(-left // (len(names) - place)))
        chosen.append(drawn[classes[drawn] == names[which]][: min(quota, left)])
        left -= len(chosen[-1])
    return np.sort(np.concatenate([*chosen, np.empty(0, np.int64)])).astype(np.int64)


def lay_out(features: npt.NDArray[np.floating], seed: int) -> Layout:
    """Points so that tiles of like features stand near each other.

    t-SNE (van der Maaten and Hinton, JMLR 2008) of the first 50 principal components, begun from
    the first two, perplexity 30; the principal components alone for fewer than 30 tiles, or where
    all are alike. On one thread, for sums of several differ from run to run.

    Args:
        features: (n, F), finite.

    Raises:
        ValueError: features that are not finite.
    """
    rows = np.asarray(features, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("a map needs finite features: leave damaged tiles out")
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        flat = _principal(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
        if len(rows) < _FEWEST_FOR_TSNE or not flat[:, 0].std() > 0:
            return Layout(_fit(flat[:, :2]), "PCA")
        return Layout(_fit(_tsne(flat, seed)), "t-SNE")


def _principal(rows: Floats) -> Floats:
    """Principal components (n, 2 to 50), largest first, each with its largest entry positive."""
    if not len(rows):
        return np.zeros((0, 2))
    left, spread, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    spread = np.where(spread > 1e-9, spread, 0.0)
    parts = (left * spread)[:, :_COMPONENTS]
    largest = np.take_along_axis(parts, np.abs(parts).argmax(axis=0)[None], axis=0)
    parts = parts * np.where(largest < 0, -1.0, 1.0)
    return np.pad(parts, ((0, 0), (0, max(0, 2 - parts.shape[1]))))


def _tsne(parts: Floats, seed: int) -> Floats:
    from sklearn.manifold import TSNE

    start = (parts[:, :2] / parts[:, 0].std() * _START_SPREAD).astype(np.float32)
    perplexity = min(_PERPLEXITY, (len(parts) - 1) / 3)
    model = TSNE(init=start, perplexity=perplexity, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(parts.astype(np.float32)), dtype=np.float64)


def _fit(points: Floats) -> Floats:
    """Points scaled alike in both directions to fill 0 to 1, in the middle of it."""
    if not len(points):
        return points
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max())
    middle: Floats = (points - (low + high) / 2) / (side if side > 0 else 1.0) + 0.5
    return middle
