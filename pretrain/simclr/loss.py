"""The contrastive loss, NT-Xent (Chen et al., ICML 2020, equation 1).

n tiles of this process give 2n embeddings of D dimensions: rows i and n + i are the two views of
tile i. N tiles are the whole batch, n times the ranks. Every view is compared with the 2N of all
ranks, in blocks of rows: a table of 2N × 2N similarities never exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.simclr.ranks import Ranks, gather_rows

BLOCK_ELEMENTS = 1 << 24
"""Similarities that are looked at together; 64 MB of float32, of which few copies exist."""


def nt_xent(
    embeddings: Tensor,
    temperature: float,
    ids: Tensor | None = None,
    *,
    decoupled: bool = False,
    chunk_rows: int | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Mean over all 2N views of the cross-entropy of finding the other view of the same tile.

    Random embeddings give about ln(2N - 1); perfect pairs that are orthogonal to all others give
    ln(1 + (2N - 2) exp(-1 / temperature)). SimCLR's own code adds the means of both halves, which
    is twice this value. A view without any negative costs nothing and has no gradient.

    With ranks the value is the mean over this rank's 2n views, and the gradient that of the sum of
    all ranks' values: its mean over ranks, which `DistributedDataParallel` takes, is the gradient
    of the mean over all 2N views.

    Args:
        embeddings: (2n, D), of any length; they are normalised here. Half precision is computed
            in float32, under autocast, too.
        ids: integers (n,), equal where two places hold the same tile, on whatever rank. Such
            places are no negatives of each other.
        decoupled: leave the positive out of the denominator, so that easy negatives do not weaken
            it (Yeh et al., ECCV 2022, without weights). Can be below 0.
        chunk_rows: rows of a block; changes rounding at most. None for `BLOCK_ELEMENTS`.
    """
    count = embeddings.shape[0] // 2
    if embeddings.dtype in (torch.float16, torch.bfloat16):
        embeddings = embeddings.float()
    first = 0 if ranks is None else ranks.rank
    if ids is None:
        ids = torch.arange(first * count, (first + 1) * count, device=embeddings.device)
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = functional.normalize(embeddings, dim=1)
        row_ids = torch.cat([ids, ids])
        task = _Task(
            row_ids=row_ids,
            column_ids=gather_rows(row_ids, ranks),
            first_row=first * 2 * count,
            temperature=temperature,
            decoupled=decoupled,
            chunk_rows=chunk_rows,
            wants_gradient=torch.is_grad_enabled() and rows.requires_grad,
        )
        loss = _Blockwise.apply(rows, gather_rows(rows, ranks), task)
    return cast(Tensor, loss)


@dataclass(frozen=True, slots=True)
class _Task:
    """What is known of the rows (2n) and columns (2N) besides their embeddings."""

    row_ids: Tensor
    column_ids: Tensor
    first_row: int
    """The column that is this rank's row 0."""
    temperature: float
    decoupled: bool
    chunk_rows: int | None
    wants_gradient: bool

    def block_rows(self) -> int:
        return self.chunk_rows or max(1, BLOCK_ELEMENTS // len(self.column_ids))

    def own(self, block: slice) -> Tensor:
        """The columns that are the rows of a block."""
        start, stop = block.start + self.first_row, block.stop + self.first_row
        return torch.arange(start, stop, device=self.row_ids.device)

    def positives(self, block: slice) -> Tensor:
        """The columns of the other views of the tiles in a block's rows."""
        both = len(self.row_ids)
        return (self.own(block) - self.first_row + both // 2) % both + self.first_row


class _Blockwise(torch.autograd.Function):
    """The loss, and with it the gradient: both need the same similarities, which are not kept."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, task: _Task) -> Tensor:
        total = rows.new_zeros(())
        row_gradient = torch.zeros_like(rows) if task.wants_gradient else None
        column_gradient = torch.zeros_like(columns) if task.wants_gradient else None
        scale = 1 / (task.temperature * len(rows))
        for start in range(0, len(rows), task.block_rows()):
            block = slice(start, min(start + task.block_rows(), len(rows)))
            losses, slopes = _block(rows[block], columns, task, block)
            total += losses.sum()
            if row_gradient is not None and column_gradient is not None:
                slopes *= scale
                torch.mm(slopes, columns, out=row_gradient[block])
                column_gradient.addmm_(slopes.T, rows[block])
        ctx.gradients = row_gradient, column_gradient
        return total / len(rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        row_gradient, column_gradient = ctx.gradients
        return row_gradient * gradients[0], column_gradient * gradients[0], None


def _block(rows: Tensor, columns: Tensor, task: _Task, block: slice) -> tuple[Tensor, Tensor]:
    """The loss of each row of a block, and its slopes by each similarity (rows, columns)."""
    positives = task.positives(block)[:, None]
    table = (rows / task.temperature) @ columns.T
    positive = table.gather(1, positives)
    excluded = task.row_ids[block, None] == task.column_ids
    excluded.scatter_(1, positives, task.decoupled)
    table.masked_fill_(excluded, float("-inf"))
    # A log-sum-exp by hand and in place. Of a row without negatives nothing is left to sum.
    highest = table.amax(dim=1, keepdim=True)
    empty = highest == float("-inf")
    highest = highest.masked_fill(empty, 0)
    table.sub_(highest).exp_()
    sums = table.sum(dim=1, keepdim=True).masked_fill(empty, 1)
    losses = (sums.log() + highest - positive).masked_fill(empty, 0)
    table /= sums
    return losses, table.scatter_add_(1, positives, empty.to(table.dtype) - 1)
