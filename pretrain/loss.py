"""The contrastive loss, NT-Xent (Chen et al., ICML 2020, equation 1).

N tiles give 2N embeddings of D dimensions: rows i and N + i are the two views of tile i.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(embeddings: Tensor, temperature: float, ids: Tensor | None = None) -> Tensor:
    """Mean over all 2N views of the cross-entropy of finding the other view of the same tile.

    Random embeddings give about ln(2N - 1); perfect pairs that are orthogonal to all others give
    ln(1 + (2N - 2) exp(-1 / temperature)). SimCLR's own code adds the means of both halves, which
    is twice this value.

    Args:
        embeddings: (2N, D), of any length; they are normalised here. Half precision is computed
            in float32.
        ids: integers (N,), equal where two places hold the same tile. Such places are no negatives
            of each other.
    """
    count = embeddings.shape[0] // 2
    if embeddings.dtype in (torch.float16, torch.bfloat16):
        embeddings = embeddings.float()
    unit = functional.normalize(embeddings, dim=1)
    similarities = unit @ unit.T / temperature  # (2N, 2N)
    if ids is None:
        ids = torch.arange(count, device=embeddings.device)
    both = torch.cat([ids, ids])
    own = torch.arange(2 * count, device=embeddings.device)
    positives = (own + count) % (2 * count)
    excluded = both[:, None] == both[None, :]
    excluded[own, positives] = False
    # Cross-entropy is a log-sum-exp, which does not overflow; minus infinity leaves it unmoved.
    logits = similarities.masked_fill(excluded, float("-inf"))
    return functional.cross_entropy(logits, positives)
