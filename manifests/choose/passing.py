"""Which tiles of an entry pass a list of conditions, entry by entry.

Conditions that the manifest alone decides come first; a store is opened only when a condition needs
what it alone knows, and some of its tiles passed all conditions before. Stores are read by threads.
Counts are tiles of all resolutions of an entry together.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from manifests.choose.expression import Expression, Node, comparisons_of
from manifests.choose.tilefacts import Facts, Names
from manifests.choose.truth import Canonical, Mask, Truth, truth_of
from manifests.model import Manifest, Resolution, StoreEntry
from manifests.tileset import TileSet

Progress = Callable[[int, int], None]
"""Told how many entries of how many are done."""

_LEAST_THREADS = 8


@dataclass(frozen=True, slots=True)
class Condition:
    """A part of an expression that must be true of a tile."""

    text: str
    """As it was written."""
    node: Node
    names: frozenset[str]


@dataclass(slots=True)
class Tally:
    """What a condition did."""

    tiles: int = 0
    """Tiles that it was asked about."""
    passed: int = 0
    undecided: int = 0
    left: int = 0
    """Tiles that pass it and all conditions before it."""

    def add(self, other: Tally) -> None:
        """Count another one's tiles too."""
        self.tiles += other.tiles
        self.passed += other.passed
        self.undecided += other.undecided
        self.left += other.left


@dataclass(frozen=True, slots=True)
class Choice:
    """What is left of an entry."""

    entry: StoreEntry
    tiles: dict[str, TileSet]
    """By resolution; those without tiles are not named."""
    tallies: tuple[Tally, ...]
    """One for each condition."""
    missing: frozenset[str]
    """Columns that a condition asked for and that the store lacks."""
    asked: frozenset[str]
    """Names that the store was asked for, as the manifest does not know them."""
    found: frozenset[str]
    """Names that the store has, if it was asked for any."""


def conditions_of(
    expressions: Sequence[Expression], names: Names, entries: Sequence[StoreEntry]
) -> tuple[Condition, ...]:
    """The conditions of all expressions, those first that need the fewest stores, else as written.

    They fall into three classes: no store is needed, those of some entries are, those of all are.
    """
    kinds = {(entry.packed, bool(entry.labels)): entry for entry in entries}.values()

    def cost(condition: Condition) -> int:
        needs = [_needs_store(condition, names, entry) for entry in kinds]
        return any(needs) + all(needs)

    found = [
        Condition(expression.text_of(node), node, frozenset(c.name for c in comparisons_of(node)))
        for expression in expressions
        for node in expression.conditions()
    ]
    return tuple(sorted(found, key=cost))


def _needs_store(condition: Condition, names: Names, entry: StoreEntry) -> bool:
    return any(names.needs_store(name, entry) for name in condition.names)


@dataclass(slots=True)
class _Tiles:
    """The tiles of one resolution while conditions are put to them."""

    resolution: Resolution
    base: TileSet | None
    """Where the conditions begin; None: all tiles."""
    total: int
    left: Mask
    _mask: npt.NDArray[np.bool_] | None = field(default=None)

    @classmethod
    def of(cls, resolution: Resolution, base: TileSet | None) -> _Tiles:
        total = resolution.tiles if base is None else len(base)
        return cls(resolution, base, total, total > 0)

    def put(self, truth: Truth) -> Tally:
        """Keep the tiles for which a condition is true."""
        self.left = self.left & truth.yes
        passed = self._count(truth.yes)
        undecided = self.total - passed - self._count(truth.no)
        return Tally(self.total, passed, undecided, self._count(self.left))

    def kept(self) -> TileSet:
        """The tiles that are left."""
        if isinstance(self.left, np.ndarray):
            return TileSet.where(self._inside(self.left))
        if not self.left:
            return TileSet()
        return TileSet.every(self.resolution.tiles) if self.base is None else self.base

    def _count(self, mask: Mask) -> int:
        if isinstance(mask, np.ndarray):
            return int(np.count_nonzero(self._inside(mask)))
        return self.total if mask else 0

    def _inside(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        if self.base is None:
            return mask
        if self._mask is None:
            self._mask = self.base.mask(self.resolution.tiles)
        return mask & self._mask


@dataclass(frozen=True, slots=True)
class Chooser:
    """Puts conditions to entries."""

    manifest: Manifest
    names: Names
    conditions: tuple[Condition, ...]
    split: str | None
    """Take only the tiles of this split."""
    canonical: Canonical

    def choose(
        self, entries: Sequence[StoreEntry], progress: Progress | None = None
    ) -> list[Choice]:
        """What is left of each entry, in their order.

        Raises:
            ExpressionError: a value is of another kind than what it is compared with.
            ManifestError: a store is needed that is not on this machine.
            StoreError: such a store is damaged.
        """
        found = []
        for choice in self._each(entries):
            found.append(choice)
            if progress is not None:
                progress(len(found), len(entries))
        return found

    def _each(self, entries: Sequence[StoreEntry]) -> Iterator[Choice]:
        if not any(self._reads(entry) for entry in entries):
            yield from map(self._choice, entries)
            return
        pool = ThreadPoolExecutor(max(_LEAST_THREADS, os.cpu_count() or 1))
        try:
            yield from pool.map(self._choice, entries)
        finally:
            pool.shutdown(cancel_futures=True)

    def _reads(self, entry: StoreEntry) -> bool:
        return any(_needs_store(condition, self.names, entry) for condition in self.conditions)

    def _choice(self, entry: StoreEntry) -> Choice:
        facts = Facts(self.manifest, entry, self.names)
        parts = [
            _Tiles.of(resolution, entry.members(resolution.group, self.split))
            for resolution in entry.resolutions
        ]
        tallies = tuple(self._put(condition, parts, facts) for condition in self.conditions)
        kept = {part.resolution.group: part.kept() for part in parts}
        tiles = {group: members for group, members in kept.items() if members}
        noted = map(frozenset, (facts.missing, facts.asked, facts.found))
        return Choice(entry, tiles, tallies, *noted)

    def _put(self, condition: Condition, parts: Sequence[_Tiles], facts: Facts) -> Tally:
        tally = Tally()
        over = not any(np.any(part.left) for part in parts)
        if over and _needs_store(condition, self.names, facts.entry):
            return tally
        for part in parts:
            value_of = functools.partial(facts.value, part.resolution)
            tally.add(part.put(truth_of(condition.node, value_of, self.canonical)))
        return tally
