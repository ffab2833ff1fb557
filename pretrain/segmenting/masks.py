"""What each pixel of a tile shows, cut from masks of slides, or of pictures of packed stores.

A mask is a picture named `ID` or as its slide's file; for packed stores `ID/PICTURE`,
`FOLDER/PICTURE` or `PICTURE`, with the folders that the picture's name has. Suffixes do not count,
nor does `_mask` before one. Frames: `l0_x` is a pixel of level 0 of a slide (of the picture, for
packed stores), `mask_x` one of the mask; pairs are (x, y). S is a tile's side, N counts tiles.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from manifests import Manifest, StoreEntry, StoreError
from manifests.checks import short
from manifests.splits.units import sources_of
from manifests.store import TileGroup, open_store
from pretrain.embedding.wanted import Integers, Wanted
from pretrain.errors import ConfigError
from pretrain.segmenting.maskfiles import WHITE, MaskError, Pixels, masks_below, read_mask

IGNORED = 255
"""What a pixel of no class has: neither learnt from nor scored."""

_OUTSIDE = 256
"""Stands for what lies beyond the mask; masks hold 0 to 255."""
_ROUNDING = 1.5
"""Pixels by which a side may differ from what it should be."""

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of N tiles, kept small."""

    classes: tuple[str, ...]
    """Names; a pixel holds the place of its class in them."""
    size: int
    """S."""
    has: npt.NDArray[np.bool_]
    """Which rows have a mask, (N,)."""
    pieces: tuple[bytes, ...]
    """Of each row: its values, uint16 (S, S), packed; empty where it has no mask."""
    numbers: Pixels
    """The class of each value, or `IGNORED`, (257,)."""

    def read(self, rows: Sequence[int] | Integers) -> Pixels:
        """Classes of pixels, uint8 (n, S, S); `IGNORED` where there is none."""
        found = np.full((len(rows), self.size, self.size), IGNORED, dtype=np.uint8)
        for place, row in enumerate(rows):
            if self.has[row]:
                values = np.frombuffer(zlib.decompress(self.pieces[row]), dtype=np.uint16)
                found[place] = self.numbers[values].reshape(self.size, self.size)
        return found


def find_masks(
    manifest: Manifest,
    parts: Sequence[Wanted],
    folder: Path,
    *,
    names: Sequence[str] = (),
    missing: str = "refuse",
) -> Masks:
    """Find and cut the masks of all tiles of `parts`.

    Where all masks hold but 0 and 255, these are two classes. Else the value is the number of a
    class, and 255 is no class. JPEGs (cut at 128) and pictures of 1 bit go with masks of two
    classes alone. Pixels are brought to the tile's size by the nearest one; beyond the mask is no
    class.

    Args:
        names: of the classes from 0 on; by default the numbers that were found.
        missing: `refuse` or `drop` tiles whose picture or slide has no mask.

    Raises:
        ConfigError: there is no such folder, tiles differ in size, or a class has no name.
        MaskError: a mask is missing, unreadable, does not fit its picture, or there is one class.
        StoreError: a store does not say where its tiles lie.
    """
    size = _common_size(parts)
    files = masks_below(folder)
    pieces, absent, used = [], [], dict[Path, _Picture]()
    values = np.zeros(_OUTSIDE + 1, dtype=np.bool_)
    mixed: str | None = None
    for picture in _pictures(manifest, parts):
        file = next((files[key] for key in picture.keys if key in files), None)
        if file is None:
            absent.append(picture)
            continue
        other = used.setdefault(file, picture)
        if other.identity != picture.identity:
            raise MaskError(
                f"{file.name} could be the mask of both {other.name} and {picture.name}: name "
                "masks by ids, ID.png for slides and ID/PICTURE.png for packed stores"
            )
        mask, black_white = read_mask(file)
        mixed = mixed or (file.name if black_white else None)
        picture.check_fits(mask, file)
        for row, l0_xy in zip(picture.rows, picture.l0_xy, strict=True):
            piece = cut(mask, (l0_xy[0], l0_xy[1]), picture.l0_per_px, size, picture.scale(mask))
            values[np.unique(piece)] = True
            pieces.append((int(row), zlib.compress(piece.tobytes(), 1)))
    _check_absent(absent, folder, missing, any_found=bool(pieces))
    classes, numbers = _classes(np.flatnonzero(values[:_OUTSIDE]), names, mixed)
    return _assembled(pieces, sum(map(len, parts)), size, classes, numbers)


