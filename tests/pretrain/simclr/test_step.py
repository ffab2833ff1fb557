"""A batch at once, in parts and through a cache of gradients, against plain autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from pretrain.errors import ConfigError  # noqa: E402
from pretrain.simclr.loss import nt_xent  # noqa: E402
from pretrain.simclr.ranks import Ranks  # noqa: E402
from pretrain.simclr.step import (  # noqa: E402
    StepSettings,
    even_parts,
    forward_backward,
    kept_buffers,
)

ALONE = Ranks(0, 1, torch.device("cpu"))
TILES = 7
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2])


def network(*norm: Any) -> Any:
    """Double precision, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = [nn.Conv2d(3, 4, 3), *norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)]
        return nn.Sequential(*layers).double()


def views(tiles: int = TILES) -> Any:
    """Both views of all tiles: (2, tiles, 3, 4, 4)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, tiles, 3, 4, 4, generator=generator, dtype=torch.float64)


def maker(both: Any) -> Callable[[slice], Any]:
    return lambda part: torch.cat([both[0, part], both[1, part]])


def result_of(model: Any, settings: StepSettings) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of a step on all tiles."""
    model.zero_grad()
    loss = forward_backward(model, maker(views()), IDS, settings, ALONE)
    assert not loss.requires_grad
    return float(loss), {name: p.grad.clone() for name, p in model.named_parameters()}


def by_hand(model: Any, parts: list[slice], temperature: float = 0.3) -> tuple[float, Any]:
    """The mean of the parts' losses weighted by their tiles, in one graph, and its gradients."""
    make_views = maker(views())
    losses = [
        nt_xent(model(make_views(part)), temperature, IDS[part]) * (part.stop - part.start)
        for part in parts
    ]
    loss = sum(losses[1:], losses[0]) / TILES
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    return float(loss.detach()), dict(zip(names, gradients, strict=True))


def assert_same(found: tuple[float, Any], expected: tuple[float, Any]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-12)


@given(st.integers(1, 200), st.data())
def test_parts_are_nearly_equal_and_leave_out_nothing(tiles: int, data: st.DataObject) -> None:
    parts = even_parts(tiles, data.draw(st.integers(1, tiles)))
    assert [place for part in parts for place in range(tiles)[part]] == list(range(tiles))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_at_once_it_is_plain_autograd() -> None:
    model = network(nn.BatchNorm2d(4))
    expected = by_hand(copy.deepcopy(model), [slice(0, TILES)])
    assert_same(result_of(model, StepSettings(0.3)), expected)


def test_gradients_add_to_what_is_there() -> None:
    model = network()
    _, once = result_of(model, StepSettings(0.3))
    forward_backward(model, maker(views()), IDS, StepSettings(0.3), ALONE)
    twice = {name: p.grad / 2 for name, p in model.named_parameters()}
    torch.testing.assert_close(twice, once)


@pytest.mark.parametrize(("accumulate", "edges"), [(1, [0, 7]), (2, [0, 3, 7]), (3, [0, 2, 4, 7])])
def test_parts_that_accumulate_are_the_weighted_mean_of_their_losses(
    accumulate: int, edges: list[int]
) -> None:
    model = network(nn.BatchNorm2d(4))
    parts = [slice(start, stop) for start, stop in pairwise(edges)]
    expected = by_hand(copy.deepcopy(model), parts)
    assert_same(result_of(model, StepSettings(0.3, accumulate=accumulate)), expected)


@pytest.mark.parametrize("grad_cache", [1, 2, 3, 6, 7, 100])
@pytest.mark.parametrize("decoupled", [False, True])
def test_gradient_caching_is_exact_without_batch_statistics(
    grad_cache: int, decoupled: bool
) -> None:
    model = network(nn.GroupNorm(2, 4))
    expected = result_of(model, StepSettings(0.3, decoupled=decoupled))
    found = result_of(model, StepSettings(0.3, decoupled=decoupled, grad_cache=grad_cache))
    assert_same(found, expected)


