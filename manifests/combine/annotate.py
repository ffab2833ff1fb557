"""What people know of slides, added to a manifest or corrected later from a table.

The table is a slides table (`manifests.slidetable`): a row per slide, named by the entry's id or by
the slide's file. Where a row and the manifest say different things, that is a conflict; a person
says which of them counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from manifests.checks import short
from manifests.combine.conflicts import Conflict, ConflictsFound, slide_groups, split_groups
from manifests.errors import TableError
from manifests.model import Manifest, StoreEntry
from manifests.slidetable import KEY_COLUMNS, Row, SlidesTable, file_stems
from manifests.vocabulary import FIELDS, Unknown, Vocabulary

OnConflict = Literal["fail", "first", "last", "drop"]
Fact = tuple[Literal["field", "column"], str]
"""A curated field or a column of one's own, and its name."""

ENTRY_KEY_COLUMNS = (*KEY_COLUMNS, "id")
"""Columns that may name the entry; a table of ids alone will do."""

_REMEDY = (
    "correct one of them, or say --on-conflict first (the manifest counts), last (the table "
    "counts) or drop (leave these slides out)"
)
_LEFT_REMEDY = "correct the table, since one slide or patient cannot be two things at once"


@dataclass(frozen=True, slots=True)
class Annotated:
    """A manifest with the facts of a table, and what was seen on the way."""

    manifest: Manifest
    added: int
    """Facts that were not known before."""
    changed: int
    """Facts that the table says in another way than the manifest did."""
    unchanged: int
    """Facts of the table that the manifest has as they are."""
    conflicts: tuple[Conflict, ...]
    """Those that were solved by `first`, `last` or `drop`."""
    dropped: tuple[str, ...]
    """Ids of entries that were left out, sorted."""
    rows_without_entry: tuple[str, ...]
    """How the table names what the manifest does not list, in the order of the table."""
    entries_without_row: tuple[str, ...]
    """Ids of entries that the table does not name, sorted."""
    unknown_terms: tuple[Unknown, ...]
    """Organs and stains of the table that the vocabulary does not know."""


def annotate(
    manifest: Manifest,
    table: SlidesTable,
    *,
    vocabulary: Vocabulary,
    on_conflict: OnConflict = "fail",
) -> Annotated:
    """Add the facts of a table to the entries that its rows name.

    Curated fields (organ, stain, patient, ...) go to the fields, organ and stain by their canonical
    names; other columns go to `columns`. Empty cells say nothing.

    Args:
        on_conflict: where the table contradicts the manifest: `fail`; `first`: the manifest counts;
            `last`: the table counts, so it corrects; `drop`: the entry is left out.

    Raises:
        TableError: an entry is named by two rows; all such entries are listed.
        ConflictsFound: with `fail`, and whenever one slide would end with two organs, stains or
            patients, or one patient in two splits; all cases are listed.
    """
    rows = match_rows(manifest.stores, table.rows)
    counts: Counter[str] = Counter()
    conflicts: list[Conflict] = []
    entries, dropped = [], []
    for entry in manifest.stores:
        seen = len(conflicts)
        facts = _facts(rows[entry.id], vocabulary) if entry.id in rows else {}
        known = {name: _known(entry, name) for name in facts}
        against = _contradicted(known, facts, vocabulary)
        conflicts += [_conflict(entry.id, fact, known[fact], facts[fact]) for fact in against]
        kept = against if on_conflict == "first" else []
        chosen = {**facts, **{fact: old for fact in kept if (old := known[fact])}}
        if on_conflict == "drop" and len(conflicts) > seen:
            dropped.append(entry.id)
            continue
        counts.update(_outcome(known[name], facts[name], chosen[name]) for name in facts)
        entries.append(_with_facts(entry, chosen))
    if conflicts and on_conflict == "fail":
        raise ConflictsFound(conflicts, _REMEDY)
    left = [group.conflict for find in (slide_groups, split_groups) for group in find(entries)]
    if left:
        raise ConflictsFound(left, _LEFT_REMEDY)
    used = {row.key for row in rows.values()}
    return Annotated(
        manifest=replace(manifest, stores=tuple(entries)),
        added=counts["added"],
        changed=counts["changed"],
        unchanged=counts["unchanged"],
        conflicts=tuple(conflicts),
        dropped=tuple(dropped),
        rows_without_entry=tuple(row.key for row in table.rows if row.key not in used),
        entries_without_row=tuple(e.id for e in manifest.stores if e.id not in rows),
        unknown_terms=vocabulary.unknown(
            (field, row.curated[field])
            for row in table.rows
            for field in FIELDS
            if field in row.curated
        ),
    )


