"""The plain loop that people write: OpenSlide's region, Pillow's box filter, a JPEG file per tile.

Run as a process of its own, and handed the positions, so that finding tissue costs it nothing:
`openslide_loop POSITIONS OUT REGION SIZE QUALITY SUBSAMPLING SLIDE...`; positions are an .npy file
of level-0 pixels (N, 2), the region is the side of a tile in level-0 pixels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openslide
import simplejpeg
from PIL import Image


def main() -> None:
    """Cut every tile of every slide; print how many, and their bytes."""
    positions, out, region, size, quality, subsampling, *slides = sys.argv[1:]
    side, shape = int(region), (int(size), int(size))
    total = tiles = 0
    for name in slides:
        folder = Path(out) / Path(name).stem
        folder.mkdir(parents=True)
        slide = openslide.OpenSlide(name)
        for number, (x, y) in enumerate(np.load(positions).tolist()):
            tile = slide.read_region((x, y), 0, (side, side)).convert("RGB")
            if tile.size != shape:
                tile = tile.resize(shape, Image.Resampling.BOX)
            data = simplejpeg.encode_jpeg(np.asarray(tile), int(quality), "RGB", subsampling)
            (folder / f"{number}.jpg").write_bytes(data)
            total += len(data)
            tiles += 1
    print(json.dumps({"tiles": tiles, "bytes": total}))


if __name__ == "__main__":
    main()
