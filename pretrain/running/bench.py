"""How fast training is, and what it waits for: the same step with and without data to fetch.

Images are tiles, each of which gives two views. `fixed` is the step (forward, backward, update) on
views that already lie on the device; `whole` adds reading, decoding and augmenting, as a run does.
Both do the same number of steps in turn, several rounds, so that a machine that speeds up or slows
down does so for both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from manifests.files import Json
from pretrain.config import TrainConfig
from pretrain.device import pick_device
from pretrain.loading.feed import feed
from pretrain.running.learner import Learner
from pretrain.running.plan import Plan, make_plan
from pretrain.running.train import torch_as_asked
from pretrain.simclr.ranks import Ranks, join_ranks

WARM_UP_STEPS = 3


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Images per second, the median of all rounds, and their range."""

    arch: str
    device: str
    precision: str
    image_size: int
    batch_size: int
    threads: int
    rounds: int
    steps: int
    """Steps of each round."""
    fixed: tuple[float, float, float]
    """Median, least and most: the step alone."""
    whole: tuple[float, float, float]
    """With reading, decoding and augmenting."""
    reading: tuple[float, float, float]
    """Reading and decoding alone."""
    viewing: tuple[float, float, float]
    """Augmenting alone, both views."""
    share: float
    """Whole over fixed: the median of the rounds' own ratios. 1 is a run that never waits."""
    gpu_memory_gb: float | None

    def to_json(self) -> Json:
        """As a JSON value."""
        return asdict(self)


def bench(
    config: TrainConfig,
    manifest: str | Path,
    *,
    rounds: int = 3,
    steps: int = 10,
    tell: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Measure a run's speed without writing anything.

    Args:
        tell: is called with a line after each round.

    Raises:
        ConfigError, ManifestError, StoreError: as `train`.
    """
    ranks = join_ranks(pick_device(config.device))
    with closing(ranks), torch_as_asked(config, ranks.device):
        plan = make_plan(config, manifest, Path(), ranks.world)
        rig = _Rig(plan, Learner(plan, ranks), ranks)
        rig.whole(WARM_UP_STEPS)
        rig.fixed(WARM_UP_STEPS)
        found: dict[str, list[float]] = {"fixed": [], "whole": [], "reading": [], "viewing": []}
        for number in range(1, rounds + 1):
            for name, speeds in found.items():
                speeds.append(getattr(rig, name)(steps))
            shown = ", ".join(f"{name} {speeds[-1]:.1f}" for name, speeds in found.items())
            tell(f"round {number} of {rounds}, images/s: {shown}")
        memory = None
        if ranks.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(ranks.device) / 2**30
    ratios = [w / f for w, f in zip(found["whole"], found["fixed"], strict=True)]
    return BenchResult(
        arch=plan.config.arch,
        device=plan.config.device,
        precision=plan.config.precision,
        image_size=plan.image_size,
        batch_size=plan.batch_size,
        threads=rig.threads,
        rounds=rounds,
        steps=steps,
        share=statistics.median(ratios),
        gpu_memory_gb=memory,
        **{name: _spread(speeds) for name, speeds in found.items()},
    )


class _Rig:
    """The parts of a run, to be timed one by one; each method gives images per second."""

    def __init__(self, plan: Plan, learner: Learner, ranks: Ranks) -> None:
        device = ranks.device
        self._plan, self._learner, self._device = plan, learner, device
        self.threads = plan.threads
        self._loader = plan.open_loader(ranks.rank, ranks.world)
        self._next = 0
        with closing(feed(self._loader, range(1), self.threads, device)) as batches:
            first = next(iter(batches))
        self._tiles, self._numbers, self._ids = first.tiles, first.numbers, first.ids
        both = learner.views(first.tiles, first.numbers)(slice(0, len(first.ids)))
        self._first, self._second = both.chunk(2)

    def fixed(self, steps: int) -> float:
        """The step alone, on views that lie on the device."""

        def views(part: slice) -> torch.Tensor:
            if part == slice(0, len(self._ids)):
                return self._both
            return torch.cat([self._first[part], self._second[part]])

        self._both = torch.cat([self._first, self._second])
        begun = self._now()
        for _ in range(steps):
            self._learner.update(views, self._ids, 1)
        return self._speed(steps, begun)

    def whole(self, steps: int) -> float:
        """Reading, augmenting and the step, as a run does them."""
        todo = range(self._next, self._next + steps + 1)
        self._next += steps + 1
        with closing(feed(self._loader, todo, self.threads, self._device)) as batches:
            begun = 0.0
            for place, fed in enumerate(batches):
                if place == 1:
                    # The first batch fills what is read ahead.
                    begun = self._now()
                self._learner.update(self._learner.views(fed.tiles, fed.numbers), fed.ids, 1)
        return self._speed(steps, begun)

    def reading(self, steps: int) -> float:
        """Reading and decoding alone."""
        todo = range(self._next, self._next + steps)
        self._next += steps
        begun = self._now()
        with closing(feed(self._loader, todo, self.threads, self._device)) as batches:
            for _ in batches:
                pass
        return self._speed(steps, begun)

    def viewing(self, steps: int) -> float:
        """Augmenting alone."""
        views = self._learner.views(self._tiles, self._numbers)
        begun = self._now()
        for _ in range(steps):
            views(slice(0, len(self._ids)))
        return self._speed(steps, begun)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _speed(self, steps: int, begun: float) -> float:
        return steps * self._plan.batch_size / (self._now() - begun)


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)
