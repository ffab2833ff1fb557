"""Pictures of tiles on a page: nearest neighbours, and masks. Pictures are data URIs.

Neighbours are by cosine, and never of the query's own unit: tiles of one patient resemble each
other whatever an encoder has learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.codec import Rgb
from manifests.listing import one_line
from pretrain.page.pictures import jpeg_uri, overlaid
from pretrain.scoring.neighbours import nearest, unit

NEIGHBOURS = 6
QUERIES = 6
MASK_COLOURS = (
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167), (255, 255, 255)),
)
"""Okabe and Ito's, which also those tell apart who see fewer colours."""

Numbers = npt.NDArray[np.number]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tiles:
    """The n tiles that a page shows, and their features by encoder."""

    names: tuple[str, ...]
    targets: Numbers
    units: npt.NDArray[np.int64]
    features: tuple[npt.NDArray[np.floating], ...]
    classes: tuple[str, ...]
    """() where targets are no class numbers."""

    def said(self, tile: int) -> str:
        """The class of a tile, or its value."""
        value = self.targets[tile]
        return self.classes[int(value)] if self.classes else f"{float(value):.3g}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A tile that stands near a query."""

    uri: str
    name: str
    said: str
    agrees: bool | None
    """Whether it is of the query's class; None where there are no classes."""
    similarity: str


@dataclass(frozen=True, slots=True)
class Query:
    """A tile, and what is near it for each encoder."""

    uri: str
    name: str
    said: str
    rows: tuple[tuple[str, tuple[Neighbour, ...]], ...]
    """Encoder, and neighbours, nearest first."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A tile with its mask, and with those of the encoders."""

    name: str
    uri: str
    truth: str
    rows: tuple[tuple[str, str, str], ...]
    """Encoder, picture, share of the pixels that agree."""


def neighbour_rows(thumbnails: Rgb, tiles: Tiles, encoders: Sequence[str]) -> list[Query]:
    """A few tiles, the same for all encoders, and the nearest ones of other units."""
    if not tiles.features:
        return []
    chosen = queries(tiles)
    found = [_nearest(features, tiles.units, chosen) for features in tiles.features]

    def row(place: int, numbers: npt.NDArray[np.int64], similar: Numbers) -> tuple[Neighbour, ...]:
        pairs = zip(numbers[place].tolist(), similar[place].tolist(), strict=True)
        return tuple(
            Neighbour(
                jpeg_uri(thumbnails[other]),
                tiles.names[other],
                tiles.said(other),
                bool(tiles.targets[other] == tiles.targets[chosen[place]])
                if tiles.classes
                else None,
                f"{similarity:.3f}".replace("-", "−"),
            )
            for other, similarity in pairs
            if other >= 0
        )

    return [
        Query(
            jpeg_uri(thumbnails[tile]),
            tiles.names[tile],
            tiles.said(tile),
            tuple((name, row(place, *near)) for name, near in zip(encoders, found, strict=True)),
        )
        for place, tile in enumerate(chosen.tolist())
    ]


def queries(tiles: Tiles) -> npt.NDArray[np.int64]:
    """Which tiles are asked about: as many of each class as can be, of different units if possible.

    Classes take turns; for values, tiles stand evenly from the lowest to the highest. None is
    chosen for what an encoder makes of it.
    """
    if not tiles.classes:
        order = np.argsort(tiles.targets, kind="stable")
        places = np.linspace(0, len(order) - 1, min(QUERIES, len(order)))
        chosen: Integers = order[np.unique(places.round().astype(np.int64))].astype(np.int64)
        return chosen
    present = np.unique(tiles.targets).tolist()
    if len(present) > QUERIES:
        present = [present[i * len(present) // QUERIES] for i in range(QUERIES)]
    rows = [_of_many_units(tiles, number) for number in present]
    turns = [row[turn] for turn in range(QUERIES) for row in rows if turn < len(row)]
    return np.array(sorted(turns[:QUERIES], key=lambda t: (tiles.targets[t], t)), dtype=np.int64)


def _of_many_units(tiles: Tiles, number: int) -> list[int]:
    """The tiles of a class: the first of each unit, then the rest."""
    inside = np.flatnonzero(tiles.targets == number)
    _, first = np.unique(tiles.units[inside], return_index=True)
    firsts = inside[np.sort(first)]
    return [*firsts.tolist(), *np.setdiff1d(inside, firsts).tolist()][:QUERIES]


def agreement(tiles: Tiles, classes: int) -> list[tuple[int, list[str]]]:
    """For each class: its tiles, and for each encoder the share of neighbours of the same class.

    Of the nearest six of other units, the mean over the tiles of the class that have any; what a
    map shows, in numbers.
    """
    if not tiles.classes or not tiles.features:
        return []
    every = np.arange(len(tiles.names))
    shares = []
    for features in tiles.features:
        numbers, _ = _nearest(features, tiles.units, every)
        there = numbers >= 0
        same = there & (tiles.targets[numbers] == tiles.targets[:, None])
        asked = there.any(axis=1)
        shares.append((asked, same.sum(axis=1) / np.maximum(there.sum(axis=1), 1)))
    rows = []
    for number in range(classes):
        inside = tiles.targets == number
        told = [
            f"{100 * share[inside & asked].mean():.0f} %" if (inside & asked).any() else "–"
            for asked, share in shares
        ]
        rows.append((int(inside.sum()), told))
    return rows


def _nearest(
    features: npt.NDArray[np.floating], units: npt.NDArray[np.int64], which: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.floating]]:
    rows = unit(features)
    return nearest(rows[which], rows, NEIGHBOURS, query_units=units[which], bank_units=units)


def masked(
    thumbnails: Rgb,
    names: Iterable[str],
    truth: Numbers,
    predicted: Sequence[tuple[str, Numbers]],
) -> list[Masked]:
    """Tiles (n, h, w, 3) with masks (n, h, w) of truth, and of each encoder, laid over them."""
    return [
        Masked(
            one_line(name),
            jpeg_uri(tile),
            jpeg_uri(overlaid(tile, truth[number], MASK_COLOURS)),
            tuple(
                (
                    encoder,
                    jpeg_uri(overlaid(tile, masks[number], MASK_COLOURS)),
                    _agreeing(truth[number], masks[number]),
                )
                for encoder, masks in predicted
            ),
        )
        for number, (name, tile) in enumerate(zip(names, thumbnails, strict=True))
    ]


def _agreeing(truth: Numbers, predicted: npt.NDArray[np.integer]) -> str:
    counts = truth >= 0
    return f"{100 * (truth == predicted)[counts].mean():.0f} %" if counts.any() else "–"


def mask_keys(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Class and colour of masks; classes beyond the colours are not tinted."""
    named = zip(classes, MASK_COLOURS, strict=False)
    return [(one_line(name), "rgb({}, {}, {})".format(*colour)) for name, colour in named]