def match_rows(entries: Iterable[StoreEntry], rows: Sequence[Row]) -> dict[str, Row]:
    """The row of each entry, by the entry's id; entries without one are left out.

    A row that gives an entry's id, as `id` or as the slide's name, speaks of that entry alone. Any
    other names a source file, with or without its suffix; folders before it do not count, since a
    manifest does not keep them. Of such rows the one that spells most of the file's name out wins.

    Raises:
        TableError: two rows name one entry equally well; all such entries are listed.
    """
    listed = list(entries)
    by_id = {entry.id: entry for entry in listed}
    by_name: dict[str, list[Row]] = defaultdict(list)
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        name = next((name for name in (row.id, row.key) if name in by_id), None)
        if name is not None:
            found[name].append(row)
        else:
            by_name[row.name].append(row)
    for entry in listed:
        exact = by_name.get(entry.source, [])
        found[entry.id] += exact
        if not found[entry.id]:
            stems = sorted(file_stems(entry.source), key=len, reverse=True)
            found[entry.id] += next((by_name[s] for s in stems if s in by_name), [])
    twice = [
        f"\n  {name} by {' and '.join(short(row.key) for row in named)}"
        for name, named in sorted(found.items())
        if len(named) > 1
    ]
    if twice:
        raise TableError(
            f"{len(twice)} {'entry is' if len(twice) == 1 else 'entries are'} named by two rows; "
            f"keep one, or tell them apart by a column id:{''.join(twice)}"
        )
    return {name: named[0] for name, named in found.items() if named}


def _facts(row: Row, vocabulary: Vocabulary) -> dict[Fact, str]:
    """What a row says: (`field` or `column`, its name) → value, terms by their canonical name."""
    fields: dict[Fact, str] = {
        ("field", name): vocabulary.canonical(name, value) if name in FIELDS else value
        for name, value in row.curated.items()
    }
    return {**fields, **{("column", name): value for name, value in row.columns.items()}}


def _known(entry: StoreEntry, fact: Fact) -> str | None:
    """What the entry says; None where it says nothing."""
    kind, name = fact
    found = getattr(entry, name) if kind == "field" else entry.columns.get(name)
    return str(found) if found else None


def _contradicted(
    known: Mapping[Fact, str | None], facts: Mapping[Fact, str], vocabulary: Vocabulary
) -> list[Fact]:
    """Facts of which the manifest says something else; another spelling of one term is the same."""

    def term(fact: Fact, text: str) -> str:
        kind, name = fact
        return vocabulary.canonical(name, text) if kind == "field" and name in FIELDS else text

    return [
        fact
        for fact, value in facts.items()
        if (old := known[fact]) is not None and term(fact, old) != value
    ]


def _conflict(entry: str, fact: Fact, old: str | None, value: str) -> Conflict:
    kind, name = fact
    shown = name if kind == "field" else f"the column {short(name)}"
    sentence = f"{entry}: {shown} is {short(old)} in the manifest, {short(value)} in the table"
    return Conflict("facts", (entry,), sentence)


def _outcome(old: str | None, said: str, new: str) -> str:
    if old is None:
        return "added"
    if old != new:
        return "changed"
    return "unchanged" if said == new else "kept"


def _with_facts(entry: StoreEntry, facts: Mapping[Fact, str]) -> StoreEntry:
    changes: dict[str, Any] = {name: v for (kind, name), v in facts.items() if kind == "field"}
    columns = {name: value for (kind, name), value in facts.items() if kind == "column"}
    if columns:
        changes["columns"] = {**entry.columns, **columns}
    return replace(entry, **changes) if changes else entry
