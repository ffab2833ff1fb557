"""Inspection: forecasts come true, nothing is written, and bad files are results, not errors."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from manifests.codec import TileCodec
from manifests.console import Display
from manifests.jsonfile import load_manifest
from tests.tiler.fakes import noise
from tiler.executor import Outcome, SerialExecutor, Task
from tiler.extract import SlideJob
from tiler.inspect import (
    Inspection,
    inspect_all,
    inspect_slide,
    inspections_json,
    inspections_table,
)
from tiler.options import TileSpec
from tiler.report import ProgressReporter
from tiler.request import Request, Workload, make_workload
from tiler.run import extract
from tiler.slides import Source
from tiler.synthetic import write_slide

SPEC = TileSpec((0.5, 0.61, 2.0), 64, min_tissue=0.3, shard_tiles=64)


def workload(*paths: Path, out: Path, spec: TileSpec = SPEC, roi: Path | None = None) -> Workload:
    return make_workload(Request(paths, out, spec, roi=roi))


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, stride=40, edge="pad", max_tiles=30),
        replace(SPEC, tissue=False, codec=TileCodec("zstd")),
    ],
    ids=["plain", "overlapping", "lossless"],
)
def test_a_forecast_comes_true(painted_slide: Path, tmp_path: Path, spec: TileSpec) -> None:
    asked = workload(painted_slide, out=tmp_path, spec=spec)
    (found,) = inspect_all(asked, SerialExecutor())
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    extract(asked, tmp_path, SerialExecutor(), ProgressReporter(Display("shards", quiet=True)))
    (entry,) = load_manifest(tmp_path / "manifest.json").stores
    assert (found.status, found.reason, found.source) == ("ok", None, "painted.tif")
    assert len(found.forecasts) == len(entry.resolutions) == 3
    for forecast, made in zip(found.forecasts, entry.resolutions, strict=True):
        assert forecast.tiles == made.tiles > 0
        assert (forecast.level, forecast.scale, forecast.mpp) == (made.level, made.scale, made.mpp)
        assert forecast.scale_error == 0
    megabytes = sum(forecast.megabytes for forecast in found.forecasts)
    assert megabytes == pytest.approx(entry.bytes / 1e6, rel=0.5)
    assert found.warnings == entry.warnings


def test_the_facts_are_those_of_the_slide(painted_slide: Path, tmp_path: Path) -> None:
    (found,) = inspect_all(workload(painted_slide, out=tmp_path), SerialExecutor())
    assert (found.vendor, found.reader, found.compression) == ("generic-tiff", "openslide", "jpeg")
    assert found.levels == ((1024, 768), (256, 192), (64, 48))
    assert (found.mpp, found.mpp_source, found.objective_power) == ((0.5, 0.5), "openslide", None)


def test_the_area_is_that_of_the_mask(painted_slide: Path, tmp_path: Path) -> None:
    ring = [[128, 64], [640, 64], [640, 448], [128, 448]]
    roi = tmp_path / "roi.geojson"
    roi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    asked = workload(painted_slide, out=tmp_path, spec=replace(SPEC, tissue=False), roi=roi)
    (found,) = inspect_all(asked, SerialExecutor())
    assert found.tissue_mm2 == pytest.approx(0.256 * 0.192, abs=0.001)


def text(path: Path, slide: Path) -> None:
    path.write_text("no slide at all")


def empty(path: Path, slide: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path, slide: Path) -> None:
    path.write_bytes(slide.read_bytes()[:20_000])


def header_alone(path: Path, slide: Path) -> None:
    path.write_bytes(slide.read_bytes()[:8])


def damaged(path: Path, slide: Path) -> None:
    data = slide.read_bytes()
    path.write_bytes(data[:1000] + b"\xff" * (len(data) - 5000) + data[-4000:])


def gone(path: Path, slide: Path) -> None:
    path.unlink(missing_ok=True)


def folder(path: Path, slide: Path) -> None:
    path.mkdir()


def without_mpp(path: Path, slide: Path) -> None:
    Image.fromarray(noise(100, 100)).save(path, format="PNG")


def too_coarse(path: Path, slide: Path) -> None:
    write_slide(path, noise(300, 300), 1.0)


@pytest.mark.parametrize(
    "spoil",
    [text, empty, cut_off, header_alone, damaged, gone, folder, without_mpp, too_coarse],
)
def test_a_bad_file_is_a_result(
    painted_slide: Path, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    path = tmp_path / "bad.svs"
    spoil(path, painted_slide)
    job = SlideJob("bad", Source(path, "bad", (path,), "slide"), tmp_path / "bad.zarr", SPEC)
    found = inspect_slide(job)
    assert (found.id, found.source, found.status) == ("bad", "bad.svs", "failed")
    assert found.reason
    assert str(tmp_path) not in found.reason
    assert found.forecasts == ()


def test_what_was_seen_before_the_trouble_is_told(painted_slide: Path, tmp_path: Path) -> None:
    path = tmp_path / "coarse.tif"
    too_coarse(path, painted_slide)
    (found,) = inspect_all(workload(path, out=tmp_path), SerialExecutor())
    assert (found.status, found.levels[0], found.mpp) == ("failed", (300, 300), (1.0, 1.0))
    assert found.reason is not None
    assert "--allow-upsample" in found.reason


def test_regions_that_went_away_are_a_result(painted_slide: Path, tmp_path: Path) -> None:
    source = Source(painted_slide, "painted", (painted_slide,), "slide")
    job = SlideJob("a", source, tmp_path / "a.zarr", SPEC, roi=tmp_path / "gone.geojson")
    found = inspect_slide(job)
    assert found.status == "failed"
    assert "gone.geojson cannot be read" in str(found.reason)


class Dying(SerialExecutor):
    """Runs tasks backwards, and loses the first of them with its worker."""

    def run(self, next_task: Callable[[], Task | None]) -> Iterator[Outcome]:
        tasks = list(iter(next_task, None))
        for task in reversed(tasks):
            if task is tasks[0]:
                yield Outcome(task, error=RuntimeError("the worker died"))
            else:
                yield Outcome(task, task.function(task.job))


def test_a_slide_that_kills_its_reader_has_failed_and_the_order_stays(
    painted_slide: Path, tmp_path: Path
) -> None:
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes(painted_slide.read_bytes())
    found = inspect_all(workload(tmp_path, out=tmp_path), Dying())
    assert [(item.source, item.status) for item in found] == [("a.tif", "failed"), ("b.tif", "ok")]
    assert found[0].reason == "the worker died"


def test_broken_real_slides_are_results(real_data: Path, tmp_path: Path) -> None:
    paths = sorted((real_data / "broken").glob("*.svs"))
    assert len(paths) >= 5
    found = inspect_all(workload(*paths, out=tmp_path), SerialExecutor())
    assert len(found) == len(paths)
    assert all(item.status == "ok" or item.reason for item in found)
    assert {item.status for item in found if "empty" in item.source} == {"failed"}


def rendered(inspections: list[Inspection]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=300, markup=False).print(inspections_table(inspections))
    return stream.getvalue()


def test_a_name_that_would_steer_a_terminal_is_written_out() -> None:
    shown = rendered([Inspection("a", "a\x1b[2J\udcff.svs", "failed", "it is broken")])
    assert r"a\x1b[2J\udcff.svs" in shown
    assert "\x1b" not in shown


def test_tables_and_json_tell_all(painted_slide: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad[bold].svs"
    bad.write_text("no slide")
    found = inspect_all(workload(painted_slide, bad, out=tmp_path / "out"), SerialExecutor())
    shown = rendered(found)
    for item in found:
        assert item.source in shown
        for forecast in item.forecasts:
            assert f"{forecast.mpp_requested:g}: level {forecast.level}" in shown
            assert f" {forecast.tiles} " in shown
    assert "0.5: level 0 as is" in shown
    assert "0.61: level 0 / 1.22" in shown
    assert "2: level 1 as is" in shown
    assert str(found[0].reason) in shown
    data = json.loads(json.dumps(inspections_json(found)))["slides"]
    assert [slide["source"] for slide in data] == ["bad[bold].svs", "painted.tif"]
    assert [f["tiles"] for f in data[1]["forecasts"]] == [f.tiles for f in found[1].forecasts]
