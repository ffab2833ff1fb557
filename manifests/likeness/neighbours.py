"""Which of many pictures look alike: candidates by cells, then a closer comparison of each.

Pictures are the codes of `manifests.likeness.fingerprints.encode`, numbered from 0 in the order
given. No step compares all pairs: a picture is compared with those that share a cell with it (the
pictures nearest to one of some centres), only with so many of a cell, and only its nearest few of
those are looked at closely. So the cost of a picture is bounded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from manifests.likeness.fingerprints import (
    DIMENSIONS,
    GLANCE,
    LOOK,
    Codes,
    Floats,
    compare,
    describe,
    see,
    spectra,
)

Indices = npt.NDArray[np.int64]
Part = TypeVar("Part")
Result = TypeVar("Result")
LookAt = Callable[[Indices], Floats]
"""Squares (n, side, side) of optical density of the pictures of some numbers."""
Progress = Callable[[str, int, int], None]
"""Is told what is being done, and how many of how many pictures are done."""

_CELL_MEMBERS = 512
_MOST_MEMBERS = 4096
_PROBES = 2
_RADIUS = 0.42
"""Squared distance of descriptions up to which pictures are compared: of true copies that were
turned and enlarged some 75 % lie within, of other pictures of one class 1 in 1000."""
_STEPS = 127
_CROWDED = 32
"""Pictures of a cell within the radius, on average, from which only the nearest are taken."""
_COLOUR = 0.2
"""Most that colours may differ, both together: 999 of 1000 true copies are within."""
_NEAREST = 8
_WORTH_A_LOOK = 0.45
"""Correlation at a glance from which a closer look is taken."""
_RICH = 0.5
"""Coverage from which pictures have enough detail."""
_PLAINEST = 0.9
"""Similarity that is enough however little detail there is."""
_LOOK_AROUND = 2
"""Rings of `LOOK` beside the zoom found at a glance: nearly one of its own."""
_MOST_LOOKS = 4
"""Candidates of a picture that are looked at closer, the best ones."""
_HOPE = 0.25
"""How much lower than at the best zoom the correlation may be one ring beside it."""
_CHUNK, _BLOCK, _LOOKS = 2048, 8192, 128


@dataclass(frozen=True, slots=True)
class Alike:
    """Pairs of pictures that look alike."""

    pairs: Indices
    """Numbers of the pictures, (p, 2), the lower one first; sorted, each pair once."""
    similarity: Floats
    """Correlation of the fine detail at the best angle, (p,), up to 1."""
    passed_over: int
    """Pictures that others were not compared with, because too many are too alike."""


def find_alike(
    codes: Codes, colours: Floats, look_at: LookAt, threshold: float, tell: Progress
) -> Alike:
    """The pairs of pictures whose similarity is at least `threshold`.

    Of pictures with little detail (see `fingerprints.see`) more is asked, up to `_PLAINEST`.

    Args:
        codes: int8 (n, c) from `encode`, by `GLANCE`.
        colours: (n, 2) from `colour`; pictures whose colours differ too much are not alike.
        look_at: fetches pictures again, for the closer look, as squares of the side of `LOOK`.
    """
    if len(codes) < 2:
        return Alike(np.empty((0, 2), np.int64), np.empty(0, np.float32), 0)
    cells = _make_cells(codes)

    def glance(block: slice) -> npt.NDArray[np.float64]:
        links = _nearest(codes, block, cells)
        links = links[_of_one_colour(colours, links)]
        parts = (_compare(codes, links[part]) for part in _chunks(0, len(links), _CHUNK))
        return np.concatenate([np.empty((0, 4)), *parts])

    blocks = list(_chunks(0, len(codes), _BLOCK))
    found = []
    for block, compared in zip(blocks, in_threads(glance, blocks), strict=True):
        found.append(compared)
        tell("looking for candidates", block.stop, len(codes))
    links = _best_links(np.concatenate(found))
    parts = list(_chunks(0, len(links), _LOOKS))
    scores = [np.empty(0, np.float32)]
    for part, score in zip(
        parts, in_threads(lambda part: _look(links[part], look_at, threshold), parts), strict=True
    ):
        scores.append(score)
        tell("looking closer", part.stop, len(links))
    pairs, similarity = best_of_each(np.sort(links[:, :2], axis=1), np.concatenate(scores))
    return Alike(pairs, similarity, cells.passed_over)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Pictures by the centre that is nearest to them."""

    centres: Floats
    """(k, DIMENSIONS)"""
    descriptions: Codes
    """Of the members, cell after cell, (m, DIMENSIONS), in steps of 1 / `_STEPS`."""
    members: Indices
    """Numbers of the pictures, cell after cell, (m,)."""
    starts: Indices
    """Where each cell begins in `members`, (k + 1,)."""
    passed_over: int


