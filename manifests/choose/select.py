"""Choosing tiles: by expressions over entries and tiles, by split, and by drawing some of them.

Nothing is copied and no store is touched: the result is a manifest whose entries say which tiles
are meant. Stores are opened only for what the manifest does not know, and only while an entry has
tiles left. Counts are tiles of all resolutions together.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from manifests.checks import short
from manifests.choose import draws
from manifests.choose.draws import Owners, Pool
from manifests.choose.expression import parse_expression
from manifests.choose.passing import Choice, Chooser, Condition, Progress, Tally, conditions_of
from manifests.choose.selected import GroupCount, Selected, StepCount, Totals
from manifests.choose.tilefacts import Facts, Names
from manifests.choose.truth import Canonical, Texts
from manifests.errors import EXIT_NONE_SUCCEEDED, EXIT_USAGE, HistotileError
from manifests.files import Json
from manifests.model import CURATED_FIELDS, Manifest, Selection, StoreEntry
from manifests.tileset import TileSet
from manifests.vocabulary import FIELDS, Vocabulary, load_vocabulary

_MOST_VALUES = 20


class SelectionError(HistotileError):
    """What is asked for makes no sense for this manifest."""

    exit_code = EXIT_USAGE


class NothingSelected(HistotileError):
    """No tile is left."""

    exit_code = EXIT_NONE_SUCCEEDED


@dataclass(frozen=True, slots=True)
class Draws:
    """How many tiles are drawn; None: all."""

    max_per_slide: int | None = None
    """Of each store, of all its resolutions together."""
    max_per_patient: int | None = None
    """Of each patient; tiles of unknown patients count by store."""
    sample: int | None = None
    """Of the whole set."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_per_slide", "max_per_patient", "sample"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise SelectionError(f"{name} is {count}; it must be at least 1")

    def steps(self) -> Iterator[tuple[str, int]]:
        """The draws asked for, in their order: name and number."""
        for name in ("max_per_slide", "max_per_patient", "sample"):
            count = getattr(self, name)
            if count is not None:
                yield name, count


def select(
    manifest: Manifest,
    where: Sequence[str] = (),
    *,
    split: str | None = None,
    drawing: Draws | None = None,
    vocabulary: Vocabulary | None = None,
    progress: Progress | None = None,
) -> Selected:
    """Choose tiles of a manifest; whatever it selected before stays a condition.

    Args:
        where: expressions, all of which must be true of a tile.
        split: take only the tiles of this split.
        drawing: how many of the tiles that are left to draw.
        vocabulary: organs and stains are compared by its names; histotile's own by default.

    Raises:
        ExpressionError: an expression cannot be understood, or names what is not there.
        SelectionError: there is no such split.
        ManifestError: a column is needed of a store that is not on this machine.
        StoreError: such a store is damaged.
    """
    drawing = Draws() if drawing is None else drawing
    terms = load_vocabulary() if vocabulary is None else vocabulary
    names = Names(manifest)
    entries = manifest.committed()
    expressions = [parse_expression(text) for text in where]
    for expression in expressions:
        names.check(expression)
    if split is not None:
        _check_split(entries, split)
    conditions = conditions_of(expressions, names, entries)
    canonical = _canonical(terms)
    choices = Chooser(manifest, names, conditions, split, canonical).choose(entries, progress)
    asked = {name for choice in choices for name in choice.asked}
    names.check_found(expressions, asked, {name for choice in choices for name in choice.found})
    counts = [*_split_counts(choices, split), *_condition_counts(choices, conditions, manifest)]
    kept, drawn = _drawn(choices, drawing, manifest, names)
    chosen = _manifest(manifest, kept, _steps(where, split, drawing))
    missing = Counter(name for choice in choices for name in sorted(choice.missing))
    notes = [*_missing_notes(missing), *_sample_notes(drawing, chosen)]
    if not any("unread" in condition.names for condition in conditions):
        notes += _unread_notes(chosen)
    return Selected(
        manifest=chosen,
        before=_totals(entries),
        after=_totals(chosen.stores),
        steps=(*counts, *drawn),
        groups=_groups(entries, chosen.stores, canonical),
        missing=missing,
        notes=tuple(notes),
    )


