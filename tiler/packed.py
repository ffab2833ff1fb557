"""Folders of ready-made tiles: all pictures below one folder, cut into one packed store.

Each picture is a one-level slide; `x` and `y` are pixels of that picture, and the column `source`
says which picture (an index into `sources.json`). Somebody has chosen these pictures already, so
no tissue filter applies; the column `tissue` is measured on each tile instead. A picture that
cannot be decoded is found while planning and is listed with its reason, not stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.files import Json, canonical_json, remove_temporaries
from manifests.layout import TilesLayout
from manifests.store import is_complete
from manifests.writer import GroupPlan, StoreWriter
from tiler.encode import TileEncoder
from tiler.errors import SlideError
from tiler.extract import Planned, ShardDone, ShardJob, replace_store, store_attributes
from tiler.grid import make_grid
from tiler.options import TileSpec
from tiler.pixels import CutTile, TileCutter
from tiler.plan import ReadPlan, plan_read
from tiler.slides import Slide, Source, open_slide, source_token
from tiler.slides.base import Level, Rgb, SlideFacts, mpp_problem
from tiler.tissue import find_tissue

_MPP_CONTRADICTS = 0.02
"""Relative difference of a picture's own mpp from the given one that is worth a word."""


_ROUNDING = 1e-6
"""Share of a tile by which the ratio of two mpp may be off."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a packed store."""

    name: str
    """Path relative to the folder, POSIX."""
    label: int | None = None
    """Index into the job's labels."""
    columns: dict[str, str] = field(default_factory=dict)
    """What the slides table says of it beyond the store's own fields."""

    def to_json(self) -> dict[str, Json]:
        """Entry in `sources.json`."""
        return {"name": self.name, **({"columns": self.columns} if self.columns else {})}


@dataclass(frozen=True, slots=True)
class PackedJob:
    """A packed store to plan."""

    id: str
    source: Source
    """The folder, with the files of the pictures."""
    pictures: tuple[Picture, ...]
    labels: tuple[str, ...]
    """Class names."""
    store: Path
    spec: TileSpec
    mpp: float
    """µm per pixel of the pictures."""
    mpp_source: str
    overwrite: bool = False
    """Whether a store begun with other pictures may be replaced."""

    def spec_json(self) -> dict[str, Json]:
        """What the user asked for, as it is hashed and compared on a resume."""
        listed = [[p.name, p.label, p.columns] for p in self.pictures]
        digest = hashlib.sha256(canonical_json([listed, self.labels])).hexdigest()
        return {**self.spec.to_json(), "min_tissue": None, "mpp": self.mpp, "pictures": digest}


def is_packed(job: PackedJob) -> bool:
    """Whether a job's store is complete, and its pictures are still what they were."""
    if not is_complete(job.store):
        return False
    source = StoreWriter(job.store).attributes()["source"]
    return bool(source["token"] == source_token(job.source))


@dataclass(frozen=True, slots=True)
class _Surveyed:
    picture: Picture
    facts: SlideFacts


def plan_packed(job: PackedJob) -> Planned:
    """Plan a packed store, or find what is left to do of one that was interrupted.

    Raises:
        SlideError: not one picture can be read, or the mpp is not believable.
    """
    writer = StoreWriter(job.store)
    remove_temporaries(job.store)
    token = source_token(job.source)
    if not (writer.is_begun() and writer.attributes()["source"]["token"] == token):
        _write_plan(writer, job, token)
    # Without the list of files: a job should stay small.
    folder = replace(job.source, files=())
    jobs = [
        ShardJob(job.store, folder, group, (shard,))
        for group in writer.attributes()["groups"]
        for shard in writer.missing_shards(group)
    ]
    # Pictures have no native tiles to count.
    return Planned(tuple(jobs), 0)


def _part(layout: TilesLayout, shard: int) -> slice:
    members = layout.shard_range(shard)
    return slice(members.start, members.stop)


def _write_plan(writer: StoreWriter, job: PackedJob, token: str) -> None:
    problem = mpp_problem(job.mpp, job.mpp)
    if problem is not None:
        raise SlideError(f"{problem}; give the pictures' true µm per pixel")
    good, failed = _survey(job)
    if not good:
        name, reason = next(iter(failed.items()))
        raise SlideError(f"none of {len(job.pictures)} pictures can be read; {name}: {reason}")
    source = _source_json(job, good, token)
    attributes = store_attributes(job.spec_json(), source)
    level = (Level(1, 1, 1.0, 1.0, 1, 1),)
    wanted = job.spec.mpps or (job.mpp,)
    reads = [plan_read(level, (job.mpp, job.mpp), requested, job.spec) for requested in wanted]
    groups = {read.group: _plan_group(job, good, read) for read in reads}
    replace_store(writer, attributes["uuid"], job.overwrite)
    attributes["groups"] = list(groups)
    attributes["labels"] = list(job.labels)
    attributes["failed_sources"] = failed
    attributes["warnings"] = _warnings(job, good, failed, reads)
    writer.plan(attributes, groups, {}, [item.picture.to_json() for item in good])


def _survey(job: PackedJob) -> tuple[list[_Surveyed], dict[str, str]]:
    """Open and decode every picture once; return the good ones and why the others are not."""
    good: list[_Surveyed] = []
    failed: dict[str, str] = {}
    for picture in job.pictures:
        try:
            with open_slide(job.source.path / picture.name) as slide:
                _decode(slide)
                good.append(_Surveyed(picture, slide.facts))
        except SlideError as error:
            failed[picture.name] = str(error)
    return good, failed