def _make_cells(codes: Codes) -> _Cells:
    count = len(codes)
    every = np.empty((count, DIMENSIONS), dtype=np.int8)
    for chunk in _chunks(0, count, _CHUNK):
        every[chunk] = np.rint(describe(spectra(codes[chunk], GLANCE), 0, GLANCE) * _STEPS)
    centre_count = max(1, count // _CELL_MEMBERS)
    # Evenly spaced pictures are centres enough: crowded regions get more of them by themselves.
    chosen = np.arange(centre_count) * count // centre_count
    centres = _described(every[chosen])
    cell = np.concatenate(
        [
            _nearest_centres(_described(every[c]), centres, 1)[:, 0]
            for c in _chunks(0, count, _CHUNK)
        ]
    )
    order = np.argsort(cell, kind="stable")
    begins = np.searchsorted(cell[order], np.arange(centre_count + 1))
    place = np.arange(count) - begins[cell[order]]
    members = order[place < _MOST_MEMBERS]
    starts = np.searchsorted(cell[members], np.arange(centre_count + 1))
    return _Cells(centres, every[members], members, starts, count - len(members))


def _described(steps: Codes) -> Floats:
    return steps.astype(np.float32) / np.float32(_STEPS)


def _nearest_centres(points: Floats, centres: Floats, most: int) -> Indices:
    """Indices of the `most` nearest centres of each point, (n, at most `most`), nearest first."""
    distance = (centres**2).sum(axis=1) - 2 * (points @ centres.T)
    found = []
    for _ in range(min(most, len(centres))):
        nearest = distance.argmin(axis=1)
        distance[np.arange(len(points)), nearest] = np.inf
        found.append(nearest)
    return np.stack(found, axis=1)


def _nearest(codes: Codes, block: slice, cells: _Cells) -> Indices:
    """Links (l, 3) of the pictures of a block: picture, other picture, zoom of the other one."""
    points = np.empty((len(GLANCE.zooms), block.stop - block.start, DIMENSIONS), dtype=np.float32)
    near = np.empty((*points.shape[:2], min(_PROBES, len(cells.centres))), dtype=np.int64)
    for chunk in _chunks(block.start, block.stop, _CHUNK):
        spectrum = spectra(codes[chunk], GLANCE)
        rows = slice(chunk.start - block.start, chunk.stop - block.start)
        for place, zoom in enumerate(GLANCE.zooms):
            points[place, rows] = describe(spectrum, zoom, GLANCE)
            near[place, rows] = _nearest_centres(points[place, rows], cells.centres, _PROBES)
    keys = np.sort(np.concatenate(list(_within_radius(points, near, block.start, cells))))
    row, at, column = _unpack(_first_of_each_row(keys, _NEAREST * len(GLANCE.zooms)))
    # A picture may be found at several zooms: the nearest counts.
    _, first = np.unique(row << _COLUMN_BITS | column, return_index=True)
    kept = np.zeros(len(row), dtype=bool)
    kept[first] = True
    row, at, column = row[kept], at[kept], column[kept]
    near_enough = np.arange(len(row)) - np.searchsorted(row, row) < _NEAREST
    links = np.stack([row + block.start, column, np.array(GLANCE.zooms)[at]], axis=1)
    return links[near_enough]


def _within_radius(
    points: Floats, near: Indices, start: int, cells: _Cells
) -> Iterator[npt.NDArray[np.uint64]]:
    """Keys of the pairs of a point and a picture of a cell near to it that lie close together."""
    _, count, probes = near.shape
    flat = near.ravel()
    order = np.argsort(flat, kind="stable")
    used, begins = np.unique(flat[order], return_index=True)
    yield np.empty(0, dtype=np.uint64)
    for cell, member in zip(used, np.split(order, begins[1:]), strict=True):
        place, row = np.divmod(member // probes, count)
        part = slice(cells.starts[cell], cells.starts[cell + 1])
        others = _described(cells.descriptions[part])
        own = points[place, row]
        distance = own @ (-2 * others.T)
        distance += (own**2).sum(axis=1)[:, None]
        distance += (others**2).sum(axis=1)
        hits = _hits(distance)
        at, other = np.divmod(hits, max(1, len(others)))
        column = cells.members[part][other]
        packed = _pack(row[at], place[at], distance.ravel()[hits], column)
        yield packed[row[at] + start != column]


def _hits(distance: Floats) -> Indices:
    """Flat places of distances within the radius; of crowded rows only the nearest ones."""
    hits = np.flatnonzero(distance < _RADIUS)
    if len(hits) <= _CROWDED * len(distance):
        return hits
    most = min(_NEAREST + 1, distance.shape[1])  # a picture is nearest to itself
    nearest = np.argpartition(distance, most - 1, axis=1)[:, :most]
    flat = (nearest + np.arange(len(distance))[:, None] * distance.shape[1]).ravel()
    return np.sort(flat[distance.ravel()[flat] < _RADIUS])


_COLUMN_BITS, _PLACE_BITS, _DISTANCE_BITS = 34, 3, 12
"""A pair as one number that sorts by row, then distance: row, distance, zoom, column."""


def _pack(
    row: Indices, place: Indices, distance: Floats, column: Indices
) -> npt.NDArray[np.uint64]:
    steps = np.clip(distance * (2**_DISTANCE_BITS / _RADIUS), 0, 2**_DISTANCE_BITS - 1)
    key = row.astype(np.uint64) << np.uint64(_DISTANCE_BITS)
    key = (key | steps.astype(np.uint64)) << np.uint64(_PLACE_BITS)
    key = (key | place.astype(np.uint64)) << np.uint64(_COLUMN_BITS)
    packed: npt.NDArray[np.uint64] = key | column.astype(np.uint64)
    return packed


def _unpack(keys: npt.NDArray[np.uint64]) -> tuple[Indices, Indices, Indices]:
    """Row, place of the zoom, and column."""
    signed = keys.astype(np.int64)
    place = signed >> _COLUMN_BITS & (2**_PLACE_BITS - 1)
    row = signed >> (_COLUMN_BITS + _PLACE_BITS + _DISTANCE_BITS)
    return row, place, signed & (2**_COLUMN_BITS - 1)


def _first_of_each_row(keys: npt.NDArray[np.uint64], most: int) -> npt.NDArray[np.uint64]:
    row = _unpack(keys)[0]
    return keys[np.arange(len(keys)) - np.searchsorted(row, row) < most]


def _of_one_colour(colours: Floats, links: Indices) -> npt.NDArray[np.bool_]:
    apart = np.abs(colours[links[:, 0]] - colours[links[:, 1]]).sum(axis=1)
    found: npt.NDArray[np.bool_] = apart <= _COLOUR
    return found


def _compare(codes: Codes, links: Indices) -> npt.NDArray[np.float64]:
    """The links that are worth a closer look: picture, other picture, best zoom, correlation."""
    best = np.full(len(links), -1, dtype=np.float32)
    zooms = links[:, 2].copy()
    for zoom in np.unique(links[:, 2]):
        at = np.flatnonzero(links[:, 2] == zoom)
        whole, enlarged = (spectra(codes[links[at, k]], GLANCE) for k in (0, 1))
        best[at] = compare(whole, enlarged, zoom, GLANCE)
        hopeful = best[at] >= _WORTH_A_LOOK - _HOPE
        at, whole, enlarged = at[hopeful], whole[hopeful], enlarged[hopeful]
        for beside in (zoom - 1, zoom + 1):
            score = compare(whole, enlarged, beside, GLANCE)
            better = score > best[at]
            best[at[better]], zooms[at[better]] = score[better], beside
    kept = best >= _WORTH_A_LOOK
    return np.column_stack([links[kept, :2], zooms[kept], best[kept]])


def _best_links(links: npt.NDArray[np.float64]) -> Indices:
    """Links (l, 3): the best few of each picture, each pair once; sorted by the lower picture."""
    links = links[np.lexsort((links[:, 1], -links[:, 3], links[:, 0]))]
    rank = np.arange(len(links)) - np.searchsorted(links[:, 0], links[:, 0])
    links = links[rank < _MOST_LOOKS]
    low, high = links[:, :2].min(axis=1), links[:, :2].max(axis=1)
    order = np.lexsort((links[:, 2], -links[:, 3], high, low))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
    return links[order[first], :3].astype(np.int64)


def _look(links: Indices, look_at: LookAt, threshold: float) -> Floats:
    """The correlation of the fine detail of each link; -1 where it is too low to tell."""
    numbers, flat = np.unique(links[:, :2], return_inverse=True)
    one, other = flat.reshape(-1, 2).T
    seen, coverage = see(look_at(numbers), LOOK)
    similarity = np.full(len(links), -1, dtype=np.float32)
    for zoom in np.unique(links[:, 2]):
        at = np.flatnonzero(links[:, 2] == zoom)
        middle = round(zoom * math.log(GLANCE.factor) / math.log(LOOK.factor))
        for close in range(middle - _LOOK_AROUND, middle + _LOOK_AROUND + 1):
            score = compare(seen[one[at]], seen[other[at]], close, LOOK)
            similarity[at] = np.maximum(similarity[at], score)
    least = np.minimum(coverage[one], coverage[other])
    # The correlation of unlike pictures spreads as the root of how much there is to compare.
    plain = np.sqrt(np.maximum(_RICH / np.maximum(least, 1e-6), 1))
    needed = np.maximum(np.minimum(threshold * plain, _PLAINEST), threshold)
    similarity[similarity < needed] = -1
    return similarity


def best_of_each(pairs: Indices, similarity: Floats, least: float = 0.0) -> tuple[Indices, Floats]:
    """Each pair once, with its highest similarity, where that is at least `least`."""
    order = np.lexsort((-similarity, pairs[:, 1], pairs[:, 0]))
    order = order[similarity[order] >= least]
    pairs, similarity = pairs[order], similarity[order]
    first = np.ones(len(pairs), dtype=bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[first], similarity[first]


def _chunks(start: int, stop: int, size: int) -> Iterator[slice]:
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))


def in_threads(work: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
    """Results in the order of the parts, from threads: decoding and NumPy leave Python's lock."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            yield from pool.map(work, parts)
        finally:
            pool.shutdown(cancel_futures=True)
