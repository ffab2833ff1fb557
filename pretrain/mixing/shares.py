"""How often each stratum is drawn: the fields that tell strata apart, tempering, and weights.

A stratum's key is its fields with their values, all text; `unknown` stands where the manifest says
nothing. Shares are whole numbers, so that what is stated is what is drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

from manifests.model import CURATED_FIELDS, Resolution, StoreEntry
from manifests.vocabulary import FIELDS as VOCABULARY_FIELDS
from manifests.vocabulary import load_vocabulary
from pretrain.errors import ConfigError

Key = tuple[tuple[str, str], ...]
"""Fields and values of a stratum, in the order of the balance."""

UNKNOWN = "unknown"
"""Stands in for what the manifest does not say."""
MPP = "mpp"
NO_BALANCE = "none"

_ALWAYS = ("stain", "organ", MPP)
"""May be asked for though no entry has them: the default must fit any manifest."""
_GRID = 10**6
"""Steps of a tempered share, of the smallest stratum's: finer than anyone can count draws."""
_MOST_FACTOR = 10**6
_MOST_SHOWN = 20
_FORM = "FIELD=VALUE:FACTOR, such as 'stain=IHC*:2' or 'stain=H&E,organ=lung:0.5'"


def balance_fields(balance: Sequence[str]) -> tuple[str, ...]:
    """The fields that tell strata apart; none for `none`: all tiles are then one stratum."""
    return () if tuple(balance) == (NO_BALANCE,) else tuple(balance)


def check_balance(entries: Iterable[StoreEntry], fields: Sequence[str]) -> None:
    """Raise `ConfigError` for a field that no entry has, naming those that there are."""
    wanted = [name for name in fields if name not in _ALWAYS]
    if not wanted:
        return
    known = {name for entry in entries for name in _said(entry)}
    if missing := [name for name in wanted if name not in known]:
        there = ", ".join([*_ALWAYS, *sorted(known - set(_ALWAYS))])
        raise ConfigError(
            f"no store of the manifest has {missing[0]!r}, which --balance names; there are "
            f"{there}, and {NO_BALANCE} for no balance"
        )


def _said(entry: StoreEntry) -> list[str]:
    named = [name for name in CURATED_FIELDS if getattr(entry, name) is not None]
    return [*named, *(name for name, value in entry.columns.items() if value)]


def key_values(entry: StoreEntry, resolution: Resolution, fields: Sequence[str]) -> Key:
    """The stratum that the tiles of a resolution belong to; mpp is the one that was asked for."""
    return tuple((name, _value(entry, resolution, name)) for name in fields)


def _value(entry: StoreEntry, resolution: Resolution, name: str) -> str:
    if name == MPP:
        return f"{resolution.mpp_requested:g}"
    if name in CURATED_FIELDS:
        return getattr(entry, name) or UNKNOWN
    return entry.columns.get(name) or UNKNOWN


def name_of(key: Key) -> str:
    """What people call a stratum: its values, those that are unknown with their fields."""
    return " × ".join(map(_value_text, *zip(*key, strict=True))) if key else "all tiles"


def _value_text(name: str, value: str) -> str:
    if value == UNKNOWN:
        return f"unknown {name}"
    return f"{value} µm/px" if name == MPP else value


@dataclass(frozen=True, slots=True)
class WeightRule:
    """A factor for all strata that meet all conditions."""

    text: str
    """As it was given."""
    conditions: Key
    """Fields and patterns: `*` and `?` as in file names, case does not count."""
    factor: Fraction

    def matches(self, key: Key) -> bool:
        """Whether a stratum meets all conditions."""
        values = dict(key)
        return all(_fits(name, values[name], pattern) for name, pattern in self.conditions)


def read_rule(text: str) -> WeightRule:
    """A weight as it is given: `stain=H&E,organ=lung:0.5`.

    Raises:
        ConfigError: it has another form, or the factor is negative or no number.
    """
    before, colon, after = text.rpartition(":")
    # A comma may be part of a value: only one before the next FIELD= parts conditions.
    parts = [part.partition("=") for part in re.split(r",(?=[^,=]+=)", before)]
    conditions = tuple((name.strip(), pattern.strip()) for name, _, pattern in parts)
    try:
        factor = Fraction(after.strip())
    except (ValueError, ZeroDivisionError):
        factor = Fraction(-1)
    if not colon or not all(name and pattern for name, pattern in conditions) or factor < 0:
        raise ConfigError(f"weight {text!r} must be {_FORM}; 0 means never")
    if factor and not Fraction(1, _MOST_FACTOR) <= factor <= _MOST_FACTOR:
        raise ConfigError(f"weight {text!r}: the factor must be 0, or 1e-6 to 1e6")
    return WeightRule(text, conditions, factor)


