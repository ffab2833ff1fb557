"""The learning rate rises, falls, and ends near nothing; optimizers are checked against loops."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.optim import Optimizer  # noqa: E402

from pretrain.config import OPTIMIZERS, TrainConfig  # noqa: E402
from pretrain.network.model import projection_head  # noqa: E402
from pretrain.simclr.schedule import Ema, learning_rate, make_optimizer, peak_rate  # noqa: E402


@given(steps=st.integers(1, 2000), peak=st.floats(1e-6, 10), warmup=st.floats(0, 0.99))
def test_it_rises_to_the_peak_once_and_then_only_falls(
    steps: int, peak: float, warmup: float
) -> None:
    rates = [learning_rate(step, steps, peak, warmup) for step in range(steps)]
    assert all(rate > 0 for rate in rates)
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(peak)
    assert top == int(steps * warmup)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_warm_up_is_linear_and_the_end_is_near_zero() -> None:
    rates = [learning_rate(step, 100, 1.1, 0.1) for step in range(100)]
    assert rates[:11] == pytest.approx([0.1 * (step + 1) for step in range(11)])
    assert rates[55] == pytest.approx(0.55)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(
    ("settings", "batch_size", "expected"),
    [
        ({}, 4096, 3e-4),
        ({"lr": 0.01, "lr_rule": "linear"}, 512, 0.02),
        ({"lr": 0.01, "lr_rule": "sqrt"}, 64, 0.08),
        ({"optimizer": "lars"}, 256, 0.3),
        # The two rules of SimCLR meet at its batch.
        ({"optimizer": "lars", "lr_rule": "linear"}, 4096, 4.8),
        ({"optimizer": "lars", "lr_rule": "sqrt"}, 4096, 4.8),
    ],
)
def test_the_peak_follows_the_rule(
    settings: dict[str, Any], batch_size: int, expected: float
) -> None:
    assert peak_rate(TrainConfig(**settings), batch_size) == pytest.approx(expected)


def small_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return projection_head("simclr", 6, 4)


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def run(model: nn.Module, optimizer: Optimizer, rates: list[float]) -> None:
    for step, rate in enumerate(rates):
        set_gradients(model, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_weights_of_layers_decay(name: str) -> None:
    model = small_model()
    optimizer = make_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.1))
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    for key, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1), key
        assert held.count(id(parameter)) == int(parameter.requires_grad), key


def lars_by_hand(
    weight: Tensor, gradients: list[Tensor], rates: list[float], decay: float
) -> Tensor:
    """LARS in float64 for one tensor, as `make_optimizer` states it."""
    w, v = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient, rate in zip(gradients, rates, strict=True):
        g, ratio, wd = gradient.double(), 1.0, 0.0
        if weight.ndim > 1:
            wd = decay
            length = math.sqrt(float((w * w).sum()))
            ratio = 0.001 * length / (math.sqrt(float((g * g).sum())) + wd * length)
        v = 0.9 * v + ratio * (g + wd * w)
        w = w - rate * v
    return w


def simclr_lars(
    weight: Tensor, gradients: list[Tensor], rates: list[float], decay: float
) -> Tensor:
    """LARS as in SimCLR's code: the rate inside the momentum, the ratio of the decayed gradient."""
    w, v = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient, rate in zip(gradients, rates, strict=True):
        g = gradient.double()
        ratio = 1.0
        if weight.ndim > 1:
            g = g + decay * w
            ratio = 0.001 * float(w.norm() / g.norm())
        v = 0.9 * v + rate * ratio * g
        w = w - v
    return w


def lars_and(by_hand: Any, rates: list[float], decay: float) -> list[tuple[Tensor, Tensor]]:
    """What timm's LARS and a loop make of each tensor of a model."""
    model, gradients = small_model(), small_model()
    before = [p.detach().clone() for p in model.parameters()]
    seen: list[list[Tensor]] = [[] for _ in before]
    for step in range(len(rates)):
        set_gradients(gradients, step)
        for place, parameter in enumerate(gradients.parameters()):
            if parameter.grad is not None:
                seen[place].append(parameter.grad.clone())
    run(model, make_optimizer(model, TrainConfig(optimizer="lars", weight_decay=decay)), rates)
    return [
        (after.detach().double(), by_hand(weight, grads, rates, decay))
        for after, weight, grads in zip(model.parameters(), before, seen, strict=True)
        if grads
    ]


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_lars_is_the_step_that_it_says(decay: float) -> None:
    for found, expected in lars_and(lars_by_hand, [0.5, 2.0, 1.0, 0.1], decay):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_lars_is_simclrs_while_the_rate_stays_and_nothing_decays() -> None:
    for found, expected in lars_and(simclr_lars, [1.5] * 4, 0.0):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_went_through_json_goes_on_bit_for_bit(name: str) -> None:
    config = TrainConfig(optimizer=name)
    whole, parted = small_model(), small_model()
    rates = [0.1, 0.3, 0.2, 0.1]
    run(whole, make_optimizer(whole, config), rates)
    first = make_optimizer(parted, config)
    run(parted, first, rates[:2])
    state = first.state_dict()
    state["param_groups"] = json.loads(json.dumps(state["param_groups"]))
    for values in state["state"].values():
        assert all(isinstance(value, Tensor) for value in values.values())
    second = make_optimizer(parted, config)
    second.load_state_dict(state)
    for step in (2, 3):
        set_gradients(parted, step)
        for group in second.param_groups:
            group["lr"] = rates[step]
        second.step()
    for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
        assert torch.equal(one, other)


def filled(model: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


def test_the_average_is_that_of_a_loop_and_buffers_are_copied() -> None:
    ema = Ema(filled(small_model(), 5.0), 0.5)
    expected, values = 5.0, [1.0, 4.0, -2.0, 3.0, 8.0, 0.0, 1.0, 1.0, 6.0, 2.0]
    for number, value in enumerate(values):
        kept = min(0.5, (1 + number) / (10 + number))
        expected = kept * expected + (1 - kept) * value
        ema.update(filled(small_model(), value))
    assert kept == 0.5
    for parameter in ema.model.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))
    for buffer in ema.model.buffers():
        assert torch.equal(buffer, torch.full_like(buffer, 2))


def test_the_average_goes_on_from_its_tensors() -> None:
    whole, parted = Ema(small_model(), 0.9), Ema(small_model(), 0.9)
    for value in (1.0, 2.0, 3.0):
        whole.update(filled(small_model(), value))
    parted.update(filled(small_model(), 1.0))
    state = {key: value.clone() for key, value in parted.state_dict().items()}
    other = Ema(filled(small_model(), 9.0), 0.9)
    other.load_state_dict(state)
    for value in (2.0, 3.0):
        other.update(filled(small_model(), value))
    found, expected = other.state_dict(), whole.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_the_average_is_no_part_of_the_model_and_does_not_learn() -> None:
    model = small_model()
    ema = Ema(model, 0.9)
    filled(model, 7.0)
    assert not any((p == 7).any() for p in ema.model.parameters())
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert not ema.model.training
    assert model.training


def test_another_models_average_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        Ema(projection_head("simclr2", 6, 4), 0.9).load_state_dict(
            Ema(small_model(), 0.9).state_dict()
        )
