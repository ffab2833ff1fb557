"""Canonical names of organs and stains: synonyms, spelling variants, codes.

A name is looked up by its key: case, accents, spaces, hyphens, underscores, punctuation and the
word "and" do not count. Immunohistochemistry is a stain plus a marker, "IHC: Ki67". A name that is
not known is never changed; the nearest known one can be suggested.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from manifests.checks import short
from manifests.errors import EXIT_USAGE, HistotileError

FIELDS = ("organ", "stain")
"""The curated fields of a manifest that have a vocabulary."""

_SECTIONS = ("organ", "stain", "marker")
_KEYS = {"codes", "synonyms"}
_IHC = "IHC: "
_IHC_WORDS = {"ihc", "immunohistochemistry", "immunohistochemical", "immunostain"}
_IDLE_WORDS = {"and"}
_IDLE_STAIN_WORDS = {"stain", "stained", "staining", "antibody", "anti"}
_CODE = re.compile(r"[A-Z]+:[A-Za-z0-9]+")
_LEAST_LIKENESS = 0.7
_MOST_BYTES = 4 << 20


class VocabularyError(HistotileError):
    """A project's vocabulary cannot be read, or gives one synonym to two terms."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Term:
    """A canonical name with all that stands for it."""

    name: str
    codes: tuple[str, ...] = ()
    """`SCT:…` (SNOMED CT) and `UBERON:…`; a stain of two dyes has the codes of both."""
    synonyms: tuple[str, ...] = ()


class Unknown(NamedTuple):
    """A text that is no term."""

    field: str
    term: str
    nearest: str | None
    """The term that is most like it."""

    @property
    def sentence(self) -> str:
        """For people."""
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"the {self.field} {self.term!r} is not in the vocabulary{hint}"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The terms of each field. Its terms are sound: no key stands for two of them."""

    organs: tuple[Term, ...]
    stains: tuple[Term, ...]
    markers: tuple[Term, ...]
    """What immunohistochemistry shows; the stain of a marker is `IHC: ` and its name."""
    _index: Mapping[str, Mapping[str, str]] = field(init=False, repr=False, compare=False)
    """By section, then by key: the term's name."""

    def __post_init__(self) -> None:
        sections = zip(_SECTIONS, (self.organs, self.stains, self.markers), strict=True)
        index = {section: _indexed(section, terms) for section, terms in sections}
        object.__setattr__(self, "_index", index)

    def canonical(self, field: str, text: str) -> str:
        """The name that `text` stands for; the text itself, unchanged, if none is known."""
        found = self._find(field, text)
        return text if found is None else found

    def knows(self, field: str, text: str) -> bool:
        """Whether `text` is a term or one of its synonyms."""
        return self._find(field, text) is not None

    def nearest(self, field: str, text: str) -> str | None:
        """The name whose spelling or synonyms are most like `text`; None if nothing is like it.

        A bare marker ("CD3") is like its stain ("IHC: CD3"). Likeness: `difflib` on keys.
        """
        found = self._find(field, text)
        if found is not None:
            return found
        if field == "organ":
            return _closest(_key(field, text), self._index["organ"])
        markers = {key: _IHC + name for key, name in self._index["marker"].items()}
        marker = _marker_key(text)
        if marker is not None:
            return _closest(marker, markers)
        return _closest(_key(field, text), {**markers, **self._index["stain"]})

    def unknown(self, said: Iterable[tuple[str, str]]) -> tuple[Unknown, ...]:
        """What is not known of some fields and texts, each once, sorted."""
        return tuple(
            Unknown(field, text, self.nearest(field, text))
            for field, text in sorted(set(said))
            if not self.knows(field, text)
        )

    def terms(self, field: str) -> tuple[Term, ...]:
        """All terms of a field, sorted by name; stains include one term for each marker."""
        _check_field(field)
        if field == "organ":
            return self.organs
        marked = [Term(_IHC + term.name, term.codes, term.synonyms) for term in self.markers]
        return _sorted((*self.stains, *marked))

    def _find(self, field: str, text: str) -> str | None:
        _check_field(field)
        found = self._index[field].get(_key(field, text))
        if found is not None or field == "organ":
            return found
        marker = _marker_key(text)
        name = None if marker is None else self._index["marker"].get(marker)
        return None if name is None else _IHC + name


def load_vocabulary(file: Path | None = None) -> Vocabulary:
    """The vocabulary that histotile ships, with a project's own terms where `file` is given.

    The project's terms and synonyms win: see docs/reference/vocabulary.md.

    Raises:
        VocabularyError: the file is missing or malformed, or gives one synonym to two terms.
    """
    shipped = _shipped()
    if file is None:
        return shipped
    own = _read(file)
    sections = (shipped.organs, shipped.stains, shipped.markers)
    added = (own.organs, own.stains, own.markers)
    pairs = zip(_SECTIONS, sections, added, strict=True)
    return Vocabulary(*(_extended(section, base, extra) for section, base, extra in pairs))


