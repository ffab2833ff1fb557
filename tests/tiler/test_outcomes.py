"""Outcomes: the manifest's entries, and failures without the folders that things lie in."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Selection
from manifests.store import TileStore
from manifests.tileset import TileSet
from tiler.errors import PixelReadError, TilerError
from tiler.extract import SlideJob, cut_shards, plan_slide
from tiler.finish import FinishJob, finish_store
from tiler.options import TileSpec
from tiler.outcomes import (
    FAILURES_FILE,
    MANIFEST_FILE,
    Failure,
    entry_of,
    failure_of,
    load_entries,
    write_outcomes,
)
from tiler.request import Work
from tiler.slides import Source
from tiler.synthetic import write_slide

SPEC = TileSpec((0.5, 1.0), 64, shard_tiles=64)


def work_on(
    slide: Path, out: Path, name: str = "a", spec: TileSpec = SPEC, roi: Path | None = None
) -> Work:
    source = Source(slide, slide.stem, (slide,), "slide")
    job = SlideJob(name, source, out / f"{name}.zarr", spec, roi=roi)
    return Work(job, slide.name, {"organ": "lung", "patient": "p1"}, {"age": "61"})


def cut(work: Work) -> TileStore:
    assert isinstance(work.job, SlideJob)
    for shard in plan_slide(work.job).jobs:
        cut_shards(shard)
    finish_store(FinishJob(work.job.id, work.job.store, None))
    return TileStore(work.job.store)


def raised(error: BaseException, cause: BaseException | None = None) -> tuple[BaseException, str]:
    """An error that was raised, and its traceback as text."""
    try:
        raise error from cause
    except type(error) as caught:
        return caught, "".join(traceback.format_exception(caught))


Saying = Callable[[Path, Path], BaseException]
"""From the slide and the output folder to an error that names them."""

SAYINGS: dict[str, Saying] = {
    "slide": lambda slide, out: PixelReadError(f"{slide} cannot be read"),
    "real slide": lambda slide, out: TilerError(f"{slide.resolve()}: nothing there"),
    "folder": lambda slide, out: PermissionError(13, "Permission denied", str(slide.parent)),
    "sentence": lambda slide, out: RuntimeError(f"cannot list {slide.parent}."),
    "url": lambda slide, out: RuntimeError(f"file://{slide} is gone"),
    "store": lambda slide, out: OSError(28, "No space left", str(out / "a.zarr" / "0.5")),
    "output": lambda slide, out: OSError(28, "No space left", str(out)),
    "regions": lambda slide, out: TilerError(f"{slide.parent.parent}/rois/a.json is no GeoJSON"),
}


@pytest.mark.parametrize("saying", SAYINGS.values(), ids=SAYINGS)
@pytest.mark.parametrize("linked", [False, True], ids=["real path", "link"])
def test_failures_hold_no_folder_of_slide_or_output(
    tmp_path: Path, saying: Saying, linked: bool
) -> None:
    root = tmp_path / "Mrs Doe"
    root.mkdir()
    if linked:
        (tmp_path / "link").symlink_to(root)
        root = tmp_path / "link"
    slide, out = root / "in" / "a.svs", root / "out"
    for folder in (slide.parent, out):
        folder.mkdir()
    error, trace = raised(saying(slide, out), OSError(5, "Input/output error", str(slide)))
    work = work_on(slide, out, roi=root / "rois" / "a.json")
    failure = failure_of(work, error, trace)
    for text in (failure.reason, failure.traceback):
        assert "Doe" not in text
        assert str(tmp_path) not in text
    assert (failure.id, failure.source) == ("a", "a.svs")
    assert str(Path(__file__).parent) not in failure.traceback
    assert 'File "…/tiler/test_outcomes.py", line' in failure.traceback


def test_a_relative_folder_is_cut_off_where_a_path_begins_only(tmp_path: Path) -> None:
    work = work_on(Path("slides/a.svs"), Path("out"))
    trace = 'File "/x/y/tiler/slides/base.py", line 1\n  slides/a.svs and my-slides/a.svs'
    failure = failure_of(work, PixelReadError("slides/a.svs ends too soon"), trace)
    assert failure.reason == "a.svs ends too soon"
    assert failure.traceback == 'File "…/slides/base.py", line 1\n  a.svs and my-slides/a.svs'


@pytest.mark.parametrize(
    ("path", "said", "told"),
    [
        ("/d/Doe.svs", "Doe.svs: /d/Doe.svs is 'Doe.svs'.", "case-1: case-1 is 'case-1'."),
        ("/d/7", "tile 17 of /d/7/7.dcm, 0.7 of 7.0", "tile 17 of case-1/7.dcm, 0.7 of 7.0"),
        (".", "no tile fits", "no tile fits"),
    ],
)
def test_an_id_hides_the_name_of_the_file(path: str, said: str, told: str) -> None:
    work = replace(work_on(Path(path), Path("/out"), "case-1"), source_name="case-1")
    failure = failure_of(work, PixelReadError(said), said)
    assert (failure.source, failure.reason, failure.traceback) == ("case-1", told, told)


def test_a_folder_with_the_slides_folders_name_at_its_start_is_another() -> None:
    work = work_on(Path("/data/set/a.svs"), Path("/out"))
    failure = failure_of(work, TilerError("/data/set2/b.svs and /data/set-3"), "")
    assert failure.reason == "/data/set2/b.svs and /data/set-3"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PixelReadError("the tile\n  is gone"), "the tile is gone"),
        (TilerError("no regions"), "no regions"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (MemoryError(), "MemoryError:"),
        (PixelReadError(""), "PixelReadError"),
    ],
)
def test_the_reason_is_one_line_and_never_empty(error: BaseException, reason: str) -> None:
    assert failure_of(work_on(Path("/d/a.svs"), Path("/o")), error, "").reason == reason


@pytest.fixture(scope="module")
def store(painted_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, TileStore]:
    work = work_on(painted_slide, tmp_path_factory.mktemp("out"))
    return work, cut(work)


def test_an_entry_says_what_its_store_says(store: tuple[Work, TileStore]) -> None:
    work, cut_store = store
    entry = entry_of(work)
    assert (entry.id, entry.status, entry.source) == ("a", "done", "painted.tif")
    assert (entry.path, entry.packed, entry.reason) == ("a.zarr", False, None)
    assert (entry.organ, entry.patient, entry.stain) == ("lung", "p1", None)
    assert entry.columns == {"age": "61"}
    assert entry.tiles == sum(len(cut_store[group]) for group in cut_store.groups) > 50
    for resolution in entry.resolutions:
        group = cut_store[resolution.group]
        assert (resolution.tiles, resolution.tile_size) == (len(group), 64)
        assert resolution.mpp == group.mpp == (resolution.mpp_requested,) * 2
        assert (resolution.level, resolution.scale[0]) == (0, resolution.mpp_requested / 0.5)
    assert entry.slide is not None
    assert (entry.slide.width, entry.slide.height, entry.slide.mpp) == (1024, 768, (0.5, 0.5))
    files = [path for path in cut_store.path.rglob("*") if path.is_file()]
    commit = (cut_store.path / "commit.json").stat().st_size
    assert entry.bytes == sum(path.stat().st_size for path in files) - commit
    grid = 16 * 12 + 8 * 6
    assert entry.tiles + sum(entry.dropped.values()) == grid


def test_a_store_holds_no_folder_of_its_slide(
    store: tuple[Work, TileStore], painted_slide: Path
) -> None:
    _, cut_store = store
    for path in cut_store.path.rglob("*.json"):
        text = path.read_text("utf-8")
        assert str(painted_slide.parent) not in text
        assert str(cut_store.path.parent) not in text


GLASS = np.full((768, 1024, 3), 243, dtype=np.uint8)


@pytest.mark.parametrize(
    ("tile_size", "reason"),
    [
        (64, "no tile has enough tissue: all 192 grid positions were dropped"),
        (
            2048,
            "no tile of 2048 px at 0.5 µm/px fits into 1024 x 768 px; "
            "--edge pad keeps cut-off tiles",
        ),
    ],
)
def test_an_empty_store_says_why(tmp_path: Path, tile_size: int, reason: str) -> None:
    write_slide(tmp_path / "glass.tif", GLASS, 0.5)
    work = work_on(tmp_path / "glass.tif", tmp_path, spec=TileSpec((0.5,), tile_size))
    cut(work)
    entry = entry_of(work)
    assert (entry.status, entry.tiles, entry.reason) == ("empty", 0, reason)


@pytest.mark.parametrize(
    ("tissue", "found"), [(True, "has enough tissue"), (False, "lies far enough")]
)
def test_a_store_that_regions_made_empty_says_so(tmp_path: Path, tissue: bool, found: str) -> None:
    write_slide(tmp_path / "glass.tif", GLASS, 0.5)
    ring = [[9000, 9000], [9900, 9000], [9900, 9900], [9000, 9000]]
    roi = tmp_path / "roi.json"
    roi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    work = work_on(tmp_path / "glass.tif", tmp_path, spec=TileSpec((0.5,), 64, tissue=tissue))
    assert isinstance(work.job, SlideJob)
    work = replace(work, job=replace(work.job, roi=roi, roi_digest="0" * 64))
    cut(work)
    reason = entry_of(work).reason
    assert reason == f"no tile {found} inside the regions: all 192 grid positions were dropped"


def failed(work: Work, reason: str = "it is broken") -> Failure:
    return Failure(work.job.id, work.source_name, reason, "Traceback …")


def failures(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / FAILURES_FILE).read_bytes())["failures"]
    return found


def statuses(out: Path) -> dict[str, str]:
    return {entry.id: entry.status for entry in load_manifest(out / MANIFEST_FILE).stores}


class TestWriting:
    @pytest.fixture
    def works(self, tmp_path: Path) -> list[Work]:
        return [work_on(tmp_path / f"{name}.svs", tmp_path, name) for name in "abc"]

    def test_a_failed_slide_is_listed_with_what_is_known_of_it(
        self, tmp_path: Path, works: list[Work]
    ) -> None:
        write_outcomes(tmp_path, works[:1], {"a": "failed"}, [failed(works[0])])
        (entry,) = load_manifest(tmp_path / MANIFEST_FILE).stores
        assert (entry.status, entry.reason, entry.path) == ("failed", "it is broken", None)
        assert (entry.organ, entry.patient, entry.columns) == ("lung", "p1", {"age": "61"})
        assert failures(tmp_path) == [asdict(failed(works[0]))]

    def test_a_store_is_listed_from_what_lies_on_disk(self, store: tuple[Work, TileStore]) -> None:
        work, cut_store = store
        out = cut_store.path.parent
        write_outcomes(out, [work], {"a": "done"}, [])
        assert load_entries(out, {"a"}) == [entry_of(work)]
        assert load_entries(out, {"b"}) == []
        assert failures(out) == []

    def test_what_was_said_since_stays_where_the_run_says_nothing(
        self, store: tuple[Work, TileStore]
    ) -> None:
        work, cut_store = store
        out = cut_store.path.parent
        write_outcomes(out, [work], {"a": "done"}, [])
        manifest = load_manifest(out / MANIFEST_FILE)
        (cut,) = (entry for entry in manifest.stores if entry.id == "a")
        chosen = Selection(({"where": "x"},), {cut.resolutions[0].group: TileSet.of([1])})
        more: dict[str, Any] = {
            "site": "B",
            "columns": {"batch": "7"},
            "split": "test",
            "selection": chosen,
        }
        known: dict[str, Any] = {**more, "organ": "colon", "extra": {"x-shelf": 3}}
        save_manifest(replace(manifest, stores=(replace(cut, **known),)), out / MANIFEST_FILE)
        write_outcomes(out, [work], {"a": "done"}, [])
        (again,) = load_entries(out, {"a"})
        kept: dict[str, Any] = {
            **more,
            "columns": {**cut.columns, "batch": "7"},
            "extra": {"x-shelf": 3},
        }
        assert again == replace(cut, **kept)
        assert again.organ == cut.organ == "lung"
        other = replace(cut, uuid="00000000-0000-0000-0000-000000000000", **known)
        save_manifest(replace(manifest, stores=(other,)), out / MANIFEST_FILE)
        write_outcomes(out, [work], {"a": "done"}, [])
        assert load_entries(out, {"a"}) == [replace(cut, extra={"x-shelf": 3})]

    def test_slides_of_earlier_runs_stay(self, tmp_path: Path, works: list[Work]) -> None:
        a, b, _ = works
        write_outcomes(tmp_path, [a], {"a": "failed"}, [failed(a)])
        write_outcomes(tmp_path, [b], {"b": "failed"}, [failed(b, "another reason")])
        assert statuses(tmp_path) == {"a": "failed", "b": "failed"}
        assert [f["reason"] for f in failures(tmp_path)] == ["it is broken", "another reason"]

    def test_a_slide_that_fails_again_has_its_new_reason_once(
        self, tmp_path: Path, works: list[Work]
    ) -> None:
        for reason in ("one", "two"):
            write_outcomes(tmp_path, works[:1], {"a": "failed"}, [failed(works[0], reason)])
        assert [f["reason"] for f in failures(tmp_path)] == ["two"]
        assert [e.reason for e in load_manifest(tmp_path / MANIFEST_FILE).stores] == ["two"]

    def test_a_slide_that_a_stopped_run_did_not_reach_stays_as_it_was(
        self, tmp_path: Path, works: list[Work]
    ) -> None:
        a, b, c = works
        write_outcomes(tmp_path, [a, b], dict.fromkeys("ab", "failed"), [failed(a), failed(b)])
        write_outcomes(tmp_path, [a, b, c], {"a": "failed"}, [failed(a, "again")])
        assert statuses(tmp_path) == {"a": "failed", "b": "failed"}
        assert [f["reason"] for f in failures(tmp_path)] == ["again", "it is broken"]

    @pytest.mark.parametrize("spoilt", ["", "{}", "[]", '{"failures": [{}]}', '{"failures": 1}'])
    def test_a_spoilt_list_of_failures_does_not_stop_a_run(
        self, tmp_path: Path, works: list[Work], spoilt: str
    ) -> None:
        (tmp_path / FAILURES_FILE).write_text(spoilt)
        write_outcomes(tmp_path, works[:1], {"a": "failed"}, [failed(works[0])])
        assert [f["id"] for f in failures(tmp_path)] == ["a"]

    def test_the_order_of_the_work_does_not_show(self, tmp_path: Path, works: list[Work]) -> None:
        written = []
        for order in (works, works[::-1]):
            for name in (MANIFEST_FILE, FAILURES_FILE):
                (tmp_path / name).unlink(missing_ok=True)
            write_outcomes(
                tmp_path, order, dict.fromkeys("abc", "failed"), [failed(work) for work in order]
            )
            written.append([(tmp_path / n).read_bytes() for n in (MANIFEST_FILE, FAILURES_FILE)])
        assert written[0] == written[1]
