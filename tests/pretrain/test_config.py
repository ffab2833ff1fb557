"""A configuration that exists is one that can run; every refusal is one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from pretrain.config import TrainConfig
from pretrain.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "tpu"),
        ("epochs", 0),
        ("batch_size", 1),
        ("image_size", 31),
        ("projection_dim", 0),
        ("projection_dim", 1_000_000_000),
        ("resize", 10_000_000),
        ("max_steps", 0),
        ("seed", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("temperature", float("inf")),
        ("temperature", -0.1),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name_and_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{field: value})
    assert field.replace("_", "-") in str(caught.value)
    assert str(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_folder_of_first_weights_is_not_written_down() -> None:
    assert TrainConfig(init="/home/somebody/weights.pt").to_json()["init"] == "weights.pt"
    assert TrainConfig().to_json()["init"] == "random"
