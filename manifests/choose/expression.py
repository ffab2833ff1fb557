"""The language of `manifest select --where`: its grammar, its meaning, never `eval`.

An expression is parsed (LALR, by lark) into tests of one name each, joined by `and`, `or`, `not`.
What it means for a tile is told in `manifests.choose.truth`, the names that there are in
`manifests.choose.tilefacts`, the whole language in docs/reference/select.md. Positions count
characters from 0, in messages from 1.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import lark

from manifests.errors import EXIT_USAGE, HistotileError

MOST_CHARACTERS = 10_000
MOST_NESTING = 50
"""How deep `and`, `or` and `not` may lie within each other."""

Scalar = str | int | float | bool | None
"""A value; None: not known."""
Kind = Literal["text", "number", "boolean"]
How = Literal["in", "like", "<", "<=", ">", ">="]


class ExpressionError(HistotileError):
    """An expression cannot be understood, or compares what cannot be compared."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Comparison:
    """One name compared with one value, or with a list of them."""

    name: str
    how: How
    values: tuple[Scalar, ...]
    """One value, but for `in`; None stands for `unknown`."""
    start: int
    end: int

    @property
    def kind(self) -> Kind | None:
        """What the values are; None if there is but `unknown`."""
        return next((kind for kind in map(kind_of, self.values) if kind is not None), None)


@dataclass(frozen=True, slots=True)
class Joined:
    """Comparisons joined by `and` or `or`, or negated (one part)."""

    by: Literal["and", "or", "not"]
    parts: tuple[Node, ...]
    depth: int
    start: int
    end: int


Node = Comparison | Joined


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression."""

    text: str
    root: Node

    def conditions(self) -> tuple[Node, ...]:
        """The parts that the outermost `and` joins; the whole, if there is none."""
        top = self.root
        return top.parts if isinstance(top, Joined) and top.by == "and" else (top,)

    def text_of(self, node: Node) -> str:
        """The node as it was written, on one line."""
        return " ".join(self.text[node.start : node.end].split())

    def error(self, at: int, problem: str) -> ExpressionError:
        """An error that points at a place."""
        return _pointing(self.text, at, problem)


@dataclass
class _Problem(Exception):
    """What is wrong at a place of an expression whose text is not at hand."""

    at: int
    what: str


def comparisons_of(node: Node) -> Iterator[Comparison]:
    """All comparisons of an expression, from left to right."""
    if isinstance(node, Comparison):
        yield node
    else:
        for part in node.parts:
            yield from comparisons_of(part)


def kind_of(value: Scalar) -> Kind | None:
    """Text, number or boolean; None of what is not known."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


# ---------------------------------------------------------------- grammar

