"""What an expression says of tiles: true, false, or undecided where a value is not known.

Three values after Kleene ("On notation for ordinal numbers", 1938): a test of an unknown value is
undecided, `not` leaves that so, `and` is false as soon as one part is false, `or` true as soon as
one is true. So `not a < 1` is `a >= 1`, and nothing that is not known is ever selected by accident;
only `== unknown` decides about it. A value, and so an answer, is one for all tiles of a group, or
an array of shape (N,).
"""

from __future__ import annotations

import fnmatch
import functools
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from manifests.choose.expression import (
    Comparison,
    ExpressionError,
    Joined,
    Kind,
    Node,
    Scalar,
    number_in,
)
from manifests.choose.expression import kind_of as kind_of_scalar

Mask = bool | npt.NDArray[np.bool_]
"""For each of N tiles, shape (N,); or one value for all."""


@dataclass(frozen=True, slots=True)
class Texts:
    """A text for each tile, or None where it is not known."""

    words: tuple[str | None, ...]
    codes: npt.NDArray[np.integer[Any]]
    """Which of the words each tile has, shape (N,)."""


Value = Scalar | Texts | npt.NDArray[Any]
"""A value for all tiles, or one for each: texts, numbers (NaN: not known), or booleans."""

Canonical = Callable[[str, str], str]
"""The name that a text stands for in a field: ("stain", "HE") gives "H&E"."""


class Truth(NamedTuple):
    """Where an expression is true and where it is false; where neither, it is undecided."""

    yes: Mask
    no: Mask


def truth_of(node: Node, value_of: Callable[[str], Value], canonical: Canonical) -> Truth:
    """Where an expression is true of the tiles of one group.

    Parts that cannot change the answer any more are not looked at, nor are their values asked for.

    Args:
        value_of: the values of a name.
        canonical: asked for texts on both sides of a comparison.

    Raises:
        ExpressionError: a value is of another kind than what it is compared with.
    """
    if isinstance(node, Comparison):
        return _tested(node, value_of(node.name), canonical)
    if node.by == "not":
        inner = truth_of(node.parts[0], value_of, canonical)
        return Truth(inner.no, inner.yes)
    return _joined(node, value_of, canonical)


def _joined(node: Joined, value_of: Callable[[str], Value], canonical: Canonical) -> Truth:
    every = node.by == "and"
    found = Truth(every, not every)
    for part in node.parts:
        if (found.no if every else found.yes) is True:
            break
        new = truth_of(part, value_of, canonical)
        if every:
            found = Truth(found.yes & new.yes, found.no | new.no)
        else:
            found = Truth(found.yes | new.yes, found.no & new.no)
    return found


def kind_problem(test: Comparison, kind: Kind, *, readable: bool = False) -> str | None:
    """What is wrong with comparing values of a kind as a comparison does; None if nothing is.

    Args:
        readable: whether texts may spell out numbers, as those of slides tables do.
    """
    wanted = test.kind
    if wanted is None or wanted == kind or (readable and (kind, wanted) == ("text", "number")):
        return None
    shown = next(value for value in test.values if value is not None)
    written = f'"{shown}"' if wanted == "text" else str(shown).lower()
    what = {"text": "a text", "number": "a number", "boolean": "true or false"}
    if test.how == "in" and test.values == (True,) and kind != "boolean":
        return f"{test.name} is {what[kind]}: compare it with one"
    hint = f'; write "{written}"' if kind == "text" and wanted == "number" else ""
    return f"{test.name} is {what[kind]}, and {written} is {what[wanted]}{hint}"


def _tested(test: Comparison, value: Value, canonical: Canonical) -> Truth:
    kind = _kind_of(value)
    problem = None if kind is None else kind_problem(test, kind, readable=True)
    if problem is not None:
        raise ExpressionError(problem)
    if isinstance(value, Texts):
        answers = [_answer(test, word, canonical) for word in value.words]
        yes = np.array([answer is True for answer in answers], dtype=np.bool_)
        no = np.array([answer is False for answer in answers], dtype=np.bool_)
        return Truth(yes[value.codes], no[value.codes])
    if isinstance(value, np.ndarray):
        return _answers(test, value)
    answer = _answer(test, value, canonical)
    return Truth(answer is True, answer is False)


def _kind_of(value: Value) -> Kind | None:
    if isinstance(value, Texts):
        return "text"
    if isinstance(value, np.ndarray):
        return "boolean" if value.dtype == np.bool_ else "number"
    return kind_of_scalar(value)


_ORDERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _answer(test: Comparison, value: Scalar, canonical: Canonical) -> bool | None:
    """What a test says of one value; None: undecided."""
    if value is None:
        return True if None in test.values else None
    values = test.values
    if isinstance(value, str):
        name = canonical(test.name, value)
        if test.how == "like":
            matches = _glob(values[0])
            return matches(value) is not None or matches(name) is not None
        if test.kind == "number":
            value = number_in(value)
            if value is None:
                return None
        else:
            value = name
            values = tuple(canonical(test.name, v) if isinstance(v, str) else v for v in values)
    if test.how == "in":
        return value in values
    return bool(_ORDERS[test.how](value, values[0]))


def _answers(test: Comparison, values: npt.NDArray[Any]) -> Truth:
    """The same for numbers or booleans, shape (N,)."""
    is_float = values.dtype.kind == "f"
    known = ~np.isnan(values) if is_float else np.ones(values.shape, dtype=np.bool_)
    literals = [_as_stored(value, values) for value in test.values if value is not None]
    if test.how != "in":
        yes: npt.NDArray[np.bool_] = _ORDERS[test.how](values, literals[0])
        return Truth(yes, known & ~yes)
    yes = np.zeros(values.shape, dtype=np.bool_)
    for literal in literals:
        yes |= values == literal
    return Truth(yes | ~known if None in test.values else yes, known & ~yes)


def _as_stored(value: Any, values: npt.NDArray[Any]) -> Any:
    """A number at the precision of a column, so that a stored 0.7 is equal to 0.7."""
    if values.dtype.kind != "f":
        return value
    with np.errstate(over="ignore"):
        return values.dtype.type(value)


@functools.lru_cache(maxsize=64)
def _glob(pattern: Scalar) -> Callable[[str], re.Match[str] | None]:
    """Whether a whole text fits a pattern, regardless of case; `fnmatch` makes it linear."""
    return re.compile(fnmatch.translate(str(pattern)), re.IGNORECASE).match
