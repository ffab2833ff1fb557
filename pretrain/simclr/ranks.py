"""Several processes that train one model: torchrun starts them, each is a rank with its own device.

W is the number of ranks ("world"), n the tiles of one rank; the batch is W · n, the ranks' tiles
one after the other. Each rank has the loss of its own rows and `DistributedDataParallel` takes the
mean of the gradients. Whatever passes between ranks inside the network or the loss hands back the
gradient of the *sum* of all ranks' losses, so that the mean is the gradient of the one loss of the
whole batch: W processes equal one. Nothing but tensors travels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pretrain.errors import ConfigError, TrainingError

TIMEOUT_S = 600.0
"""How long a rank waits for the others; a look at the features should take less."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; alone, every exchange is with itself."""

    rank: int
    """0 to `world` - 1, over all machines."""
    world: int
    device: torch.device

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"RANK must be 0 to WORLD_SIZE - 1 ({self.world - 1}): {self.rank}")

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; all get the same answer. Does not wait for a GPU."""
        return bool(self._reduce([int(flag)], distributed.ReduceOp.MAX)[0])

    def agree(self, number: int) -> bool:
        """Whether all ranks have the same number, below 2^63 in size."""
        low, high = self._reduce([number, -number], distributed.ReduceOp.MIN)
        return low == -high

    def union(self, numbers: Iterable[int]) -> set[int]:
        """The numbers (below 2^63 in size) that any rank has."""
        own = sorted(set(numbers))
        if self.world == 1:
            return set(own)
        (longest,) = self._reduce([len(own)], distributed.ReduceOp.MAX)
        if longest == 0:
            return set()
        padded = torch.zeros(longest + 1, dtype=torch.int64)
        padded[0] = len(own)
        padded[1 : len(own) + 1] = torch.tensor(own, dtype=torch.int64)
        rows = _gathered(padded[None], self)
        return {int(number) for row in rows for number in row[1 : int(row[0]) + 1]}

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks of a tensor that has the same shape on all; without a gradient."""
        value = value.detach().clone()
        if self.world > 1:
            with self.guard():
                distributed.all_reduce(value)
            value /= self.world
        return value

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)

    @contextmanager
    def guard(self) -> Generator[None, None, None]:
        """Say in one sentence what a failed exchange with the other ranks means.

        Raises:
            TrainingError: another rank ended or did not answer in time.
        """
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, distributed.DistError) or "gloo" in str(error)
            if self.world == 1 or not lost:
                raise
            raise TrainingError(
                f"rank {self.rank} of {self.world} lost another rank, which ended or did not "
                "answer in time; what that one says last is the cause"
            ) from error

    def close(self) -> None:
        """Leave the others; for the end of a process."""
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def _reduce(self, numbers: list[int], how: Any) -> list[int]:
        # On the CPU, also beside GPUs: no kernel has to end before the answer is there.
        values = torch.tensor(numbers, dtype=torch.int64)
        if self.world > 1:
            with self.guard():
                distributed.all_reduce(values, how)
        return [int(value) for value in values]


def join_ranks(device: str, timeout_s: float = TIMEOUT_S) -> Ranks:
    """Meet the other processes that torchrun started, if it did; else be the only one.

    Args:
        device: cpu (exchange by gloo) or cuda (by NCCL, the GPU of this process's LOCAL_RANK).
        timeout_s: a rank that waits longer for the others ends.

    Raises:
        ConfigError: the environment is not torchrun's, or there are fewer GPUs than processes.
        TrainingError: the others cannot be reached.
    """
    world = _number(os.environ, "WORLD_SIZE", 1)
    if world == 1:
        return Ranks(0, 1, torch.device(device))
    place = torch.device(device)
    if place.type == "cuda":
        place = _own_gpu(_number(os.environ, "LOCAL_RANK"))
        torch.cuda.set_device(place)
    ranks = Ranks(_number(os.environ, "RANK"), world, place)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(f"WORLD_SIZE is {world} but {name} is not set; start with torchrun")
    try:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
            rank=ranks.rank,
            world_size=world,
            timeout=timedelta(seconds=timeout_s),
        )
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"rank {ranks.rank} of {world} could not meet the others at {where} ({error}); check "
            "that all were started and can reach that machine"
        ) from error
    return ranks


