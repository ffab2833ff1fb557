"""NT-Xent against a double loop, closed forms and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pretrain.loss import nt_xent  # noqa: E402


def random_embeddings(count: int, width: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * count, width, generator=generator, dtype=torch.float64)


def by_loops(embeddings: Any, temperature: float, ids: list[int] | None = None) -> float:
    """Equation 1 of Chen et al. 2020, one view at a time, without tricks."""
    rows = [row / row.norm() for row in embeddings]
    count = len(rows) // 2
    names = list(range(count)) if ids is None else ids
    total = 0.0
    for i, anchor in enumerate(rows):
        positive = (i + count) % (2 * count)
        denominator = 0.0
        for j, other in enumerate(rows):
            if j == positive or names[j % count] != names[i % count]:
                denominator += math.exp(float(anchor @ other) / temperature)
        total -= math.log(math.exp(float(anchor @ rows[positive]) / temperature) / denominator)
    return total / (2 * count)


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_it_is_the_formula_of_the_paper(count: int, temperature: float) -> None:
    embeddings = random_embeddings(count, 5)
    assert float(nt_xent(embeddings, temperature)) == pytest.approx(
        by_loops(embeddings, temperature), rel=1e-12
    )


def test_random_embeddings_cost_as_much_as_guessing() -> None:
    loss = float(nt_xent(random_embeddings(256, 4096), temperature=1.0))
    assert loss == pytest.approx(math.log(2 * 256 - 1), abs=0.01)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_perfect_pairs_with_orthogonal_negatives_have_a_closed_form(temperature: float) -> None:
    count = 8
    embeddings = torch.cat([torch.eye(count), 3 * torch.eye(count)]).double()
    expected = math.log(1 + (2 * count - 2) * math.exp(-1 / temperature))
    assert float(nt_xent(embeddings, temperature)) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    embeddings = random_embeddings(4, 3).requires_grad_()
    ids = torch.tensor([0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, 0.3), (embeddings,))
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, 0.3, ids), (embeddings,))


def test_the_order_of_tiles_and_of_views_does_not_matter() -> None:
    embeddings = random_embeddings(7, 5)
    expected = float(nt_xent(embeddings, 0.2))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    first, second = embeddings.chunk(2)
    permuted = torch.cat([first[order], second[order]])
    assert float(nt_xent(permuted, 0.2)) == pytest.approx(expected, rel=1e-12)
    assert float(nt_xent(torch.cat([second, first]), 0.2)) == pytest.approx(expected, rel=1e-12)


def test_the_same_tile_twice_is_no_negative_of_itself() -> None:
    embeddings = random_embeddings(4, 5)
    ids = [7, 3, 7, 9]
    assert float(nt_xent(embeddings, 0.2, torch.tensor(ids))) == pytest.approx(
        by_loops(embeddings, 0.2, ids), rel=1e-12
    )
    different = torch.tensor([5, 6, 7, 8])
    assert float(nt_xent(embeddings, 0.2, different)) == float(nt_xent(embeddings, 0.2))


def test_half_precision_is_computed_in_float32() -> None:
    embeddings = random_embeddings(8, 5).to(torch.bfloat16)
    loss = nt_xent(embeddings, 0.01)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(by_loops(embeddings.double(), 0.01), rel=1e-4)
