"""How far a run is: its lines of metrics, what it knows of its past, and who watches it.

A step is counted from 1, an epoch from 1; images are tiles, each of which gives two views.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from manifests.files import Json
from pretrain.running.plan import Plan
from pretrain.watch.scores import Scores


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One line of `metrics.jsonl`."""

    step: int
    """From 1."""
    epoch: int
    """From 1."""
    loss: float
    lr: float
    images_per_s: float
    """Tiles, not views, per second since the last line."""
    data_wait: float
    """Share of that time in which it waited for tiles, 0 to 1."""
    gpu_memory_gb: float | None = None
    """Most that torch held on the GPU so far, in GiB; None on a CPU."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    encoder: Path
    steps: int
    first_loss: float
    final_loss: float
    damaged: tuple[str, ...]
    """Tiles that could not be read and were replaced, SLIDE/GROUP/INDEX, sorted."""
    scores: Scores | None = None
    """The last look at the features."""
    was_done: bool = False
    """Whether there was nothing left to do."""


class Observer(Protocol):
    """Who wants to see a run pass by."""

    def started(self, plan: Plan, step: int) -> None:
        """Everything was checked; the run begins after `step`, 0 for a new one."""

    def noted(self, text: str) -> None:
        """Something that one should know of this run, a sentence."""

    def stepped(self, metrics: StepMetrics) -> None:
        """A line of metrics was logged."""

    def looked(self, step: int, scores: Scores) -> None:
        """The features were looked at."""

    def damaged(self, tile: str) -> None:
        """A tile, SLIDE/GROUP/INDEX, could not be read and was replaced by another of its slide."""


@dataclass(slots=True)
class Progress:
    """What a run knows of its past besides the network."""

    step: int = 0
    first_loss: float = float("nan")
    final_loss: float = float("nan")
    damaged: set[str] = field(default_factory=set)
    scores: Scores | None = None

    def to_json(self) -> Json:
        """As a JSON value, which has no place for scores that are no numbers."""
        scores = None if self.scores is None else asdict(self.scores)
        if scores is not None and not math.isfinite(scores["alignment"] + scores["uniformity"]):
            scores = None
        return {
            "step": self.step,
            "first_loss": self.first_loss,
            "final_loss": self.final_loss,
            "damaged": sorted(self.damaged),
            "scores": scores,
        }

    @classmethod
    def from_json(cls, data: Json) -> Progress:
        """What `to_json` gave."""
        return cls(
            step=data["step"],
            first_loss=data["first_loss"],
            final_loss=data["final_loss"],
            damaged=set(data["damaged"]),
            scores=None if data["scores"] is None else Scores(**data["scores"]),
        )


class Clock:
    """How fast a run is since it was last read."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Begin to count anew."""
        self._begun, self._steps, self._waited_s = time.perf_counter(), 0, 0.0

    def step(self, waited_s: float) -> None:
        """Count a step, which waited so long for its tiles."""
        self._steps += 1
        self._waited_s += waited_s

    def read(self) -> tuple[float, float]:
        """Tiles per second, and the share of time that went into waiting for them."""
        passed = max(time.perf_counter() - self._begun, 1e-9)
        found = self._steps * self._batch_size / passed, min(1.0, self._waited_s / passed)
        self.restart()
        return found
