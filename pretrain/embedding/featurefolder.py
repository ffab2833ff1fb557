"""The folder that features are written to: whose it is, where each store goes, and what it says.

`.spec.json` says what made the features before there are any, `features.json` when all are there.
The same command on the same folder goes on; one that would mix other features in is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from manifests import Manifest, StoreError
from manifests.files import Json, pretty_json, write_atomic
from manifests.store import open_store
from pretrain.embedding.featureplan import StorePlan
from pretrain.embedding.featurestore import (
    FEATURES_FILE,
    FOLDER_FORMAT,
    VERSION,
    FeatureStore,
)
from pretrain.embedding.featurewriter import FeatureWriter
from pretrain.embedding.settings import ZARR
from pretrain.errors import ConfigError

if TYPE_CHECKING:
    from pretrain.embedding.h5 import H5File

SPEC_FILE = ".spec.json"
WORK_FOLDER = ".work"
_NAMELESS = ("name", "origin")
_DIGITS = 12


class ZarrFolder:
    """A folder with a Zarr store of features for each tile store."""

    layout = ZARR
    pattern = "*.zarr"

    def __init__(self, path: Path, manifest: Manifest, plans: Sequence[StorePlan]) -> None:
        self.path = path
        self.manifest = manifest
        self.plans = tuple(plans)
        self.refused: dict[str, str] = {}
        """Tile stores whose features cannot be written in this layout: id → why."""

    def writer(self, plan: StorePlan) -> FeatureWriter:
        """What writes the chunks of a plan."""
        return FeatureWriter(self.path / f"{plan.id}.zarr", plan)

    def names(self, plan: StorePlan) -> tuple[str, ...]:
        """What a plan puts into the folder."""
        return (f"{plan.id}.zarr",)

    def prepare(self, plan: StorePlan) -> None:
        """Make all ready for the chunks of a plan.

        Raises:
            StoreError: the tile store cannot be opened.
        """
        self.writer(plan).prepare(self.manifest)

    def identity(self, plan: StorePlan) -> str | None:
        """UUID of the plan whose features lie where those of `plan` go; None if there are none."""
        said = self.writer(plan).existing_attributes()
        return None if said is None else str(said.get("uuid"))

    def is_done(self, plan: StorePlan) -> bool:
        """Whether the features of a plan are all there."""
        return self.writer(plan).is_committed()

    def finish(self, plan: StorePlan) -> None:
        """Make of a plan's chunks what readers see."""
        self.writer(plan).commit()

    def describe(self, plan: StorePlan) -> tuple[dict[str, Json], dict[str, list[int]]]:
        """What `features.json` says of a plan's files, and its damaged tiles by resolution."""
        commit, damaged = self.writer(plan).committed()
        return {"features_commit": commit}, damaged


class H5Folder(ZarrFolder):
    """A folder with HDF5 files; chunks lie in a hidden Zarr store until a slide's are all there."""

    layout = "h5"
    pattern = "**/*.h5"

    def __init__(self, path: Path, manifest: Manifest, plans: Sequence[StorePlan]) -> None:
        import h5py  # noqa: F401  # said before anything is computed, where it is not installed

        super().__init__(path, manifest, plans)
        self._is_nested = len({part.group for plan in plans for part in plan.parts}) > 1
        self._names: dict[str, tuple[str, ...]] = {}
        for plan in plans:
            try:
                self._names[plan.id] = tuple(file.name for _, file in self._files(plan))
            except StoreError as error:
                self.refused[plan.id] = str(error)
        self.plans = tuple(plan for plan in plans if plan.id not in self.refused)

    def writer(self, plan: StorePlan) -> FeatureWriter:
        return FeatureWriter(self.path / WORK_FOLDER / f"{plan.id}.zarr", plan)

    def names(self, plan: StorePlan) -> tuple[str, ...]:
        return self._names[plan.id]

    def identity(self, plan: StorePlan) -> str | None:
        from pretrain.embedding.h5 import read_identity

        for name in self.names(plan):
            if (self.path / name).exists():
                found = read_identity(self.path / name)
                return "" if found is None else found[0]
        return super().identity(plan)

    def is_done(self, plan: StorePlan) -> bool:
        from pretrain.embedding.h5 import read_identity

        found = [read_identity(self.path / name) for name in self.names(plan)]
        return all(one is not None and one[0] == plan.uuid for one in found)

    def finish(self, plan: StorePlan) -> None:
        from pretrain.embedding.h5 import write_h5

        writer = self.writer(plan)
        writer.commit()
        store = FeatureStore(writer.path)
        for group, files in groupby(self._files(plan), key=itemgetter(0)):
            write_h5(self.path, (file for _, file in files), store, group, plan.entry)
        writer.remove()

    def describe(self, plan: StorePlan) -> tuple[dict[str, Json], dict[str, list[int]]]:
        from pretrain.embedding.h5 import read_identity

        damaged: dict[str, list[int]] = {part.group: [] for part in plan.parts}
        for group, file in self._files(plan):
            found = read_identity(self.path / file.name)
            damaged[group] += [] if found is None else found[1]
        return {}, {group: sorted(tiles) for group, tiles in damaged.items()}

    def _files(self, plan: StorePlan) -> list[tuple[str, H5File]]:
        from pretrain.embedding.h5 import h5_files

        store = open_store(self.manifest, plan.entry)
        return [
            (part.group, file)
            for part in plan.parts
            for file in h5_files(
                plan, part, store[part.group], f"{part.group}/" if self._is_nested else ""
            )
        ]