_GRAMMAR = r"""
?start: either
?either: both | both (_OR both)+ -> any_of
?both: negated | negated (_AND negated)+ -> all_of
?negated: condition | NOT negated -> negation
?condition: LPAR either RPAR -> parenthesised
    | name -> flag
    | name COMPARE value -> compared
    | name _IN values -> is_in
    | name NOT _IN values -> not_in
    | name _LIKE STRING -> is_like
    | name NOT _LIKE STRING -> not_like
values: LPAR value ("," value)* [","] RPAR
value: STRING | NUMBER | WORD
name: NAME | QUOTED

_OR.2: /or\b/i
_AND.2: /and\b/i
NOT.2: /not\b/i
_IN.2: /in\b/i
_LIKE.2: /like\b/i
WORD.2: /(true|false|unknown)\b/i
COMPARE: /==|!=|<=|>=|<|>/
LPAR: "("
RPAR: ")"
NAME: /[^\W\d]\w*/
QUOTED: /`[^`]+`/
NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?/i
STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
%ignore /\s+/
"""
_EXPECTED = {
    "NAME": "a name",
    "COMPARE": "a comparison (== != < <= > >=, in, not in, like)",
    "NUMBER": "a number",
    "STRING": "a text in quotes",
    "WORD": "true, false or unknown",
    "LPAR": "(",
    "COMMA": "a comma",
    "RPAR": ")",
    "_AND": "and, or",
    "$END": "the end",
}
_HINTS = (
    ("=", "equality is written =="),
    ("&", "write: and"),
    ("|", "write: or"),
    ("!", "write: not, or !="),
    ("`", "the name in backticks has no end"),
    ('"', "the text in quotes has no end"),
    ("'", "the text in quotes has no end"),
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_WORDS: dict[str, Scalar] = {"true": True, "false": False, "unknown": None}
_NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
_MOST_DIGITS = 18


def parse_expression(text: str) -> Expression:
    """Parse an expression.

    Raises:
        ExpressionError: it is too long, nested too deeply, or does not follow the grammar; the
            message says where, and what was expected there.
    """
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(
            f"the expression has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _pointing(text, error.start, "this is not valid Unicode") from error
    try:
        root: object = _parser().parse(text)
    except _Problem as error:
        raise _pointing(text, error.at, error.what) from error
    except lark.exceptions.UnexpectedToken as error:
        raise _unexpected(text, error) from error
    except lark.exceptions.UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        hint = next((say for begin, say in _HINTS if text[at] == begin), "this is not understood")
        raise _pointing(text, at, hint) from error
    assert isinstance(root, (Comparison, Joined))
    return Expression(text, root)


@functools.cache
def _parser() -> lark.Lark:
    # The builder works while the text is parsed, so nothing ever walks a tree of unknown depth.
    return lark.Lark(_GRAMMAR, parser="lalr", lexer="basic", transformer=_Builder())


def number_in(text: str) -> int | float | None:
    """The number that a text spells out; None if it is none, or beyond every float."""
    if not _NUMBER.fullmatch(text):
        return None
    digits = text.strip()
    if len(digits) <= _MOST_DIGITS and digits.lstrip("+-").isdigit():
        return int(digits)
    found = float(digits)
    return found if math.isfinite(found) else None


def _pointing(text: str, at: int, problem: str) -> ExpressionError:
    plain = "".join(c if c.isprintable() else " " for c in text)
    begin = max(0, at - 60)
    line, caret = plain[begin : at + 40], " " * (at - begin) + "^"
    return ExpressionError(f"column {at + 1} of the expression: {problem}\n  {line}\n  {caret}")


def _unexpected(text: str, error: lark.exceptions.UnexpectedToken) -> ExpressionError:
    token = error.token
    ended = token.type == "$END"
    at = len(text.rstrip()) if ended else int(token.start_pos or 0)
    wanted = [say for name, say in _EXPECTED.items() if name in error.accepts]
    found = "the end" if ended else f"{str(token)[:40]!r}"
    problem = f"expected {' or '.join(wanted)}, found {found}"
    if "NAME" in error.accepts and token.type in ("STRING", "NUMBER", "WORD"):
        problem += "; the name stands on the left, the value on the right"
    elif "STRING" in error.accepts and token.type in ("NAME", "QUOTED"):
        problem += "; texts stand in quotes"
    return _pointing(text, at, problem)


class _Builder(lark.Transformer[lark.Token, Node]):
    """A method for each rule of the grammar: from what its parts became to what it becomes."""

    def any_of(self, parts: list[Node]) -> Joined:
        return _joined("or", parts, parts[0].start, parts[-1].end)

    def all_of(self, parts: list[Node]) -> Joined:
        return _joined("and", parts, parts[0].start, parts[-1].end)

    def negation(self, found: list[Any]) -> Joined:
        return _joined("not", found[1:], _start(found[0]), found[1].end)

    def parenthesised(self, found: list[Any]) -> Node:
        node: Node = found[1]
        return replace(node, start=_start(found[0]), end=_end(found[2]))

    def flag(self, found: list[lark.Token]) -> Comparison:
        [name] = found
        return Comparison(_name(name), "in", (True,), _start(name), _end(name))

    def compared(self, found: list[lark.Token]) -> Node:
        name, sign, value = found
        how: Any = {"==": "in", "!=": "in"}.get(sign, str(sign))
        test = Comparison(_name(name), how, (_scalar(value),), _start(name), _end(value))
        if how != "in" and test.kind in (None, "boolean"):
            raise _Problem(_start(sign), f"{value} goes with == and != alone")
        return _negated(test) if sign == "!=" else test

    def is_in(self, found: list[Any]) -> Comparison:
        name, listed = found[0], found[-1]
        values = tuple(map(_scalar, listed[1:-1]))
        test = Comparison(_name(name), "in", values, _start(name), _end(listed[-1]))
        for token, value in zip(listed[1:-1], values, strict=True):
            if kind_of(value) not in (None, test.kind):
                raise _Problem(_start(token), "a list holds values of one kind")
        return test

    def not_in(self, found: list[Any]) -> Joined:
        return _negated(self.is_in(found))

    def is_like(self, found: list[lark.Token]) -> Comparison:
        name, pattern = found[0], found[-1]
        return Comparison(_name(name), "like", (_scalar(pattern),), _start(name), _end(pattern))

    def not_like(self, found: list[lark.Token]) -> Joined:
        return _negated(self.is_like(found))

    def values(self, found: list[lark.Token]) -> list[lark.Token]:
        return found

    def value(self, found: list[lark.Token]) -> lark.Token:
        return found[0]

    name = value


def _negated(test: Comparison) -> Joined:
    return _joined("not", [test], test.start, test.end)


def _joined(by: Literal["and", "or", "not"], parts: list[Node], start: int, end: int) -> Joined:
    depth = 1 + max(part.depth if isinstance(part, Joined) else 0 for part in parts)
    if depth > MOST_NESTING:
        raise _Problem(start, f"nested deeper than {MOST_NESTING} levels")
    return Joined(by, tuple(parts), depth, start, end)


def _scalar(token: lark.Token) -> Scalar:
    if token.type == "WORD":
        return _WORDS[token.lower()]
    if token.type == "STRING":
        return _ESCAPE.sub(functools.partial(_escaped, _start(token) + 1), token[1:-1])
    found = number_in(token)
    if found is None:
        raise _Problem(_start(token), "the number is too large")
    return found


def _escaped(begin: int, found: re.Match[str]) -> str:
    code = found[1]
    plain = chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPES.get(code)
    if plain is None or "\ud800" <= plain <= "\udfff":
        raise _Problem(begin + found.start(), r"no such escape; a backslash is written \\")
    return plain


def _start(token: lark.Token) -> int:
    return int(token.start_pos or 0)


def _end(token: lark.Token) -> int:
    return int(token.end_pos or 0)


def _name(token: lark.Token) -> str:
    return token[1:-1] if token.type == "QUOTED" else str(token)
