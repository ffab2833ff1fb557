"""A slide as large as scanners make them, from real tissue: `python -m tests.benchmarks.slide OUT`.

The tissue is that of CMU-1-Small-Region.svs (OpenSlide's test data, CC0), found in the folder that
`HISTOTILE_TEST_DATA` names, as `svs/CMU-1-Small-Region.svs`. Square patches dense with tissue are
taken from random places of it, turned and mirrored, and laid side by side inside one outline;
around them lies glass with a little noise. The file is an Aperio SVS as scanners write it: level 0,
a striped thumbnail, levels 4 and 16 times smaller, JPEG 4:2:0 with shared tables, or JPEG 2000.

Positions are native tiles or pixels of level 0, x to the right and y down. The source was scanned
at 0.5 µm/px and is relabelled 0.25: tiles decode as those of a real slide do, cells look too small.
A native tile of the file is a tile of some patch, stored again wherever it occurs, so that no
reader profits from the repetition.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
import openslide
import tifffile

from tiler.slides.base import Rgb

Compression = Literal["jpeg", "jpeg2000"]

SOURCE = "svs/CMU-1-Small-Region.svs"
MPP = 0.25
PATCH_TILES = 3
"""Edge of a patch in native tiles: larger ones find no place without much glass."""
PATCHES = 160
"""Different patches at most."""
PLACES = 24
"""Places tried for each of them; the densest are kept."""
STAINED = 18
"""A pixel of tissue has its largest and smallest channel this far apart, or more."""
GLASS_TILES = 16
GLASS = (245, 244, 246)
BIGTIFF_BYTES = 3_500_000_000
APERIO_JPEG2000_RGB = 33005
JPEG2000_DB = 28
"""PSNR asked of JPEG 2000: a tile of tissue becomes about as large as with JPEG quality 70."""
THUMBNAIL_PX = 1024


@dataclass(frozen=True, slots=True)
class SlideSpec:
    """What slide to make."""

    width: int = 32_768
    """Pixels of level 0, a multiple of 16, as `height`."""
    height: int = 24_576
    native: int = 256
    """Edge of the native tiles, a multiple of 16."""
    compression: Compression = "jpeg"
    quality: int = 70
    """JPEG quality; JPEG 2000 is made about as large, see `JPEG2000_DB`."""
    tissue: float = 0.78
    """Share of the slide that is tissue, about."""
    seed: int = 1

    def __post_init__(self) -> None:
        sizes = (self.width, self.height, self.native)
        if any(size <= 0 or size % 16 for size in sizes):
            raise ValueError(f"width, height and native tile are multiples of 16, got {sizes}")

    @property
    def columns(self) -> int:
        """Native tiles across level 0."""
        return -(-self.width // self.native)

    @property
    def rows(self) -> int:
        """Native tiles down level 0."""
        return -(-self.height // self.native)


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """The different native tiles of a slide, and which of them lies where."""

    encoded: list[bytes]
    quarters: npt.NDArray[np.uint8]
    """Each tile 4 times smaller: uint8 (tiles, native/4, native/4, 3)."""
    layout: npt.NDArray[np.int32]
    """Numbers of tiles, (rows, columns)."""


def build_slide(path: Path, spec: SlideSpec) -> None:
    """Write the slide; the same spec gives the same bytes.

    Raises:
        FileNotFoundError: `HISTOTILE_TEST_DATA` is not set, or the source is not there.
    """
    rng = np.random.default_rng(spec.seed)
    needed = -(-spec.columns // PATCH_TILES) * -(-spec.rows // PATCH_TILES)
    side = spec.native * PATCH_TILES
    patches, tissue = _patches(source_pixels(), side, min(PATCHES, needed), rng)
    glass = _glass(spec.native, rng)
    pixels = [tile for patch in patches for tile in _split(patch, spec.native)]
    pixels += glass
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        encoded = list(threads.map(lambda tile: _encoded(tile, spec), pixels))
    tiles = Tiles(
        encoded,
        np.stack([shrunk(tile, 4) for tile in pixels]),
        _layout(spec, len(patches), min(1.0, spec.tissue / tissue), rng),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, spec, tiles)


def source_pixels() -> Rgb:
    """Read the whole source, uint8 (2967, 2220, 3)."""
    folder = os.environ.get("HISTOTILE_TEST_DATA")
    if not folder:
        raise FileNotFoundError(f"set HISTOTILE_TEST_DATA to the folder that holds {SOURCE}")
    with openslide.OpenSlide(Path(folder) / SOURCE) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def shrunk(pixels: Rgb, factor: int) -> Rgb:
    """Average blocks of factor x factor pixels; the edges must divide."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels.reshape(height, factor, width, factor, 3)
    means: npt.NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return np.rint(means).astype(np.uint8)


