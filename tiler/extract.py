"""One slide: plan it, cut its shards; `tiler.finish` commits its store.

Each function here is one task: it takes a small picklable job, opens what it needs by path, and
returns a small result, so that any process on any machine can run it, and run it again. What a
task writes depends on the job alone. `l0_` is level-0 pixels, mpp µm per pixel, pairs are (x, y).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.files import Json, remove_temporaries, spec_hash
from manifests.layout import FORMAT_VERSION, STORE_FORMAT, TilesLayout
from manifests.store import is_complete
from manifests.writer import StoreWriter
from tiler.cells import cell_boxes, cells_of, split_shards, tile_work, windows
from tiler.encode import TileEncoder
from tiler.errors import SlideError, UnreadableSlide
from tiler.grid import Ints
from tiler.oddities import oddities
from tiler.options import TileSpec
from tiler.overview import Overview, read_overview
from tiler.pixels import TileCutter
from tiler.plan import (
    ReadPlan,
    SlideMpp,
    TileMask,
    TilePlan,
    plan_read,
    plan_tiles,
    reduced,
    slide_mpp,
)
from tiler.roi import EXCLUDE_CLASSES, Rois, load_rois
from tiler.slides import Slide, SlideFacts, Source, open_slide, source_token

_UUID_NAMESPACE = uuid.UUID("6f1d1a52-3c0e-5d0a-9f0b-6a1c7a6b2e11")


@dataclass(frozen=True, slots=True)
class SlideJob:
    """What a worker has to know of one slide."""

    id: str
    """Name of the store, without `.zarr`."""
    source: Source
    store: Path
    """Where its store goes."""
    spec: TileSpec
    table_mpp: float | None = None
    """µm/px from the slides table."""
    assumed_mpp: float | None = None
    """µm/px for slides that have none."""
    roi: Path | None = None
    """GeoJSON with regions to keep or exclude."""
    roi_exclude: tuple[str, ...] = ()
    """Class names whose regions are excluded, besides the usual ones."""
    roi_digest: str | None = None
    """Hash of those regions."""
    overwrite: bool = False
    """Whether a store begun with another slide may be replaced."""
    pieces: int = 1
    """Tasks that its cutting is best split into; changes nothing in the store."""

    def spec_json(self) -> dict[str, Json]:
        """What the user asked for, as it is hashed and compared on a resume."""
        asked = {**self.spec.to_json(), "roi": self.roi_digest}
        if self.roi is not None and not self.spec.tissue:
            asked["min_roi"] = self.spec.min_tissue  # then a share of the regions
        return asked


@dataclass(frozen=True, slots=True)
class ShardJob:
    """Some shards to cut, one after another: the unit of work."""

    store: Path
    source: Source
    """The slide, or the folder of a packed store's pictures."""
    group: str
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """What is left to do of a store."""

    jobs: tuple[ShardJob, ...]
    cells: int
    """Native cells that its missing tiles are made from."""


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What came of a `ShardJob`."""

    shards: int
    tiles: int
    bytes: int
    decoded: int
    """Native cells that were decoded."""
    unread: int = 0
    """Tiles that could not be read in whole."""
    damage: str | None = None
    """Why, for one of them."""
    native: int = 0
    """Tiles that were kept as the slide holds them."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A slide with everything decided but not a tile cut."""

    facts: SlideFacts
    mpp: SlideMpp
    overview: Overview
    mask: npt.NDArray[np.bool_]
    """Where tiles may lie, bool, shape of the overview."""
    plans: tuple[TilePlan, ...]
    """One per requested mpp."""
    warnings: tuple[str, ...]
    """What a person should know before trusting these tiles."""


def survey_slide(slide: Slide, job: SlideJob) -> Survey:
    """Decide on resolution, tissue and tiles of an open slide.

    Raises:
        SlideError: the slide cannot give what is asked for.
    """
    facts = slide.facts
    mpp = slide_mpp(facts, job.table_mpp, job.assumed_mpp)
    reads = [plan_read(facts.levels, mpp.mpp, value, job.spec) for value in job.spec.mpps]
    overview = read_overview(slide, mpp.mpp)
    if overview.unread.all():
        raise UnreadableSlide(f"not one of its pixels can be read: {overview.damage}")
    mask = _allowed(facts, overview, job)
    everything = not job.spec.tissue and job.roi is None
    where = None if everything else TileMask(mask, overview.l0_per_px)
    plans = tuple(plan_tiles(facts, read, job.spec, where, facts.fingerprint) for read in reads)
    warnings = [*facts.warnings, *oddities(overview.pixels)]
    if job.spec.native and (facts.compression, job.spec.codec.name) != ("jpeg", "jpeg"):
        warnings.append(
            f"its {facts.compression} tiles are encoded anew as {job.spec.codec.name}: only JPEG "
            "tiles can be kept as they are"
        )
    if mpp.warning:
        warnings.append(mpp.warning)
    if job.roi is not None:
        warnings += _rois(facts, job.roi, job.roi_exclude).warnings
    return Survey(facts, mpp, overview, mask, plans, tuple(warnings))


