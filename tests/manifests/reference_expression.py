"""Expressions again, tile by tile in plain Python: what `manifests.choose.truth` must come to.

Trees are tuples: ("and" | "or", trees), ("not", tree), ("test", name, sign, value),
("in", name, values), ("like", name, pattern), ("flag", name). Written without looking at the
product's evaluation; it shares with it the grammar alone.
"""

from __future__ import annotations

import fnmatch
import operator
import struct
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Tree = tuple[Any, ...]

TEXTS = {
    "organ": ("lung", "Lung", "LUNG", "breast", "colon"),
    "stain": ("H&E", "HE", "hematoxylin-eosin", "IHC: Ki67", "Ki-67 IHC"),
    "dataset": ("D1", "D2", "d1"),
    "patient": ("P0", "P1", "P2"),
    "split": ("train", "test"),
    "id": ("a", "b", "p"),
    "source": ("a.svs", "t/2.png", "n/1.png"),
    "label": ("normal", "tumour"),
    "resolution": ("0.5", "1"),
    "vendor": ("aperio",),
    "batch": ("7", "x", "8"),
    "group": ("10", "g"),
    "Sample Type": ("biopsy",),
}
NUMBERS = {
    "focus": (0, 0.1, 0.3, 0.7, 1, 1e39),
    "tissue": (0.6, 0.7, 0.65, 1),
    "unread": (0, 0.5),
    "x": (0, 16, 16.5, 48, 10**17),
    "mpp": (0.505, 1, 2),
    "mpp_requested": (0.5, 1.0),
    "tile_size": (16, 256),
    "objective_power": (20, 40),
    "cellularity": (-1, 0.1, 1e300, 0),
    "batch": (7, 8.0, -3),
    "group": (10, 11),
}
BOOLEANS = ("packed", "native")
SINGLE = {"focus", "tissue", "unread"}
"""Names of columns of 32 bits."""
CANONICAL = {
    "organ": {"Lung": "lung", "LUNG": "lung"},
    "stain": {"HE": "H&E", "hematoxylin-eosin": "H&E", "Ki-67 IHC": "IHC: Ki67"},
}
PATTERNS = ("*", "p*", "*g", "?", "*:*", "[hi]*", "ihc*", "[!a]*", "", "*.svs", "D[0-1]")

SIGNS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def says(tree: Tree, tile: Mapping[str, Any]) -> bool | None:
    """What an expression says of one tile; None: undecided."""
    kind, *rest = tree
    if kind == "not":
        inner = says(rest[0], tile)
        return None if inner is None else not inner
    if kind in ("and", "or"):
        answers = [says(part, tile) for part in rest[0]]
        decisive: bool = kind == "or"
        if decisive in answers:
            return decisive
        return None if None in answers else not decisive
    name = rest[0]
    value = tile.get(name)
    if kind == "flag":
        return None if value is None else bool(value)
    if kind == "like":
        if value is None:
            return None
        return fnmatch.fnmatchcase(value.lower(), rest[1].lower())
    if kind == "in":
        answers = [says(("test", name, "==", item), tile) for item in rest[1]]
        return True if True in answers else None if None in answers else False
    return _compared(name, value, rest[1], rest[2])


def _compared(name: str, value: Any, sign: str, literal: Any) -> bool | None:
    if literal is None:
        return (value is None) == (sign == "==")
    if value is None:
        return None
    if isinstance(literal, str):
        literal = CANONICAL.get(name, {}).get(literal, literal)
    elif isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    elif name in SINGLE:
        literal = _single(literal)
    return bool(SIGNS[sign](value, literal))


def _single(value: float) -> float:
    try:
        found: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return float("inf")
    return found


def written(tree: Tree) -> str:
    """A tree as text, in parentheses everywhere but around single tests."""
    kind, *rest = tree
    if kind == "not":
        return f"not ({written(rest[0])})"
    if kind in ("and", "or"):
        return f" {kind} ".join(f"({written(part)})" for part in rest[0])
    name = rest[0] if rest[0].isidentifier() else f"`{rest[0]}`"
    if kind == "flag":
        return str(name)
    if kind == "like":
        return f"{name} like {_literal(rest[1])}"
    if kind == "in":
        return f"{name} in ({', '.join(map(_literal, rest[1]))})"
    return f"{name} {rest[1]} {_literal(rest[2])}"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if value is None:
        return "unknown"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _tests() -> st.SearchStrategy[Tree]:
    orders = st.sampled_from(sorted(SIGNS))
    equality = st.sampled_from(["==", "!="])
    found: list[st.SearchStrategy[Tree]] = []
    for values in (TEXTS, NUMBERS):
        for name, known in values.items():
            value: st.SearchStrategy[Any] = st.sampled_from(known)
            listed = st.lists(value | st.none(), min_size=1, max_size=3)
            found += [
                st.tuples(st.just("test"), st.just(name), orders, value),
                st.tuples(st.just("test"), st.just(name), equality, st.none()),
                st.tuples(st.just("in"), st.just(name), listed),
            ]
    for name in TEXTS:
        pattern = st.sampled_from(PATTERNS)
        found.append(st.tuples(st.just("like"), st.just(name), pattern))
    for name in BOOLEANS:
        found.append(st.tuples(st.just("flag"), st.just(name)))
        found.append(st.tuples(st.just("test"), st.just(name), equality, st.booleans()))
    return st.one_of(found)


def trees() -> st.SearchStrategy[Tree]:
    """Random expressions over the names of `make_selectable`."""
    return st.recursive(
        _tests(),
        lambda inner: (
            st.tuples(st.just("not"), inner)
            | st.tuples(
                st.sampled_from(["and", "or"]),
                st.lists(inner, min_size=2, max_size=4),
            )
        ),
        max_leaves=8,
    )
