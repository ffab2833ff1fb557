"""What learns: the network, its optimizer and the average of its weights, and one update of them.

B is the batch, b the part of it that this rank holds, S the side of a view. Everything that the
next update depends on can be taken out as tensors and JSON, and put back in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from manifests.files import Json
from pretrain.errors import CheckpointError
from pretrain.mixing.keyed import key_of
from pretrain.network.model import SimClr, build_model
from pretrain.running.plan import Plan
from pretrain.simclr.ranks import Ranks, synchronise_norms, wrap
from pretrain.simclr.schedule import Ema, learning_rate, make_optimizer, peak_rate
from pretrain.simclr.step import StepSettings, forward_backward
from pretrain.views.augment import both_views

Views = Callable[[slice], Tensor]

CHANNELS_LAST = torch.channels_last
"""Convolutions are about twice as fast on a CPU with channels last, and faster on a GPU."""


class NotFinite(Exception):
    """The loss or a gradient is no number, and was none at full precision either."""

    def __init__(self, loss: float, places: tuple[int, ...]) -> None:
        super().__init__(f"the loss is {loss}")
        self.loss = loss
        self.places = places
        """Places in this rank's part of the batch whose embeddings are no numbers; perhaps none."""


class Learner:
    """A network that is being trained."""

    def __init__(self, plan: Plan, ranks: Ranks) -> None:
        """Build it as the plan says, the same on every rank.

        Raises:
            ConfigError: there is no such architecture, or its first weights cannot be had.
        """
        config = plan.config
        self._plan, self._ranks = plan, ranks
        self._peak = peak_rate(config, plan.batch_size)
        self.settings = StepSettings(
            temperature=config.temperature,
            decoupled=config.decoupled,
            accumulate=config.accumulate,
            grad_cache=config.grad_cache,
            bf16=config.precision == "bf16",
        )
        model = build_model(config).to(ranks.device).to(memory_format=CHANNELS_LAST).train()
        self.model = cast(SimClr, synchronise_norms(model, ranks))
        self.ema = Ema(self.model, config.ema) if config.ema else None
        self.optimizer = make_optimizer(self.model, config)
        if config.compile:
            self.model.compile()
        self._wrapped = wrap(self.model, ranks)

    @property
    def exported(self) -> SimClr:
        """The network as it would be exported: the average of the weights if there is one."""
        return self.model if self.ema is None else cast(SimClr, self.ema.model)

    def views(self, tiles: Tensor, numbers: npt.NDArray[np.int64]) -> Views:
        """What gives both views of some tiles when they are needed.

        Args:
            tiles: uint8 (b, H, W, 3) on the device.
            numbers: sample numbers, (b,).
        """
        config, size = self._plan.config, self._plan.image_size

        def views(part: slice) -> Tensor:
            return both_views(config.views, config.seed, tiles[part], numbers[part], size)

        return views

    def update(self, views: Views, ids: Tensor, step: int) -> tuple[float, float]:
        """One update; returns the loss before it and the learning rate.

        Args:
            views: gives the first, then the second views (2n, 3, S, S) of n of the b tiles.
            ids: int64 (b,) on the device; equal ids are the same tile.
            step: from 1.

        Raises:
            NotFinite: the loss or a gradient is no number; nothing was updated.
        """
        # What dropout leaves out depends on the step, not on what was drawn before.
        torch.manual_seed(key_of(self._plan.config.seed, "network", step, self._ranks.rank) >> 1)
        lr = learning_rate(step - 1, self._plan.steps, self._peak, self._plan.config.warmup)
        loss = self._gradients(views, ids)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model)
        return loss, lr

    def _gradients(self, views: Views, ids: Tensor) -> float:
        # Running statistics of a pass that gave no number must not stay.
        kept = [buffer.clone() for buffer in self.model.buffers()]
        for settings in self._attempts():
            self.optimizer.zero_grad(set_to_none=True)
            loss = float(forward_backward(self._wrapped, views, ids, settings, self._ranks))
            if not self._ranks.any(not math.isfinite(loss) or not self._finite_gradients()):
                return loss
            for buffer, before in zip(self.model.buffers(), kept, strict=True):
                buffer.copy_(before)
        raise NotFinite(loss, self._bad_places(views, len(ids)))

    def _attempts(self) -> list[StepSettings]:
        full = replace(self.settings, bf16=False)
        return [self.settings, full] if self.settings.bf16 else [full]

    def _finite_gradients(self) -> bool:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return bool(torch.isfinite(nn.utils.get_total_norm(gradients)))

    @torch.no_grad()
    def _bad_places(self, views: Views, count: int) -> tuple[int, ...]:
        # No more at a time than the memory holds: the batch may be done in parts for that.
        most = self.settings.grad_cache or -(-count // self.settings.accumulate)
        found: list[int] = []
        self.model.eval()
        for first in range(0, count, most):
            embeddings = self.model(views(slice(first, min(first + most, count))))
            one, other = torch.isfinite(embeddings).all(dim=1).chunk(2)
            found += (first + (~(one & other)).nonzero().flatten()).tolist()
        self.model.train()
        return tuple(found)

    def state(self) -> tuple[dict[str, Tensor], Json]:
        """Tensors and JSON that `load` takes."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.ema is not None:
            averaged = self.ema.state_dict()
            tensors |= {f"ema.{name}": value for name, value in averaged.items()}
        found = self.optimizer.state_dict()
        numbers: dict[str, Json] = {}
        for place, values in found["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{place}.{name}"] = value
                else:
                    numbers[f"{place}.{name}"] = value
        return tensors, {"optimizer": numbers, "groups": found["param_groups"]}

    def load(self, tensors: Mapping[str, Tensor], state: Json) -> None:
        """Go back to what `state` gave.

        Raises:
            CheckpointError: that was another network.
        """
        try:
            self.model.load_state_dict(_below("model.", tensors))
            if self.ema is not None:
                self.ema.load_state_dict(_below("ema.", tensors))
            self._load_optimizer(tensors, state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint is not one of a {self._plan.config.arch} as it is set up here"
            ) from error

    def _load_optimizer(self, tensors: Mapping[str, Tensor], state: Json) -> None:
        found: dict[int, dict[str, object]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for key, value in _below("optimizer.", tensors).items():
            place, _, name = key.partition(".")
            own = parameters[int(place)]
            if value.shape == own.shape:
                # In the memory order of the weight: sums in another order have other last bits.
                value = torch.empty_like(own).copy_(value)
            found.setdefault(int(place), {})[name] = value
        for key, number in state["optimizer"].items():
            place, _, name = key.partition(".")
            found.setdefault(int(place), {})[name] = number
        self.optimizer.load_state_dict({"state": found, "param_groups": state["groups"]})


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
