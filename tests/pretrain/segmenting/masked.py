"""Pictures with masks, cut by the command as people do it, for tests of segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from click.testing import CliRunner
from PIL import Image

from manifests import Manifest, load_manifest
from manifests.codec import Rgb
from tiler.cli import main

Pixels = npt.NDArray[np.uint8]

GROUND, BLOB = (225, 195, 215), (90, 40, 120)


def write(folder: Path, pictures: Mapping[str, npt.NDArray[np.uint8]]) -> Path:
    """Save pictures (h, w, 3) or masks (h, w) below a folder; returns it."""
    for name, pixels in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def cut(paths: Path, out: Path, *options: object) -> Manifest:
    """Cut pictures of 0.5 µm/px, without loss; returns the manifest."""
    fixed = ["--assume-mpp", 0.5, "--codec", "zstd", "--workers", 0, "--out", out]
    ran = CliRunner().invoke(main, [str(a) for a in ("extract", paths, *fixed, *options)])
    assert ran.exit_code == 0, ran.stderr
    return load_manifest(out / "manifest.json")


def noise(height: int, width: int, seed: int) -> Rgb:
    """A picture that has no two parts alike, uint8 (h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blobs(size: int, seed: int) -> tuple[Rgb, Pixels]:
    """A picture (S, S, 3) of dark discs on a light ground, and its mask (S, S), 1 in discs."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), dtype=np.uint8)
    for _ in range(3):
        centre_x, centre_y = random.integers(0, size, 2)
        radius = random.integers(size // 8, size // 4)
        mask[(x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2] = 1
    colours = np.array([GROUND, BLOB])[mask] + random.integers(-15, 16, (size, size, 3))
    return np.clip(colours, 0, 255).astype(np.uint8), mask
