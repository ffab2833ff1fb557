"""Loss and gradient of one batch: at once, in parts, or through a cache of gradients.

n tiles of this rank give 2n views (the first views of all, then the second ones) and 2n embeddings
of D dimensions. Both views go through the network in one pass: with one pass for each, BatchNorm
would tell the views apart, and the gradient would be another one altogether.

What does not fit the memory at once is done in parts, in one of two ways. They differ in what the
result is: parts that accumulate have a loss each, with fewer negatives; with gradient caching (Gao
et al., RepL4NLP 2021) every view has all negatives of the batch, for a second forward pass. Either
way BatchNorm sees a part at a time. Without BatchNorm the cached gradient is exactly that of the
whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.simclr.loss import nt_xent
from pretrain.simclr.ranks import Ranks

MakeViews = Callable[[slice], Tensor]
"""Views (2k, 3, S, S) of k tiles, a slice of this rank's n; may be asked twice, same answer."""


@dataclass(frozen=True, slots=True)
class StepSettings:
    """How the loss of a batch is computed."""

    temperature: float
    decoupled: bool = False
    accumulate: int = 1
    """Parts of a batch, each with its own loss; the sum weighs them by their tiles."""
    grad_cache: int | None = None
    """Most tiles of a rank that go through the network together; None for all."""
    bf16: bool = False
    """Whether the network runs under autocast; the loss is computed in float32 regardless."""

    def __post_init__(self) -> None:
        if self.accumulate < 1 or (self.grad_cache is not None and self.grad_cache < 1):
            raise ConfigError(
                f"accumulate and grad-cache must be at least 1, got {self.accumulate} and "
                f"{self.grad_cache}"
            )
        if self.accumulate > 1 and self.grad_cache is not None:
            raise ConfigError("accumulate and grad-cache both split a batch: choose one of them")


def forward_backward(
    model: nn.Module, make_views: MakeViews, ids: Tensor, settings: StepSettings, ranks: Ranks
) -> Tensor:
    """Add the gradient of a batch's loss to the parameters; clear them before.

    The parts of a batch are nearly equal. Running statistics move once for each part, and in the
    same way with and without gradient caching.

    Args:
        model: maps views (2k, 3, S, S) to embeddings (2k, D); `ranks.wrap` made it if W > 1.
        ids: which tiles these n are, (n,); the same n on all ranks.

    Returns:
        The loss, a mean over the views of all ranks; without a graph, on the device.

    Raises:
        ConfigError: more parts than tiles, or parts of a single tile, which has no negatives.
        TrainingError: another rank is gone.
    """
    tiles = len(ids)
    cached = settings.grad_cache is not None and settings.grad_cache < tiles
    with ranks.guard():
        if cached:
            loss = _by_cache(model, make_views, ids, settings, ranks)
        else:
            loss = _by_parts(model, make_views, ids, settings, ranks)
        return ranks.mean(loss)


def even_parts(tiles: int, parts: int) -> list[slice]:
    """Cut `tiles` places into parts whose sizes differ by at most one."""
    edges = [tiles * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _by_parts(
    model: nn.Module, make_views: MakeViews, ids: Tensor, settings: StepSettings, ranks: Ranks
) -> Tensor:
    tiles = len(ids)
    if tiles // settings.accumulate * ranks.world < 2:
        raise ConfigError(
            f"{tiles} tiles of a process cannot be done in {settings.accumulate} parts: a part "
            "needs at least 2 tiles over all processes; use a larger batch or fewer parts"
        )
    total = torch.zeros((), device=ids.device)
    parts = even_parts(tiles, settings.accumulate)
    for part in parts:
        with _exchange(model, wanted=part is parts[-1]):
            embeddings = _embed(model, make_views(part), settings)
            loss = _loss(embeddings, ids[part], settings, ranks)
            loss = loss * ((part.stop - part.start) / tiles)
            torch.autograd.backward(loss)
        total = total + loss.detach()
    return total


def _by_cache(
    model: nn.Module, make_views: MakeViews, ids: Tensor, settings: StepSettings, ranks: Ranks
) -> Tensor:
    tiles = len(ids)
    parts = even_parts(tiles, -(-tiles // cast(int, settings.grad_cache)))
    with torch.no_grad(), kept_buffers(model):
        states, halves = [], []
        for part in parts:
            states.append(_random_state(ids.device))
            embeddings = _embed(model, make_views(part), settings)
            halves.append(embeddings.chunk(2))
    whole = torch.cat([half[view] for view in (0, 1) for half in halves]).requires_grad_()
    loss = _loss(whole, ids, settings, ranks)
    (gradient,) = torch.autograd.grad(loss, whole)
    first, second = gradient.chunk(2)
    for part, state in zip(parts, states, strict=True):
        # Dropout must leave out the same again. The last part ends where the first pass ended.
        _set_random_state(state, ids.device)
        with _exchange(model, wanted=part is parts[-1]):
            embeddings = _embed(model, make_views(part), settings)
            torch.autograd.backward(embeddings, torch.cat([first[part], second[part]]))
    return loss.detach()


def _embed(model: nn.Module, views: Tensor, settings: StepSettings) -> Tensor:
    with torch.autocast(views.device.type, torch.bfloat16, enabled=settings.bf16):
        return cast(Tensor, model(views))


def _loss(embeddings: Tensor, ids: Tensor, settings: StepSettings, ranks: Ranks) -> Tensor:
    return nt_xent(embeddings, settings.temperature, ids, decoupled=settings.decoupled, ranks=ranks)


def _exchange(model: nn.Module, *, wanted: bool) -> AbstractContextManager[None]:
    """Let DistributedDataParallel average the gradients in the last backward pass alone."""
    no_sync = getattr(model, "no_sync", None)
    if wanted or no_sync is None:
        return nullcontext()
    return cast(AbstractContextManager[None], no_sync())


@contextmanager
def kept_buffers(model: nn.Module) -> Generator[None, None, None]:
    """Put back all buffers at the end: running statistics do not move."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in kept:
                buffer.copy_(values)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_gpu


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
