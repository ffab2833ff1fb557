"""What would happen to a slide, before any work: `histotile inspect`.

Opens each slide, decides on resolution, tissue and tiles as `extract` would, and cuts a few tiles
in memory to estimate size and time. Nothing is written. mpp is µm per pixel, pairs are (x, y).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from manifests.console import printable
from manifests.files import Json
from tiler.encode import TileEncoder
from tiler.errors import TilerError
from tiler.executor import Task
from tiler.extract import SlideJob, Survey, survey_slide
from tiler.pixels import TileCutter
from tiler.plan import TilePlan
from tiler.slides import Slide, open_slide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from tiler.executor import Executor
    from tiler.request import Workload

_SAMPLE_TILES = 8


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one requested resolution would give."""

    mpp_requested: float
    mpp: tuple[float, float]
    """True µm per pixel of the tiles."""
    level: int
    reduce: int
    """Pixels of that level, in x and in y, that decoding makes one of, if it is not exact."""
    scale: tuple[float, float]
    """Pixels of that level per pixel of a tile."""
    scale_error: float
    """Relative difference of true and requested mpp."""
    tiles: int
    megabytes: float
    """Estimated from a few tiles."""
    cpu_minutes: float
    """Estimated from a few tiles, on one CPU."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a slide before any work."""

    id: str
    source: str
    status: str
    """`ok`, or `failed` with a reason."""
    reason: str | None = None
    vendor: str = ""
    reader: str = ""
    pixels: str = ""
    """How pixels are decoded: `direct`, `openslide`, ..."""
    pixels_why: str = ""
    compression: str = ""
    levels: tuple[tuple[int, int], ...] = ()
    """Width and height of each level."""
    mpp: tuple[float, float] | None = None
    mpp_source: str = "none"
    objective_power: float | None = None
    tissue_mm2: float = 0.0
    """Area of the tissue mask."""
    forecasts: tuple[Forecast, ...] = ()
    warnings: tuple[str, ...] = ()


def inspect_slide(job: SlideJob) -> Inspection:
    """Look at one slide; whatever is wrong with it is in the result, never raised."""
    name = job.source.path.name
    facts: dict[str, Json] = {}
    try:
        with open_slide(job.source.path, reader=job.spec.reader, exact=job.spec.exact) as slide:
            facts = _facts(slide)
            survey = survey_slide(slide, job)
            forecasts = tuple(_forecast(slide, plan, job) for plan in survey.plans)
    except TilerError as error:  # of the slide, or of a file of regions that is gone
        return Inspection(job.id, name, "failed", str(error), **facts)
    return Inspection(job.id, name, "ok", **{**facts, **_decisions(survey)}, forecasts=forecasts)


def inspect_all(workload: Workload, executor: Executor) -> list[Inspection]:
    """Look at all slides of a workload, in its order; a slide that kills its reader has failed."""
    jobs = [work.job for work in workload.works if isinstance(work.job, SlideJob)]
    tasks = iter([Task(inspect_slide, job) for job in jobs])
    found = {}
    for outcome in executor.run(lambda: next(tasks, None)):
        job: SlideJob = outcome.task.job
        name = job.source.path.name
        found[job.id] = outcome.result or Inspection(job.id, name, "failed", str(outcome.error))
    return [found[job.id] for job in jobs]


def _facts(slide: Slide) -> dict[str, Json]:
    facts = slide.facts
    return {
        "vendor": facts.vendor,
        "reader": facts.reader,
        "pixels": facts.pixels,
        "pixels_why": facts.pixels_why,
        "compression": facts.compression,
        "levels": tuple((level.width, level.height) for level in facts.levels),
        "mpp": facts.mpp,
        "mpp_source": facts.mpp_source,
        "objective_power": facts.objective_power,
        "warnings": facts.warnings,
    }


def _decisions(survey: Survey) -> dict[str, Json]:
    return {
        "mpp": survey.mpp.mpp,
        "mpp_source": survey.mpp.source,
        "tissue_mm2": round(float(survey.mask.sum()) * (survey.overview.mpp / 1000) ** 2, 3),
        "warnings": survey.warnings,
    }


