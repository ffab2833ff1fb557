"""What two processes compute on the CPU, and one alone: run as a module, one process is a rank.

The network has BatchNorm over images and over rows, so that its statistics must cross ranks. All
is in double precision. A rank writes its results to the safetensors file that it is given.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pretrain.errors import TrainingError
from pretrain.simclr.ranks import Ranks, gather_rows, join_ranks, synchronise_norms, wrap
from pretrain.simclr.step import StepSettings, forward_backward

WORLD = 2
TILES = 8
IDS = (0, 1, 2, 3, 4, 5, 1, 7)
"""Places 1 and 6 hold the same tile, and lie on different ranks."""


@dataclass(frozen=True, slots=True)
class Case:
    """Settings of two ranks, and how one process must go about it to have the same parts."""

    settings: StepSettings
    alone: StepSettings
    order: tuple[int, ...] = tuple(range(TILES))


IN_PARTS = (0, 1, 4, 5, 2, 3, 6, 7)
"""Part k of the batch is what both ranks do as their part k."""
CASES = {
    "plain": Case(StepSettings(0.3), StepSettings(0.3)),
    "decoupled": Case(StepSettings(0.3, decoupled=True), StepSettings(0.3, decoupled=True)),
    "accumulated": Case(StepSettings(0.3, accumulate=2), StepSettings(0.3, accumulate=2), IN_PARTS),
    "cached": Case(StepSettings(0.3, grad_cache=2), StepSettings(0.3, grad_cache=4), IN_PARTS),
}


def network() -> nn.Module:
    """A small network in double precision, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 6),
            nn.BatchNorm1d(6, affine=False, momentum=None),
            nn.Linear(6, 5),
        ).double()


def views() -> Tensor:
    """Both views of all tiles: (2, TILES, 3, 6, 6)."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, TILES, 3, 6, 6, generator=generator, dtype=torch.float64)


def one_step(settings: StepSettings, order: tuple[int, ...], ranks: Ranks) -> dict[str, Tensor]:
    """Loss, gradients, running statistics and new weights of a step on the tiles in `order`."""
    model = synchronise_norms(network(), ranks)
    wrapped = wrap(model, ranks)
    places = torch.tensor(order)
    chosen = views()[:, places]
    loss = forward_backward(
        wrapped,
        lambda part: torch.cat([chosen[0, part], chosen[1, part]]),
        torch.tensor(IDS)[places],
        settings,
        ranks,
    )
    found = {"loss": loss}
    found |= {f"gradient {name}": p.grad.clone() for name, p in named(model) if p.grad is not None}
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    found |= {f"state {name}": value.clone() for name, value in model.state_dict().items()}
    return found


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters with their names."""
    return list(model.named_parameters())


def exchanges(ranks: Ranks) -> dict[str, Tensor]:
    """What each rank gets to know of the other."""
    own = torch.tensor([[1.0, 2.0]], dtype=torch.float64) * (ranks.rank + 1)
    own.requires_grad_()
    rows = gather_rows(own, ranks)
    # Each rank has another loss: the gradient must be that of their sum.
    weights = torch.tensor([[1.0], [10.0]], dtype=torch.float64) * (1 + 2 * ranks.rank)
    torch.autograd.backward((rows**2 * weights).sum())
    assert own.grad is not None
    return {
        "rows": rows.detach().clone(),
        "row gradient": own.grad,
        "any": torch.tensor([ranks.any(False), ranks.any(ranks.rank == 1), ranks.any(True)]),
        "agree": torch.tensor([ranks.agree(2**60), ranks.agree(ranks.rank)]),
        "union": torch.tensor(sorted(ranks.union([3] if ranks.is_first else [9, 3, 2**60]))),
        "nothing": torch.tensor(sorted(ranks.union([]))),
        "mean": ranks.mean(torch.tensor([1.0, 4.0]) * ranks.rank),
    }


def main(file: str) -> None:
    """Compute all cases as one of two ranks; then the second one ends without a word."""
    torch.set_num_threads(1)
    ranks = join_ranks("cpu", timeout_s=60)
    own = slice(ranks.rank * TILES // WORLD, (ranks.rank + 1) * TILES // WORLD)
    results = {
        f"{name}: {key}": value.contiguous()
        for name, case in CASES.items()
        for key, value in one_step(case.settings, tuple(range(TILES))[own], ranks).items()
    }
    results |= {f"exchange: {key}": value for key, value in exchanges(ranks).items()}
    ranks.barrier()
    save_file(results, file)
    if not ranks.is_first:
        os._exit(0)
    try:
        one_step(CASES["plain"].settings, tuple(range(TILES))[own], ranks)
    except TrainingError as error:
        sys.stdout.write(str(error))
    ranks.close()


if __name__ == "__main__":
    main(sys.argv[1])