def cut(
    mask: Pixels, l0_xy: Pair, l0_per_px: Pair, size: int, mask_per_l0: Pair
) -> npt.NDArray[np.uint16]:
    """The part of a mask (h, w) that a tile shows, uint16 (S, S); 256 beyond the mask.

    Each pixel has the value of the mask's pixel that its middle lies in.

    Args:
        l0_xy: level-0 pixel of the tile's top-left corner.
        l0_per_px: level-0 pixels per pixel of the tile.
        mask_per_l0: pixels of the mask per level-0 pixel.
    """
    middles = np.arange(size) + 0.5
    column, row = (
        np.floor((start + middles * step) * scale).astype(np.int64)
        for start, step, scale in zip(l0_xy, l0_per_px, mask_per_l0, strict=True)
    )
    found = np.full((size, size), _OUTSIDE, dtype=np.uint16)
    rows, columns = (
        np.flatnonzero((at >= 0) & (at < most))
        for at, most in zip((row, column), mask.shape, strict=True)
    )
    found[np.ix_(rows, columns)] = mask[np.ix_(row[rows], column[columns])]
    return found


@dataclass(frozen=True, slots=True)
class _Picture:
    """A slide, or a picture of a packed store, and its tiles among the rows."""

    name: str
    """As people know it."""
    identity: tuple[str, ...]
    """Equal for what shows the same."""
    keys: tuple[str, ...]
    """Names, without the suffix, that its mask may have; the first that is there counts."""
    l0_extent: Pair | None
    """Width and height; None where the store does not say, as packed ones do not."""
    l0_least: Pair
    """Width and height that it has at least, by its tiles, ..."""
    l0_most: Pair
    """... and less than which it has."""
    l0_per_px: Pair
    rows: Integers
    l0_xy: npt.NDArray[np.float64]

    def scale(self, mask: Pixels) -> Pair:
        """Pixels of the mask per level-0 pixel."""
        if self.l0_extent is None:
            return 1.0, 1.0
        return mask.shape[1] / self.l0_extent[0], mask.shape[0] / self.l0_extent[1]

    def check_fits(self, mask: Pixels, file: Path) -> None:
        """Refuse a mask of another shape."""
        height, width = mask.shape
        has = f"the mask {file.name} has {width} x {height} px"
        if self.l0_extent is not None:
            x, y = self.scale(mask)
            # A side may be a pixel off, as overviews of slides are.
            if abs(x - y) * min(self.l0_extent) > _ROUNDING:
                sides = " x ".join(f"{side:g}" for side in self.l0_extent)
                raise MaskError(
                    f"{has}, but {self.name} has {sides}: a mask must show the whole slide"
                )
        elif not all(
            least - _ROUNDING <= side <= most + _ROUNDING
            for side, least, most in zip((width, height), self.l0_least, self.l0_most, strict=True)
        ):
            sides = " x ".join(f"{side:g}" for side in self.l0_least)
            raise MaskError(
                f"{has}, which does not fit the tiles of {self.name} (about {sides}): the mask of "
                "a picture must have its very pixels"
            )


def _common_size(parts: Sequence[Wanted]) -> int:
    sizes = sorted({part.size for part in parts})
    if len(sizes) != 1:
        listed = " and ".join(map(str, sizes))
        raise ConfigError(f"tiles have {listed} px: choose those of one size by --mpp")
    return sizes[0]


def _pictures(manifest: Manifest, parts: Sequence[Wanted]) -> Iterator[_Picture]:
    """The slides and pictures that tiles come from, in order; one once for each part."""
    first = 0
    for part in parts:
        group = open_store(manifest, part.entry)[part.group]
        rows = np.arange(first, first + len(part), dtype=np.int64)
        first += len(part)
        l0_xy, l0_per_px = _places(group)
        if not part.entry.packed:
            yield _slide(part, rows, l0_xy[part.indices], l0_per_px)
            continue
        pictures = group.store.sources()
        source = sources_of(group, len(pictures))
        order = np.argsort(source, kind="stable")
        numbers, starts = np.unique(source[order], return_index=True)
        mine = np.zeros(len(group), dtype=np.int64) - 1
        mine[part.indices] = rows
        for number, tiles in zip(numbers, np.split(order, starts[1:]), strict=True):
            if (wanted := tiles[mine[tiles] >= 0]).size:
                name = str(pictures[number]["name"])
                least, most = _bounds(group, l0_xy[tiles], l0_per_px)
                yield _Picture(
                    name=f"{part.entry.id}/{name}",
                    identity=(_content(part.entry), name),
                    keys=_keys((part.entry.id, part.entry.source, ""), name),
                    l0_extent=None,
                    l0_least=least,
                    l0_most=most,
                    l0_per_px=l0_per_px,
                    rows=mine[wanted],
                    l0_xy=l0_xy[wanted],
                )


def _keys(folders: Sequence[str], name: str) -> tuple[str, ...]:
    """A name with and without its suffix, in each of these folders."""
    inside = PurePosixPath(name)
    return tuple(
        str(PurePosixPath(folder) / stem)
        for folder in folders
        for stem in (inside.with_suffix(""), inside)
    )


