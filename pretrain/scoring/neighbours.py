"""The nearest tiles of a tile by its features, and what they vote for.

Similarity is the cosine of two features, -1 to 1, computed in float64. Queries are Q rows, the
bank that neighbours come from N rows, of F features each. Work goes in blocks, so that memory does
not grow with Q × N.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

VOTE_TEMPERATURE = 0.07
"""A neighbour of similarity s votes with exp(s / 0.07), as in Wu et al., CVPR 2018."""

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_QUERIES = 512
_BANK = 8192
"""Rows that are compared at once: 32 MB of similarities."""
_DIGITS = 12
"""Similarities are rounded, so that a tile that is there twice is not sorted by rounding errors."""
_SLACK = 2 * 10.0**-_DIGITS


def unit(features: Array) -> Floats:
    """Features (N, F) scaled to length 1, float64; a row of zeros stays as it is."""
    rows = np.asarray(features, dtype=np.float64)
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled


def nearest(
    queries: Array,
    bank: Array,
    k: int,
    *,
    query_units: Integers | None = None,
    bank_units: Integers | None = None,
    allowed: Flags | None = None,
) -> tuple[Integers, Floats]:
    """The K most similar rows of the bank for each query, nearest first.

    Args:
        queries: (Q, F), of any length.
        bank: (N, F), of any length; the same array if tiles are compared with each other.
        k: K.
        query_units, bank_units: (Q,) and (N,), both or neither: a row of the bank is no neighbour
            of a query of its own unit.
        allowed: bool (Q, N); whether column j may be a neighbour of row i.

    A row whose features are not all finite has no neighbours, and is none.

    Returns:
        Numbers int64 (Q, K) and similarities float64 (Q, K), rounded to 12 digits. Where fewer
        than K may be neighbours, the number is -1 and the similarity -inf. Of equally similar
        rows, those of lower numbers come first.

    Raises:
        ValueError: units of one side only.
    """
    if (query_units is None) != (bank_units is None):
        raise ValueError("neighbours of other units need the units of both sides")
    numbers = np.full((len(queries), k), -1, dtype=np.int64)
    near = np.full((len(queries), k), -np.inf)
    for first in range(0, len(queries), _QUERIES):
        some = slice(first, first + _QUERIES)
        rows, lost = _finite(queries[some])
        for start in range(0, len(bank), _BANK):
            part = slice(start, start + _BANK)
            others, others_lost = _finite(bank[part])
            similarity = rows @ others.T
            similarity[lost] = -np.inf
            similarity[:, others_lost] = -np.inf
            if allowed is not None:
                similarity[~allowed[some, part]] = -np.inf
            if query_units is not None and bank_units is not None:
                same = query_units[some, None] == bank_units[None, part]
                similarity[same] = -np.inf
            _merge(numbers[some], near[some], similarity, start)
    return numbers, near


def ballots(numbers: Integers, similarity: Floats, labels: Integers, classes: int) -> Floats:
    """The share of its neighbours' votes that each class has, (Q, C); zeros where it has none.

    Shares of a row sum to 1, so that those of one class can be compared over rows.

    Args:
        numbers, similarity: as `nearest` gives them, (Q, K).
        labels: class of each row of the bank, (N,), 0 to `classes` - 1.
    """
    weights = np.exp((similarity - 1) / VOTE_TEMPERATURE)
    votes = np.zeros((len(numbers), classes))
    for place in range(numbers.shape[1]):
        given = numbers[:, place] >= 0
        votes[given, labels[numbers[given, place]]] += weights[given, place]
    total = votes.sum(axis=1, keepdims=True)
    shares: Floats = np.divide(votes, total, out=votes, where=total > 0)
    return shares


def vote(numbers: Integers, similarity: Floats, labels: Integers, classes: int) -> Integers:
    """The class that each query's neighbours vote for, (Q,); -1 where it has none.

    Args:
        numbers, similarity, labels, classes: as for `ballots`.
    """
    shares = ballots(numbers, similarity, labels, classes)
    return np.where(shares.any(axis=1), shares.argmax(axis=1), -1)


def _finite(features: Array) -> tuple[Floats, Flags]:
    """Features scaled to length 1, and which rows are not finite: those are zeros."""
    lost: Flags = np.logical_not(np.isfinite(features).all(axis=1))
    if lost.any():
        features = np.where(lost[:, None], 0.0, features)
    return unit(features), lost


def _merge(numbers: Integers, near: Floats, similarity: Floats, start: int) -> None:
    """Put those rows of a part of the bank that are near enough among the nearest so far.

    Args:
        numbers, near: the nearest so far, (Q, K), changed in place.
        similarity: of the part, (Q, M).
        start: the number of its first row.
    """
    k = numbers.shape[1]
    if k == 0 or similarity.size == 0:
        return
    least = near[:, -1]
    if k < similarity.shape[1] and np.isneginf(least).any():
        place = similarity.shape[1] - k
        least = np.maximum(least, np.partition(similarity, place, axis=1)[:, place])
    rows, columns = np.nonzero((similarity >= least[:, None] - _SLACK) & (similarity > -np.inf))
    values = np.round(similarity[rows, columns], _DIGITS)
    # The old ones come first, then by row of the bank: lower numbers win where all else is equal.
    old_rows, old_places = np.nonzero(numbers >= 0)
    rows = np.concatenate([old_rows, rows])
    values = np.concatenate([near[old_rows, old_places], values])
    found = np.concatenate([numbers[old_rows, old_places], columns + start])
    order = np.lexsort((found, -values, rows))
    rows, values, found = rows[order], values[order], found[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows, "left")
    kept = places < k
    numbers[rows[kept], places[kept]] = found[kept]
    near[rows[kept], places[kept]] = values[kept]
