"""The learning rate rises, falls, and ends near nothing; norms and biases do not decay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from pretrain.model import SimClr  # noqa: E402
from pretrain.schedule import learning_rate, make_optimizer  # noqa: E402


@given(steps=st.integers(1, 2000), peak=st.floats(1e-6, 10))
def test_it_rises_to_the_peak_once_and_then_only_falls(steps: int, peak: float) -> None:
    rates = [learning_rate(step, steps, peak) for step in range(steps)]
    assert all(rate > 0 for rate in rates)
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(peak)
    assert top == int(steps * 0.1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_warm_up_is_linear_and_the_end_is_near_zero() -> None:
    rates = [learning_rate(step, 100, 1.1) for step in range(100)]
    assert rates[:11] == pytest.approx([0.1 * (step + 1) for step in range(11)])
    assert rates[55] == pytest.approx(0.55)
    assert rates[-1] < 0.001


def test_only_weights_of_layers_decay() -> None:
    model = SimClr("resnet18", 8)
    optimizer = make_optimizer(model)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1), name
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
