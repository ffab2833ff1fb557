"""The protocol: what is done with the features of one encoder to say how good they are.

N tiles have features (N, F), targets (N,), a split each (0 train, 1 val, 2 test) and a unit each.
Everything is fitted on training tiles and chosen on validation tiles; test tiles are looked at
once. No encoder is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pretrain.results.result import METRICS, CurvePoint, Matrix
from pretrain.results.settings import NEIGHBOURS, REGRESSION, SHARES
from pretrain.scoring.intervals import Interval, score_classes, score_numbers
from pretrain.scoring.metrics import confusion, macro_f1, mean_absolute_error
from pretrain.scoring.neighbours import VOTE_TEMPERATURE, ballots, nearest
from pretrain.scoring.probe import LinearProbe, RidgeProbe, fit_linear, fit_ridge
from pretrain.scoring.shares import label_subset

TRAIN, VAL, TEST = 0, 1, 2
DRAWS = 3
"""Draws of labels for each share below 1."""
_MOST_DIFFERENT_DRAWS = 2**32

Rows = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of N tiles, and how scores are made of it."""

    task: str
    """classification or regression."""
    classes: int
    """0 for regression."""
    targets: npt.NDArray[Any]
    """Class numbers int64, or values float64, (N,)."""
    units: Integers
    """(N,)."""
    split: npt.NDArray[np.int8]
    """(N,)."""
    resamples: int
    seed: int

    def of(self, split: int) -> Flags:
        """The tiles (N,) of a split."""
        found: Flags = self.split == split
        return found

    def score(self, said: Floats, *, ranked: bool = True) -> dict[str, Interval]:
        """Every metric with its interval.

        Args:
            said: of the test tiles: what each class gets (n, classes), or the values (n,).
            ranked: whether AUC is wanted, which takes longer than all else.
        """
        test = self.of(TEST)
        truth, units = self.targets[test], self.units[test]
        given = {"resamples": self.resamples, "seed": self.seed}
        if self.task == REGRESSION:
            return score_numbers(truth, said, units, **given)
        return score_classes(truth, said, units, self.classes, ranked=ranked, **given)

    def confusion(self, said: Floats) -> Matrix | None:
        """Counts of test tiles by true and predicted class; None for regression."""
        if self.task == REGRESSION:
            return None
        counts = confusion(self.targets[self.of(TEST)], said.argmax(axis=1), self.classes)
        return tuple(tuple(row) for row in counts.tolist())

    def val_score(self, said: Floats) -> float:
        """How good what is said of the validation tiles is: macro-F1, or L1 with a minus."""
        truth = self.targets[self.of(VAL)]
        if self.task == REGRESSION:
            return -mean_absolute_error(truth, said)
        return macro_f1(truth, said.argmax(axis=1), self.classes)


