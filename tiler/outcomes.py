"""How slides ended, on disk: `manifest.json` with an entry each, `failures.json` with tracebacks.

Entries of stores are read back from the stores, so that a resumed run and an undisturbed one write
the same manifest. Neither file holds an absolute path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from manifests.errors import ManifestError
from manifests.files import Json, pretty_json, write_atomic
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import CURATED_FIELDS, Manifest, Resolution, SlideInfo, StoreEntry
from manifests.store import TileStore
from tiler.errors import SlideError, TilerError
from tiler.extract import SlideJob
from tiler.request import Work

MANIFEST_FILE = "manifest.json"
FAILURES_FILE = "failures.json"

_SOURCE_LINE = re.compile(r'File "[^"]*?([^/"]+/[^/"]+)"')


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a slide failed."""

    id: str
    source: str
    """Name of its file or folder."""
    reason: str
    """One sentence."""
    traceback: str


def failure_of(work: Work, error: BaseException | None, trace: str) -> Failure:
    """Describe a failure, without the folders that the slide and the code lie in."""
    known = isinstance(error, TilerError | SlideError)
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    shortened = _SOURCE_LINE.sub(r'File "…/\1"', trace)
    return Failure(
        id=work.job.id,
        source=work.source_name,
        reason=_anonymous(work, " ".join(reason.split())) or type(error).__name__,
        traceback=_anonymous(work, shortened),
    )


def picture_failures(work: Work) -> list[Failure]:
    """Pictures of a committed packed store that could not be read, each with its reason."""
    failed = TileStore(work.job.store).attributes.get("failed_sources", {})
    return [Failure(work.job.id, name, reason, "") for name, reason in sorted(failed.items())]


def _anonymous(work: Work, text: str) -> str:
    """A text without the folders of a task, and without its file's name if that is hidden."""
    folders = [folder for path in _paths(work) for folder in _spellings(path.parent)]
    text = _without(folders, text)
    name = work.job.source.path.name
    if name in ("", work.source_name):
        return text
    return re.sub(rf"(?<![\w.-]){re.escape(name)}(?!\.?\w)", lambda _: work.source_name, text)


def _paths(work: Work) -> list[Path]:
    """What a task works with, and may so name when it fails."""
    job = work.job
    roi = job.roi if isinstance(job, SlideJob) else None
    return [job.source.path, job.store, *([roi] if roi else [])]


def _spellings(folder: Path) -> set[str]:
    return {str(folder), str(folder.absolute()), str(folder.resolve())}


def _without(folders: Sequence[str], text: str) -> str:
    """Cut folders off the paths in a text; one that is named itself becomes `…`."""
    for folder in sorted(set(folders), key=len, reverse=True):
        if folder in ("", ".", "/"):
            continue
        # A relative folder may be part of other paths: it counts where a path begins.
        before = "" if folder.startswith("/") else r"(?<![\w./-])"
        named = re.compile(before + re.escape(folder) + r"(?:(/)|(?![\w-]|\.\w))")
        text = named.sub(lambda found: "" if found[1] else "…", text)
    return text


def write_outcomes(
    out: Path, works: Sequence[Work], statuses: Mapping[str, str], failures: Sequence[Failure]
) -> None:
    """Write the manifest and the failures.

    Entries of slides that are not of this run are kept, and so is what people said of the others
    since they were cut, where this run says nothing of it.
    """
    reasons = {failure.id: failure.reason for failure in failures}
    earlier = earlier_manifest(out)
    entries = {entry.id: entry for entry in earlier.stores}
    for work in works:
        name, status = work.job.id, statuses.get(work.job.id)
        if status is None:
            continue
        entry = _failed_entry(work, reasons[name]) if status == "failed" else entry_of(work)
        entries[name] = _with_later_facts(entry, entries.get(name))
    save_manifest(replace(earlier, stores=tuple(entries.values())), out / MANIFEST_FILE)
    ended = {work.job.id for work in works if work.job.id in statuses}
    kept = [f for f in _earlier_failures(out) if f["id"] in entries and f["id"] not in ended]
    listed = sorted([*kept, *map(asdict, failures)], key=lambda failure: failure["id"])
    write_atomic(out / FAILURES_FILE, pretty_json({"failures": listed}))


def _with_later_facts(entry: StoreEntry, earlier: StoreEntry | None) -> StoreEntry:
    """The entry, with what was added to the earlier one of that id: facts, split, selection."""
    if earlier is None:
        return entry
    kept: dict[str, Any] = {"extra": earlier.extra}
    if earlier.uuid == entry.uuid:
        said = {name: getattr(earlier, name) for name in CURATED_FIELDS}
        kept |= {k: v for k, v in said.items() if v is not None and getattr(entry, k) is None}
        kept["columns"] = {**earlier.columns, **entry.columns}
        kept["inputs"] = earlier.inputs
        if earlier.commit in (None, entry.commit):
            kept |= {n: getattr(earlier, n) for n in ("selection", "split", "splits")}
    return replace(entry, **kept)