def weigh(
    tiles: Mapping[Key, int],
    empty: Iterable[Key],
    temperature: float,
    rules: Sequence[str],
    part: str = "",
) -> dict[Key, int]:
    """The weight of each stratum, in the order of `tiles`: whole, without a common divisor.

    A stratum of n tiles weighs n to the power `temperature` (0 even, 1 in proportion), times the
    factors of all rules that it meets.

    Args:
        tiles: how many tiles each stratum has, at least 1.
        empty: strata that the manifest names but that have no tiles left.
        part: how an error names what was selected: " in train".

    Raises:
        ConfigError: a rule is malformed, names another field than the balance, meets no stratum, or
            only empty ones; or nothing is left to draw.
    """
    weights = _tempered(tiles, temperature)
    empty = sorted(empty)
    for rule in map(read_rule, rules):
        _check_fields(rule, next(iter(tiles)))
        met = [key for key in tiles if rule.matches(key)]
        gone = [key for key in empty if rule.matches(key)]
        if not met and gone and rule.factor:
            raise ConfigError(
                f"weight {rule.text!r} is for {name_of(gone[0])}, of which no tile is left{part}; "
                "select some, or leave that weight out"
            )
        if not met and not gone:
            raise ConfigError(_no_match(rule, tiles))
        for key in met:
            weights[key] *= rule.factor
    if not any(weights.values()):
        raise ConfigError("the weights draw every stratum never: give one of them more than 0")
    scale = math.lcm(*(weight.denominator for weight in weights.values()))
    whole = {key: int(weight * scale) for key, weight in weights.items()}
    divisor = math.gcd(*whole.values())
    return {key: weight // divisor for key, weight in whole.items()}


def _tempered(tiles: Mapping[Key, int], temperature: float) -> dict[Key, Fraction]:
    if temperature == 1:
        return {key: Fraction(count) for key, count in tiles.items()}
    least = min(tiles.values())
    try:
        return {
            key: Fraction(round(_GRID * (count / least) ** temperature))
            for key, count in tiles.items()
        }
    except OverflowError as error:
        raise ConfigError(
            f"mix-temperature {temperature} is too high; 1 is proportional"
        ) from error


def _check_fields(rule: WeightRule, key: Key) -> None:
    fields = [name for name, _ in key]
    for name, _ in rule.conditions:
        if name not in fields:
            raise ConfigError(
                f"weight {rule.text!r} names {name}, but strata are told apart by "
                f"{' and '.join(fields) or 'nothing'}: name it with --balance, too"
            )


def _no_match(rule: WeightRule, tiles: Iterable[Key]) -> str:
    keys = [dict(key) for key in tiles]
    known = []
    for name, _ in rule.conditions:
        values = sorted({key[name] for key in keys})
        more = ", …" if len(values) > _MOST_SHOWN else ""
        known.append(f"{name}: {', '.join(values[:_MOST_SHOWN])}{more}")
    return f"weight {rule.text!r} fits no stratum; there are {'; '.join(known)}"


def _fits(name: str, value: str, pattern: str) -> bool:
    """Whether a value, or what the vocabulary calls it, is what a pattern means."""
    if value == pattern or _like(value, pattern):
        return True
    if name not in VOCABULARY_FIELDS:
        return False
    called = _canonical(name, value)
    return _like(called, pattern) or called == _canonical(name, pattern)


def _like(value: str, pattern: str) -> bool:
    return fnmatchcase(value.casefold(), pattern.casefold())


def _canonical(name: str, value: str) -> str:
    """The vocabulary's name; a bare marker ("Ki-67") is taken as its stain ("IHC: Ki67")."""
    vocabulary = load_vocabulary()
    marker = f"IHC {value}"
    if name == "stain" and not vocabulary.knows(name, value) and vocabulary.knows(name, marker):
        return vocabulary.canonical(name, marker)
    return vocabulary.canonical(name, value)