def _number(environment: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environment.get(name)
    if text is None and otherwise is not None:
        return otherwise
    if text is None or not text.isdecimal():
        found = "is not set" if text is None else f"is {text!r}"
        raise ConfigError(f"{name} must be a number, but it {found}; start with torchrun")
    return int(text)


def _own_gpu(local_rank: int) -> torch.device:
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise ConfigError(
            f"process {local_rank} of this machine needs a GPU of its own, but torch sees {gpus}; "
            "start as many processes as there are GPUs, or use --device cpu"
        )
    return torch.device("cuda", local_rank)


def gather_rows(rows: Tensor, ranks: Ranks | None) -> Tensor:
    """All ranks' rows (W · n, ...), one rank after the other, from this rank's (n, ...).

    All ranks have the same shape. The gradient is that of the sum of all ranks' losses.
    """
    if ranks is None or ranks.world == 1:
        return rows
    if rows.requires_grad:
        return cast(Tensor, _Gather.apply(rows, ranks))
    return _gathered(rows, ranks)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return _gathered(rows, ranks)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(whole)
        return whole.chunk(ctx.ranks.world)[ctx.ranks.rank], None


def _gathered(rows: Tensor, ranks: Ranks) -> Tensor:
    whole = rows.new_empty((ranks.world * rows.shape[0], *rows.shape[1:]))
    with ranks.guard():
        distributed.all_gather(list(whole.chunk(ranks.world)), rows.detach().contiguous())
    return whole


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum over ranks, too."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx: Any, *gradients: Any) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return cast(Tensor, gradient)


def synchronise_norms(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Let every BatchNorm take its statistics over the batch of all ranks.

    Parameters, buffers and their names stay as they are. On GPUs this is torch's SyncBatchNorm
    (timm's where a norm has its activation inside), which knows no CPU; there it is
    `GlobalBatchNorm`. Alone, the model comes back unchanged.
    """
    if ranks.world == 1:
        return model
    if ranks.device.type == "cuda":
        from timm.layers import norm_act

        convert: Callable[[nn.Module], nn.Module] = norm_act.convert_sync_batchnorm
        return convert(model)
    if isinstance(model, _BatchNorm):
        return GlobalBatchNorm(model, ranks)
    for name, child in model.named_children():
        setattr(model, name, synchronise_norms(child, ranks))
    return model


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm over (n, C, ...) whose mean and variance are those of all ranks' n together.

    It takes over the parameters and buffers of `norm`, and of timm's norms the activation.
    """

    def __init__(self, norm: _BatchNorm, ranks: Ranks) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.training = norm.training
        self.drop: nn.Module = getattr(norm, "drop", nn.Identity())
        self.act: nn.Module = getattr(norm, "act", nn.Identity())
        self._ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, C, ...) with the statistics of all ranks, or the running ones in `eval`."""
        normalised = self._over_all_ranks(x) if self.training else super().forward(x)
        return cast(Tensor, self.act(self.drop(normalised)))

    def _over_all_ranks(self, x: Tensor) -> Tensor:
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = x.numel() // x.shape[1] * self._ranks.world
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        mean = _summed(values.sum(axes), self._ranks) / count
        centred = values - mean.view(shape)
        variance = _summed(centred.square().sum(axes), self._ranks) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale.view(shape)
        if self.affine:
            normalised = normalised + self.bias.view(shape)
        return normalised.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        cast(Tensor, self.num_batches_tracked).add_(1)
        share = 1 / float(self.num_batches_tracked or 1) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes is right."""


def _summed(value: Tensor, ranks: Ranks) -> Tensor:
    return value if ranks.world == 1 else cast(Tensor, _Sum.apply(value))


def wrap(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Start all ranks from the first one's weights, and average gradients in each backward pass.

    Buffers are not sent around: with `synchronise_norms` they are the same on all ranks.
    """
    if ranks.world == 1:
        return model
    with ranks.guard():
        wrapped = DistributedDataParallel(
            model,
            device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    # The constructor's argument has another name in newer torch; the attribute has kept its.
    wrapped.broadcast_buffers = False
    return wrapped