def earlier_manifest(out: Path) -> Manifest:
    """The manifest of earlier runs; one without entries if there was none.

    Raises:
        ManifestError: it cannot be read, so nothing of it could be kept.
    """
    file = out / MANIFEST_FILE
    try:
        return load_manifest(file) if file.exists() else Manifest(())
    except ManifestError as error:
        raise ManifestError(
            f"{error}; repair it, or move it away and run again to have it written anew"
        ) from error


def _earlier_failures(out: Path) -> list[dict[str, Any]]:
    file = out / FAILURES_FILE
    try:
        found: list[dict[str, Any]] = json.loads(file.read_bytes())["failures"]
        return [failure for failure in found if isinstance(failure["id"], str)]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []  # not there or spoilt: the manifest has the reasons too


def load_entries(out: Path, ids: Container[str]) -> list[StoreEntry]:
    """Entries of the manifest in `out` with these ids."""
    return [entry for entry in load_manifest(out / MANIFEST_FILE).stores if entry.id in ids]


def _failed_entry(work: Work, reason: str) -> StoreEntry:
    curated: dict[str, Any] = dict(work.curated)
    return StoreEntry(
        id=work.job.id,
        status="failed",
        source=work.source_name,
        reason=reason,
        columns=work.columns,
        **curated,
    )


def entry_of(work: Work) -> StoreEntry:
    """The manifest entry of a committed store: what it says itself, and what people know of it."""
    store = TileStore(work.job.store)
    attributes = store.attributes
    source = attributes["source"]
    tiles = store.totals["tiles"]
    scanner = {"scanner": source["scanner"]} if source["scanner"] else {}
    curated: dict[str, Any] = {**scanner, **work.curated}
    return StoreEntry(
        id=work.job.id,
        status="done" if tiles else "empty",
        source=work.source_name,
        reason=None if tiles else _why_empty(store),
        path=work.job.store.name,
        uuid=attributes["uuid"],
        spec_hash=attributes["spec_hash"],
        commit=store.commit_sha256,
        packed="pictures" in source,
        labels=tuple(attributes.get("labels", ())),
        slide=_slide_info(source),
        resolutions=tuple(_resolution(store, group) for group in store.groups),
        codec=attributes["spec"]["codec"],
        bytes=store.totals["bytes"],
        dropped=_dropped(store),
        unread=sum(len(store[name].unread()) for name in store.groups),
        warnings=(*attributes["warnings"], *_unread_warnings(store)),
        columns=work.columns,
        **curated,
    )


def _slide_info(source: Json) -> SlideInfo:
    return SlideInfo(
        reader=source["reader"],
        vendor=source["vendor"],
        compression=source["compression"],
        fingerprint=source["fingerprint"],
        width=source["width"],
        height=source["height"],
        mpp=(float(source["mpp"][0]), float(source["mpp"][1])),
        mpp_source=source["mpp_source"],
        objective_power=source["objective_power"],
    )


def _resolution(store: TileStore, name: str) -> Resolution:
    group = store[name]
    scale = group.attributes["scale"]
    return Resolution(
        group=name,
        mpp=group.mpp,
        mpp_requested=group.attributes["mpp_requested"],
        tile_size=group.tile_size,
        tiles=len(group),
        level=group.attributes["level"],
        scale=(float(scale[0]), float(scale[1])),
    )


def _dropped(store: TileStore) -> dict[str, int]:
    """Grid positions that each filter dropped, over all resolutions."""
    total: dict[str, int] = {}
    for name in store.groups:
        for reason, count in store[name].attributes["dropped"].items():
            total[reason] = total.get(reason, 0) + count
    return total


def _unread_warnings(store: TileStore) -> Iterator[str]:
    """Say of each resolution which of its tiles could not be read in whole."""
    for name in store.groups:
        group = store[name]
        lost = group.unread()
        if len(lost):
            places = zip(group.column("x")[lost], group.column("y")[lost], strict=True)
            shown = ", ".join(f"({x}, {y})" for x, y in islice(places, _SHOWN_PLACES))
            more = f" and {len(lost) - _SHOWN_PLACES} more" if len(lost) > _SHOWN_PLACES else ""
            yield (
                f"{len(lost)} of {len(group)} tiles at {name} µm/px could not be read in whole, at "
                f"level-0 {shown}{more}: the column unread says how much of each"
            )


_SHOWN_PLACES = 5


def _why_empty(store: TileStore) -> str:
    dropped = _dropped(store)
    if dropped.get("tissue", 0):
        spec = store.attributes["spec"]
        found = "lies far enough" if spec["min_tissue"] is None else "has enough tissue"
        if spec.get("roi") is not None:  # packed stores have none
            found += " inside the regions"
        return f"no tile {found}: all {dropped['tissue']} grid positions were dropped"
    source, group = store.attributes["source"], store[store.groups[0]]
    place = f"{source['width']} x {source['height']} px"
    if "pictures" in source:
        place = f"any of the {source['pictures']} pictures"
    return (
        f"no tile of {group.tile_size} px at {group.mpp[0]:g} µm/px fits into {place}; "
        "--edge pad keeps cut-off tiles"
    )
