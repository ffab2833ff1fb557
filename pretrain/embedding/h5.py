"""HDF5 files of features, one per slide, as CLAM and TRIDENT write them and MIL code reads them.

`features` (n, F) and `coords` int64 (n, 2), the level-0 pixel (x, y) of each tile's top-left
corner, with TRIDENT's attributes. Damaged tiles are left out: one NaN would spoil the whole slide.
A packed store whose pictures have several tiles gives a file per picture, else one for the store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from manifests import ManifestError, StoreEntry, StoreError
from manifests.checks import check_relative_path
from manifests.files import Json, sync_folder
from manifests.store import TileGroup
from pretrain.embedding.featureplan import StorePlan
from pretrain.embedding.featurestore import Features, FeatureStore, chunk_rows
from pretrain.embedding.wanted import Wanted

SUFFIX = ".h5"
_FURTHER = ("source", "label")
"""Columns that files have where the store has them."""
_UM_PX_AT_1X = 10.0
"""µm per pixel times magnification: 0.5 is 20x, 0.25 is 40x."""
_NOMINAL = (1.25, 2.5, 5, 10, 20, 40, 80)
_NEAR = 0.15
"""By how much of it a magnification may differ from a nominal one; scanners of 40x have 0.22 to
0.27 µm per pixel."""


@dataclass(frozen=True, slots=True)
class H5File:
    """What one file holds."""

    name: str
    """Relative to the folder of features, POSIX."""
    rows: npt.NDArray[np.int64]
    """Which rows of the group, ascending, (n,)."""
    title: str
    """What it is of: the id of the slide, or the name of the picture."""


def h5_files(plan: StorePlan, part: Wanted, group: TileGroup, prefix: str) -> tuple[H5File, ...]:
    """The files that the features of one resolution of a tile store become.

    Args:
        group: the resolution in the tile store.
        prefix: what stands before the names, "0.5/" where there are several resolutions.

    Raises:
        StoreError: the tiles have no place in level 0, or a picture's name leads out of the folder.
    """
    if not {"x", "y"} <= set(group.columns):
        raise StoreError(f"the tiles of {plan.id} have no x and y, which HDF5 files need")
    rows = np.arange(len(part), dtype=np.int64)
    whole = H5File(f"{prefix}{plan.id}{SUFFIX}", rows, plan.id)
    sources = group.store.sources() if "source" in group.columns else []
    # Of the whole store: which files there are does not depend on what is selected.
    if not sources or np.bincount(group.column("source")).max(initial=0) < 2:
        return (whole,)
    source = group.column("source")[part.indices]
    order = np.argsort(source, kind="stable")
    numbers, starts = np.unique(source[order], return_index=True)
    listed = {number: str(sources[number]["name"]) for number in numbers.tolist()}
    named = _picture_names(listed, plan.id).values()
    return tuple(
        H5File(f"{prefix}{plan.id}/{name}{SUFFIX}", own, title)
        for (name, title), own in zip(named, np.split(order, starts[1:]), strict=True)
    )


def _picture_names(listed: Mapping[int, str], where: str) -> dict[int, tuple[str, str]]:
    """File and title of each picture: its name without suffix, unless another has the same."""
    stems = {number: str(PurePosixPath(name).with_suffix("")) for number, name in listed.items()}
    taken = Counter(stems.values())
    found = {}
    for number, name in listed.items():
        try:
            check_relative_path(name, "sources.name")
        except ManifestError as error:
            raise StoreError(f"{where}: {error}") from error
        stem = stems[number]
        found[number] = (stem if taken[stem] == 1 else name, PurePosixPath(stem).name)
    return found


def write_h5(
    folder: Path, files: Iterable[H5File], store: FeatureStore, group: str, entry: StoreEntry
) -> None:
    """Write the files of one resolution, each whole or not at all.

    Args:
        store: the features of the whole tile store, which has `x` and `y`. They are read once: a
            packed store may have a file for each of ten thousand pictures.

    Raises:
        StoreError: the features are damaged.
        OSError: the disk is full, ...; an older file is then untouched.
    """
    features = store.read(group)
    is_damaged = np.asarray(np.isnan(features).all(axis=1), dtype=np.bool_)
    index, x, y = (store.column(group, name) for name in ("index", "x", "y"))
    coords = np.stack([x, y], axis=1)
    further = {n: store.column(group, n) for n in _FURTHER if store.has_column(group, n)}
    encoder = store.attributes["spec"]["encoder"]["sha256"]
    said = store.group_attributes(group)
    for file in files:
        kept = file.rows[~is_damaged[file.rows]]
        arrays = {
            "features": features[kept],
            "coords": coords[kept],
            "index": index[kept],
            "damaged": index[file.rows[is_damaged[file.rows]]],
            **{name: values[kept] for name, values in further.items()},
        }
        attributes = {
            "features": {"name": file.title, "encoder": encoder},
            "coords": _coords_attributes(file.title, said, entry),
        }
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, arrays, attributes, store.attributes["uuid"])


def read_identity(path: Path) -> tuple[str, list[int]] | None:
    """UUID of the plan that a file was made of, and the tiles that it left out; None if torn."""
    try:
        with h5py.File(path, "r") as h5:
            return str(h5.attrs["uuid"]), [int(tile) for tile in h5["damaged"][:]]
    except (OSError, KeyError):
        return None


def _coords_attributes(title: str, said: Mapping[str, Json], entry: StoreEntry) -> dict[str, Any]:
    """What TRIDENT says of coordinates; magnifications follow from µm per pixel."""
    size = int(said["tile_size"])
    mpp = float(said.get("mpp_requested") or said["mpp"][0])
    l0_per_px = float(said.get("l0_per_px", (1.0, 1.0))[0])
    found: dict[str, Any] = {
        "name": title,
        "patch_size": size,
        "patch_size_level0": round(size * l0_per_px),
        "target_magnification": magnification(mpp),
        "level0_magnification": magnification(float(said["mpp"][0]) / l0_per_px),
        "overlap": max(0, size - int(said.get("stride", size))),
        "mpp": np.array(said["mpp"], dtype=np.float64),
    }
    if entry.slide is not None and not entry.packed:
        found["level0_width"] = entry.slide.width
        found["level0_height"] = entry.slide.height
    return found


def magnification(mpp: float) -> float:
    """What people call so many µm per pixel: 0.5 is 20, 0.2268 is 40; 14.29 if it has no name."""
    value = _UM_PX_AT_1X / mpp
    near = min(_NOMINAL, key=lambda nominal: abs(value - nominal))
    return near if abs(value - near) <= _NEAR * near else round(value, 2)


def _write(
    path: Path,
    arrays: Mapping[str, Features | npt.NDArray[np.integer[Any]]],
    attributes: Mapping[str, Mapping[str, Any]],
    identity: str,
) -> None:
    """Through a temporary file, fsync and rename, as `manifests.files.atomic_file` does.

    HDF5 also reads what it writes, so that it needs a file of its own.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with _full_disk_told(path), h5py.File(temporary, "w") as h5:
            h5.attrs["uuid"] = identity
            for name, values in arrays.items():
                chunks = (chunk_rows(len(values)), *values.shape[1:])
                made = h5.create_dataset(
                    name, data=values, chunks=chunks, maxshape=(None, *values.shape[1:])
                )
                for key, value in attributes.get(name, {}).items():
                    made.attrs[key] = value
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def _full_disk_told(path: Path) -> Iterator[None]:
    """Say of which file a disk had no room: HDF5 wraps that in a text of its own."""
    full = errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or full[1] in str(error):
            raise OSError(*full) from error
        number = error.errno or errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    except RuntimeError as error:  # of closing a file that could not be written
        if full[1] in str(error):
            raise OSError(*full) from error
        raise


__all__ = ["H5File", "h5_files", "magnification", "read_identity", "write_h5"]
