"""Stores that were moved: found again, checked, and named by their new places.

A store is the one of the manifest if it is committed and its UUID (and its commit record, where the
entry has one) is that of the entry; names prove nothing. Paths end relative to the folder that the
manifest is to be saved in.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from manifests.checks import check_location, is_url, short
from manifests.errors import HistotileError, ManifestError, StoreError
from manifests.layout import COMMIT_FILE
from manifests.model import Manifest, StoreEntry
from manifests.placing import rebase
from manifests.store import TileStore

_STORE_SUFFIX = ".zarr"
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Relinked:
    """A manifest with new places, and what was seen on the way."""

    manifest: Manifest
    moved: tuple[str, ...]
    """Ids of entries whose stores were found, or renamed; sorted."""
    kept: tuple[str, ...]
    """Ids of entries with a store whose place was left as it was; sorted."""
    left_out: Mapping[str, str]
    """Entries that are not in the manifest any more: id → why."""


class WrongPrefix(HistotileError):
    """No path of a manifest begins so, or none may."""


class StoresNotFound(ManifestError):
    """Stores are not where they should be; every case is listed in `reasons`."""

    def __init__(self, reasons: Mapping[str, str], remedy: str) -> None:
        self.reasons = dict(reasons)
        count = len(self.reasons)
        lines = [f"\n  {name}: {reason}" for name, reason in list(self.reasons.items())[:_SHOWN]]
        more = f"\n  and {count - _SHOWN} more" if count > _SHOWN else ""
        what = "store was" if count == 1 else "stores were"
        super().__init__(f"{count} {what} not found; {remedy}:{''.join(lines)}{more}")


def relink_below(
    manifest: Manifest, stores: Path, folder: Path, *, partial: bool = False
) -> Relinked:
    """Find the stores of a manifest below the folder `stores`.

    Each is looked for under its old path, then under ever shorter ends of it, then among all
    `*.zarr` by its UUID; of copies the one counts whose path ends most like the old one. A store
    behind a URL that is not found keeps its URL.

    Args:
        folder: where the manifest is to be saved; it must lie above the stores.
        partial: leave out entries whose stores are not found.

    Raises:
        StoresNotFound: without `partial`; all cases are listed.
        MisplacedManifest: a store lies outside of `folder`.
    """
    index = _Index(stores)
    places: dict[str, str] = {}
    missing: dict[str, str] = {}
    for entry in manifest.stores:
        if entry.path is None:
            continue
        found = _search(entry, index)
        if isinstance(found, PurePosixPath):
            places[entry.id] = found.as_posix()
        elif not entry.is_remote:
            missing[entry.id] = found
    if missing and not partial:
        raise StoresNotFound(missing, f"look elsewhere than in {stores}, or say --partial")
    return _placed(manifest, places, stores, folder, missing)


def relink_prefix(
    manifest: Manifest, old: str, new: str, folder: Path, *, check: bool = True
) -> Relinked:
    """Replace the beginning of paths and URLs; entries that begin otherwise are kept.

    Args:
        old: as the manifest says it: a URL, or a folder relative to that of the manifest; an
            absolute folder below that of the manifest will do, and `.` stands for all local paths.
        new: a URL, or a folder on this machine.
        folder: where the manifest is to be saved; it must lie above the local stores.
        check: refuse local places where the entry's store does not lie. URLs are never followed.

    Raises:
        WrongPrefix: no path begins with `old`, or `new` is a URL of an unknown kind.
        StoresNotFound: with `check`; all cases are listed.
        MisplacedManifest: a store lies outside of `folder`.
    """
    begin = old.rstrip("/") if is_url(old) else _inside(Path(old), manifest.root)
    rests = {e.id: rest for e in manifest.stores if (rest := _rest(e.path, begin)) is not None}
    if not rests:
        shown = next((short(entry.path) for entry in manifest.stores if entry.path), "none at all")
        raise WrongPrefix(f"no path of the manifest begins with {short(old)}; one is {shown}")
    if is_url(new):
        places = {name: "/".join([new.rstrip("/"), *rest.parts]) for name, rest in rests.items()}
        try:
            for place in places.values():
                check_location(place, "--to")
        except ManifestError as error:
            raise WrongPrefix(str(error)) from error
        return _placed(manifest, places, manifest.root, folder, {})
    # Where `old` names a store itself, so does `new`.
    target = Path(new).resolve()
    top = target if all(rest.parts for rest in rests.values()) else target.parent
    places = {n: (target / rest).relative_to(top).as_posix() for n, rest in rests.items()}
    if check:
        entries = {entry.id: entry for entry in manifest.stores}
        problems = {n: _problem(top / p, entries[n], top) for n, p in places.items()}
        missing = {name: problem for name, problem in problems.items() if problem is not None}
        if missing:
            raise StoresNotFound(missing, f"look at --to {new}, or say --no-check")
    return _placed(manifest, places, top, folder, {})


def _search(entry: StoreEntry, index: _Index) -> PurePosixPath | str:
    """Where the store of an entry lies below the index's folder, or why it is nowhere there."""
    assert entry.path is not None
    path = PurePosixPath(entry.path.partition("://")[2] if entry.is_remote else entry.path)
    for start in range(len(path.parts)):
        end = PurePosixPath(*path.parts[start:])
        if _problem(index.folder / end, entry, index.folder) is None:
            return end
    places = index.with_uuid(entry.uuid)
    fitting = [p for p in places if _problem(index.folder / p, entry, index.folder) is None]
    likest = _likest(fitting, path)
    if len(likest) == 1:
        return likest[0]
    if likest:
        return f"it lies in two places, {likest[0]} and {likest[1]}; delete one"
    if places:
        return f"{places[0]} has its UUID, but {_problem(index.folder / places[0], entry)}"
    return f"no store below {index.folder} has its UUID"


