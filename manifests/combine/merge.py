"""Many manifests into one: the same store once, facts joined, contradictions listed.

Merging is a join: an entry that several manifests have becomes one, with what any of them knows of
it. So merging twice changes nothing, and neither order nor grouping matter. What contradicts itself
is a `Conflict`: two contents of one store, two organs of one slide, one patient in two splits.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from manifests.checks import short
from manifests.combine.conflicts import (
    SLIDE_FACTS,
    Conflict,
    ConflictsFound,
    Group,
    slide_fact,
    slide_groups,
    split_groups,
)
from manifests.files import Json, canonical_json, sha256
from manifests.jsonfile import entry_json, manifest_json
from manifests.model import CURATED_FIELDS, Manifest, ManifestInput, StoreEntry
from manifests.placing import paths_from
from manifests.vocabulary import FIELDS, Unknown, Vocabulary

OnConflict = Literal["fail", "first", "drop"]
PrefixIds = Literal["dataset", "folder"]

_CONTENT = (
    *("status", "reason", "uuid", "spec_hash", "packed", "labels", "slide", "resolutions"),
    *("codec", "bytes", "dropped", "unread", "selection"),
)
"""What two entries of one store must say alike: all that follows from its bytes."""
_REMEDY = (
    "correct the manifests (`histotile manifest annotate`), or say --on-conflict first (the first "
    "manifest counts) or drop (leave these slides out)"
)
_DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged manifest, and what was seen on the way."""

    manifest: Manifest
    conflicts: tuple[Conflict, ...]
    """Those that were solved by `first` or `drop`."""
    repeated: int
    """Entries that were there already."""
    twice: tuple[tuple[str, ...], ...]
    """Ids under which one and the same store is listed: the same slide, cut alike, twice."""
    unknown_terms: tuple[Unknown, ...]
    """Organs and stains that the vocabulary does not know."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """An entry, and the place of the first manifest that has it."""

    rank: int
    entry: StoreEntry


def merge(
    inputs: Sequence[tuple[str, Manifest]],
    folder: Path,
    *,
    vocabulary: Vocabulary,
    on_conflict: OnConflict = "fail",
    require_same_spec: bool = False,
    prefix_ids: PrefixIds | None = None,
) -> Merged:
    """Merge manifests into one that is to be saved in `folder`.

    Args:
        inputs: name (`cohort/manifest.json`) and content of each.
        on_conflict: `fail`; `first`: what the first manifest says counts; `drop`: entries that a
            conflict concerns are left out.
        require_same_spec: take different µm per pixel, tile sizes or codecs as a conflict, too.
        prefix_ids: begin each id with the name of its data set, or of the folder of the manifest
            that it came from, so that two may use one id.

    Raises:
        ConflictsFound: with `fail`, or for specs; all cases are listed.
        MisplacedManifest: a store lies outside of `folder`.
    """
    conflicts: list[Conflict] = []
    found: dict[str, list[Ranked]] = defaultdict(list)
    sources: dict[str, ManifestInput] = {}
    terms = Terms(vocabulary)
    for rank, (name, manifest) in enumerate(inputs):
        own = _own_input(name, manifest)
        for key, source in (own | dict(manifest.inputs)).items():
            sources[key] = min(source, sources.get(key, source))
        paths = paths_from(manifest, folder)
        for entry in manifest.stores:
            changes = _changes(entry, tuple(own), terms)
            changes |= _prefixed(entry, name, prefix_ids)
            if entry.id in paths:
                changes["path"] = paths[entry.id]
            prepared = replace(entry, **changes) if changes else entry
            found[prepared.id].append(Ranked(rank, prepared))
    joined = [_joined(ranked, on_conflict, conflicts) for ranked in found.values()]
    kept = [ranked for ranked in joined if ranked is not None]
    for groups in (slide_groups, split_groups):
        kept = _settled(kept, groups([r.entry for r in kept]), on_conflict, conflicts)
    extra = _joined_extra([manifest for _, manifest in inputs], on_conflict, conflicts)
    entries = tuple(ranked.entry for ranked in kept)
    specs = _spec_conflicts(entries) if require_same_spec else []
    if specs or (conflicts and on_conflict == "fail"):
        raise ConflictsFound([*conflicts, *specs], _REMEDY)
    made = {canonical_json(dict(m)): m for _, manifest in inputs for m in manifest.splits}
    merged = Manifest(
        stores=entries,
        root=folder,
        inputs={key: sources[key] for key in sorted(sources)},
        splits=tuple(made[key] for key in sorted(made)),
        extra=extra,
    )
    return Merged(
        manifest=merged,
        conflicts=tuple(conflicts),
        repeated=sum(len(ranked) - 1 for ranked in found.values()),
        twice=_listed_twice(entries),
        unknown_terms=vocabulary.unknown(
            (field, term) for e in entries for field in FIELDS if (term := getattr(e, field))
        ),
    )


def content_digest(manifest: Manifest) -> str:
    """sha256 of what a manifest says, whichever version of histotile wrote it; 16 digits."""
    said = {k: v for k, v in manifest_json(manifest).items() if k != "generator"}
    return sha256(canonical_json(said))[:_DIGEST_DIGITS]


def specs(entries: Iterable[StoreEntry]) -> dict[tuple[str, int, str], tuple[int, int]]:
    """How the tiles of a set were cut: (µm/px asked for, tile size, codec) → stores, tiles."""
    stores: Counter[tuple[str, int, str]] = Counter()
    tiles: Counter[tuple[str, int, str]] = Counter()
    for entry in entries:
        for resolution in entry.resolutions:
            codec = entry.codec_text or "unknown codec"
            spec = f"{resolution.mpp_requested:g}", resolution.tile_size, codec
            stores[spec] += 1
            tiles[spec] += entry.count(resolution)
    return {spec: (stores[spec], tiles[spec]) for spec in sorted(stores)}


class Terms:
    """Organs and stains by their canonical names; each text is looked up once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._canonical = functools.cache(vocabulary.canonical)

    def changes(self, entry: StoreEntry) -> dict[str, Any]:
        """Canonical organ and stain of an entry, where they are not what it says."""
        said = {"organ": entry.organ, "stain": entry.stain}
        named = {f: self._canonical(f, text) for f, text in said.items() if text is not None}
        return {field: name for field, name in named.items() if name != said[field]}


