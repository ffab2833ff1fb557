"""JSON text read strictly: what other readers take differently is refused, with its place.

A key that stands twice in an object, NaN, infinities, and integers too long to be read are no part
of a file that two programs should understand alike. Places are written `$.stores[3].path`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from manifests.checks import short
from manifests.errors import ManifestError
from manifests.files import Json

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

Trail = tuple[Any, str | int] | None
"""The trail of the parent, and the key or number in it; None is the root."""


def parse_json(text: str) -> Json:
    """The value of a JSON text.

    Raises:
        ManifestError: it is not JSON, nested too deeply, or holds what is refused here; the message
            begins with the place.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ManifestError("$: not valid JSON (nested too deeply)") from error
    except ValueError as error:
        raise ManifestError(_first_refused(text) or f"$: not valid JSON ({error})") from error


def _place_text(keys: list[str | int]) -> str:
    """A place for a message: `$.stores[3].path`."""
    return "$" + "".join(
        f"[{key}]"
        if isinstance(key, int)
        else f".{key}"
        if _PLAIN_KEY.fullmatch(key) and len(key) < 100
        else f"[{short(key)}]"
        for key in keys
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _first_refused(text: str) -> str | None:
    """Read the text again, mark what is refused instead of raising, and say where the first is."""
    why: list[tuple[object, str]] = []  # holds the marks, so that no id is given twice

    def mark(value: object, reason: str) -> object:
        why.append((value, reason))
        return value

    def integer(digits: str) -> object:
        try:
            return int(digits)
        except ValueError:
            return mark(object(), f"an integer of {len(digits):,} digits is not valid JSON here")

    def unique(pairs: list[tuple[str, Any]]) -> object:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        return mark(found, f"the key {short(twice)} stands twice in one object")

    def constant(name: str) -> object:
        return mark(object(), f"{name} is not a JSON number")

    try:
        data = json.loads(
            text, parse_constant=constant, parse_int=integer, object_pairs_hook=unique
        )
    except (ValueError, RecursionError):
        return None
    reasons = {id(value): reason for value, reason in why}
    for trail, value in _walk(data):
        if id(value) in reasons:
            return f"{_place_text(_keys(trail))}: {reasons[id(value)]}"
    return None


def _walk(data: Json) -> Iterator[tuple[Trail, Json]]:
    """Every value with its trail, in the order of the text; needs no recursion."""
    waiting: list[tuple[Trail, Json]] = [(None, data)]
    while waiting:
        trail, value = waiting.pop()
        yield trail, value
        inner = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else ()
        )
        waiting += reversed([((trail, key), item) for key, item in inner])


def _keys(trail: Trail) -> list[str | int]:
    keys: list[str | int] = []
    while trail is not None:
        trail, key = trail
        keys.append(key)
    return keys[::-1]


__all__ = ["parse_json"]
