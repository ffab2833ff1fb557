"""The presets of augmentation, and which of their settings are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pretrain.errors import ConfigError
from pretrain.views.viewconfig import PRESETS, ViewConfig, make_view_config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.9, 0.8)),
        ("crop_ratio", (-1.0, 1.0)),
        ("crop_ratio", (0.5, float("inf"))),
        ("blur_sigma", (0.2, 0.1)),
        ("jitter_probability", 1.5),
        ("stain_probability", -0.1),
        ("brightness", 1.0),
        ("stain_strength", 1.0),
        ("stain_shift", -0.1),
        ("hue", 0.6),
    ],
)
def test_views_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field.replace("_", "-")) as caught:
        ViewConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"histology, simclr, none.*'cifar'"):
        make_view_config("cifar")


def test_the_defaults_are_the_preset_histology() -> None:
    assert make_view_config() == make_view_config("histology") == ViewConfig()


def test_simclr_is_the_recipe_of_the_paper() -> None:
    """Chen et al., ICML 2020, appendix A, at 224 px and full strength of colour."""
    config = make_view_config("simclr")
    assert config.crop_area == (0.08, 1.0)
    assert config.crop_ratio == (3 / 4, 4 / 3)
    assert (config.flip, config.turn) == (True, False)
    jitter = (config.brightness, config.contrast, config.saturation, config.hue)
    assert jitter == (0.8, 0.8, 0.8, 0.2)
    assert config.jitter_probability == 0.8
    assert config.grayscale_probability == 0.2
    assert config.blur_probability == 0.5
    assert tuple(224 * sigma for sigma in config.blur_sigma) == pytest.approx((0.1, 2))
    assert config.stain_probability == 0


def test_none_changes_nothing() -> None:
    config = make_view_config("none")
    assert config.crop_area == config.crop_ratio == (1.0, 1.0)
    assert not config.flip
    assert not config.turn
    names = [item.name for item in dataclasses.fields(config)]
    chances = [getattr(config, name) for name in names if name.endswith("_probability")]
    assert chances == [0] * 4


@pytest.mark.parametrize("preset", PRESETS)
def test_ones_own_settings_count_more_than_the_preset(preset: str) -> None:
    config = make_view_config(preset, hue=0.03, turn=None)
    assert config == dataclasses.replace(make_view_config(preset), hue=0.03)
    assert config.preset == preset