def _own_input(name: str, manifest: Manifest) -> dict[str, ManifestInput]:
    """The manifest as an input of its own, unless all of it was merged from others."""
    if manifest.inputs and all(entry.inputs for entry in manifest.stores):
        return {}
    return {content_digest(manifest): ManifestInput(name, len(manifest.stores))}


def _changes(entry: StoreEntry, own: tuple[str, ...], terms: Terms) -> dict[str, Any]:
    changes = terms.changes(entry)
    if not entry.inputs:
        changes["inputs"] = own
    return changes


def _prefixed(entry: StoreEntry, name: str, prefix_ids: PrefixIds | None) -> dict[str, Any]:
    """The entry's id behind the name of where it is from; once, however often it is merged."""
    # An entry that was merged before came from a folder that is no longer known.
    folder = "" if entry.inputs else name.rpartition("/")[0]
    origin = {"dataset": entry.dataset or "", "folder": folder, None: ""}[prefix_ids]
    begin = "".join(c if c.isalnum() or c in "-_+" else "_" for c in origin) + "."
    return {"id": f"{begin}{entry.id}"} if origin and not entry.id.startswith(begin) else {}


def _joined(
    ranked: Sequence[Ranked], on_conflict: OnConflict, conflicts: list[Conflict]
) -> Ranked | None:
    """One entry out of all that have one id; None if it is to be dropped."""
    if len(ranked) == 1:
        return ranked[0]
    inputs = tuple(sorted({key for item in ranked for key in item.entry.inputs}))
    # A slide that failed in one run and was cut in another was cut.
    stores = [item for item in ranked if item.entry.status != "failed"]
    if not stores:
        best = min(ranked, key=lambda i: canonical_json(entry_json(replace(i.entry, inputs=()))))
        return Ranked(min(item.rank for item in ranked), replace(best.entry, inputs=inputs))
    seen = len(conflicts)
    first = min(stores, key=lambda item: item.rank)
    alike = [item for item in stores if _same_content(item.entry, first.entry)]
    if len(alike) < len(stores):
        conflicts.append(_content_conflict(stores))
    facts = _facts([item.entry for item in sorted(alike, key=lambda i: i.rank)], conflicts)
    if len(conflicts) > seen and on_conflict == "drop":
        return None
    return Ranked(first.rank, replace(first.entry, inputs=inputs, **facts))


def _same_content(one: StoreEntry, other: StoreEntry) -> bool:
    commits = {one.commit, other.commit} - {None}
    return len(commits) <= 1 and all(getattr(one, n) == getattr(other, n) for n in _CONTENT)


def _content_conflict(stores: Sequence[Ranked]) -> Conflict:
    entries = [item.entry for item in stores]
    differing = [n for n in (*_CONTENT, "commit") if _differ([getattr(e, n) for e in entries])]
    uuids = " and ".join(sorted({f"{entry.uuid}" for entry in entries}))
    places = " and ".join(sorted({f"{entry.path}" for entry in entries}))
    what = "two stores have" if " and " in uuids else f"the store {uuids} has two contents under"
    return Conflict(
        "content",
        (entries[0].id,),
        f"{what} the id {entries[0].id} ({places}): they differ in {', '.join(differing)}"
        + ("; --prefix-ids tells them apart" if " and " in uuids else ""),
    )


def _differ(values: Sequence[object]) -> bool:
    known = [value for value in values if value is not None]
    return any(value != known[0] for value in known)


