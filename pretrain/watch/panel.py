"""The panel: the tiles whose features are looked at, the same ones each time, and their classes.

Queries come from the validation split if the set has one that training does not see, else each tile
is left out in turn. A tile's neighbours are never its kin (see `pretrain.watch.labels`). N tiles;
classes are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from manifests import Manifest
from manifests.splits.units import LABEL
from pretrain.config import ALL_SPLITS, TrainConfig
from pretrain.errors import ConfigError
from pretrain.mixing.mix import Mix
from pretrain.scoring.neighbours import Flags, Integers
from pretrain.watch.labels import KnownTile, Pool, choose_tiles, known_names, related
from pretrain.watch.scores import scorable

TILES = 1000
"""Most tiles of a panel."""
QUERIES = 250
"""Most of them that are queries from a validation split."""
HELD_OUT = ("val", "validation")
"""Splits that queries may come from; what is called `test` is never looked at."""
USUAL_FIELDS = (LABEL, "organ", "stain")
"""What neighbours should agree on where nothing is asked for: the first of these that can be."""


@dataclass(frozen=True, slots=True)
class Panel:
    """The tiles that are looked at."""

    tiles: tuple[KnownTile, ...]
    queries: Flags
    """Whether each tile is a query, (N,)."""
    allowed: Flags
    """Whether tile j may be a neighbour of tile i, (N, N)."""
    labels: Integers
    """Class of each, (N,); all 0 where nothing is scored."""
    names: tuple[str, ...]
    """Names of the classes that are scored."""
    field: str | None
    """What the classes are of; None: nothing is scored."""
    held_out: str | None
    """The split that queries come from; None: each tile is left out in turn."""
    note: str
    """One sentence on what is scored, or why nothing is."""

    def only(self, places: Integers) -> Panel:
        """The panel without the other tiles; classes keep their numbers."""
        return Panel(
            tuple(self.tiles[place] for place in places.tolist()),
            self.queries[places],
            self.allowed[np.ix_(places, places)],
            self.labels[places],
            self.names,
            self.field,
            self.held_out,
            self.note,
        )


def choose_panel(manifest: Manifest, mix: Mix, config: TrainConfig) -> Panel:
    """Choose up to 1,000 tiles of a run whose classes are known, as many of each class.

    Args:
        config: with the split that the mix was made for.

    Raises:
        ConfigError: nothing in the manifest has the field that neighbours should agree on.
        StoreError: a store cannot be opened.
    """
    split = None if config.split in (None, ALL_SPLITS) else config.split
    train = Pool(manifest, frozenset(slide.id for slide in mix.slides), split, config.seed)
    names = USUAL_FIELDS if config.knn_field is None else (config.knn_field,)
    _check_field(train, config.knn_field)
    held_out = _held_out(train)
    for name in names:
        for queries_from in [held_out, None] if held_out is not None else [None]:
            found = _panel(train, name, queries_from)
            if found is not None:
                return found
    tiles = choose_tiles(train, None, TILES)
    what = config.knn_field or "none of label, organ and stain"
    says = "does not have" if config.knn_field else "has"
    return Panel(
        tiles=tiles,
        queries=np.ones(len(tiles), np.bool_),
        allowed=~related(tiles),
        labels=np.zeros(len(tiles), np.int64),
        names=(),
        field=None,
        held_out=None,
        note=f"No k-NN score: {what} {says} two classes with tiles of two slides or patients each.",
    )


def _check_field(train: Pool, name: str | None) -> None:
    # Pictures of packed stores may know names that no entry does.
    if name is None or any(entry.packed for entry in train.entries()):
        return
    known = known_names(train)
    if name not in known:
        raise ConfigError(
            f"knn-field is {name!r}, which no slide has a value of; choose one of "
            f"{', '.join(known)}"
        )


def _held_out(train: Pool) -> str | None:
    """The split that queries may come from; none if training itself sees all splits."""
    if train.split is None:
        return None
    names = {name for entry in train.manifest.committed() for name in entry.split_names}
    return next((name for name in HELD_OUT if name in names - {train.split}), None)


def _panel(train: Pool, name: str, held_out: str | None) -> Panel | None:
    """The panel of a field; None where fewer than two classes can be scored."""
    if held_out is None:
        tiles: Sequence[KnownTile] = choose_tiles(train, name, TILES)
        queries = bank = np.ones(len(tiles), np.bool_)
    else:
        here = frozenset(e.id for e in train.manifest.committed() if not e.is_remote)
        asked = choose_tiles(Pool(train.manifest, here, held_out, train.seed), name, QUERIES)
        tiles = (*choose_tiles(train, name, TILES - QUERIES), *asked)
        queries = np.arange(len(tiles)) >= len(tiles) - len(asked)
        bank = ~queries
    names, labels = _numbered([tile.label or "" for tile in tiles])
    allowed = ~related(tiles) & queries[:, None] & bank[None, :]
    # A class of one slide or patient cannot be scored: its tiles have none of their class but kin.
    good = np.unique(labels[scorable(labels, allowed)])
    if len(good) < 2:
        return None
    kept = np.flatnonzero(np.isin(labels, good))
    queries = queries[kept]
    return Panel(
        tiles=tuple(tiles[place] for place in kept.tolist()),
        queries=queries,
        allowed=allowed[np.ix_(kept, kept)],
        labels=np.searchsorted(good, labels[kept]),
        names=tuple(names[number] for number in good.tolist()),
        field=name,
        held_out=held_out,
        note=_note(name, len(good), int(queries.sum()), len(kept), held_out),
    )


def _numbered(labels: Sequence[str]) -> tuple[list[str], Integers]:
    """The different labels, sorted, and the number of each label among them."""
    names = sorted(set(labels))
    number_of = {name: number for number, name in enumerate(names)}
    return names, np.array([number_of[label] for label in labels], dtype=np.int64)


def _note(name: str, classes: int, queries: int, tiles: int, held_out: str | None) -> str:
    whose = (
        f"{queries:,} tiles among each other"
        if held_out is None
        else f"{queries:,} tiles of {held_out} among {tiles - queries:,} of training"
    )
    chance = f"{1 / classes:.2f}"
    return f"k-NN score by {name}: {classes} classes, {whose}; a guess scores {chance}."
