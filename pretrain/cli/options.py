"""Settings from flags and from `run.toml`: both are read from the dataclasses that hold them.

A flag counts more than the file, the file more than the default.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterable
from inspect import get_annotations
from pathlib import Path
from typing import Any, get_type_hints

import click

from pretrain.config import TrainConfig
from pretrain.errors import ConfigError
from pretrain.views.viewconfig import ViewConfig, make_view_config

Callback = Callable[..., Any]

_MANY = ("weight",)
"""Settings that are given by repeating the flag."""


def _parts(kind: type, count: int | None) -> Callable[[Any, Any, str | None], Any]:
    """A click callback that takes values with commas between them."""

    def split(_context: object, _parameter: object, text: str | None) -> Any:
        if text is None:
            return None
        try:
            found = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError as error:
            raise click.BadParameter(f"{text!r} should be numbers with a comma between") from error
        if count is not None and len(found) != count:
            raise click.BadParameter(f"{text!r} should be {count} numbers with a comma between")
        return found

    return split


def config_options(
    names: Iterable[str] | None = None, *, views: bool = True
) -> Callable[[Callback], Callback]:
    """A flag for each setting, and `--config`; all are None where they are not given.

    Args:
        names: only these settings of `TrainConfig`; None: all.
        views: also those of `ViewConfig`, with `--views` for its preset.
    """
    wanted = None if names is None else set(names)
    flags = [
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Settings as TOML, run.toml; flags count more.",
        )
    ]
    for item in dataclasses.fields(TrainConfig):
        if item.name != "views" and (wanted is None or item.name in wanted):
            flags.append(_flag(TrainConfig, item, item.name.replace("_", "-")))
    if views:
        for item in dataclasses.fields(ViewConfig):
            name = "views" if item.name == "preset" else item.name.replace("_", "-")
            flags.append(_flag(ViewConfig, item, name))

    def add(function: Callback) -> Callback:
        for flag in reversed(flags):
            function = flag(function)
        return function

    return add


def setting_options(owner: type) -> Callable[[Callback], Callback]:
    """A flag for each setting of a dataclass, its own first; all are None where not given."""
    inherited = {name for base in owner.__mro__[1:] for name in get_annotations(base)}
    items = sorted(dataclasses.fields(owner), key=lambda item: item.name in inherited)

    def add(function: Callback) -> Callback:
        for item in reversed(items):
            function = _flag(owner, item, item.name.replace("_", "-"))(function)
        return function

    return add


def _flag(owner: type, item: dataclasses.Field[Any], name: str) -> Callable[[Any], Any]:
    kind = get_type_hints(owner)[item.name]
    key = f"view_{item.name}" if owner is ViewConfig else item.name
    text = f"{item.metadata['text']}  [default: {_shown(item)}]"
    choices = item.metadata["choices"]
    if choices is not None:
        return click.option(f"--{name}", key, type=click.Choice(choices), help=text)
    if kind is bool:
        return click.option(f"--{name}/--no-{name}", key, default=None, help=text)
    if item.name in _MANY:
        return click.option(f"--{name}", key, multiple=True, metavar="RULE", help=text)
    if kind == tuple[float, float]:
        return click.option(
            f"--{name}", key, callback=_parts(float, 2), metavar="LOW,HIGH", help=text
        )
    if kind == tuple[str, ...]:
        return click.option(
            f"--{name}",
            key,
            callback=_parts(str, None),
            metavar="CLASS,..." if name == "classes" else "FIELD,...",
            help=text,
        )
    simple = {int: int, float: float, str: str, int | None: int, float | None: float}
    return click.option(f"--{name}", key, type=simple.get(kind, str), help=text)


def _shown(item: dataclasses.Field[Any]) -> str:
    if item.metadata["shown"] is not None:
        return str(item.metadata["shown"])
    value = item.default
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        parts = [f"{part:.3g}" if isinstance(part, float) else str(part) for part in value]
        return ",".join(parts) or "none"
    return str(value)


def make_config(flags: dict[str, Any]) -> TrainConfig:
    """The settings that `--config` and the flags of `config_options` say.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is of the wrong kind or
            out of range.
    """
    flags = dict(flags)
    file: Path | None = flags.pop("config_file", None)
    settings, views = ({}, {}) if file is None else _from_file(file)
    for name, value in flags.items():
        if value is None or (name in _MANY and not value):
            continue
        if name.startswith("view_"):
            views[name.removeprefix("view_")] = value
        else:
            settings[name] = value
    return TrainConfig(**settings, views=make_view_config(**views))


def _from_file(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    views = data.pop("views", {})
    if isinstance(views, str):
        views = {"preset": views}
    if not isinstance(views, dict):
        raise ConfigError(f"{file}: views must be a preset's name or a table")
    return _checked(TrainConfig, data, file), _checked(ViewConfig, views, file)


def _checked(owner: type, data: dict[str, Any], file: Path) -> dict[str, Any]:
    """The values of a table by the names of the dataclass, each of the kind that it has there."""
    kinds = get_type_hints(owner)
    kinds.pop("views", None)
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = key.replace("-", "_")
        if owner is TrainConfig and name in ViewConfig.__dataclass_fields__:
            raise ConfigError(f"{file}: {key} is a setting of the views: write it below [views]")
        if name in found:
            raise ConfigError(f"{file}: {key} is there twice, with - and with _")
        if name not in kinds:
            raise ConfigError(f"{file}: there is no setting {key!r}; see histopretrain run --help")
        kind = kinds[name]
        if kind == tuple[str, ...] and name not in _MANY and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]  # as the flag does
        found[name] = _converted(kind, value)
        if found[name] is None:
            raise ConfigError(f"{file}: {key} must be {_kind_text(kind)}, got {value!r}")
    return found


def _converted(kind: Any, value: Any) -> Any:
    """A TOML value as the kind that is wanted; None if it is of another."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind in (float, float | None):
        return float(value) if isinstance(value, (int, float)) else None
    if kind in (int, int | None):
        return value if isinstance(value, int) else None
    if kind in (str, str | None):
        return value if isinstance(value, str) else None
    if isinstance(value, str) and kind == tuple[str, ...]:
        return (value,)
    if not isinstance(value, list):
        return None
    if kind == tuple[float, float]:
        good = len(value) == 2 and all(type(part) in (int, float) for part in value)
        return tuple(map(float, value)) if good else None
    return tuple(value) if all(isinstance(part, str) for part in value) else None


def _kind_text(kind: Any) -> str:
    texts: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        int | None: "a whole number",
        float: "a number",
        float | None: "a number",
        tuple[float, float]: "a list of two numbers",
        tuple[str, ...]: "a list of texts",
    }
    return texts.get(kind, "a text")
