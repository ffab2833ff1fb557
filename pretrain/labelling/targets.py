"""What is to be predicted: classes by their numbers, or numbers as they are, and what is no use.

Rows are those of `Rows`; there are N.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.checks import short
from pretrain.errors import ConfigError
from pretrain.labelling.leaking import Leaks
from pretrain.labelling.rows import Flags, Integers, Rows, Values
from pretrain.labelling.setrows import SPLITS, TEST, TRAIN
from pretrain.labelling.unitrows import UnitRows
from pretrain.results.settings import REGRESSION, SEGMENTATION

_MOST_NAMED = 20
_LARGEST = 1e100
"""Of numbers to predict: squares of larger ones are no numbers any more."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What is to be predicted of each row."""

    task: str
    classes: tuple[str, ...]
    """() for regression and segmentation."""
    numbers: npt.NDArray[Any]
    """int64 (N,), index into `classes`; float64 (N,) for regression; 0 for segmentation."""

    @property
    def kinds(self) -> Integers:
        """What is to be in every set: the classes; all 0 where there are none, (N,)."""
        return self.numbers if self.classes else np.zeros(len(self.numbers), dtype=np.int64)


def targets_of(rows: Rows, values: Values, classes: Sequence[str], task: str) -> Targets:
    """What is to be predicted of each row, all of which have a value.

    Args:
        classes: in this order; by default all that there are, numbers by size and texts sorted.

    Raises:
        ConfigError: for regression, a value is no finite number.
    """
    if task == REGRESSION:
        return Targets(task, (), _numbers(rows, values))
    if task == SEGMENTATION:
        return Targets(task, (), np.zeros(len(rows), dtype=np.int64))
    present = [values.names[code] for code in np.unique(values.codes).tolist()]
    names = tuple(classes) or tuple(_in_order(present))
    table = np.full(len(values.names), -1, dtype=np.int64)
    for number, name in enumerate(names):
        table[values.names.index(name)] = number
    return Targets(task, names, table[values.codes])


def check_targets(
    targets: Targets, sets: npt.NDArray[np.int8], units: UnitRows, leaks: Leaks | None
) -> None:
    """Refuse what no encoder could be judged by.

    Args:
        sets: index into `SPLITS` of each row, (N,).

    Raises:
        ConfigError: a set is empty, all is of one class or value, a class is of one unit, or has
            no tile in train or in test.
    """
    gone = "" if leaks is None or not leaks.tiles else f" once {leaks.tiles:,} that leak are out"
    for number in (TRAIN, TEST):
        if not (sets == number).any():
            raise ConfigError(f"no labelled tile is left in {SPLITS[number]}{gone}; split anew")
    if targets.task == REGRESSION:
        train = targets.numbers[sets == TRAIN]
        if train.min() == train.max():
            raise ConfigError(
                f"all {len(train):,} tiles of train have one value, {train[0]:g}: there is nothing "
                "to learn"
            )
    elif targets.classes:
        _check_classes(targets, sets, units, gone)


def _check_classes(
    targets: Targets, sets: npt.NDArray[np.int8], units: UnitRows, gone: str
) -> None:
    names, by = targets.classes, " or ".join(units.by)
    if len(names) < 2:
        raise ConfigError(
            f"all {len(sets):,} labelled tiles are of one class, {short(names[0])}: there is "
            "nothing to tell apart"
        )
    lacks = {
        name: found
        for number, name in enumerate(names)
        if (found := _lacking(targets.numbers == number, sets, units))
    }
    if not lacks:
        return
    name, (where, unit) = next(iter(lacks.items()))
    hint = _leave_out(lacks, names)
    if unit:
        raise ConfigError(
            f"the class {short(name)} has one {by} only, {short(unit)}: it cannot be learned from "
            f"one and tested on another{f'; {hint}' if hint else ''}{_number_hint(names)}"
        )
    raise ConfigError(
        f"the class {short(name)} has no tile in {where}{gone}; split anew, with --stratify and "
        f"--exact{f', or {hint}' if hint else ''}"
    )


def _lacking(
    mine: Flags, sets: npt.NDArray[np.int8], units: UnitRows
) -> tuple[str, str | None] | None:
    """What a class of some rows, (N,), lacks: the set, or another unit than its only one."""
    own = np.unique(units.numbers[mine])
    if len(own) == 1:
        return "", units.names[own[0]]
    return next(
        ((SPLITS[which], None) for which in (TRAIN, TEST) if not (sets[mine] == which).any()), None
    )


def _number_hint(names: Sequence[str]) -> str:
    """What to do if the classes are numbers, as those of a measure are."""
    try:
        numbers = {float(name) for name in names}
    except ValueError:
        return ""
    return "; to predict numbers, give --task regression" if len(numbers) > 2 else ""


def _leave_out(lacks: Collection[str], names: Sequence[str]) -> str:
    """How to do without the classes that lack something; empty if there is no way."""
    others = [other for other in names if other not in lacks]
    if len(others) < 2:
        return ""
    what = "it" if len(lacks) == 1 else f"it and {len(lacks) - 1:,} more that lack something"
    if len(others) > _MOST_NAMED:
        return f"leave {what} out by naming the {len(others):,} others with --classes"
    return f"leave {what} out with --classes {','.join(others)}"


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first twenty."""
    more = len(names) - _MOST_NAMED
    return ", ".join(map(short, names[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")


def _in_order(names: Iterable[str]) -> list[str]:
    """By size if all are numbers, such as grades, else as texts."""
    found = sorted(names)
    numbers = [number for name in found if (number := _number(name)) is not None]
    if len(numbers) < len(found):
        return found
    return [name for _, name in sorted(zip(numbers, found, strict=True))]


def _numbers(rows: Rows, values: Values) -> npt.NDArray[np.float64]:
    found = [_number(name) for name in values.names]
    for code, number in enumerate(found):
        if number is not None and abs(number) <= _LARGEST:
            continue
        where = np.flatnonzero(values.codes == code)
        if len(where):
            why = "no finite number" if number is None else "too large to be scored"
            raise ConfigError(
                f"{rows.name_of(int(where[0]))} says {short(values.names[code])}, which is {why}: "
                "--task regression needs a number of every tile"
            )
    return np.array(found, dtype=np.float64)[values.codes]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
