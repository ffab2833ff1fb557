"""One setting of a run: its default, its sentence of help and its choices, said once.

The dataclasses of `config` and `viewconfig` are made of these; the command line and the TOML file
are read from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Any

from pretrain.errors import ConfigError


def setting(
    default: Any,
    text: str,
    *,
    choices: Sequence[str] | None = None,
    shown: str | None = None,
    exact: bool = True,
) -> Any:
    """A dataclass field that is also a flag `--name` and a key of `run.toml`.

    Args:
        text: one sentence of help.
        choices: all values that are allowed.
        shown: what help shows as the default where that depends on something.
        exact: whether a run with another value is another run; else it may change on resuming.
    """
    metadata = {"text": text, "choices": choices, "shown": shown, "exact": exact}
    return field(default=default, metadata=metadata)


def check(good: bool, message: str) -> None:
    """Raise `ConfigError` with a message unless all is good."""
    if not good:
        raise ConfigError(message)


def check_least(settings: object, lows: Iterable[tuple[str, int]]) -> None:
    """Raise `ConfigError` unless each named setting is None, or a number that is not too low."""
    for name, low in lows:
        value = getattr(settings, name)
        good = value is None or (math.isfinite(value) and value >= low)
        check(good, f"{name.replace('_', '-')} must be at least {low}, got {value}")
