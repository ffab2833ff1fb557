"""`verify`: whether the stores of a manifest are there, whole, and those that it lists.

Quick: what each store says of itself against the manifest, and the lengths of its files. Deep: all
bytes too, shards by the label, the index and the crc32c of each tile, the rest by sha256. Sha256:
shards by sha256 as well, which alone finds one that was rewritten with valid checksums.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Literal, TypeVar

from manifests.files import Json
from manifests.model import Manifest, StoreEntry
from manifests.storecheck import Part, Problem, StoreCheck

Level = Literal["quick", "deep", "sha256"]
LEVELS: tuple[Level, ...] = ("quick", "deep", "sha256")
Progress = Callable[[int, int], None]
"""Called with the stores that were looked at and the bytes that were read, so far."""

_QUICK_THREADS = 8
"""More would wait for the interpreter rather than for the disk."""
_AHEAD = 4
"""Jobs per thread that are given out at a time."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, and what is wrong."""

    stores: int
    """Stores that were checked, sound or not."""
    tiles: int
    """Their tiles, selected or not, as the manifest says."""
    bytes: int
    """Of their files, as the manifest says."""
    remote: tuple[str, ...]
    """Ids of entries that were not checked, since their stores lie behind URLs."""
    problems: tuple[Problem, ...]
    """Sorted by entry and file."""

    def to_json(self) -> Json:
        """For programs."""
        return {
            "stores": self.stores,
            "tiles": self.tiles,
            "bytes": self.bytes,
            "not_checked": [{"entry": name, "why": "remote"} for name in self.remote],
            "problems": [
                {"entry": found.entry, "file": found.file, "what": found.what}
                for found in self.problems
            ],
        }


class _Stopped(Exception):
    """The work was given up while a thread was at it."""


def local_entries(manifest: Manifest) -> list[StoreEntry]:
    """The entries with a store that can be checked: neither failed nor remote."""
    return [entry for entry in manifest.stores if entry.path is not None and not entry.is_remote]


def verify(
    manifest: Manifest,
    level: Level = "quick",
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Check the stores of a manifest. What is wrong with them is returned, not raised.

    Args:
        level: how thoroughly.
        workers: threads; as many as there are cores by default.
    """
    entries = local_entries(manifest)
    problems: list[Problem] = []
    stores = size = 0
    tell = progress or (lambda *_: None)
    stop = Event()

    def step(_: int) -> None:
        if stop.is_set():
            raise _Stopped

    def look(entry: StoreEntry) -> StoreCheck:
        step(0)
        found = StoreCheck(manifest, entry)
        found.look()
        return found

    def check(part: Part) -> tuple[Part, list[Problem]]:
        step(0)
        return part, part.check(step)

    def parts() -> Iterator[Part]:
        nonlocal stores
        for found in _in_threads(pool, ahead, look, entries):
            problems.extend(found.problems)
            stores += 1
            tell(stores, size)
            if level != "quick":
                yield from found.parts(hashes=level == "sha256")

    threads = workers or min(_cores(), _QUICK_THREADS if level == "quick" else _cores())
    ahead = _AHEAD * threads
    with ThreadPoolExecutor(threads) as pool:
        try:
            for part, found in _in_threads(pool, ahead, check, parts()):
                problems += found
                size += part.bytes
                tell(stores, size)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Verified(
        stores=len(entries),
        tiles=sum(resolution.tiles for entry in entries for resolution in entry.resolutions),
        bytes=sum(entry.bytes for entry in entries),
        remote=tuple(entry.id for entry in manifest.stores if entry.is_remote),
        problems=tuple(sorted(problems, key=lambda found: (found.entry, found.file or ""))),
    )


def _in_threads(
    pool: ThreadPoolExecutor, ahead: int, function: Callable[[T], R], items: Iterable[T]
) -> Iterator[R]:
    """Results in order; never more than `ahead` items are taken that have not given theirs."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


__all__ = ["LEVELS", "Level", "Problem", "Verified", "local_entries", "verify"]