def _content(entry: StoreEntry) -> str:
    return str(entry.uuid) if entry.slide is None else entry.slide.fingerprint


def _slide(
    part: Wanted, rows: Integers, l0_xy: npt.NDArray[np.float64], l0_per_px: Pair
) -> _Picture:
    slide = part.entry.slide
    if slide is None or not (slide.width and slide.height):
        raise StoreError(f"the manifest does not say how large the slide of {part.entry.id} is")
    extent = (float(slide.width), float(slide.height))
    return _Picture(
        name=part.entry.id,
        identity=(_content(part.entry),),
        keys=(part.entry.id, *_keys(("",), part.entry.source)),
        l0_extent=extent,
        l0_least=extent,
        l0_most=extent,
        l0_per_px=l0_per_px,
        rows=rows,
        l0_xy=l0_xy,
    )


def _places(group: TileGroup) -> tuple[npt.NDArray[np.float64], Pair]:
    """Corners of all tiles (N, 2), and level-0 pixels per pixel of a tile."""
    l0_per_px = group.attributes.get("l0_per_px")
    if l0_per_px is None or not {"x", "y"} <= set(group.columns):
        raise StoreError(f"{group.store.path} does not say where its tiles lie: cut it again")
    l0_xy = np.stack([group.column("x"), group.column("y")], axis=1).astype(np.float64)
    return l0_xy, (float(l0_per_px[0]), float(l0_per_px[1]))


def _bounds(group: TileGroup, l0_xy: npt.NDArray[np.float64], l0_per_px: Pair) -> tuple[Pair, Pair]:
    """The least and the most that a picture's width and height may be, given all of its tiles.

    See `tiler.grid.make_grid`: `drop` keeps the tiles that lie wholly inside, `pad` as many as
    cover the picture.
    """
    padded = group.store.attributes["spec"].get("edge") == "pad"
    step = float(group.attributes.get("stride", group.tile_size))
    ends = [
        float(start) + group.tile_size * scale
        for start, scale in zip(l0_xy.max(axis=0), l0_per_px, strict=True)
    ]
    steps = [step * scale for scale in l0_per_px]
    if not padded:
        # Where nothing was dropped, tiles fill their pictures.
        filled = group.attributes.get("dropped", {}).get("edge") == 0
        most = ends if filled else [end + step for end, step in zip(ends, steps, strict=True)]
        return (ends[0], ends[1]), (most[0], most[1])
    least = [
        end - step if start > 0 else 1.0
        for end, step, start in zip(ends, steps, l0_xy.max(axis=0), strict=True)
    ]
    return (least[0], least[1]), (ends[0], ends[1])


def _check_absent(
    absent: Sequence[_Picture], folder: Path, missing: str, *, any_found: bool
) -> None:
    if absent and (missing == "refuse" or not any_found):
        names = sorted({picture.name for picture in absent})
        what = "picture has" if len(names) == 1 else "pictures have"
        raise MaskError(
            f"{len(names)} {what} no mask in {folder.name}, the first is {short(names[0])}: name "
            "masks as the pictures are, or leave these out by --unlabelled drop"
        )


def _classes(
    values: npt.NDArray[np.intp], names: Sequence[str], black_white: str | None
) -> tuple[tuple[str, ...], Pixels]:
    """Names of the classes that were found, and the class of each value."""
    found = [int(value) for value in values]
    two = set(found) <= {0, WHITE}
    if not two and black_white is not None:
        raise MaskError(
            f"the mask {black_white} is black and white, but others hold numbers of classes: save "
            "all of them with one channel of 8 bits, as PNG"
        )
    number_of = {v: int(v > 0) if two else v for v in found if two or v != WHITE}
    if names and (nameless := [v for v, n in number_of.items() if n >= len(names)]):
        raise ConfigError(
            f"masks hold the value {nameless[0]}, but --classes names {len(names)} classes, from "
            "0 on: name all of them"
        )
    if len(number_of) < 2:
        held = f"the value {found[0]}" if len(found) == 1 else "one class"
        raise MaskError(f"all masks hold {held} alone: there is nothing to tell apart")
    table = np.full(_OUTSIDE + 1, IGNORED, dtype=np.uint8)
    table[list(number_of)] = np.arange(len(number_of))
    return tuple(names[n] if names else str(n) for n in number_of.values()), table


def _assembled(
    pieces: Sequence[tuple[int, bytes]],
    count: int,
    size: int,
    classes: tuple[str, ...],
    numbers: Pixels,
) -> Masks:
    by_row = dict(pieces)
    has = np.isin(np.arange(count), list(by_row))
    return Masks(classes, size, has, tuple(by_row.get(row, b"") for row in range(count)), numbers)
