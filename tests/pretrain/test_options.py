"""Every setting is a flag and a key of run.toml, both mean the same, and mistakes are named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest
from click.testing import CliRunner

from pretrain.cli.options import config_options, make_config
from pretrain.config import TrainConfig
from pretrain.errors import ConfigError
from pretrain.views.viewconfig import PRESETS, ViewConfig

FIELDS = [item.name for item in dataclasses.fields(TrainConfig) if item.name != "views"]
VIEWS = [item.name for item in dataclasses.fields(ViewConfig)]


@click.command()
@config_options()
def show(**flags: Any) -> None:
    """Print the settings, or what is wrong with them."""
    try:
        click.echo(json.dumps(make_config(flags).to_json()))
    except ConfigError as error:
        click.echo(f"Error: {error}")


def settings(*arguments: str) -> Any:
    found = CliRunner().invoke(show, arguments)
    assert found.exit_code == 0, found.output
    return json.loads(found.output) if found.output.startswith("{") else found.output


def example(owner: type, name: str) -> Any:
    """A value other than the default."""
    special = {
        "preset": "none",
        "accumulate": 2,
        "batch_size": 48,
        "balance": ("dataset",),
        "weight": ("stain=IHC*:2", "organ=skin:0"),
        "crop_area": (0.5, 0.75),
        "crop_ratio": (0.5, 1.5),
        "blur_sigma": (0.01, 0.02),
    }
    if name in special:
        return special[name]
    item = owner.__dataclass_fields__[name]  # type: ignore[attr-defined]
    if item.metadata["choices"]:
        return next(c for c in reversed(item.metadata["choices"]) if c != item.default)
    kind = get_type_hints(owner)[name]
    if kind is bool:
        return not item.default
    if kind in (int, int | None):
        return 64
    return 0.25 if kind in (float, float | None) else "something"


def as_flags(name: str, value: Any) -> list[str]:
    flag = "views" if name == "preset" else name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if name == "weight":
        return [part for rule in value for part in (f"--{flag}", rule)]
    if isinstance(value, tuple):
        return [f"--{flag}", ",".join(map(str, value))]
    return [f"--{flag}", str(value)]


def as_toml(name: str, value: Any) -> str:
    text = json.dumps(list(value) if isinstance(value, tuple) else value)
    return f"{name.replace('_', '-')} = {text}\n"


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_is_the_same_as_a_flag_and_in_the_file(name: str, tmp_path: Path) -> None:
    value = example(TrainConfig, name)
    expected = json.loads(json.dumps(value))
    assert settings(*as_flags(name, value))[name] == expected
    file = tmp_path / "run.toml"
    file.write_text(as_toml(name, value))
    assert settings("--config", str(file))[name] == expected
    assert settings()[name] != expected


@pytest.mark.parametrize("name", VIEWS)
def test_a_setting_of_the_views_is_the_same_as_a_flag_and_in_the_file(
    name: str, tmp_path: Path
) -> None:
    value = example(ViewConfig, name)
    expected = json.loads(json.dumps(value))
    assert settings(*as_flags(name, value))["views"][name] == expected
    file = tmp_path / "run.toml"
    file.write_text("[views]\n" + as_toml(name, value))
    assert settings("--config", str(file))["views"][name] == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_where_the_other_settings_of_the_views_start_from(
    preset: str, tmp_path: Path
) -> None:
    by_flag = settings("--views", preset, "--hue", "0.03")["views"]
    file = tmp_path / "run.toml"
    file.write_text(f"[views]\npreset = '{preset}'\nhue = 0.03\n")
    assert settings("--config", str(file))["views"] == by_flag
    assert by_flag["hue"] == 0.03
    file.write_text(f"views = '{preset}'\n")
    assert settings("--config", str(file))["views"] == settings("--views", preset)["views"]


def test_fields_of_the_balance_may_be_one_text_with_commas(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("balance = 'stain, site'\nweight = 'stain=H&E,site=A:2'\n")
    found = settings("--config", str(file))
    assert found["balance"] == ["stain", "site"]
    assert found["weight"] == ["stain=H&E,site=A:2"]


def test_a_flag_counts_more_than_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("epochs = 3\nlr = 1\ncompile = true\n[views]\nhue = 0.5\n")
    found = settings("--config", str(file), "--epochs", "5", "--no-compile", "--hue", "0.25")
    assert (found["epochs"], found["lr"], found["compile"]) == (5, 1.0, False)
    assert found["views"]["hue"] == 0.25


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("epoch = 3", "there is no setting 'epoch'"),
        ("epochs = 2.5", "epochs must be a whole number, got 2.5"),
        ("epochs = true", "epochs must be a whole number, got True"),
        ("compile = 1", "compile must be true or false, got 1"),
        ("lr = '1'", "lr must be a number, got '1'"),
        ("balance = [1]", "balance must be a list of texts, got [1]"),
        ("views = 3", "views must be a preset's name or a table"),
        ("[views]\ncrop-area = [0.5]", "crop-area must be a list of two numbers"),
        ("[views]\npreset = 'strong'", "views must be one of histology, simclr, none"),
        ("head = 'mlp'", "head must be one of paper, simclr, simclr2, got 'mlp'"),
        ("epochs = ", "is not TOML"),
        ("crop-area = [0.5, 1.0]", "crop-area is a setting of the views: write it below [views]"),
        ("batch-size = 8\nbatch_size = 4", "batch_size is there twice"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    assert complaint in settings("--config", str(file))
    assert "cannot be read" in settings("--config", str(tmp_path / "missing.toml"))