@functools.cache
def _shipped() -> Vocabulary:
    return _read(Path(__file__).with_name("vocabulary.toml"))


def _check_field(field: str) -> None:
    if field not in FIELDS:
        raise ValueError(f"there is no vocabulary of {short(field)}; there is one of {FIELDS}")


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text).casefold()
    without_marks = "".join(c for c in plain if not unicodedata.combining(c))
    # An apostrophe does not part words: "Masson's", "Wright's".
    return re.findall(r"[^\W_]+", re.sub(r"['’]", "", without_marks))


def _key(field: str, text: str) -> str:
    """What is compared: equal for all spellings of one name; empty for a text without letters."""
    idle = _IDLE_WORDS if field == "organ" else _IDLE_WORDS | _IDLE_STAIN_WORDS
    return "".join(word for word in _words(text) if word not in idle)


def _marker_key(text: str) -> str | None:
    """The key of the marker in "IHC Ki-67" and the like; None where the text names no IHC."""
    words = _words(text)
    if _IHC_WORDS.isdisjoint(words):
        return None
    return _key("marker", " ".join(word for word in words if word not in _IHC_WORDS))


def _closest(key: str, index: Mapping[str, str]) -> str | None:
    found = difflib.get_close_matches(key, sorted(index), n=1, cutoff=_LEAST_LIKENESS)
    return index[found[0]] if found else None


def _sorted(terms: Iterable[Term]) -> tuple[Term, ...]:
    return tuple(sorted(terms, key=lambda term: (term.name.casefold(), term.name)))


def _keys(section: str, term: Term) -> dict[str, str]:
    """The spellings of a term by key."""
    return {_key(section, spelling): spelling for spelling in (*term.synonyms, term.name)}


def _indexed(section: str, terms: Iterable[Term]) -> dict[str, str]:
    index: dict[str, str] = {}
    for term in terms:
        for key, spelling in _keys(section, term).items():
            if not key:
                raise VocabularyError(f"{section} {term.name}: {spelling!r} has no letters")
            other = index.setdefault(key, term.name)
            if other != term.name:
                raise VocabularyError(
                    f"{section}: {spelling!r} stands for both {other!r} and {term.name!r}; "
                    "leave it with one of them"
                )
    return index


def _extended(section: str, base: Iterable[Term], added: Iterable[Term]) -> tuple[Term, ...]:
    """Terms of `base` and `added`; whatever both claim belongs to those added."""
    terms = {term.name: term for term in added}
    claimed = _indexed(section, terms.values())
    for old in base:
        free = {key: text for key, text in _keys(section, old).items() if key not in claimed}
        new_name = claimed.get(_key(section, old.name))
        if new_name is None:
            synonyms = tuple(text for text in old.synonyms if text in free.values())
            terms[old.name] = Term(old.name, old.codes, synonyms)
            continue
        # The old name now means the new term, and so do the old synonyms: else a synonym would
        # lead to a name that in turn leads elsewhere.
        new = terms[new_name]
        same = _key(section, new.name) == _key(section, old.name)
        codes = new.codes or (old.codes if same else ())
        terms[new_name] = Term(new.name, codes, (*new.synonyms, *free.values()))
    return _sorted(terms.values())


def _read(file: Path) -> Vocabulary:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise VocabularyError(f"{file} is larger than {_MOST_BYTES >> 20} MiB")
        data = tomllib.loads(text.decode())
    except OSError as error:
        raise VocabularyError(f"{file} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{file} is not TOML ({error})") from error
    try:
        if strange := sorted(data.keys() - set(_SECTIONS)):
            raise VocabularyError(f"unknown section {short(strange[0])}; use {_SECTIONS}")
        return Vocabulary(*(_section(section, data.get(section, {})) for section in _SECTIONS))
    except HistotileError as error:
        raise VocabularyError(f"{file}: {error}") from error


def _section(section: str, data: object) -> tuple[Term, ...]:
    if not isinstance(data, dict):
        raise VocabularyError(f"{section} must be tables: [{section}.NAME]")
    return _sorted(_term(section, str(name), values) for name, values in data.items())


def _term(section: str, name: str, values: object) -> Term:
    where = f"{section}.{short(name)}"
    _check_text(name, where)
    if not isinstance(values, dict) or not values.keys() <= _KEYS:
        raise VocabularyError(f"{where} must be a table with codes and synonyms, and nothing else")
    lists = {}
    for key in _KEYS:
        given = values.get(key, [])
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise VocabularyError(f"{where}.{key} must be a list of strings")
        lists[key] = tuple(given)
    for text in lists["synonyms"]:
        _check_text(text, f"{where}.synonyms")
    for code in lists["codes"]:
        if not _CODE.fullmatch(code):
            raise VocabularyError(f"{where}.codes: {short(code)} is no code like SCT:71854001")
    return Term(name, lists["codes"], lists["synonyms"])


def _check_text(text: str, where: str) -> None:
    if not text.isprintable() or text != text.strip() or len(text) > 200:
        raise VocabularyError(f"{where}: {short(text)} is not one line of plain text")
