"""What must not be true of a set at once: two organs of one slide, one patient in two splits.

A slide is known by the fingerprint of its content, whatever it is called; so is a picture that was
cut twice, at two resolutions or by two people.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from manifests.checks import short
from manifests.errors import EXIT_CONFLICT, ManifestError
from manifests.model import StoreEntry

SLIDE_FACTS = ("organ", "stain", "patient", "labels")
"""What is true of a slide, so of every store that was cut from it."""
_LABEL_COLUMN = "label"

Value = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two things that are said of one subject and cannot both be true."""

    kind: str
    """`content`, `facts`, `slide`, `split`, `keys` or `spec`."""
    entries: tuple[str, ...]
    """Ids of the entries that are concerned, sorted."""
    sentence: str
    """What was found, for people."""


class ConflictsFound(ManifestError):
    """Manifests or tables contradict each other; every case is listed."""

    exit_code = EXIT_CONFLICT

    def __init__(self, conflicts: Iterable[Conflict], remedy: str) -> None:
        self.conflicts = tuple(conflicts)
        count = len(self.conflicts)
        cases = "".join(f"\n  {conflict.sentence}" for conflict in self.conflicts)
        super().__init__(f"{count} {'conflict' if count == 1 else 'conflicts'}; {remedy}:{cases}")


@dataclass(frozen=True, slots=True)
class Group:
    """Entries that must agree, and the values in which they do not."""

    entries: tuple[StoreEntry, ...]
    fact: str
    conflict: Conflict


def slide_groups(entries: Iterable[StoreEntry]) -> Iterator[Group]:
    """Slides, by fingerprint, of which two organs, stains, patients or labels are said."""
    for members in _grouped(entries, _fingerprint).values():
        for fact in (*SLIDE_FACTS, _LABEL_COLUMN):
            said = _said(members, fact)
            if len(said) > 1:
                sentence = f"the slide of {_names(members)} has two values of {fact}: {_told(said)}"
                yield Group(tuple(members), fact, _conflict("slide", members, sentence))


def split_groups(entries: Iterable[StoreEntry]) -> Iterator[Group]:
    """Patients, and slides by fingerprint, of which parts lie in two splits."""
    listed = list(entries)
    kinds: tuple[tuple[str, Callable[[StoreEntry], str | None]], ...] = (
        ("patient", lambda entry: entry.patient),
        ("slide", _fingerprint),
    )
    for kind, key in kinds:
        for name, members in _grouped(listed, key).items():
            parts = {s: [e.id for e in members if s in e.split_names] for s in _splits(members)}
            whole = [entry for entry in members if entry.split is not None]
            if len(parts) > 1 and whole:
                subject = f"the patient {short(name)}" if kind == "patient" else "one slide"
                sentence = f"{subject} lies in two splits: {_told(parts)}"
                yield Group(tuple(members), "split", _conflict("split", members, sentence))


def slide_fact(entry: StoreEntry, fact: str) -> Value | None:
    """What an entry says of its slide; None where it says nothing."""
    value = entry.columns.get(fact) if fact == _LABEL_COLUMN else getattr(entry, fact)
    return value or None


def _splits(members: Iterable[StoreEntry]) -> list[str]:
    return sorted({split for entry in members for split in entry.split_names})


def _fingerprint(entry: StoreEntry) -> str | None:
    return None if entry.slide is None else entry.slide.fingerprint


def _grouped(
    entries: Iterable[StoreEntry], key: Callable[[StoreEntry], str | None]
) -> dict[str, list[StoreEntry]]:
    """Entries that share a key, in the order of the key; those that are alone are left out."""
    found: dict[str, list[StoreEntry]] = defaultdict(list)
    for entry in entries:
        if (name := key(entry)) is not None:
            found[name].append(entry)
    return {name: found[name] for name in sorted(found) if len(found[name]) > 1}


def _said(members: Iterable[StoreEntry], fact: str) -> dict[Value, list[str]]:
    found: dict[Value, list[str]] = defaultdict(list)
    for entry in members:
        if (value := slide_fact(entry, fact)) is not None:
            found[value].append(entry.id)
    return found


def _told(said: Mapping[str, list[str]] | Mapping[Value, list[str]]) -> str:
    """`'lung' (a, b), 'colon' (c)`."""
    shown = sorted((short(value), ", ".join(sorted(ids))) for value, ids in said.items())
    return ", ".join(f"{value} ({ids})" for value, ids in shown)


def _names(members: Iterable[StoreEntry]) -> str:
    return " and ".join(sorted(entry.id for entry in members))


def _conflict(kind: str, members: Iterable[StoreEntry], sentence: str) -> Conflict:
    return Conflict(kind, tuple(sorted(entry.id for entry in members)), sentence)