def _allowed(facts: SlideFacts, overview: Overview, job: SlideJob) -> npt.NDArray[np.bool_]:
    shape = overview.pixels.shape[:2]
    mask = np.ones(shape, dtype=np.bool_)
    if job.spec.tissue:
        from tiler.tissue import find_tissue  # a quarter of a second that cutting does without

        found = find_tissue(overview.pixels, overview.mpp, background=facts.background)
        # What nobody has seen may be tissue: its tiles are kept, and marked as unread.
        mask = found.tissue | overview.unread
    if job.roi is not None:
        rois = _rois(facts, job.roi, job.roi_exclude)
        mask = mask & rois.rasterise((shape[0], shape[1]), *overview.l0_per_px)
    return mask


def _rois(facts: SlideFacts, path: Path, exclude: tuple[str, ...]) -> Rois:
    """Regions in level-0 pixels; QuPath counts them from the corner of the scanned part."""
    classes = (*EXCLUDE_CLASSES, *exclude)
    return load_rois(path, classes, origin=(facts.bounds[0], facts.bounds[1]))


def plan_slide(job: SlideJob) -> Planned:
    """Plan a slide's store, or find what is left to do of one that was interrupted.

    Raises:
        SlideError: the slide cannot be used, or is not the one that the store was begun with.
    """
    writer = StoreWriter(job.store)
    remove_temporaries(job.store)
    token = source_token(job.source)
    with open_slide(job.source.path, reader=job.spec.reader, exact=job.spec.exact) as slide:
        if not (writer.is_begun() and _is_plan_of(writer.attributes()["source"], job, token)):
            survey = survey_slide(slide, job)
            _write_plan(writer, job, survey, token)
        facts = slide.facts
    jobs: list[ShardJob] = []
    cells = 0
    for group, layout in writer.layouts().items():
        missing = writer.missing_shards(group)
        if missing:
            runs, count = _tasks(facts, writer, group, layout, missing, job.pieces)
            jobs += [ShardJob(job.store, job.source, group, run) for run in runs]
            cells += count
    return Planned(tuple(jobs), cells)


def _tasks(
    facts: SlideFacts,
    writer: StoreWriter,
    group: str,
    layout: TilesLayout,
    missing: list[int],
    pieces: int,
) -> tuple[list[tuple[int, ...]], int]:
    """Runs of missing shards, and the native cells that these shards are made from."""
    attributes = writer.group_attributes(group)
    read = ReadPlan.from_json(attributes)
    place = reduced(facts.levels[read.level], read.reduce)
    l0_xy = _positions(writer, group)
    boxes = cell_boxes(place, windows(place, read, layout.tile_size, l0_xy).box)
    work = tile_work(layout.tile_size, attributes["stride"], read)
    runs = split_shards(place, boxes, layout.shard_tiles, missing, pieces, work)
    # np.isin would load numpy.ma, which takes longer than all of this.
    counts = np.bincount(missing, minlength=layout.shards)
    wanted = counts.repeat(layout.shard_tiles)[: len(boxes)] > 0
    return runs, len(cells_of(boxes[wanted]))


def _positions(writer: StoreWriter, group: str) -> Ints:
    """Level-0 pixel of the tiles' top-left corners, int32 (N, 2), as planned."""
    columns = [writer.planned_column(group, name) for name in ("x", "y")]
    return np.stack(columns, axis=1).astype(np.int32)


def _is_plan_of(source: Json, job: SlideJob, token: str) -> bool:
    """Whether what a store says of its slide is what it would say now."""
    return bool(source["token"] == token) and same_mpp(source, job.table_mpp, job.assumed_mpp)


def same_mpp(source: Json, table_mpp: float | None, assumed_mpp: float | None) -> bool:
    """Whether a store's mpp is what it would be now."""
    if table_mpp is not None or source["mpp_source"] == "slides table":
        return bool(source["mpp"][0] == table_mpp)
    if source["mpp_source"] == "--assume-mpp":
        return bool(source["mpp"][0] == assumed_mpp)
    return True


def is_finished(job: SlideJob) -> bool:
    """Whether a job's store is complete, and still says what its slide and the user say."""
    if not is_complete(job.store):
        return False
    return _is_plan_of(StoreWriter(job.store).attributes()["source"], job, source_token(job.source))


