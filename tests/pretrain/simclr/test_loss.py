"""NT-Xent against a double loop, closed forms and finite differences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import pretrain.simclr.loss  # noqa: E402
from pretrain.simclr.loss import nt_xent  # noqa: E402


def random_embeddings(count: int, width: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * count, width, generator=generator, dtype=torch.float64)


def by_loops(
    embeddings: Any, temperature: float, ids: list[int] | None = None, *, decoupled: bool = False
) -> float:
    """Equation 1 of Chen et al. 2020, one view at a time, without tricks."""
    rows = [row / row.norm() for row in embeddings]
    count = len(rows) // 2
    names = list(range(count)) if ids is None else ids
    total = 0.0
    for i, anchor in enumerate(rows):
        positive = (i + count) % (2 * count)
        denominator = 0.0
        for j, other in enumerate(rows):
            counts = not decoupled if j == positive else names[j % count] != names[i % count]
            if counts:
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
    settings = itertools.product([None, torch.tensor([0, 1, 1, 2])], [False, True], [None, 3])
    for ids, decoupled, rows in settings:

        def loss(z: Any, ids: Any = ids, decoupled: bool = decoupled, rows: Any = rows) -> Any:
            return 2 * nt_xent(z, 0.3, ids, decoupled=decoupled, chunk_rows=rows)

        assert torch.autograd.gradcheck(loss, (embeddings,))


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


def test_autocast_does_not_reach_into_the_loss() -> None:
    embeddings = random_embeddings(8, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = nt_xent(embeddings, 0.01)
    assert torch.equal(found, nt_xent(embeddings, 0.01))


@pytest.mark.parametrize("ids", [None, [7, 3, 7, 9]])
def test_decoupled_the_positive_is_not_in_the_denominator(ids: list[int] | None) -> None:
    embeddings = random_embeddings(4, 5)
    found = nt_xent(embeddings, 0.2, None if ids is None else torch.tensor(ids), decoupled=True)
    assert float(found) == pytest.approx(by_loops(embeddings, 0.2, ids, decoupled=True), rel=1e-12)


def test_decoupled_perfect_pairs_have_a_closed_form_below_zero() -> None:
    count = 8
    found = nt_xent(torch.cat([torch.eye(count)] * 2).double(), 0.1, decoupled=True)
    assert float(found) == pytest.approx(math.log(2 * count - 2) - 10, rel=1e-12)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 7, 14, 100])
def test_blocks_change_neither_loss_nor_gradient(rows: int, decoupled: bool) -> None:
    embeddings = random_embeddings(7, 5).requires_grad_()
    ids = torch.tensor([4, 1, 4, 2, 4, 0, 2])
    results = []
    for chunk_rows in (None, rows):
        loss = nt_xent(embeddings, 0.1, ids, decoupled=decoupled, chunk_rows=chunk_rows)
        results.append((loss, *torch.autograd.grad(loss, embeddings)))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize(("block", "most"), [(1 << 13, 1 << 13), (1 << 20, 1 << 18)])
def test_no_more_similarities_exist_at_once_than_a_block_has(
    block: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain.simclr.loss, "BLOCK_ELEMENTS", block)
    embeddings = random_embeddings(256, 4).requires_grad_()
    largest = Largest()  # type: ignore[no-untyped-call]
    with largest:
        torch.autograd.backward(nt_xent(embeddings, 0.1))
    assert largest.elements == most


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_view_without_negatives_costs_nothing(decoupled: bool) -> None:
    embeddings = random_embeddings(3, 5).requires_grad_()
    loss = nt_xent(embeddings, 0.2, torch.tensor([5, 5, 5]), decoupled=decoupled)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert float(gradient.abs().max()) == pytest.approx(0, abs=1e-12)


def test_a_single_tile_costs_nothing() -> None:
    embeddings = random_embeddings(1, 5).requires_grad_()
    for decoupled in (False, True):
        loss = nt_xent(embeddings, 0.2, decoupled=decoupled)
        (gradient,) = torch.autograd.grad(loss, embeddings)
        assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
        assert float(gradient.abs().max()) == pytest.approx(0, abs=1e-12)


def test_an_embedding_that_is_no_number_makes_the_loss_none() -> None:
    embeddings = random_embeddings(4, 5)
    embeddings[2, 1] = math.nan
    for decoupled in (False, True):
        assert math.isnan(float(nt_xent(embeddings, 0.2, decoupled=decoupled)))
