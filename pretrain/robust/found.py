"""What a measurement of robustness found: plain frozen data, and the JSON that it becomes.

The form is held by `docs/reference/robustness.md`. Nothing in it says where on a disk anything
lies. Counts are tiles, units and neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.files import Json
from pretrain.results.result import interval_json

if TYPE_CHECKING:
    from pretrain.scoring.intervals import Interval

FORMAT = "histotile-robustness"
VERSION = 1
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Prediction:
    """How well neighbours predict a field."""

    accuracy: Interval
    """Balanced accuracy, 0 to 1: the mean over classes of the share that is predicted right."""
    classes: tuple[str, ...]
    """Values that can be scored: tiles of two units or more have them."""
    tiles: int
    """Tiles of these values."""

    @property
    def chance(self) -> float | None:
        """The accuracy of features that say nothing; None if nothing could be scored."""
        return 1 / len(self.classes) if self.classes else None

    def to_json(self) -> Json:
        """As JSON has it."""
        return {
            "balanced_accuracy": interval_json(self.accuracy),
            "chance": self.chance,
            "classes": list(self.classes),
            "tiles": self.tiles,
        }


@dataclass(frozen=True, slots=True)
class EncoderRobustness:
    """What was found for one encoder, or for the colour histogram."""

    name: str
    kind: str
    """`encoder` or `baseline`."""
    facts: Mapping[str, Json]
    """What the encoder says of itself."""
    index: Interval
    so: int
    """Neighbours of the same biology and another confounder, over all queries."""
    os: int
    """Neighbours of another biology and the same confounder."""
    best_k: int | None
    """Neighbours that predict the biology best; None if it cannot be scored."""
    predictions: Mapping[str, Prediction]

    def to_json(self) -> Json:
        """As JSON has it."""
        return {
            **self.facts,
            "name": self.name,
            "kind": self.kind,
            "robustness_index": interval_json(self.index),
            "so": self.so,
            "os": self.os,
            "best_k": self.best_k,
            "predictions": {name: p.to_json() for name, p in self.predictions.items()},
        }


@dataclass(frozen=True, slots=True)
class Robustness:
    """The robustness of encoders on one set of tiles."""

    biology: str
    confounder: str
    by: tuple[str, ...]
    """What units are made by."""
    k: int
    k_given: bool
    """Whether the user said it."""
    tiles: int
    queries: int
    """Tiles that could have neighbours of both kinds: the index is of these."""
    units: int
    left_out: Mapping[str, int]
    """Reason → tiles."""
    chance: float
    """The index of features that say nothing."""
    pairs: Mapping[str, Mapping[str, int]]
    """Biology → confounder → tiles."""
    resamples: int
    seed: int
    encoders: tuple[EncoderRobustness, ...]
    """In the order they were given; the baseline is the last."""

    def to_json(self) -> Json:
        """As JSON; the same result gives the same text."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "biology": self.biology,
            "confounder": self.confounder,
            "by": list(self.by),
            "k": self.k,
            "k_chosen_by": "user" if self.k_given else "median over encoders",
            "tiles": self.tiles,
            "queries": self.queries,
            "units": self.units,
            "left_out": dict(self.left_out),
            "chance": self.chance,
            "pairs": {name: dict(counts) for name, counts in self.pairs.items()},
            "interval": {
                "level": LEVEL,
                "resamples": self.resamples,
                "over": "+".join(self.by),
            },
            "seed": self.seed,
            "encoders": [found.to_json() for found in self.encoders],
        }
