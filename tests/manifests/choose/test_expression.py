"""Expressions: what is understood, what is refused and how, and that nothing else is raised."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from manifests.choose.expression import (
    MOST_CHARACTERS,
    MOST_NESTING,
    Comparison,
    Expression,
    ExpressionError,
    Joined,
    comparisons_of,
    number_in,
    parse_expression,
)
from manifests.choose.truth import Texts, Truth, Value, truth_of


def same(field: str, text: str) -> str:
    """A vocabulary without words."""
    return text


def answer(text: str, **values: Value) -> bool | None:
    """What an expression says where each name has one value."""
    found = truth_of(parse_expression(text).root, values.__getitem__, same)
    return True if found.yes else False if found.no else None


UNDERSTOOD: list[tuple[str, bool | None]] = [
    ("a == 1", True),
    ("a != 1", False),
    ("a < 1.5 and a <= 1 and a > -1 and a >= 1e0", True),
    ("a == .1e1 or b", True),
    ("a in (2, 3)", False),
    ("a not in (2, 3,)", True),
    ("t == 'it\\'s \"x\"'", True),
    ('t == "it\'s \\"x\\"" and t == "it\\u0027s \\"x\\""', True),
    ("t like 'IT*[w-z]?'", True),
    ("t not like '*y*'", True),
    ("t like '*s'", False),
    ("NOT b OR b == TRUE AND a IN (1) AND t LIKE '*'", True),
    ("not b", False),
    ("not not b", True),
    ("n == unknown", True),
    ("n != unknown", False),
    ("a != unknown", True),
    ("n == 1", None),
    ("n != 1", None),
    ("not n == 1", None),
    ("n in (1, unknown)", True),
    ("n not in (1, unknown)", False),
    ("n == 1 and a == 2", False),
    ("n == 1 or a == 1", True),
    ("n == 1 and a == 1", None),
    ("a == 2 or a == 1 and b == false", False),
    ("(a == 2 or a == 1) and b", True),
    ("not a == 2 and b", True),
    ("`odd name` == 'v'", True),
    ("s > 6 and s < 7.5 and s == 7", True),
    ("s == '7'", True),
    ("t > 6", None),
    ("ä == 1", True),
]


@pytest.mark.parametrize(("text", "expected"), UNDERSTOOD)
def test_what_is_written_means_what_it_says(text: str, expected: bool | None) -> None:
    values: dict[str, Any] = {"a": 1, "b": True, "n": None, "t": 'it\'s "x"', "s": "7", "ä": 1}
    assert answer(text, **values, **{"odd name": "v"}) is expected


REFUSED = [
    ('organ = "lung"', 7, "equality is written =="),
    ("organ == lung", 10, "texts stand in quotes"),
    ("0.1 < focus", 1, "the name stands on the left"),
    ('a == "x', 6, "has no end"),
    ("`a == 1", 1, "has no end"),
    ("a > 1 and", 10, "expected a name or (, found the end"),
    ("", 1, "found the end"),
    ("(a > 1", 7, "expected ), found the end"),
    ("a > 1)", 6, "expected the end, found"),
    ("a > 1 && b", 7, "write: and"),
    ("a < b < c", 5, "texts stand in quotes"),
    ("1 < a", 1, "the name stands on the left"),
    ("a < 1 < 2", 7, "found '<'"),
    ("a > unknown", 3, "unknown goes with == and != alone"),
    ("a <= true", 3, "true goes with == and != alone"),
    ("a like 3", 8, "expected a text in quotes"),
    ("a in ()", 7, "found ')'"),
    ('a in (1, "x")', 10, "values of one kind"),
    ("a in (unknown, 1, true)", 19, "values of one kind"),
    (r'a == "\d"', 7, "no such escape"),
    (r'a == "\ud800"', 7, "no such escape"),
    ("a < 1e999", 5, "too large"),
    ("and == 1", 1, "found 'and'"),
    ("a == 1 # b", 8, "not understood"),
    ("__import__('os').system('id')", 11, "expected a comparison"),
    ("a == '\ud800'", 7, "not valid Unicode"),
]


@pytest.mark.parametrize(("text", "column", "sentence"), REFUSED)
def test_what_is_not_understood_is_refused_at_its_place(
    text: str, column: int, sentence: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    first, line, caret = str(caught.value).split("\n")
    assert sentence in first
    assert first.startswith(f"column {column} of the expression: ")
    assert caret.index("^") - 2 == column - 1
    assert len(line) <= 102
    assert caught.value.exit_code == 2


def test_the_place_is_shown_in_long_expressions_too() -> None:
    text = " or ".join(f"a == {i}" for i in range(500)) + " or a = 3"
    with pytest.raises(ExpressionError, match="equality") as caught:
        parse_expression(text)
    _, line, caret = str(caught.value).split("\n")
    assert line[caret.index("^")] == "="


def test_length_and_nesting_are_bounded() -> None:
    parse_expression(" " * (MOST_CHARACTERS - 6) + "a == 1")
    with pytest.raises(ExpressionError, match="at most 10,000"):
        parse_expression(" " * (MOST_CHARACTERS - 5) + "a == 1")
    parse_expression("not " * MOST_NESTING + "a")
    for deep in ("not " * 2400 + "a", "(a or b and (" * 600 + "a" + "))" * 600):
        with pytest.raises(ExpressionError, match="nested deeper than 50"):
            parse_expression(deep)
    assert answer("(" * 4990 + "a == 1" + ")" * 4990, a=1) is True
    assert answer("a == 1" + " or a == 1" * 900, a=2) is False


def test_conditions_are_what_the_outermost_and_joins() -> None:
    expression = parse_expression("a == 1  and (b or\n c) and not (d and e)")
    texts = [expression.text_of(condition) for condition in expression.conditions()]
    assert texts == ["a == 1", "(b or c)", "not (d and e)"]
    alone = parse_expression("a == 1 or b and c")
    assert [alone.text_of(condition) for condition in alone.conditions()] == [alone.text]
    assert [test.name for test in comparisons_of(alone.root)] == ["a", "b", "c"]


def names(expression: Expression) -> set[str]:
    """The names that an expression asks for."""
    return {comparison.name for comparison in comparisons_of(expression.root)}


@given(st.text() | st.text("ab()'\"=<>!`\\. 01eE-and or not in like unknown,*[]", max_size=60))
@example("a like '[z-a]'")
@example("a like '[[a]||&&--~~]'")
@example("a == 1\x00")
@settings(max_examples=1000)
def test_no_text_raises_anything_but_the_one_error(text: str) -> None:
    try:
        expression = parse_expression(text)
    except ExpressionError:
        return
    values: list[Value] = ["text", 1.5, True, None, np.array([0.5, np.nan])]
    for value in [*values, Texts(("a", None), np.arange(2))]:
        with contextlib.suppress(ExpressionError):
            truth_of(expression.root, dict.fromkeys(names(expression), value).get, same)


def test_a_glob_of_many_stars_is_quick() -> None:
    text = "a like '" + "*a" * 2000 + "b'"
    # A matcher that backtracks would not come to an end within the test's time limit.
    assert answer(text, a="a" * 100_000) is False


WRONG_KINDS: list[tuple[str, Value, str]] = [
    ('v == "x"', 1.5, 'v is a number, and "x" is a text'),
    ("v > 1", True, "v is true or false, and 1 is a number"),
    ("v", "text", "v is a text: compare it with one"),
    ("v == true", np.array([1.0]), "v is a number: compare it with one"),
    ("v == false", "text", "v is a text, and false is true or false"),
    ('v like "a*"', np.array([True]), 'v is true or false, and "a*" is a text'),
    ("v == false", Texts(("a",), np.zeros(1, np.int64)), "v is a text, and false is true or false"),
]


@pytest.mark.parametrize(("text", "value", "sentence"), WRONG_KINDS)
def test_values_of_different_kinds_are_not_compared(text: str, value: Value, sentence: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(sentence)):
        truth_of(parse_expression(text).root, lambda _: value, same)


def listed(found: Truth, count: int) -> list[bool | None]:
    """The answers one by one."""
    yes = np.broadcast_to(found.yes, count).tolist()
    no = np.broadcast_to(found.no, count).tolist()
    return [True if y else False if n else None for y, n in zip(yes, no, strict=True)]


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.int64, np.int32, np.uint8], ids=lambda d: d.__name__
)
@pytest.mark.parametrize("sign", ["==", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("literal", [-1, 0, 0.7, 3, 300, 1e300, -1e300, 10**18])
def test_columns_of_every_type_compare_as_numbers_do(
    dtype: type[np.generic], sign: str, literal: float
) -> None:
    values = np.array([0, 0.7, 3, 200]).astype(dtype)
    found = truth_of(parse_expression(f"v {sign} {literal!r}").root, lambda _: values, same)
    # Decimal fractions are compared at the precision of the column, as they were stored.
    stored = dtype(0.7).item() if literal == 0.7 and dtype is np.float32 else literal
    expected = [eval(f"a {sign} b", {"a": v, "b": stored}) for v in values.tolist()]
    assert listed(found, 4) == expected


def test_parts_that_cannot_change_the_answer_are_not_asked_for() -> None:
    def value_of(name: str) -> Value:
        assert name == "a", "b would have to be read from a store"
        return 1

    no = truth_of(parse_expression("a == 2 and b > 3").root, value_of, same)
    yes = truth_of(parse_expression("a == 1 or b > 3").root, value_of, same)
    assert no == (False, True)
    assert yes == (True, False)


def test_whole_numbers_stay_exact() -> None:
    values = np.array([2**53, 2**53 + 1])
    found = truth_of(parse_expression(f"v == {2**53 + 1}").root, lambda _: values, same)
    assert listed(found, 2) == [False, True]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("7", 7), (" -7.50 ", -7.5), ("1e3", 1000), ("x", None), ("nan", None), ("inf", None)),
        *(("1_0", None), ("٣", None), ("1e999", None), ("", None), ("9" * 400, None)),
    ],
)
def test_a_text_spells_out_a_number_or_none(text: str, number: float | None) -> None:
    assert number_in(text) == number


def test_nodes_tell_how_deep_they_are() -> None:
    root = parse_expression("a or (b and not (c or d))").root
    assert isinstance(root, Joined)
    assert root.depth == 4
    assert isinstance(root.parts[0], Comparison)