def require_tiles(selected: Selected) -> None:
    """Refuse a selection of nothing.

    Raises:
        NothingSelected: the message names the step that left no tile, and why.
    """
    if selected.after.tiles:
        return
    step = next((step for step in selected.steps if not step.left), None)
    if not selected.before.tiles or step is None:
        raise NothingSelected("the manifest has no tiles to select from")
    if step.passed:
        why = (
            f"{step.passed:,} of the {step.tiles:,} tiles that it was asked about pass, but none "
            "that the steps before it left"
        )
    else:
        why = f"none of the {step.tiles:,} tiles that it was asked about passes"
    there = [
        f"{name} is one of {', '.join(values)}"
        if len(values) > 1
        else f"the only {name} is {values[0]}"
        for name, values in step.there.items()
    ]
    raise NothingSelected(f"no tile is left after {step.name}: {'; '.join([why, *there])}")


def _canonical(terms: Vocabulary) -> Canonical:
    known = functools.cache(terms.canonical)
    return lambda field, text: known(field, text) if field in FIELDS else text


def _check_split(entries: Sequence[StoreEntry], split: str) -> None:
    there = {entry.split for entry in entries} | {s for entry in entries for s in entry.splits}
    if split not in there:
        shown = ", ".join(sorted(name for name in there if name is not None))
        raise SelectionError(
            f"no entry lies in the split {short(split)}; "
            + (f"there are {shown}" if shown else "make splits with `histotile manifest split`")
        )


def _steps(
    where: Sequence[str], split: str | None, drawing: Draws
) -> tuple[Mapping[str, Json], ...]:
    """What was asked for, as entries keep it."""
    return (
        *([] if split is None else [{"split": split}]),
        *({"where": text} for text in where),
        *({name: count, "seed": drawing.seed} for name, count in drawing.steps()),
    )


def _manifest(
    manifest: Manifest, kept: Iterable[Choice], steps: tuple[Mapping[str, Json], ...]
) -> Manifest:
    """The entries that have tiles left, with their selections."""
    entries = []
    for choice in kept:
        if choice.tiles:
            before = choice.entry.selection
            made = (*(() if before is None else before.steps), *steps)
            entries.append(replace(choice.entry, selection=Selection(made, choice.tiles)))
    return replace(manifest, stores=tuple(entries))


def _missing_notes(missing: Mapping[str, int]) -> list[str]:
    return [
        f"{count:,} {'store has' if count == 1 else 'stores have'} no column {name}: none of "
        f"their tiles passes a condition on it, but for `{name} == unknown`"
        for name, count in sorted(missing.items())
    ]


def _sample_notes(drawing: Draws, chosen: Manifest) -> list[str]:
    tiles = sum(entry.tiles for entry in chosen.stores)
    if drawing.sample is None or tiles == drawing.sample:
        return []
    return [f"{drawing.sample:,} tiles were to be drawn, and there are {tiles:,}"]


def _unread_notes(chosen: Manifest) -> list[str]:
    count = sum(entry.unread > 0 for entry in chosen.stores)
    if not count:
        return []
    return [
        f"{count:,} of the stores chosen {'has' if count == 1 else 'have'} tiles that could not be "
        "read in whole; whoever reads the set leaves them out, `unread == 0` does it here"
    ]


# ---------------------------------------------------------------- draws


