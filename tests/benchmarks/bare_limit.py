"""The least that cutting tiles costs: each native tile read and decoded once, each tile encoded.

No tissue, no checks, no store, nothing on disk. Native JPEG tiles are decoded at a smaller scale,
which libjpeg does in the inverse DCT, put together and encoded. Run as a process of its own:
`bare_limit POSITIONS FACTOR SIZE QUALITY SUBSAMPLING SLIDE...`; positions are an .npy file of
level-0 pixels (N, 2), all divisible by the factor (1, 2, 4, 8).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import tifffile

Rgb = npt.NDArray[np.uint8]


def cut(slide: str, xy: list[tuple[int, int]], factor: int, size: int) -> Iterator[Rgb]:
    """Yield tiles, uint8 (size, size, 3), at positions in pixels of the reduced level."""
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0].aspage()
        offsets, counts = page.dataoffsets, page.databytecounts
        side, columns = page.tilewidth // factor, -(-page.imagewidth // page.tilewidth)
        head = page.jpegtables[:-2] if page.jpegtables else b"\xff\xd8"
    needed = [
        [row * columns + column for row in _over(y, size, side) for column in _over(x, size, side)]
        for x, y in xy
    ]
    last_use = {cell: number for number, cells in enumerate(needed) for cell in cells}
    decoded: dict[int, Rgb] = {}
    file = os.open(slide, os.O_RDONLY)
    for number, ((x, y), cells) in enumerate(zip(xy, needed, strict=True)):
        tile = np.empty((size, size, 3), np.uint8)
        for cell in cells:
            if cell not in decoded:
                data = head + os.pread(file, counts[cell], offsets[cell])[2:]
                # The smallest size that is at least so large: the native tile over the factor.
                decoded[cell] = simplejpeg.decode_jpeg(data, min_height=side, min_width=side)
            row, column = divmod(cell, columns)
            _place(decoded[cell], column * side - x, row * side - y, tile)
            if last_use[cell] == number:
                del decoded[cell]
        yield tile
    os.close(file)


def _over(start: int, size: int, side: int) -> range:
    return range(start // side, -(-(start + size) // side))


def _place(cell: Rgb, x: int, y: int, tile: Rgb) -> None:
    """Copy what lies inside the tile of a cell whose top-left corner is at (x, y) of it."""
    width, height = min(cell.shape[1], tile.shape[1] - x), min(cell.shape[0], tile.shape[0] - y)
    tile[max(y, 0) : y + height, max(x, 0) : x + width] = cell[
        max(-y, 0) : height, max(-x, 0) : width
    ]


def main() -> None:
    """Cut every tile of every slide; print how many, and their bytes."""
    positions, factor, size, quality, subsampling, *slides = sys.argv[1:]
    l0_xy = np.load(Path(positions))
    if (l0_xy % int(factor)).any():
        raise SystemExit(f"positions do not divide by {factor}")
    xy = [(x, y) for x, y in (l0_xy // int(factor)).tolist()]
    total = tiles = 0
    for slide in slides:
        for tile in cut(slide, xy, int(factor), int(size)):
            total += len(simplejpeg.encode_jpeg(tile, int(quality), "RGB", subsampling))
            tiles += 1
    print(json.dumps({"tiles": tiles, "bytes": total}))


if __name__ == "__main__":
    main()
