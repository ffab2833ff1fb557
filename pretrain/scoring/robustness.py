"""Does an encoder know the tissue or the scanner? Counts of kinds of neighbours, and their ratio.

N tiles each have a *biology* (such as a class), a *confounder* (such as a site) and a *unit* (such
as a patient), all int64 (N,), from 0. The neighbours of a tile come from other units only; those of
the same biology and another confounder are SO, those of another biology and the same confounder
OS. Numbers of neighbours are (N, K), nearest first, -1 where there are fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

CANDIDATES = (1, 3, 5, 7, 9, *range(11, 600, 10))
"""Numbers of neighbours that one is chosen from, as PathoROB does."""


@dataclass(frozen=True, slots=True)
class Kinds:
    """How many neighbours of each tile are of which kind."""

    so: Integers
    """Same biology, other confounder, (N,)."""
    os: Integers
    """Other biology, same confounder, (N,)."""
    all: Integers
    """Neighbours of any kind, (N,)."""

    @property
    def crossing(self) -> Flags:
        """Tiles (N,) that have both SO and OS."""
        found: Flags = (self.so > 0) & (self.os > 0)
        return found

    def index(self, meant: Flags) -> float | None:
        """The robustness index of the tiles that are meant, 0 to 1; None: no SO and no OS.

        SO / (SO + OS) with the counts of all tiles added up first (Kömen et al., arXiv 2507.17845).
        """
        so, os = int(self.so[meant].sum()), int(self.os[meant].sum())
        return so / (so + os) if so + os else None


def count_kinds(numbers: Integers, biology: Integers, confounder: Integers, k: int) -> Kinds:
    """Count the kinds among the first `k` neighbours of each tile."""
    near = numbers[:, :k]
    there = near >= 0
    same_biology = biology[near] == biology[:, None]
    same_confounder = confounder[near] == confounder[:, None]
    return Kinds(
        so=(there & same_biology & ~same_confounder).sum(axis=1),
        os=(there & ~same_biology & same_confounder).sum(axis=1),
        all=there.sum(axis=1),
    )


def possible_kinds(biology: Integers, confounder: Integers, units: Integers) -> Kinds:
    """Count the kinds among all tiles of other units: what neighbours could be."""
    by_both = _others(units, biology, confounder)
    return Kinds(
        so=_others(units, biology) - by_both,
        os=_others(units, confounder) - by_both,
        all=_others(units),
    )


def _others(units: Integers, *values: Integers) -> Integers:
    """How many tiles of other units have the same values, (N,)."""
    return _like(*values, np.zeros_like(units)) - _like(*values, units)


def _like(*values: Integers) -> Integers:
    """How many tiles have the same values, (N,)."""
    _, group, count = np.unique(np.stack(values), axis=1, return_inverse=True, return_counts=True)
    alike: Integers = count[group.reshape(-1)]
    return alike


def chance_index(possible: Kinds, meant: Flags) -> float | None:
    """The index of features that say nothing: neighbours drawn among all tiles of other units.

    One half in sets with as many biologies as confounders and as many tiles of each pair; in others
    it can be anything, so that an index means little without it.
    """
    drawn = meant & (possible.all > 0)
    so = float((possible.so[drawn] / possible.all[drawn]).sum())
    os = float((possible.os[drawn] / possible.all[drawn]).sum())
    return so / (so + os) if so + os else None


def vote(numbers: Integers, labels: Integers, classes: int, ks: Sequence[int]) -> Integers:
    """What the first k neighbours say, by majority, for each k: (len(ks), N); -1: has none.

    Of classes with as many votes, the one whose first neighbour is nearest wins: no class is
    favoured for its place in the alphabet.

    Args:
        labels: (N,), 0 to `classes` - 1; -1 does not vote.
    """
    rows = np.arange(len(numbers))
    ballots = np.zeros((len(numbers), classes))
    said = np.full((len(ks), len(numbers)), -1, dtype=np.int64)
    width = numbers.shape[1]
    for place in range(min(max(ks, default=0), width)):
        label = np.where(numbers[:, place] >= 0, labels[numbers[:, place]], -1)
        given = label >= 0
        # Its first vote weighs a little more than one, and less the farther it is.
        first = ballots[rows[given], label[given]] == 0
        ballots[rows[given], label[given]] += 1 + first * (width - place) / (4 * width)
        for turn in [turn for turn, k in enumerate(ks) if min(k, width) == place + 1]:
            said[turn] = np.where(ballots.any(axis=1), ballots.argmax(axis=1), -1)
    return said


def scorable(labels: Integers, units: Integers, classes: int) -> Flags:
    """Classes (classes,) with tiles in two units or more: others can never be voted for rightly."""
    known = labels >= 0
    pairs = np.unique(np.stack([labels[known], units[known]]), axis=1)
    found: Flags = np.bincount(pairs[0], minlength=classes) > 1
    return found


def vote_accuracy(truth: Integers, said: Integers, scored: Flags) -> float | None:
    """Share of tiles that their neighbours are right on: the mean over scored classes.

    Args:
        truth: (N,), -1 is left out.
        said: (N,).
        scored: bool (classes,).
    """
    right = [float((said[truth == c] == c).mean()) for c in np.flatnonzero(scored)]
    return float(np.mean(right)) if right else None


def best_k(
    numbers: Integers, labels: Integers, scored: Flags, candidates: Sequence[int]
) -> int | None:
    """The candidate whose vote is right most often on `labels`; the smallest of equals."""
    said = vote(numbers, labels, len(scored), candidates)
    right = [vote_accuracy(labels, votes, scored) for votes in said]
    if not right or right[0] is None:
        return None
    return candidates[int(np.argmax(np.array(right, dtype=np.float64)))]


def common_k(chosen: Sequence[int]) -> int:
    """One number of neighbours for all encoders: the median of what is best for each, downwards."""
    return int(median(chosen))


def candidates_within(possible: Kinds) -> tuple[int, ...]:
    """The candidates that every tile has enough neighbours for; at least 1."""
    most = int(possible.all.min(initial=CANDIDATES[-1]))
    return tuple(k for k in CANDIDATES if k <= max(most, 1))
