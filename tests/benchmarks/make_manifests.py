"""Manifests of the size of a large study, made up: for timing what needs no pixels."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from manifests.jsonfile import save_manifest
from manifests.model import Manifest, Resolution, SlideInfo, StoreEntry

_ORGANS = ("breast", "colon", "lung", "prostate", "kidney", "liver", "lymph node", "skin")
_STAINS = ("H&E", "H&E", "H&E", "PAS", "IHC: Ki67")
_TILES = 3_400


def made_up_entry(number: int) -> StoreEntry:
    """An entry as `histotile extract` writes one, of about 3,400 tiles; two slides a patient."""
    rng = np.random.default_rng(number)
    name = f"slide-{number:06d}"
    site = f"{number % 37:02d}"
    tiles = int(rng.integers(_TILES // 2, _TILES + _TILES // 2))
    return StoreEntry(
        id=name,
        status="done",
        source=f"{name}.svs",
        path=f"{name}.zarr",
        uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        spec_hash="2f" * 32,
        commit=f"{number:064x}",
        organ=_ORGANS[number // 2 % len(_ORGANS)],
        stain=_STAINS[number % len(_STAINS)],
        dataset=f"cohort-{number // 300}",
        license="CC0-1.0",
        patient=f"P-{number // 2:06d}",
        site=site,
        scanner="Aperio AT2" if number % 3 else "Hamamatsu C12000",
        slide=SlideInfo(
            reader="openslide",
            vendor="aperio",
            compression="jpeg",
            fingerprint=f"quickhash1:{number:064x}",
            width=83_968,
            height=61_440,
            mpp=(0.252, 0.252),
            mpp_source="openslide",
            objective_power=40.0,
        ),
        resolutions=(Resolution("0.5", (0.504, 0.504), 0.5, 256, tiles, 0, (2.0, 2.0)),),
        codec={"name": "jpeg", "quality": 90, "subsampling": "444"},
        bytes=tiles * 21_000,
        dropped={"edge": 96, "tissue": 8_123},
    )


def write_manifest(path: Path, first: int, count: int) -> None:
    """Write a manifest of `count` made-up entries, numbered from `first`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_manifest(Manifest(tuple(made_up_entry(first + i) for i in range(count))), path)