def test_cached_batch_norm_sees_parts_and_one_loss_over_all() -> None:
    model = network(nn.BatchNorm2d(4))
    make_views = maker(views())
    plain = copy.deepcopy(model)
    halves = [plain(make_views(part)).chunk(2) for part in even_parts(TILES, 3)]
    loss = nt_xent(torch.cat([half[view] for view in (0, 1) for half in halves]), 0.3, IDS)
    gradients = torch.autograd.grad(loss, list(plain.parameters()))
    names = [name for name, _ in plain.named_parameters()]
    found = result_of(model, StepSettings(0.3, grad_cache=3))
    assert_same(found, (float(loss.detach()), dict(zip(names, gradients, strict=True))))
    # Running statistics moved once for each part, although each part went through twice.
    torch.testing.assert_close(model.state_dict(), plain.state_dict())


def test_cached_dropout_leaves_out_the_same_in_both_passes() -> None:
    model = network(nn.Dropout(0.5))
    torch.manual_seed(5)
    make_views = maker(views())
    halves = [model(make_views(part)).chunk(2) for part in even_parts(TILES, 4)]
    after = torch.get_rng_state()
    loss = nt_xent(torch.cat([half[view] for view in (0, 1) for half in halves]), 0.3, IDS)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    torch.manual_seed(5)
    found = result_of(model, StepSettings(0.3, grad_cache=2))
    assert_same(found, (float(loss.detach()), dict(zip(names, gradients, strict=True))))
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_it_is_the_same_and_dropout_is_replayed() -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    make_views, ids = maker(views().to(gpu)), IDS.to(gpu)
    for settings in (StepSettings(0.3), StepSettings(0.3, grad_cache=4)):
        model = network(nn.GroupNorm(2, 4)).to(gpu)
        loss = forward_backward(model, make_views, ids, settings, Ranks(0, 1, gpu))
        gradients = {name: p.grad.cpu() for name, p in model.named_parameters()}
        assert_same((float(loss), gradients), result_of(network(nn.GroupNorm(2, 4)), settings))

    model = network(nn.Dropout(0.5)).to(gpu)
    torch.cuda.manual_seed(5)
    halves = [model(make_views(part)).chunk(2) for part in even_parts(TILES, 2)]
    whole = torch.cat([half[view] for view in (0, 1) for half in halves])
    expected = torch.autograd.grad(nt_xent(whole, 0.3, ids), list(model.parameters()))
    torch.cuda.manual_seed(5)
    forward_backward(model, make_views, ids, StepSettings(0.3, grad_cache=4), Ranks(0, 1, gpu))
    torch.testing.assert_close([p.grad for p in model.parameters()], list(expected))


def test_cached_no_part_is_larger_than_asked_for() -> None:
    seen = []

    def make_views(part: slice) -> Any:
        seen.append(part.stop - part.start)
        return maker(views())(part)

    forward_backward(network(), make_views, IDS, StepSettings(0.3, grad_cache=3), ALONE)
    assert seen == [2, 2, 3, 2, 2, 3]


@pytest.mark.parametrize("grad_cache", [None, 4])
def test_half_precision_is_for_the_network_and_not_for_the_loss(grad_cache: int | None) -> None:
    inside = []

    class Spy(nn.Module):
        def forward(self, x: Any) -> Any:
            inside.append(x.dtype)
            return x

    model = network(Spy()).float()
    make_views = maker(views().float())
    found = forward_backward(
        model, make_views, IDS, StepSettings(0.3, grad_cache=grad_cache, bf16=True), ALONE
    )
    assert set(inside) == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    full, _ = result_of(network(), StepSettings(0.3))
    assert float(found) == pytest.approx(full, rel=0.02)


def test_a_part_of_one_tile_is_refused_since_it_has_no_negatives() -> None:
    with pytest.raises(ConfigError, match="7 tiles of a process cannot be done in 4 parts"):
        result_of(network(), StepSettings(0.3, accumulate=4))


@pytest.mark.parametrize(
    "wrong", [{"accumulate": 0}, {"grad_cache": 0}, {"accumulate": 2, "grad_cache": 2}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="accumulate and grad-cache"):
        StepSettings(0.3, **wrong)  # type: ignore[arg-type]


def test_kept_buffers_come_back_even_when_it_fails() -> None:
    model = network(nn.BatchNorm2d(4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="channels"), kept_buffers(model):
        model(views()[0]).sum() + model(views()[0, :, :2])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