def _facts(entries: Sequence[StoreEntry], conflicts: list[Conflict]) -> dict[str, Any]:
    """What any of the entries of one store knows; of contradictions the first, and a conflict."""
    name = entries[0].id
    facts: dict[str, Any] = {}
    for field in (*CURATED_FIELDS, "commit", "split"):
        facts[field] = _first(name, field, [getattr(e, field) for e in entries], conflicts)
    parts = [entry.splits or None for entry in entries]
    facts["splits"] = _first(name, "splits", parts, conflicts) or {}
    if facts["split"] is not None and facts["splits"]:
        conflicts.append(
            Conflict("facts", (name,), f"{name} is in one split as a whole and in several by parts")
        )
        facts["splits"] = {}
    for mapping in ("columns", "extra"):
        facts[mapping] = _joined_mapping(name, [getattr(e, mapping) for e in entries], conflicts)
    warnings = {entry.warnings for entry in entries}
    union = tuple(sorted({warning for each in warnings for warning in each}))
    facts["warnings"] = union if len(warnings) > 1 else entries[0].warnings
    facts["source"] = min(entry.source for entry in entries)
    places = [(entry.is_remote, len(entry.path or ""), entry.path) for entry in entries]
    facts["path"] = min(places)[2]
    return facts


def _first(name: str, field: str, values: Sequence[Any], conflicts: list[Conflict]) -> Any:
    known = [value for value in values if value is not None]
    if _differ(known):
        shown = " and ".join(sorted({short(value) for value in known}))
        conflicts.append(Conflict("facts", (name,), f"{name} has two values of {field}: {shown}"))
    return known[0] if known else None


def _joined_mapping(
    name: str, mappings: Sequence[Mapping[str, Json]], conflicts: list[Conflict]
) -> dict[str, Json]:
    keys = sorted({key for mapping in mappings for key in mapping})
    joined = {}
    for key in keys:
        values = [mapping[key] for mapping in mappings if key in mapping]
        if _differ([canonical_json(value) for value in values]):
            conflicts.append(Conflict("facts", (name,), f"{name} has two values of {short(key)}"))
        joined[key] = values[0]
    return joined


def _settled(
    ranked: Sequence[Ranked],
    groups: Iterable[Group],
    on_conflict: OnConflict,
    conflicts: list[Conflict],
) -> list[Ranked]:
    """The entries after conflicts between them were solved."""
    found = list(groups)
    conflicts.extend(group.conflict for group in found)
    if not found or on_conflict == "fail":
        return list(ranked)
    by_id = {item.entry.id: item for item in ranked}
    for group in found:
        members = [by_id[e.id] for e in group.entries if e.id in by_id]
        if on_conflict == "drop":
            for item in members:
                del by_id[item.entry.id]
        else:
            for item in _as_the_first(members, group.fact):
                by_id[item.entry.id] = item
    return list(by_id.values())


def _as_the_first(members: Sequence[Ranked], fact: str) -> list[Ranked]:
    """Give all entries what the entry of the first manifest says, by place and then by id."""
    ordered = sorted(members, key=lambda item: (item.rank, item.entry.id))
    if fact == "split":
        split = next(s for item in ordered for s in item.entry.split_names)
        parts = [replace(item.entry, split=split, splits={}) for item in ordered]
    elif fact in SLIDE_FACTS:
        value = next(v for item in ordered if (v := slide_fact(item.entry, fact)))
        changes: dict[str, Any] = {fact: value}
        parts = [replace(item.entry, **changes) for item in ordered]
    else:
        label = next(v for item in ordered if (v := slide_fact(item.entry, fact)))
        parts = [replace(i.entry, columns={**i.entry.columns, fact: str(label)}) for i in ordered]
    return [Ranked(item.rank, entry) for item, entry in zip(ordered, parts, strict=True)]


def _joined_extra(
    manifests: Sequence[Manifest], on_conflict: OnConflict, conflicts: list[Conflict]
) -> dict[str, Json]:
    found: list[Conflict] = []
    joined = _joined_mapping("the set", [m.extra for m in manifests], found)
    conflicts.extend(replace(conflict, kind="keys", entries=()) for conflict in found)
    if on_conflict == "drop" and found:
        common = [key for key in joined if not _differ([m.extra.get(key) for m in manifests])]
        return {key: joined[key] for key in common}
    return joined


def _spec_conflicts(entries: Sequence[StoreEntry]) -> list[Conflict]:
    found = specs(entries)
    if len(found) <= 1:
        return []
    shown = "; ".join(
        f"{stores} stores at {mpp} µm/px, {size} px, {codec}"
        for (mpp, size, codec), (stores, _) in found.items()
    )
    return [Conflict("spec", (), f"stores were cut in {len(found)} ways: {shown}")]


def _listed_twice(entries: Iterable[StoreEntry]) -> tuple[tuple[str, ...], ...]:
    ids: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.uuid is not None:
            ids[entry.uuid].append(entry.id)
    return tuple(tuple(sorted(ids[key])) for key in sorted(ids) if len(ids[key]) > 1)
