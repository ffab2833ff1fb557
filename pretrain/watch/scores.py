"""How good features are without training on them: neighbours, alignment and uniformity.

Plain functions of numpy arrays, computed in float64. N tiles have features (N, F), scaled here to
length 1; similarity is the cosine, -1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretrain.scoring.neighbours import Array, Flags, Integers, nearest, unit, vote


@dataclass(frozen=True, slots=True)
class Scores:
    """One look at an encoder."""

    knn: float | None
    """Accuracy of the neighbours' vote, the mean over classes, 0 to 1; None: no classes."""
    classes: int
    """Classes that were scored; a vote at random is right once in so many."""
    tiles: int
    """Tiles that were looked at."""
    alignment: float
    """Mean squared distance of two views of a tile, 0 (equal) to 4; independent ones: 2."""
    uniformity: float
    """0 if all tiles lie in one point, about -4 if they are spread evenly."""


def scorable(labels: Integers, allowed: Flags) -> Flags:
    """The tiles (N,) that could be scored right: a tile of their class may be their neighbour."""
    found: Flags = ((labels[:, None] == labels[None, :]) & allowed).any(axis=1)
    return found


def knn_accuracy(features: Array, labels: Integers, allowed: Flags, k: int) -> float | None:
    """Share of tiles whose neighbours vote for their class: the mean over classes.

    Tiles that cannot be scored (see `scorable`) are left out; None if all are.

    Args:
        features: (N, F).
        labels: (N,), from 0.
        allowed: bool (N, N); whether column j may be a neighbour of row i; an empty row is a
            tile that is no query.
        k: neighbours that vote.
    """
    asked = scorable(labels, allowed)
    if not asked.any():
        return None
    voted = vote(*nearest(features, features, k, allowed=allowed), labels, int(labels.max()) + 1)
    right = voted == labels
    return float(np.mean([right[asked & (labels == c)].mean() for c in np.unique(labels[asked])]))


def alignment(first: Array, second: Array) -> float:
    """How near two views of a tile lie: mean of ‖f(x) - f(y)‖², 0 to 4.

    Args:
        first, second: embeddings (N, D) of two views of the same tiles, of any length.

    Wang and Isola, ICML 2020, section 4.1, with α = 2.
    """
    return float(np.mean(np.sum((unit(first) - unit(second)) ** 2, axis=1)))


def uniformity(embeddings: Array) -> float:
    """How evenly tiles fill the sphere: log of the mean of exp(-2 ‖f(x) - f(y)‖²) over all pairs.

    Args:
        embeddings: (N, D) of different tiles, of any length; fewer than two give 0.

    Wang and Isola, ICML 2020, section 4.1, with t = 2.
    """
    rows = unit(embeddings)
    if len(rows) < 2:
        return 0.0
    squared = np.clip(2 - 2 * (rows @ rows.T), 0, 4)
    pairs = squared[np.triu_indices(len(rows), k=1)]
    return float(np.log(np.mean(np.exp(-2 * pairs))))