def _forecast(slide: Slide, plan: TilePlan, job: SlideJob) -> Forecast:
    count = len(plan.l0_xy)
    bytes_per_tile = seconds_per_tile = 0.0
    if count:
        # Neighbours, as in a real shard: they share native tiles.
        start = max(0, count // 2 - _SAMPLE_TILES // 2)
        sample = plan.l0_xy[start : start + _SAMPLE_TILES]
        begun = time.process_time()
        codec, measure = job.spec.codec, job.spec.quality
        native = codec.name == "jpeg"
        cutter = TileCutter(slide, plan.read, plan.tile_size, native=native, pixels=measure)
        encoder = TileEncoder(codec, measure=measure)
        encoded = list(encoder.encode(cutter.cut(sample)))
        encoder.columns()
        seconds_per_tile = (time.process_time() - begun) / len(sample)
        bytes_per_tile = float(np.mean([len(data) for data in encoded]))
    scaled = slide.facts.pixels == "direct" and not job.spec.exact
    return Forecast(
        mpp_requested=plan.read.mpp_requested,
        mpp=plan.read.mpp,
        level=plan.read.level,
        reduce=plan.read.reduce if scaled else 1,
        scale=plan.read.scale,
        scale_error=round(plan.read.scale_error, 6),
        tiles=count,
        megabytes=round(count * bytes_per_tile / 1e6, 2),
        cpu_minutes=round(count * seconds_per_tile / 60, 3),
    )


def inspections_json(inspections: Sequence[Inspection]) -> Json:
    """Inspections for scripts."""
    return {"slides": [asdict(inspection) for inspection in inspections]}


def inspections_table(inspections: Sequence[Inspection]) -> Table:
    """Inspections for people."""
    from rich.table import Table

    table = Table()
    for title in ("slide", "format", "size, levels", "mpp (from)"):
        table.add_column(title, overflow="fold")
    table.add_column("read", overflow="fold")
    for title in ("tiles", "MB", "CPU min"):
        table.add_column(title, justify="right")
    table.add_column("notes", overflow="fold", max_width=60)
    for item in inspections:
        for number, row in enumerate(item.forecasts or (None,)):
            lead = _lead(item) if number == 0 else [""] * 4
            notes = "; ".join(_notes(item)) if number == 0 else ""
            table.add_row(*lead, *_forecast_cells(row), notes)
    return table


def _notes(item: Inspection) -> list[str]:
    """Reason, warnings, and a word on resolutions that give no tile."""
    nothing = [f"{f.mpp_requested:g}" for f in item.forecasts if f.tiles == 0]
    empty = (
        [f"no tile at {', '.join(nothing)} µm/px: too little tissue or too small"]
        if nothing
        else []
    )
    how = [f"pixels {item.pixels}: {item.pixels_why}"] if item.pixels_why else []
    return [*([item.reason] if item.reason else []), *item.warnings, *empty, *how]


def _lead(item: Inspection) -> list[str]:
    kind = f"{item.vendor} ({item.compression})\n{item.pixels}" if item.vendor else "-"
    size = "-"
    if item.levels:
        width, height = item.levels[0]
        size = f"{width} x {height}\n{len(item.levels)} levels"
    mpp = "-" if item.mpp is None else f"{item.mpp[0]:.4g}\n({item.mpp_source})"
    return [printable(item.source), kind, size, mpp]


def _forecast_cells(row: Forecast | None) -> list[str]:
    if row is None:
        return ["-", "-", "-", "-"]
    how = "as is" if row.scale == (1.0, 1.0) else f"/ {row.scale[0]:.4g}"
    how += f" ({row.reduce} while decoding)" if row.reduce > 1 else ""
    read = f"{row.mpp_requested:g}: level {row.level} {how}\nerror {row.scale_error:.2%}"
    return [read, str(row.tiles), f"{row.megabytes:.1f}", f"{row.cpu_minutes:.2f}"]