def _patches(
    source: Rgb, side: int, number: int, rng: np.random.Generator
) -> tuple[list[Rgb], float]:
    """Cut the densest of many random places, turned and mirrored; with their share of tissue."""
    stained = source.max(axis=2).astype(np.int16) - source.min(axis=2) > STAINED
    height, width = stained.shape
    places = [
        (int(rng.integers(height - side)), int(rng.integers(width - side)))
        for _ in range(PATCHES * PLACES)
    ]
    shares = [float(stained[y : y + side, x : x + side].mean()) for y, x in places]
    kept = np.argsort(shares)[-number:]
    patches = []
    for place in rng.permutation(kept):
        y, x = places[place]
        turned = np.rot90(source[y : y + side, x : x + side], int(rng.integers(4)))
        patches.append(np.ascontiguousarray(turned[:, :: rng.choice([-1, 1])]))
    return patches, float(np.mean([shares[place] for place in kept]))


def _glass(native: int, rng: np.random.Generator) -> list[Rgb]:
    noise = rng.normal(0, 1.2, (GLASS_TILES, native, native, 3)) + GLASS
    return list(np.clip(np.rint(noise), 0, 255).astype(np.uint8))


def _split(patch: Rgb, native: int) -> Iterator[Rgb]:
    for y in range(0, patch.shape[0], native):
        for x in range(0, patch.shape[1], native):
            yield np.ascontiguousarray(patch[y : y + native, x : x + native])


