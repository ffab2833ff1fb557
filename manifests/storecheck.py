"""Checking one store: against the entry that lists it, against the disk, and byte by byte.

What is wrong becomes `Problem`s, never an error: a store may be damaged in several places, and each
is named. No file outside of the store is opened. Sizes are bytes.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifests import layout
from manifests.commit import json_object, own_file, read_commit, read_committed
from manifests.errors import HistotileError, StoreError
from manifests.files import Json
from manifests.layout import TilesLayout
from manifests.model import Manifest, Resolution, StoreEntry
from manifests.shard import shard_label
from manifests.store import open_shard

Step = Callable[[int], None]
"""Called with the bytes read since the last call; what it raises ends the check."""

_PIECE_BYTES = 2**20
_NO_FILE = -1


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with a store."""

    entry: str
    """Id of the entry."""
    file: str | None
    """Relative to the store; None if it is the store as a whole."""
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.entry, self.file, self.what) if part)


@dataclass(frozen=True, slots=True)
class Part:
    """Some files of a store, which one thread checks in one go."""

    bytes: int
    check: Callable[[Step], list[Problem]]


class StoreCheck:
    """One store under examination: `look` first, then the `parts`."""

    def __init__(self, manifest: Manifest, entry: StoreEntry) -> None:
        self.entry = entry
        self.problems: list[Problem] = []
        """What `look` found."""
        self._manifest = manifest
        self._path = Path()
        self._commit: dict[str, Json] = {}
        self._whole: set[str] = set()
        """Committed files that are there and as long as committed."""
        self._layouts: dict[str, TilesLayout] = {}

    def look(self) -> None:
        """Check all that can be checked without reading tiles and columns."""
        try:
            self._path = self._manifest.store_path(self.entry)
            self._commit = read_commit(self._path)
        except HistotileError as error:
            self._note(None, error)
            return
        self._check_record()
        self._check_files()
        self._check_root()
        for group in self._commit["groups"]:
            self._check_group(group)

    def parts(self, *, hashes: bool) -> Iterator[Part]:
        """The content of the files that `look` found no fault with.

        Args:
            hashes: check shards by sha256 too, rather than by their own checksums.
        """
        shards = {
            f"{group}/{TilesLayout.shard_file(number)}": (group, number)
            for group, tiles in self._layouts.items()
            for number in range(tiles.shards)
        }
        others = sorted(self._whole - shards.keys())
        size = sum(self._committed(name)[0] for name in others)
        yield Part(size, functools.partial(self._check_hashes, others))
        for name, (group, number) in shards.items():
            if name in self._whole:
                size, _ = self._committed(name)
                check = self._check_shard_hash if hashes else self._check_shard
                yield Part(size, functools.partial(check, name, group, number))

    def _note(self, file: str | None, what: object) -> None:
        self.problems.append(self._problem(file, what))

    def _problem(self, file: str | None, what: object) -> Problem:
        """A problem; of the paths that errors name, the part up to the store is left out."""
        text = str(what)
        if file is not None:
            text = text.removeprefix(f"{self._path / file} ")
        if self._commit:
            text = text.replace(f"{self._path}/", "")
        return Problem(self.entry.id, file, text)

    def _committed(self, name: str) -> tuple[int, str]:
        size, digest = self._commit["files"][name]
        return size, digest

    def _check_record(self) -> None:
        """The commit record against the manifest and itself."""
        entry, commit = self.entry, self._commit
        if commit["uuid"] != entry.uuid:
            self._note(None, f"is another store: its uuid is {commit['uuid']}, not {entry.uuid}")
        elif commit.get("spec_hash") != entry.spec_hash:
            self._note(None, "was cut with other settings than the manifest says")
        elif entry.commit not in (None, commit["sha256"]):
            self._note("commit.json", "is not the one that the manifest pins")
        tiles, size = commit["totals"]["tiles"], commit["totals"]["bytes"]
        if entry.bytes not in (0, size):  # 0 stands for unknown
            self._note(None, f"has {size} bytes as committed, {entry.bytes} by the manifest")
        if size != sum(size for size, _ in commit["files"].values()):
            self._note("commit.json", "names a total that is not the sum of its files")
        if not entry.resolutions:
            return
        listed = {resolution.group: resolution.tiles for resolution in entry.resolutions}
        if tiles != sum(listed.values()):
            self._note(
                None, f"has {tiles} tiles as committed, {sum(listed.values())} by the manifest"
            )
        for group in sorted(listed.keys() ^ set(commit["groups"])):
            who = "the store" if group in listed else "the manifest"
            self._note(None, f"{who} has no resolution {group}")

    def _check_files(self) -> None:
        """Whether the files on disk are those that were committed, as far as lengths tell."""
        found = dict(self._files_on_disk())
        committed: Mapping[str, list[Json]] = self._commit["files"]
        folders = {
            "/".join(parts[:depth])
            for parts in (name.split("/") for name in committed)
            for depth in range(1, len(parts))
        }
        for name in sorted(found.keys() - committed.keys() - folders):
            self._note(name, "is foreign: the commit record does not list it")
        for name, (size, _) in committed.items():
            try:
                there = found.get(name, _NO_FILE)
                if there == _NO_FILE:
                    _, there = own_file(self._path, name)  # perhaps it lies behind a link
                if there != size:
                    raise StoreError(f"has {there} bytes, but {size} were committed")
                self._whole.add(name)
            except FileNotFoundError:
                self._note(name, "is missing")
            except OSError as error:
                self._note(name, f"cannot be read ({error.strerror})")
            except StoreError as error:
                self._note(name, error)

    def _files_on_disk(self) -> Iterator[tuple[str, int]]:
        """Files of the store and their bytes, `_NO_FILE` of what is no plain file; follows no link.

        Hidden files are no part of a store: none is ever committed, and no reader looks at them.
        """
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self._path / folder) as items:
                    for item in items:
                        name = folder + item.name
                        if item.name.startswith(".") or name == layout.COMMIT_FILE:
                            continue
                        if item.is_dir(follow_symlinks=False):
                            folders.append(f"{name}/")
                        elif item.is_file(follow_symlinks=False):
                            yield name, item.stat(follow_symlinks=False).st_size
                        else:
                            yield name, _NO_FILE
            except OSError as error:
                self._note(folder.rstrip("/") or None, f"cannot be read ({error.strerror})")

    def _check_root(self) -> None:
        root = self._read_json("zarr.json")
        if root is None:
            return
        attributes = root.get("attributes")
        for key in ("uuid", "spec_hash", "groups"):
            if not isinstance(attributes, dict) or attributes.get(key) != self._commit.get(key):
                self._note("zarr.json", f"has another {key} than the commit record")

    def _check_group(self, group: str) -> None:
        """The metadata of a group against the manifest; notes how its tiles lie."""
        about = self._read_json(f"{group}/zarr.json")
        file = f"{group}/tiles/zarr.json"
        metadata = self._read_json(file)
        if metadata is None:
            return
        try:
            tiles = TilesLayout.from_zarr_json(metadata)
        except StoreError as error:
            self._note(file, error)
            return
        listed = {resolution.group: resolution for resolution in self.entry.resolutions}
        if group in listed:
            self._check_resolution(listed[group], about, tiles)
        # Counted first: the number of tiles may be anything in a store that was made to mislead.
        files = self._commit["files"]
        if tiles.shards > len(files):
            self._note(file, f"needs {tiles.shards} shards, more than were committed")
            return
        for number in range(tiles.shards):
            name = f"{group}/{TilesLayout.shard_file(number)}"
            if name not in files:
                self._note(name, "is not in the commit record")
        self._layouts[group] = tiles

    def _check_resolution(
        self, listed: Resolution, about: Mapping[str, Json] | None, tiles: TilesLayout
    ) -> None:
        if (tiles.count, tiles.tile_size) != (listed.tiles, listed.tile_size):
            self._note(
                f"{listed.group}/tiles/zarr.json",
                f"says {tiles.count} tiles of {tiles.tile_size} px, the manifest "
                f"{listed.tiles} of {listed.tile_size} px",
            )
        attributes = about.get("attributes") if about is not None else None
        mpp = attributes.get("mpp") if isinstance(attributes, dict) else None
        if about is not None and mpp != list(listed.mpp):
            self._note(f"{listed.group}/zarr.json", f"says {mpp} µm/px, the manifest {listed.mpp}")

    def _read_json(self, name: str) -> dict[str, Json] | None:
        """A file of metadata as it was committed; None if it is not, which is noted."""
        if name not in self._commit["files"]:
            self._note(name, "is not in the commit record")
        elif name in self._whole:
            try:
                data = read_committed(self._path, name, self._committed(name))
                return json_object(data, self._path / name)
            except StoreError as error:
                self._note(name, error)
                self._whole.discard(name)  # said once
        return None

    def _check_hashes(self, names: Iterable[str], step: Step) -> list[Problem]:
        """Files against their sha256."""
        problems: list[Problem] = []
        buffer = bytearray(_PIECE_BYTES)
        for name in names:
            try:
                if _sha256(own_file(self._path, name)[0], buffer, step) != self._committed(name)[1]:
                    problems.append(self._problem(name, "was changed: it fails its sha256"))
            except OSError as error:
                problems.append(self._problem(name, f"cannot be read ({error.strerror})"))
            except StoreError as error:
                problems.append(self._problem(name, error))
        return problems

    def _check_shard(self, name: str, group: str, number: int, step: Step) -> list[Problem]:
        """A shard against its label, its index, and the crc32c of each tile: all of its bytes."""
        tiles = self._layouts[group]
        members = tiles.shard_range(number)
        label = shard_label(self._commit["uuid"], group, number)
        try:
            shard = open_shard(self._path, name, tiles.shard_tiles, label)
            try:
                damaged = shard.damaged_slots(len(members), step)
            finally:
                shard.close()
        except StoreError as error:
            return [self._problem(name, error)]
        if not damaged:
            return []
        noun, fail = ("tile", "fails its") if len(damaged) == 1 else ("tiles", "fail their")
        numbers = _ranges([members[slot] for slot in damaged])
        return [self._problem(name, f"shard {number} of {group}: {noun} {numbers} {fail} crc32c")]

    def _check_shard_hash(self, name: str, group: str, number: int, step: Step) -> list[Problem]:
        """A shard against its sha256; if that fails, its checksums say where."""
        problems = self._check_hashes([name], step)
        return (problems and self._check_shard(name, group, number, step)) or [
            self._problem(name, "was rewritten: its tiles are sound, but not those committed")
            for _ in problems
        ]


def _sha256(file: Path, buffer: bytearray, step: Step) -> str:
    digest, view = hashlib.sha256(), memoryview(buffer)
    with file.open("rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            digest.update(view[:count])
            step(count)
    return digest.hexdigest()


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers for a sentence: `3, 7-9, 12`."""
    runs = [
        [number for _, number in run]
        for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


__all__ = ["Part", "Problem", "Step", "StoreCheck"]