def _write_plan(writer: StoreWriter, job: SlideJob, survey: Survey, token: str) -> None:
    attributes = store_attributes(job.spec_json(), source_json(survey, token))
    attributes["groups"] = [plan.read.group for plan in survey.plans]
    attributes["warnings"] = list(survey.warnings)
    attributes["overview_l0_per_px"] = list(survey.overview.l0_per_px)
    replace_store(writer, attributes["uuid"], job.overwrite)
    # A file that was touched may have changed where its fingerprint does not look.
    writer.remove_parts()
    writer.plan(
        attributes,
        {plan.read.group: plan.group_plan(job.spec) for plan in survey.plans},
        {"thumbnail": survey.overview.pixels, "tissue_mask": survey.mask},
    )


def replace_store(writer: StoreWriter, new_uuid: str, overwrite: bool) -> None:
    """Make room for a store, if what lies there is another one and may go.

    Raises:
        SlideError: it is another one and may not go.
    """
    if not writer.is_planned() or writer.attributes()["uuid"] == new_uuid:
        return
    if not overwrite:
        raise SlideError(
            f"{writer.path.name} holds tiles of another slide, or of this one before it or its mpp "
            "changed; give another --out, an id in the slides table, or --overwrite"
        )
    shutil.rmtree(writer.path)


def store_attributes(spec: dict[str, Json], source: dict[str, Json]) -> dict[str, Json]:
    """Root attributes of a store: the same slide and spec give the same UUID."""
    digest = spec_hash(spec)
    identity = f"{source['fingerprint']}/{source['mpp']}/{digest}"
    return {
        "format": STORE_FORMAT,
        "version": FORMAT_VERSION,
        "uuid": str(uuid.uuid5(_UUID_NAMESPACE, identity)),
        "spec": spec,
        "spec_hash": digest,
        "source": source,
    }


def source_json(survey: Survey, token: str) -> dict[str, Json]:
    """What a store keeps of its slide: an allow-list, nothing that identifies a person."""
    facts = survey.facts
    return {
        "reader": facts.reader,
        "vendor": facts.vendor,
        "compression": facts.compression,
        "width": facts.levels[0].width,
        "height": facts.levels[0].height,
        "mpp": list(survey.mpp.mpp),
        "mpp_source": survey.mpp.source,
        "objective_power": facts.objective_power,
        "scanner": facts.scanner,
        "bounds": list(facts.bounds),
        "background": list(facts.background),
        "fingerprint": facts.fingerprint,
        "token": token,
    }


def cut_shards(job: ShardJob) -> ShardDone:
    """Read, cut, measure and encode some shards, and write each of them whole.

    Shards that are there are left: of a task that died half-way, what it wrote stays.

    Raises:
        SlideError: the slide is not what it was; the shard at hand is not written then.
        OSError: the disk is full, ...
    """
    writer = StoreWriter(job.store)
    layout = writer.layouts()[job.group]
    attributes = writer.attributes()
    spec, token = attributes["spec"], attributes["source"]["token"]
    shards = sorted(set(job.shards) & set(writer.missing_shards(job.group)))
    if not shards:
        return ShardDone(len(job.shards), 0, 0, 0)
    members = [layout.shard_range(shard) for shard in shards]
    l0_xy = _positions(writer, job.group)
    l0_xy = np.concatenate([l0_xy[part.start : part.stop] for part in members])
    read = ReadPlan.from_json(writer.group_attributes(job.group))
    written = unread = native = 0
    with open_slide(job.source.path, reader=spec["reader"], exact=spec["exact"]) as slide:
        cutter = TileCutter(
            slide,
            read,
            layout.tile_size,
            native=layout.codec.name == "jpeg",
            pixels=spec["quality_columns"],
        )
        tiles = cutter.cut(l0_xy)
        for shard, part in zip(shards, members, strict=True):
            encoder = TileEncoder(layout.codec, measure=spec["quality_columns"])
            encoded = _if_unchanged(encoder.encode(islice(tiles, len(part))), job.source, token)
            written += writer.write_shard(job.group, shard, encoded, encoder.columns)
            unread += encoder.unread
            native += encoder.native
    done = (len(job.shards), len(l0_xy), written, cutter.decoded)
    return ShardDone(*done, unread, cutter.damage, native)


def _if_unchanged(encoded: Iterator[bytes], source: Source, token: str) -> Iterator[bytes]:
    """Yield what is given, and fail at its end if the slide is no more what was planned."""
    yield from encoded
    if source_token(source) != token:
        raise SlideError("the slide changed while it was cut; run again when it is whole")