def _drawn(
    choices: Sequence[Choice], drawing: Draws, manifest: Manifest, names: Names
) -> tuple[list[Choice], list[StepCount]]:
    """What the draws leave of each choice, and what each draw did."""
    kept, counts = list(choices), []
    for name, most in drawing.steps():
        places = [(place, group) for place, choice in enumerate(kept) for group in choice.tiles]
        pools = [
            Pool(kept[place].entry.uuid or "", group, kept[place].tiles[group])
            for place, group in places
        ]
        if name == "sample":
            found = draws.sample(name, drawing.seed, most, pools)
        else:
            owners = (
                [Owners((("slide", pool.uuid),)) for pool in pools]
                if name == "max_per_slide"
                else _patients(kept, manifest, names)
            )
            found = draws.cap_each(name, drawing.seed, most, pools, owners)
        sets: dict[int, dict[str, TileSet]] = defaultdict(dict)
        for (place, group), tiles in zip(places, found, strict=True):
            if tiles:
                sets[place][group] = tiles
        kept = [replace(choice, tiles=sets.get(place, {})) for place, choice in enumerate(kept)]
        before, left = sum(len(pool.tiles) for pool in pools), sum(map(len, found))
        shown = f"--{name.replace('_', '-')} {most}"
        counts.append(StepCount(shown, before, left, 0, left))
    return kept, counts


def _patients(choices: Sequence[Choice], manifest: Manifest, names: Names) -> list[Owners]:
    """Whose the tiles of each resolution of each choice are; of an unknown patient, the store's."""
    found = []
    for choice in choices:
        facts = Facts(manifest, choice.entry, names)
        store = ("slide", choice.entry.uuid)
        for resolution in choice.entry.resolutions:
            if (tiles := choice.tiles.get(resolution.group)) is None:
                continue
            value = facts.value(resolution, "patient")
            words = value.words if isinstance(value, Texts) else (value,)
            owners = tuple(store if word is None else ("patient", word) for word in words)
            codes = value.codes[tiles.indices()] if isinstance(value, Texts) else None
            found.append(Owners(owners, codes))
    return found


# ---------------------------------------------------------------- counts


def _split_counts(choices: Sequence[Choice], split: str | None) -> list[StepCount]:
    if split is None:
        return []
    before = sum(choice.entry.tiles for choice in choices)
    left = sum(
        choice.entry.count(resolution, split)
        for choice in choices
        for resolution in choice.entry.resolutions
    )
    return [StepCount(f"--split {split}", before, left, 0, left)]


def _condition_counts(
    choices: Sequence[Choice], conditions: Sequence[Condition], manifest: Manifest
) -> list[StepCount]:
    counts = []
    for place, condition in enumerate(conditions):
        tally = Tally()
        for choice in choices:
            tally.add(choice.tallies[place])
        there = {} if tally.passed else _there(condition, manifest)
        counts.append(
            StepCount(condition.text, tally.tiles, tally.passed, tally.undecided, tally.left, there)
        )
    return counts


def _there(condition: Condition, manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """The texts that a manifest has for the names of a condition, the most frequent first."""
    found = {}
    for name in sorted(condition.names):
        counts = Counter(word for e in manifest.committed() for word in _words(e, name) if word)
        if counts:
            words = [word for word, _ in counts.most_common(_MOST_VALUES)]
            found[name] = (*words, *(["…"] if len(counts) > _MOST_VALUES else []))
    return found


def _words(entry: StoreEntry, name: str) -> tuple[str | None, ...]:
    if name == "label":
        return entry.labels
    if name == "split":
        return (entry.split, *entry.splits)
    return (getattr(entry, name) if name in CURATED_FIELDS else entry.columns.get(name),)


def _totals(entries: Iterable[StoreEntry]) -> Totals:
    with_tiles = [(entry.patient, tiles) for entry in entries if (tiles := entry.tiles)]
    return Totals(
        stores=len(with_tiles),
        patients=len({patient for patient, _ in with_tiles if patient is not None}),
        tiles=sum(tiles for _, tiles in with_tiles),
    )


def _groups(
    before: Iterable[StoreEntry], after: Iterable[StoreEntry], canonical: Canonical
) -> tuple[GroupCount, ...]:
    found: dict[tuple[str, str], tuple[list[StoreEntry], list[StoreEntry]]] = {}
    for place, entries in enumerate((before, after)):
        for entry in entries:
            stain, organ = entry.stain or "", entry.organ or ""
            key = (canonical("stain", stain), canonical("organ", organ))
            found.setdefault(key, ([], []))[place].append(entry)
    return tuple(
        GroupCount(stain or None, organ or None, _totals(old), _totals(new))
        for (stain, organ), (old, new) in sorted(found.items())
    )