def _likest(places: Iterable[PurePosixPath], old: PurePosixPath) -> list[PurePosixPath]:
    """The places that end as the old path does, in most of its parts."""
    alike: dict[int, list[PurePosixPath]] = defaultdict(list)
    for place in places:
        pairs = zip(reversed(place.parts), reversed(old.parts), strict=False)
        common = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        alike[len(list(common))].append(place)
    return alike[max(alike)] if alike else []


def _problem(path: Path, entry: StoreEntry, top: Path | None = None) -> str | None:
    """Why the store at a path is not the one of the entry; None if it is."""
    if not path.is_dir():
        return f"there is no store at {path}"
    if top is not None and not path.resolve().is_relative_to(top.resolve()):
        return f"{path} leads out of {top}"
    try:
        store = TileStore(path)
    except StoreError as error:
        return str(error)
    if store.attributes["uuid"] != entry.uuid:
        return f"{path} holds another store"
    if entry.commit is not None and store.commit_sha256 != entry.commit:
        return f"{path} was cut again, or changed, after the manifest was written"
    return None


class _Index:
    """The stores below a folder by their UUID; the folder is walked once, when first asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, list[PurePosixPath]] | None = None

    def with_uuid(self, uuid: str | None) -> list[PurePosixPath]:
        """Paths of stores relative to the folder, sorted."""
        if self._found is None:
            self._found = defaultdict(list)
            for place in sorted(self._stores()):
                try:
                    name = TileStore(self.folder / place).attributes["uuid"]
                except StoreError:
                    continue
                self._found[name].append(place)
        return self._found.get(uuid or "", [])

    def _stores(self) -> Iterator[PurePosixPath]:
        for parent, folders, _ in os.walk(self.folder):
            stores = [name for name in folders if name.endswith(_STORE_SUFFIX)]
            folders[:] = [name for name in folders if not name.endswith(_STORE_SUFFIX)]
            for name in stores:
                if (Path(parent) / name / COMMIT_FILE).is_file():
                    yield PurePosixPath((Path(parent) / name).relative_to(self.folder).as_posix())


def _inside(folder: Path, root: Path) -> str:
    """A folder as the paths of a manifest begin with it; empty for the manifest's own."""
    if folder.is_absolute():
        try:
            folder = folder.resolve().relative_to(root.resolve())
        except ValueError:
            return folder.as_posix()
    begin = PurePosixPath(folder.as_posix()).as_posix()
    return "" if begin == "." else begin


def _rest(path: str | None, begin: str) -> PurePosixPath | None:
    """What follows a beginning in a path or URL; None if it begins otherwise."""
    if path is None or is_url(path) != is_url(begin):
        return None
    if path.rstrip("/") == begin or not begin:
        return PurePosixPath(path if not begin else "")
    return PurePosixPath(path[len(begin) + 1 :]) if path.startswith(f"{begin}/") else None


def _placed(
    manifest: Manifest,
    places: Mapping[str, str],
    top: Path,
    folder: Path,
    left_out: Mapping[str, str],
) -> Relinked:
    """The manifest with new places: URLs, or paths relative to `top`; all relative to `folder`."""
    moved, others = [], []
    for entry in manifest.stores:
        if entry.id in places:
            moved.append(replace(entry, path=places[entry.id]))
        elif entry.id not in left_out:
            others.append(entry)
    parts = [
        rebase(replace(manifest, stores=tuple(moved), root=top), folder),
        rebase(replace(manifest, stores=tuple(others)), folder),
    ]
    entries = tuple(entry for part in parts for entry in part.stores)
    return Relinked(
        manifest=replace(manifest, stores=entries, root=folder),
        moved=tuple(entry.id for entry in moved),
        kept=tuple(entry.id for entry in others if entry.path is not None),
        left_out=left_out,
    )
