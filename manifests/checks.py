"""Checks of single values that the dataclasses of the manifest share.

They hold at least what `manifest-v2.schema.json` says, so that a manifest built from checked values
needs no second, slower walk through the schema. Every refusal is one `ManifestError` that begins
with `where`, the name of the value.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import PurePosixPath

from manifests.errors import ManifestError
from manifests.files import Json

MAX_COUNT = 2**53
"""The largest integer that every JSON reader keeps exactly."""
MAX_NUMBER = 1e9
MAX_NAME = 200
MAX_PATH = 4096
MAX_MESSAGE = 1200
"""Characters of the longest sentence about a value of a file."""
_MAX_DEPTH = 32

URL_SCHEMES = ("https", "s3", "gs", "az", "abfs")
"""Where a store may lie besides the manifest's own folder."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PLAIN_URL = re.compile(r"[A-Za-z0-9_.-]+(:[0-9]{1,5})?(/[A-Za-z0-9_.~!$&'()*+,;=%@-]+)+/?")


def check_text(value: object, where: str) -> None:
    """Refuse what is not a non-empty string that UTF-8 can carry."""
    if not isinstance(value, str) or not value:
        raise ManifestError(f"{where}: {short(value)} must be a string that is not empty")
    _check_utf8(value, where)


def check_count(value: object, where: str, least: int = 0, most: int = MAX_COUNT) -> None:
    """Refuse what is not an integer from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestError(f"{where}: {short(value)} must be an integer from {least} to {most}")


def check_positive(value: object, where: str, most: float = MAX_NUMBER) -> None:
    """Refuse what is not a number above 0 and at most `most`; NaN is none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= most:  # type: ignore[operator]
        raise ManifestError(f"{where}: {short(value)} must be a number above 0, at most {most:g}")


def check_pair(value: object, where: str) -> None:
    """Refuse what is not a tuple of two positive numbers, (x, y)."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise ManifestError(f"{where}: {short(value)} must be two numbers, (x, y)")
    for number in value:
        check_positive(number, where)


def check_texts(value: object, where: str) -> None:
    """Refuse what is not a tuple of non-empty strings."""
    if not isinstance(value, tuple):
        raise ManifestError(f"{where}: {short(value)} must be a list of strings")
    for text in value:
        check_text(text, where)


def check_keys(value: object, where: str) -> None:
    """Refuse what is not a mapping with string keys."""
    if not isinstance(value, Mapping):
        raise ManifestError(f"{where}: {short(value)} must be an object")
    for key in value:
        if not isinstance(key, str):
            raise ManifestError(f"{where}: the key {short(key)} must be a string")
        _check_utf8(key, where)


def check_extra(value: Mapping[str, Json], where: str) -> None:
    """Refuse keys that do not begin with `x-`, and values that JSON cannot carry."""
    check_keys(value, where)
    for key, item in value.items():
        if not key.startswith("x-"):
            raise ManifestError(f"{where}: unknown key {short(key)}; own keys begin with x-")
        check_json(item, f"{where}: {key}")


def check_json(value: Json, where: str, depth: int = 0) -> None:
    """Refuse what JSON cannot carry unchanged: NaN, infinity, other types, deep nesting."""
    if depth > _MAX_DEPTH:
        raise ManifestError(f"{where}: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        _check_utf8(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ManifestError(f"{where}: {value} is not a JSON number")
    elif isinstance(value, Mapping):
        check_keys(value, where)
        for item in value.values():
            check_json(item, where, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_json(item, where, depth + 1)
    elif value is not None and not isinstance(value, int):
        raise ManifestError(f"{where}: {short(value)} is not a JSON value")


def check_relative_path(path: object, where: str) -> None:
    """Refuse a path that is absolute, leaves its root, or is not plain POSIX."""
    check_text(path, where)
    assert isinstance(path, str)
    parts = PurePosixPath(path).parts
    bad = not parts or path.startswith(("/", "~")) or ".." in parts or len(path) > MAX_PATH
    if bad or any(c in path for c in "\\:\0\n"):
        raise ManifestError(
            f"{where}: {short(path)} must be a relative POSIX path inside the manifest's folder"
        )


def is_url(path: str) -> bool:
    """Whether a store's place is a URL rather than a path."""
    return _URL.match(path) is not None


def check_location(place: object, where: str) -> None:
    """Refuse what is neither a relative POSIX path nor a URL of a known scheme.

    A URL is a host or bucket and a path without `..`: no user, password, query or fragment, all of
    which may hold secrets.
    """
    check_text(place, where)
    assert isinstance(place, str)
    found = _URL.match(place)
    if found is None:
        return check_relative_path(place, where)
    scheme, rest = found.groups()
    if scheme not in URL_SCHEMES:
        raise ManifestError(
            f"{where}: {short(place)} has a scheme that is not one of {', '.join(URL_SCHEMES)}"
        )
    if not _PLAIN_URL.fullmatch(rest) or len(place) > MAX_PATH or _climbs(rest):
        raise ManifestError(
            f"{where}: {short(place)} must be {scheme}://host/path, without user, query, "
            "fragment or `..`"
        )
    return None


def _climbs(path: str) -> bool:
    """Whether a URL's path has a part that leads upwards, written out or percent-encoded."""
    plain = re.sub("%2e", ".", path, flags=re.IGNORECASE)
    encoded = re.search("%(2f|5c|00)", path, re.IGNORECASE)
    return encoded is not None or any(part in (".", "..") for part in plain.split("/"))


def check_name(name: object, where: str) -> None:
    """Refuse a name that is not one plain path component of at most 200 bytes in UTF-8."""
    check_text(name, where)
    assert isinstance(name, str)
    bad = name in (".", "..") or any(c in name for c in "/\\:\0\n")
    if bad or len(name.encode()) > MAX_NAME:
        raise ManifestError(f"{where}: {short(name)} is not a plain name")


def _check_utf8(text: str, where: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ManifestError(f"{where}: {short(text)} is not valid Unicode") from error


def short(value: object) -> str:
    """A value for a message: quoted, control characters escaped, of bounded length."""
    if isinstance(value, int) and not -(10**99) < value < 10**99:
        return "an integer of more than 99 digits"
    return _shortener.repr(value)


def on_one_line(text: str, most: int = MAX_MESSAGE) -> str:
    """The text with what does not print written out, and cut to `most` characters."""
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 160