def _layout(
    spec: SlideSpec, patches: int, covered: float, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Lay patches inside a wavy ellipse that covers the given share of the slide, glass outside."""
    rows, columns = spec.rows, spec.columns
    layout = patches * PATCH_TILES**2 + rng.integers(GLASS_TILES, size=(rows, columns))
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    angle = np.arctan2(y, x)
    # A superellipse: fills a rectangle better than an ellipse does, so that glass stays outside.
    radius = (x**4 + y**4) ** 0.25 * (1 + 0.04 * np.sin(5 * angle) + 0.02 * np.cos(11 * angle))
    inside = radius <= np.quantile(radius, covered)
    within = np.arange(PATCH_TILES**2).reshape(PATCH_TILES, PATCH_TILES)
    for top in range(0, rows, PATCH_TILES):
        for left in range(0, columns, PATCH_TILES):
            numbers = within + rng.integers(patches) * PATCH_TILES**2
            place = np.s_[top : top + PATCH_TILES, left : left + PATCH_TILES]
            held = inside[place]
            layout[place][held] = numbers[: held.shape[0], : held.shape[1]][held]
    return layout.astype(np.int32)


def _encoded(pixels: Rgb, spec: SlideSpec) -> bytes:
    """Encode a native tile: JPEG 4:2:0 without its tables, or a JPEG 2000 codestream."""
    if spec.compression == "jpeg":
        return _jpeg_parts(pixels, spec.quality)[1]
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=JPEG2000_DB, codecformat="j2k", mct=True))


def _jpeg_parts(pixels: Rgb, quality: int) -> tuple[bytes, bytes]:
    """Encode and part as TIFF does: (tables from SOI to EOI, tile without tables)."""
    stream = imagecodecs.jpeg8_encode(
        pixels, level=quality, colorspace="rgb", outcolorspace="ycbcr", subsampling="420"
    )
    tables, rest, place = [], [], 2
    while stream[place + 1] != 0xDA:
        marker = stream[place + 1]
        end = place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
        if marker in (0xC4, 0xDB):
            tables.append(stream[place:end])
        elif marker not in (0xE0, 0xEE):  # TIFF says the colours, not JFIF or Adobe
            rest.append(stream[place:end])
        place = end
    soi, eoi = b"\xff\xd8", b"\xff\xd9"
    return b"".join((soi, *tables, eoi)), b"".join((soi, *rest, stream[place:]))


def _write(path: Path, spec: SlideSpec, tiles: Tiles) -> None:
    sizes = np.array([len(data) for data in tiles.encoded])
    is_big = int(sizes[tiles.layout].sum() * 1.1) > BIGTIFF_BYTES
    codec = "JPEG/YCC Q=" if spec.compression == "jpeg" else "J2K/KDU Q="
    geometry = f"{spec.width}x{spec.height}"
    what = f"({spec.native}x{spec.native}) {codec}{spec.quality}"
    head = "Aperio Image Library v11.2.1 \r\n"
    with tifffile.TiffWriter(path, bigtiff=is_big) as tiff:
        level_0 = (tiles.encoded[number] for number in tiles.layout.flat)
        facts = f"{head}{geometry} [0,0 {geometry}] {what}|AppMag = 40|MPP = {MPP:g}"
        _write_level(tiff, spec, 1, level_0, facts)
        thumbnail = _thumbnail(spec, tiles)
        size = f"{thumbnail.shape[1]}x{thumbnail.shape[0]}"
        tiff.write(
            thumbnail,
            photometric="ycbcr",
            compression="jpeg",
            subsampling=(2, 2),
            rowsperstrip=16,
            description=f"{head}{geometry} -> {size} - |AppMag = 40|MPP = {MPP:g}",
            metadata=None,
        )
        for factor in (4, 16):
            cells = (_encoded(cell, spec) for cell in _level_cells(spec, tiles, factor))
            size = f"{spec.width // factor}x{spec.height // factor}"
            _write_level(tiff, spec, factor, cells, f"{head}{geometry} {what} -> {size} {what}")


def _write_level(
    tiff: tifffile.TiffWriter,
    spec: SlideSpec,
    factor: int,
    encoded: Iterator[bytes],
    description: str,
) -> None:
    options: dict[str, Any] = {"photometric": "rgb", "compression": APERIO_JPEG2000_RGB}
    if spec.compression == "jpeg":
        blank = np.zeros((spec.native, spec.native, 3), np.uint8)
        tables = _jpeg_parts(blank, spec.quality)[0]
        options = {
            "photometric": "ycbcr",
            "compression": "jpeg",
            "subsampling": (2, 2),
            "extratags": [(347, 7, len(tables), tables, True)],
        }
    tiff.write(
        encoded,
        shape=(spec.height // factor, spec.width // factor, 3),
        dtype=np.uint8,
        tile=(spec.native, spec.native),
        description=description,
        metadata=None,
        **options,
    )


def _level_cells(spec: SlideSpec, tiles: Tiles, factor: int) -> Iterator[Rgb]:
    """Native tiles of a smaller level, row by row, each a mosaic of shrunk tiles of level 0."""
    small = tiles.quarters
    if factor > 4:
        small = np.stack([shrunk(quarter, factor // 4) for quarter in small])
    # Beyond the edge of level 0 the last tiles go on; readers cut that off.
    layout = np.pad(tiles.layout, ((0, factor), (0, factor)), mode="edge")
    for row in range(0, -(-spec.rows // factor) * factor, factor):
        for column in range(0, -(-spec.columns // factor) * factor, factor):
            numbers = layout[row : row + factor, column : column + factor]
            cell = small[numbers].transpose(0, 2, 1, 3, 4).reshape(spec.native, spec.native, 3)
            yield np.ascontiguousarray(cell)


def _thumbnail(spec: SlideSpec, tiles: Tiles) -> Rgb:
    """Put shrunk tiles together to a picture of `THUMBNAIL_PX` across or a little less."""
    quarter = spec.native // 4
    least = spec.width / 4 / THUMBNAIL_PX
    step = min(n for n in range(1, quarter + 1) if quarter % n == 0 and n >= min(least, quarter))
    small = np.stack([shrunk(tile, step) for tile in tiles.quarters])
    whole = np.vstack([np.hstack(list(small[line])) for line in tiles.layout])
    factor = 4 * step
    return np.ascontiguousarray(whole[: spec.height // factor, : spec.width // factor])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how large a slide is, and its native tiles."""
    parser.add_argument("--width", type=int, default=SlideSpec().width)
    parser.add_argument("--height", type=int, default=SlideSpec().height)
    parser.add_argument("--native", type=int, default=256, help="edge of a native tile")


def main() -> None:
    """Write one slide."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    add_options(parser)
    parser.add_argument("--compression", choices=("jpeg", "jpeg2000"), default="jpeg")
    given = parser.parse_args()
    build_slide(given.out, SlideSpec(given.width, given.height, given.native, given.compression))
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