def check_folder(folder: ZarrFolder, said: Mapping[str, Json], failed: Collection[str]) -> None:
    """Refuse a folder that holds anything but a part of the features that it should get.

    Args:
        said: what made the features, as in `features.json`.
        failed: ids of tile stores that cannot be read now; features of them may be there.

    Raises:
        ConfigError: it holds something else, or features of another encoder or of other tiles.
    """
    out = folder.path
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is a file; give --out a folder that is new or holds features")
    found = {path.name for path in out.iterdir() if not path.match(".*.tmp")} - {".lock"}
    if not found - {SPEC_FILE}:  # empty, or stopped before there was anything to keep
        return
    before = _said(out)
    if before is None:
        raise ConfigError(f"{out} is in use and holds no features; give --out a folder that is new")
    if different := _difference(before, {**said, "layout": folder.layout}):
        raise ConfigError(f"{out} holds features where {different}: give another --out")
    for plan in folder.plans:
        identity = folder.identity(plan)
        if identity not in (None, plan.uuid):
            raise ConfigError(
                f"{out} holds features of other tiles of {plan.id}, or of another state of its "
                "store: give another --out, or delete them there"
            )
    expected = {name for plan in folder.plans for name in folder.names(plan)}
    strays = {path.relative_to(out).as_posix() for path in out.glob(folder.pattern)} - expected
    for stray in sorted(strays):
        if not any(name in (part, Path(part).stem) for name in failed for part in stray.split("/")):
            raise ConfigError(
                f"{out} holds {stray}, which is not of the tiles that are wanted now: give another "
                "--out, or delete it there"
            )


def begin_folder(folder: ZarrFolder, said: Mapping[str, Json]) -> None:
    """Write what will make the features, before there are any."""
    write_atomic(folder.path / SPEC_FILE, pretty_json({**said, "layout": folder.layout}))


def close_folder(
    folder: ZarrFolder, said: Mapping[str, Json], failed: Collection[str]
) -> dict[str, dict[str, list[int]]]:
    """Write `features.json`; return the damaged tiles, by store and resolution.

    Args:
        said: what made the features, and of which manifest.
        failed: ids of tile stores that there are no features of.
    """
    stores, damaged = [], {}
    for plan in folder.plans:
        if plan.id in failed:
            continue
        files, missing = folder.describe(plan)
        damaged[plan.id] = missing
        stores.append(
            {
                "id": plan.id,
                "uuid": plan.entry.uuid,
                "commit": plan.commit,
                "path": plan.entry.path,
                "files": list(folder.names(plan)),
                **files,
                "groups": {
                    part.group: {"rows": len(part), "damaged": missing[part.group]}
                    for part in plan.parts
                },
            }
        )
    body = {
        "format": FOLDER_FORMAT,
        "version": VERSION,
        "layout": folder.layout,
        **said,
        "stores": stores,
        "failed": sorted(failed),
    }
    write_atomic(folder.path / FEATURES_FILE, pretty_json(body))
    (folder.path / SPEC_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder.path / WORK_FOLDER, ignore_errors=True)
    return damaged


def _said(out: Path) -> dict[str, Json] | None:
    """What a folder says of its features; None if it is not a folder of features."""
    for name in (FEATURES_FILE, SPEC_FILE):
        try:
            found = json.loads((out / name).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and isinstance(found.get("encoder"), dict):
            return found
    return None


def _difference(before: Mapping[str, Json], now: Mapping[str, Json]) -> str | None:
    """In what the features of a folder differ from those that are wanted, in words."""
    for name, flag in (("layout", "--format"), ("dtype", "--dtype"), ("precision", "--precision")):
        if before.get(name) != now[name]:
            return f"{flag} was {before.get(name)} and is {now[name]}"
    old, new = before["encoder"], now["encoder"]
    if old.get("sha256") != new["sha256"]:
        return f"the encoder was {_encoder_text(old)} and is {_encoder_text(new)}"
    if old.get("image_size") != new["image_size"]:
        was, now_is = (one.get("image_size") or "that of the tiles" for one in (old, new))
        return f"--image-size was {was} and is {now_is}"
    differing = [key for key in new if key not in _NAMELESS and old.get(key) != new[key]]
    return f"the encoder's {differing[0]} was another" if differing else None


def _encoder_text(said: Mapping[str, Json]) -> str:
    return f"{said.get('name')} (weights {str(said.get('sha256'))[:_DIGITS]})"


__all__ = [
    "H5Folder",
    "ZarrFolder",
    "begin_folder",
    "check_folder",
    "close_folder",
]