@dataclass(slots=True)
class Scored:
    """What was found for one set of features; filled method by method."""

    scores: dict[str, Mapping[str, Interval]] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)
    confusion: dict[str, Matrix] = field(default_factory=dict)
    predicted: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Method → class numbers or values of the test tiles, (n,)."""
    curve: tuple[CurvePoint, ...] = ()
    notes: list[str] = field(default_factory=list)

    def add(self, method: str, said: Floats, truth: Truth) -> None:
        """Score what a method says of the test tiles."""
        self.scores[method] = truth.score(said)
        counts = truth.confusion(said)
        if counts is not None:
            self.confusion[method] = counts
        self.predicted[method] = said if truth.task == REGRESSION else said.argmax(axis=1)


def score_features(features: Rows, truth: Truth, *, curve: bool) -> Scored:
    """Nearest neighbours, a linear probe, and its learning curve.

    Args:
        features: (N, F), finite.
    """
    found = Scored()
    k, said = _neighbours(features, truth)
    found.add("knn", said, truth)
    found.chosen["k"] = k
    probe = _probe(features, truth, truth.of(TRAIN))
    said = _asked(probe, features[truth.of(TEST)])
    found.add("linear", said, truth)
    if isinstance(probe, RidgeProbe):
        found.chosen["alpha"] = probe.alpha
    else:
        found.chosen["c"] = probe.c
        if not probe.converged:
            found.notes.append("the linear probe had no time to converge for every C")
    if curve:
        found.curve = _curve(features, truth, said)
    return found


def _neighbours(features: Rows, truth: Truth) -> tuple[int, Floats]:
    """The k that validation tiles choose (of equals the least), and what is said of test tiles."""
    near = {split: _nearest(features, truth, split) for split in (VAL, TEST)}
    # max() takes the first of equals.
    chosen = max(NEIGHBOURS, key=lambda k: truth.val_score(_vote(*near[VAL], truth, k)))
    return chosen, _vote(*near[TEST], truth, chosen)


def _nearest(features: Rows, truth: Truth, split: int) -> tuple[Integers, Floats]:
    """The nearest training tiles of the tiles of a split, and how near they are."""
    return nearest(features[truth.of(split)], features[truth.of(TRAIN)], max(NEIGHBOURS))


def _vote(numbers: Integers, similarity: Floats, truth: Truth, k: int) -> Floats:
    """What the first k neighbours say: shares of votes, or the mean of their values."""
    targets = truth.targets[truth.of(TRAIN)]
    near, weight = numbers[:, :k], similarity[:, :k]
    if truth.task != REGRESSION:
        return ballots(near, weight, targets, truth.classes)
    weights = np.exp((weight - 1) / VOTE_TEMPERATURE)  # 0 where there is no neighbour
    mean: Floats = (weights * targets[near]).sum(axis=1) / weights.sum(axis=1)
    return mean


def _probe(features: Rows, truth: Truth, train: Flags) -> LinearProbe | RidgeProbe:
    """A linear probe fitted on some training tiles and chosen by all validation tiles."""
    val = truth.of(VAL)
    known = features[train], truth.targets[train], features[val], truth.targets[val]
    return fit_ridge(*known) if truth.task == REGRESSION else fit_linear(*known, truth.classes)


def _asked(probe: LinearProbe | RidgeProbe, features: Rows) -> Floats:
    """What a probe says: probabilities, or values."""
    return probe.predict(features) if isinstance(probe, RidgeProbe) else probe.scores(features)


def _curve(features: Rows, truth: Truth, whole: Floats) -> tuple[CurvePoint, ...]:
    """The linear probe on shares of the training units.

    Args:
        whole: what the probe on all of them says of the test tiles.
    """
    train = np.flatnonzero(truth.of(TRAIN))
    metric = METRICS[truth.task][0]
    # Shares nest, and of few units several shares are the same tiles: each is fitted once.
    done = {np.ones(len(train), np.bool_).tobytes(): truth.score(whole, ranked=False)[metric]}
    points = []
    for share in SHARES:
        drawn = [_drawn(truth, train, share, draw) for draw in range(DRAWS if share < 1 else 1)]
        scores = []
        for chosen in drawn:
            key = chosen.tobytes()
            if key not in done:
                part = np.zeros(len(truth.split), np.bool_)
                part[train[chosen]] = True
                probe = _probe(features, truth, part)
                said = _asked(probe, features[truth.of(TEST)])
                done[key] = truth.score(said, ranked=False)[metric]
            scores.append(done[key])
        points.append(_point(share, drawn, scores, truth.units[train]))
    return tuple(points)


def _drawn(truth: Truth, train: Integers, share: float, draw: int) -> Flags:
    """A share of the training tiles (n,), whole units of each class."""
    labels = truth.targets[train]
    if truth.task == REGRESSION:
        labels = np.zeros(len(train), dtype=np.int64)
    seed = (truth.seed + draw) % _MOST_DIFFERENT_DRAWS
    return label_subset(labels.astype(np.int64), truth.units[train], share, seed)


def _point(share: float, drawn: list[Flags], scores: list[Interval], units: Integers) -> CurvePoint:
    return CurvePoint(
        share=share,
        tiles=round(np.mean([chosen.sum() for chosen in drawn])),
        units=round(np.mean([len(np.unique(units[chosen])) for chosen in drawn])),
        draws=tuple(score.value for score in scores),
        score=Interval(
            *np.mean([(score.value, score.low, score.high) for score in scores], axis=0).tolist()
        ),
    )
