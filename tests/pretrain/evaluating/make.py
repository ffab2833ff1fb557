"""Small labelled sets with splits, whose classes are told by colour, for tests of evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from manifests import Manifest, StoreEntry, save_manifest
from manifests.model import TileSets
from manifests.tileset import TileSet
from tests.pretrain.watch.packed import make_packed

CLASSES = ("fat", "mucus", "stroma", "tumour", "lymphocytes")
COLOURS = ((230, 205, 225), (150, 150, 215), (220, 120, 160), (130, 60, 130), (70, 50, 110))
SPLIT_OF_UNIT = ("train", "test", "val", "train", "test", "train")
"""Of the units of a class, over and over."""
SITES = ("A", "B")
_SHADE = 18
"""Grey values between the darkest and the mean tile of a class."""


def labelled_set(
    root: Path, *, classes: int = 3, units: int = 6, tiles: int = 4, size: int = 32, seed: int = 0
) -> Path:
    """A manifest of one packed store, split by its column `group`; returns its path.

    Every picture is one tile. Each has a `label` (its colour), a `group` (its unit, of one class
    each), a `site` (units take turns), and a `score` from -1 to 1 (how bright it is for its class).

    Args:
        units: of each class; from 3 on, each class is in all three splits.
        tiles: of each unit.
    """
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), units * tiles)
    unit = np.tile(np.repeat(np.arange(units), tiles), classes)
    scores = np.round(random.uniform(-1, 1, len(labels)), 3)
    noise = random.integers(-12, 13, (len(labels), size, size, 3))
    shade = np.round(_SHADE * scores)[:, None, None, None]
    pixels = np.array(COLOURS)[labels][:, None, None] + shade + noise
    entry = make_packed(
        root,
        "pictures",
        np.clip(pixels, 0, 255).astype(np.uint8),
        labels=labels.tolist(),
        names=CLASSES[:classes],
        columns=[
            {"group": f"{CLASSES[c]}-{u}", "site": SITES[u % len(SITES)], "score": f"{s:g}"}
            for c, u, s in zip(labels.tolist(), unit.tolist(), scores.tolist(), strict=True)
        ],
    )
    names = [SPLIT_OF_UNIT[u % len(SPLIT_OF_UNIT)] for u in unit.tolist()]
    return save_split(root, replace(entry, splits=splits_of(names)))


def splits_of(names: Sequence[str], group: str = "0.5") -> Mapping[str, TileSets]:
    """The splits of an entry, given the split of each of its tiles; empty: in none."""
    return {
        name: {group: TileSet.where(np.array(names) == name)} for name in sorted(set(names) - {""})
    }


def save_split(
    root: Path, *entries: StoreEntry, by: str = "group", name: str = "manifest.json"
) -> Path:
    """Save a manifest whose splits were made by `by`; return its path."""
    path = root / name
    save_manifest(Manifest(entries, root, splits=({"by": by},)), path)
    return path