def _decode(slide: Slide) -> None:
    """Read every cell of a picture: damage is to be found before the store is planned."""
    level = slide.facts.levels[0]
    for row in range(-(-level.height // level.cell_height)):
        for column in range(-(-level.width // level.cell_width)):
            slide.read_cell(0, column, row)


def _source_json(job: PackedJob, good: list[_Surveyed], token: str) -> dict[str, Json]:
    digest = hashlib.sha256()
    for item in good:
        digest.update(f"{item.facts.fingerprint} {item.picture.label}\n".encode())
    kinds = sorted({item.facts.vendor for item in good})
    return {
        "reader": "pictures",
        "vendor": "+".join(kinds),
        "compression": "+".join(sorted({item.facts.compression for item in good})),
        "width": 0,
        "height": 0,
        "mpp": [job.mpp, job.mpp],
        "mpp_source": job.mpp_source,
        "objective_power": None,
        "scanner": None,
        "pictures": len(good),
        "fingerprint": f"pictures1:{digest.hexdigest()}",
        "token": token,
    }


def _plan_group(job: PackedJob, good: list[_Surveyed], read: ReadPlan) -> GroupPlan:
    spec = job.spec
    positions, sources, dropped = [], [], 0
    for index, item in enumerate(good):
        level = item.facts.levels[0]
        extent = (float(level.width), float(level.height))
        grid = make_grid((0.0, 0.0), extent, read.l0_per_px, spec.tile_size, spec.step, spec.edge)
        xy = grid.l0_positions(*grid.cells())
        positions.append(xy)
        sources.append(np.full(len(xy), index, dtype=np.int32))
        dropped += grid.dropped_at_edge
    l0_xy, source = np.concatenate(positions), np.concatenate(sources)
    columns: dict[str, npt.NDArray[np.generic]] = {
        "x": l0_xy[:, 0],
        "y": l0_xy[:, 1],
        "source": source,
    }
    if job.labels:
        label = [-1 if item.picture.label is None else item.picture.label for item in good]
        columns["label"] = np.asarray(label, dtype=np.int32)[source]
    return GroupPlan(
        layout=TilesLayout(len(l0_xy), spec.tile_size, spec.shard_tiles, spec.codec),
        attributes={**read.to_json(), "stride": spec.step, "dropped": {"edge": dropped}},
        columns=columns,
    )


def _warnings(
    job: PackedJob, good: list[_Surveyed], failed: dict[str, str], reads: list[ReadPlan]
) -> list[str]:
    found = [f"{len(failed)} of {len(job.pictures)} pictures cannot be read"] if failed else []
    other = [
        g for g in good if g.facts.mpp and abs(g.facts.mpp[0] / job.mpp - 1) > _MPP_CONTRADICTS
    ]
    if other and other[0].facts.mpp:
        found.append(
            f"{len(other)} of {len(good)} pictures say another µm per pixel than the {job.mpp:g} "
            f"that was given, {other[0].picture.name} for one {other[0].facts.mpp[0]:.4g}"
        )
    for read in reads if job.spec.edge == "drop" else ():
        needed = job.spec.tile_size * read.l0_per_px[0] * (1 - _ROUNDING)
        levels = [g.facts.levels[0] for g in good]
        if small := sum(min(level.width, level.height) < needed for level in levels):
            found.append(
                f"{small} of {len(good)} pictures are smaller than a tile of "
                f"{job.spec.tile_size} px at {read.mpp[0]:g} µm/px and give none; "
                "--edge pad keeps them, or ask for a smaller --tile-size"
            )
    return found


def cut_packed_shards(job: ShardJob) -> ShardDone:
    """Cut, measure and encode some shards of a packed store, and write each of them whole."""
    done = [_cut_shard(job, shard) for shard in job.shards]
    return ShardDone(
        shards=len(done),
        tiles=sum(part.tiles for part in done),
        bytes=sum(part.bytes for part in done),
        decoded=sum(part.decoded for part in done),
        unread=sum(part.unread for part in done),
        damage=next((part.damage for part in done if part.damage), None),
    )


def _cut_shard(job: ShardJob, shard: int) -> ShardDone:
    writer = StoreWriter(job.store)
    layout, spec = writer.layouts()[job.group], writer.attributes()["spec"]
    part = _part(layout, shard)
    x, y, source = (writer.planned_column(job.group, c)[part] for c in ("x", "y", "source"))
    read = ReadPlan.from_json(writer.group_attributes(job.group))
    names = [entry["name"] for entry in writer.sources()]
    tissue: list[float] = []
    decoded, damage = 0, None

    def tiles() -> Iterator[CutTile]:
        nonlocal decoded, damage
        for index in dict.fromkeys(source.tolist()):
            mine = source == index
            with open_slide(job.source.path / names[index], exact=spec["exact"]) as slide:
                cutter = TileCutter(slide, read, layout.tile_size)
                for tile in cutter.cut(np.stack([x[mine], y[mine]], axis=1).astype(np.int32)):
                    assert tile.pixels is not None, "asked for pixels"
                    tissue.append(_tissue(tile.pixels, read.mpp[0]))
                    yield tile
                decoded += cutter.decoded
                damage = damage or cutter.damage

    encoder = TileEncoder(layout.codec, measure=spec["quality_columns"])

    def columns() -> dict[str, npt.NDArray[np.generic]]:
        return {**encoder.columns(), "tissue": np.asarray(tissue, dtype=np.float32)}

    written = writer.write_shard(job.group, shard, encoder.encode(tiles()), columns)
    return ShardDone(1, len(x), written, decoded, encoder.unread, damage)


def _tissue(tile: Rgb, mpp: float) -> float:
    """Share of a tile that is tissue, judged on the tile alone."""
    return float(find_tissue(tile, mpp).tissue.mean())
