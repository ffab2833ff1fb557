"""Runs over many slides: how each ends, what is kept, what is refused, what continues."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests import Manifest, ManifestError, StoreError, TileStore, load_manifest, save_manifest
from manifests.codec import TileCodec
from manifests.slidetable import Row, SlidesTable
from manifests.writer import StoreWriter
from tiler import run
from tiler.errors import OutputBusy, SpecMismatch, TilerError
from tiler.executor import SerialExecutor
from tiler.extract import ShardDone
from tiler.options import TileSpec
from tiler.outfolder import DiskFull, locked
from tiler.request import Request, make_workload
from tiler.run import RunResult, extract
from tiler.synthetic import paint, write_slide

SPEC = TileSpec((0.5,), shard_tiles=8, codec=TileCodec("jpeg"))


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.endings: dict[str, tuple[str, str | None]] = {}
        self.skipped = 0
        self.shards = 0

    def started(self, slides: int, skipped: int) -> None:
        self.skipped = skipped

    def planned(self, shards: int) -> None:
        pass

    def shard_done(self, done: ShardDone) -> None:
        self.shards += 1

    def ended(self, name: str, status: str, reason: str | None) -> None:
        self.endings[name] = (status, reason)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slide with tissue; some 15 tiles at 0.5 µm/px."""
    path = tmp_path_factory.mktemp("slides") / "tissue.tif"
    write_slide(path, paint("he", 1536, 1280, 7), 0.5)
    return path


def blank(path: Path) -> Path:
    write_slide(path, np.full((1024, 1024, 3), 243, dtype=np.uint8), 0.5)
    return path


def go(
    paths: Sequence[Path], out: Path, spec: TileSpec = SPEC, **more: Any
) -> tuple[RunResult, Silent, Manifest]:
    out.mkdir(exist_ok=True)
    preview = bool(more.pop("preview", False))
    request = replace(Request(tuple(paths), out, spec), **more)
    reporter = Silent()
    result = extract(
        make_workload(request),
        out,
        SerialExecutor(),
        reporter,
        overwrite=request.overwrite,
        preview=preview,
    )
    return result, reporter, load_manifest(out)


def entry(manifest: Manifest, name: str) -> dict[str, object]:
    found = next(item for item in manifest.stores if item.id == name)
    return {"status": found.status, "reason": found.reason, "tiles": found.tiles}


def test_each_slide_ends_as_done_empty_or_failed_with_a_reason_in_manifest_and_failures(
    slide: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"II*\0no slide")
    paths = [slide, blank(tmp_path / "blank.tif"), broken]
    result, reporter, manifest = go(paths, tmp_path / "out")
    assert result.statuses == {"tissue": "done", "blank": "empty", "broken": "failed"}
    assert result.exit_code == 3
    assert entry(manifest, "blank")["status"] == "empty"
    assert "tissue" in str(entry(manifest, "blank")["reason"])
    reason = entry(manifest, "broken")["reason"]
    assert reason
    assert reporter.endings["broken"] == ("failed", reason)
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())["failures"]
    assert [(f["id"], f["source"], f["reason"]) for f in failures] == [
        ("broken", "broken.svs", reason)
    ]
    assert "Traceback" in failures[0]["traceback"]
    assert not (tmp_path / "out" / "broken.zarr").exists()


def test_none_succeeded_is_exit_4_and_an_empty_slide_is_no_failure(tmp_path: Path) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"")
    assert go([broken], tmp_path / "a")[0].exit_code == 4
    assert go([blank(tmp_path / "blank.tif")], tmp_path / "b")[0].exit_code == 0


def test_a_second_run_keeps_finished_stores_and_writes_the_same_manifest(
    slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go([slide], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.zarr/**/*")}
    manifest = (out / "manifest.json").read_bytes()
    result, reporter, _ = go([slide], out)
    assert (result.skipped, result.tiles, reporter.shards) == (1, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.zarr/**/*")} == before
    assert (out / "manifest.json").read_bytes() == manifest


def test_a_half_finished_store_continues_at_the_first_missing_shard(
    slide: Path, tmp_path: Path
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    go([slide], whole)

    class Interrupted(Silent):
        def shard_done(self, done: ShardDone) -> None:
            raise KeyboardInterrupt

    half.mkdir()
    workload = make_workload(Request((slide,), half, SPEC))
    with pytest.raises(KeyboardInterrupt):
        extract(workload, half, SerialExecutor(), Interrupted())
    assert load_manifest(half).stores == ()
    with pytest.raises(StoreError, match="not committed"):
        TileStore(half / "tissue.zarr")
    missing = StoreWriter(half / "tissue.zarr").missing_shards("0.5")
    assert 0 not in missing
    _, reporter, _ = go([slide], half)
    assert reporter.shards == len(missing)
    assert contents(half) == contents(whole)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_temporary_files_of_a_killed_run_are_gone_after_the_next(
    slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go([slide], out)
    leftovers = [out / ".manifest.json.0a.tmp", out / "tissue.zarr/0.5/tiles/.c.0.0.0.0.1b.tmp"]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    go([slide], out)
    assert not any(leftover.exists() for leftover in leftovers)


def test_other_settings_are_refused_with_both_shown_and_nothing_is_touched(
    slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go([slide], out)
    before = contents(out)
    with pytest.raises(SpecMismatch) as caught:
        go([slide], out, replace(SPEC, tile_size=128))
    assert "tile_size 256" in str(caught.value)
    assert "tile_size 128" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert contents(out) == before


def test_overwrite_cuts_anew_what_was_cut_otherwise_and_keeps_the_rest(
    slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go([slide], out)
    result, _, manifest = go([slide], out, replace(SPEC, tile_size=128), overwrite=True)
    assert result.statuses == {"tissue": "done"}
    assert manifest.stores[0].resolutions[0].tile_size == 128
    assert TileStore(out / "tissue.zarr")["0.5"].tile_size == 128
    again, _, _ = go([slide], out, replace(SPEC, tile_size=128), overwrite=True)
    assert again.skipped == 1


def test_a_slide_that_was_touched_is_cut_again_to_the_same_bytes(
    slide: Path, tmp_path: Path
) -> None:
    copy, out = tmp_path / "copy.tif", tmp_path / "out"
    shutil.copy(slide, copy)
    go([copy], out)
    shards = {path: path.read_bytes() for path in out.rglob("tiles/c.*")}
    os.utime(copy, (1, 1))
    result, _, _ = go([copy], out)
    assert result.statuses == {"copy": "done"}
    assert result.tiles > 0
    assert {path: path.read_bytes() for path in out.rglob("tiles/c.*")} == shards
    assert go([copy], out)[0].skipped == 1


def test_another_slide_under_the_same_name_fails_unless_overwritten(
    slide: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "out"
    shutil.copy(slide, path)
    go([path], out)
    before = contents(out / "a.zarr")
    write_slide(path, paint("dab", 1536, 1280, 8), 0.5)
    result, reporter, _ = go([path], out)
    assert result.exit_code == 4
    assert "another slide" in str(reporter.endings["a"][1])
    assert contents(out / "a.zarr") == before
    assert go([path], out, overwrite=True)[0].exit_code == 0
    assert contents(out / "a.zarr") != before


def test_an_mpp_given_later_cuts_anew_and_the_others_stay(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go([slide], out)
    table = SlidesTable([Row("tissue.tif", mpp=0.25)])
    result, _, _ = go([slide], out, table=table)
    assert result.statuses == {"tissue": "failed"}
    result, _, manifest = go([slide], out, table=table, overwrite=True)
    assert result.statuses == {"tissue": "done"}
    slide_info = manifest.stores[0].slide
    assert slide_info is not None
    assert (slide_info.mpp, slide_info.mpp_source) == ((0.25, 0.25), "slides table")


def test_entries_of_slides_that_are_not_of_this_run_stay_in_the_manifest(
    slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go([slide], out)
    _, _, manifest = go([blank(tmp_path / "blank.tif")], out)
    assert [item.id for item in manifest.stores] == ["blank", "tissue"]


def test_two_runs_on_one_output_are_kept_apart(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(OutputBusy) as caught, locked(tmp_path):
            pass
        assert caught.value.exit_code == 75
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_owner_deleted_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    lock, flock = tmp_path / ".lock", fcntl.flock
    inodes: list[int] = []

    def late(file: Any, how: int) -> None:
        if not inodes:
            lock.unlink()  # the other run ends between our opening and our locking
        inodes.append(os.fstat(file.fileno()).st_ino)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert lock.stat().st_ino == inodes[-1]
        assert len(inodes) == 2


def test_an_output_folder_that_cannot_be_one_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "slide.svs").touch()
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").touch()
    for name, reason in {
        "slide.svs": r"cannot be written to \(File exists\); give another --out",
        "slide.svs/out": r"cannot be written to \(Not a directory\); give another --out",
        "a.zarr": "lies in a Zarr store; give another --out",
        "a.zarr/out": "lies in a Zarr store; give another --out",
    }.items():
        with pytest.raises(TilerError, match=reason), locked(tmp_path / name):
            pass


def test_a_full_disk_stops_the_run_with_75_and_it_continues_when_there_is_room(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    written: list[int] = []
    write_shard = StoreWriter.write_shard

    def no_room(self: StoreWriter, *arguments: object) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(1)
        return write_shard(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StoreWriter, "write_shard", no_room)
    with pytest.raises(DiskFull) as caught:
        go([slide], out)
    assert caught.value.exit_code == 75
    monkeypatch.undo()
    assert go([slide], out)[0].statuses == {"tissue": "done"}


def test_a_slide_that_changes_while_it_is_cut_fails(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "out"
    shutil.copy(slide, path)

    class Changing(Silent):
        def planned(self, shards: int) -> None:
            os.utime(path, (1, 1))

    out.mkdir()
    reporter = Changing()
    workload = make_workload(Request((path,), out, SPEC))
    result = extract(workload, out, SerialExecutor(), reporter)
    assert result.statuses == {"a": "failed"}
    assert "changed while" in str(reporter.endings["a"][1])


def test_a_damaged_store_is_named_not_overwritten(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go([slide], out)
    (out / "tissue.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="damaged"):
        go([slide], out)


@pytest.mark.parametrize("damage", ["{", "{}"])
def test_overwrite_cuts_a_damaged_store_anew(slide: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    go([slide], out)
    before = contents(out)
    (out / "tissue.zarr" / "zarr.json").write_text(damage)
    assert go([slide], out, overwrite=True)[0].statuses == {"tissue": "done"}
    assert contents(out) == before


def test_not_even_overwrite_deletes_what_is_no_store_of_histotile(
    slide: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "out" / "tissue.zarr"
    foreign.mkdir(parents=True)
    (foreign / "zarr.json").write_text('{"attributes": {"ome": {}}}')
    with pytest.raises(StoreError, match="is not a store of histotile"):
        go([slide], tmp_path / "out", overwrite=True)
    assert (foreign / "zarr.json").exists()


def test_a_manifest_that_cannot_be_read_is_refused_before_the_work(
    slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match=r"not valid JSON .* move it away and run again"):
        go([slide], out)
    assert not (out / "tissue.zarr").exists()


def test_keys_of_ones_own_stay_in_the_manifest(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, _, manifest = go([slide], out)
    shelved = replace(manifest.stores[0], extra={"x-shelf": "B12"})
    save_manifest(replace(manifest, stores=(shelved,), extra={"x-by": "me"}), out / "manifest.json")
    _, _, again = go([slide], out)
    assert (again.extra, again.stores[0].extra) == ({"x-by": "me"}, {"x-shelf": "B12"})


@pytest.mark.parametrize(
    "lost", ["commit.json", "0.5/tiles/c.0.0.0.0", "0.5/x/c.0", "0.5/focus/zarr.json", "thumbnail"]
)
def test_a_finished_store_that_lost_a_file_is_cut_again(
    slide: Path, tmp_path: Path, lost: str
) -> None:
    out = tmp_path / "out"
    go([slide], out)
    before = contents(out)
    item = out / "tissue.zarr" / lost
    shutil.rmtree(item) if item.is_dir() else item.unlink()
    assert go([slide], out)[0].statuses == {"tissue": "done"}
    assert contents(out) == before


def test_a_commit_record_that_is_no_json_is_none(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go([slide], out)
    before = contents(out)
    (out / "tissue.zarr" / "commit.json").write_text("{")
    assert go([slide], out)[0].statuses == {"tissue": "done"}
    assert contents(out) == before


def test_previews_are_drawn_for_new_and_for_finished_stores(slide: Path, tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "out"
    go([slide], out)
    assert not (out / "preview").exists()
    for _ in range(2):
        go([slide], out, preview=True)
        with Image.open(out / "preview" / "tissue.png") as picture:
            assert min(picture.size) > 100


def test_several_mpps_give_several_groups_in_one_store(slide: Path, tmp_path: Path) -> None:
    _, _, manifest = go([slide], tmp_path / "out", replace(SPEC, mpps=(1.0, 0.5)))
    store = TileStore(manifest.store_path(manifest.stores[0]))
    assert store.groups == ("0.5", "1")
    assert len(store["0.5"]) > len(store["1"]) > 0
    assert [r.group for r in manifest.stores[0].resolutions] == ["0.5", "1"]


def test_without_quality_the_other_columns_and_all_pixels_stay(slide: Path, tmp_path: Path) -> None:
    _, _, with_quality = go([slide], tmp_path / "with")
    _, _, without = go([slide], tmp_path / "without", replace(SPEC, quality=False))
    one, other = (
        TileStore(found.store_path(found.stores[0]))["0.5"] for found in (with_quality, without)
    )
    assert other.columns == ("native", "tissue", "unread", "x", "y")
    assert [one.read_encoded(i) for i in range(len(one))] == [
        other.read_encoded(i) for i in range(len(other))
    ]


def test_columns_say_where_each_tile_is_and_how_it_looks(slide: Path, tmp_path: Path) -> None:
    _, _, manifest = go([slide], tmp_path / "out")
    group = TileStore(manifest.store_path(manifest.stores[0]))["0.5"]
    measured = ("brightness", "focus", "pen", "saturation", "tissue")
    assert group.columns == tuple(sorted((*measured, "native", "unread", "x", "y")))
    assert group.column("native").dtype == np.bool_
    assert not group.column("unread").any()
    for name in measured:
        values = group.column(name)
        assert values.dtype == np.float32
        assert float(values.min()) >= 0
        assert float(values.max()) <= 1
    assert float(group.column("tissue").min()) >= SPEC.min_tissue
    brightness = [float(group.read(i).mean()) / 255 for i in range(len(group))]
    assert np.corrcoef(brightness, group.column("brightness"))[0, 1] > 0.95


def test_no_store_or_report_names_a_folder_of_this_machine(slide: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"II*\0no slide")
    out = tmp_path / "out"
    go([slide, broken], out)
    for path in out.rglob("*.json"):
        text = path.read_text()
        assert str(tmp_path) not in text, path.name
        assert str(slide.parent) not in text, path.name


def test_the_run_says_how_many_tiles_each_filter_dropped(slide: Path, tmp_path: Path) -> None:
    _, _, manifest = go([slide], tmp_path / "out", replace(SPEC, max_tiles=3))
    dropped = manifest.stores[0].dropped
    assert dropped["max_tiles"] > 0
    assert dropped["tissue"] > 0
    assert manifest.stores[0].tiles == 3
    assert 3 + dropped["max_tiles"] + dropped["tissue"] == (1536 // 256) * (1280 // 256)
    assert run.RunResult().exit_code == 0


def test_an_id_in_the_table_keeps_the_file_name_out_of_everything_that_is_written(
    slide: Path, tmp_path: Path
) -> None:
    named = tmp_path / "Jane-Roe-1950.tif"
    shutil.copy(slide, named)
    broken = tmp_path / "John-Roe-1951.svs"
    broken.write_bytes(slide.read_bytes()[:3000])
    table = SlidesTable([Row(named.name, id="case-1"), Row(broken.name, id="case-2")])
    out = tmp_path / "out"
    result, _, manifest = go([named, broken], out, table=table, preview=True)
    assert result.statuses == {"case-1": "done", "case-2": "failed"}
    assert [entry.source for entry in manifest.stores] == ["case-1", "case-2"]
    for name, data in contents(out).items():
        assert b"Roe" not in data, name
        assert "Roe" not in name


def test_pictures_that_cannot_be_packed_are_failures_with_their_names(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        pixels = np.full((64, 64, 3), 50 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "9.png").write_bytes((folder / "0.png").read_bytes()[:60])
    spec = replace(SPEC, mpps=(), tile_size=64)
    for _ in range(2):
        result, _, manifest = go([folder], tmp_path / "out", spec, packed=True, assumed_mpp=0.5)
        assert (result.exit_code, manifest.stores[0].tiles) == (3, 3)
        failures = json.loads((tmp_path / "out" / "failures.json").read_text())["failures"]
        assert [failure["source"] for failure in failures] == ["9.png"]
        assert failures[0]["reason"]


def test_a_lossless_store_has_a_lossless_thumbnail_that_any_zarr_reader_opens(
    slide: Path, tmp_path: Path
) -> None:
    go([slide], tmp_path / "out", replace(SPEC, codec=TileCodec("zstd")))
    store = tmp_path / "out" / "tissue.zarr"
    codecs = json.loads((store / "thumbnail" / "zarr.json").read_text())["codecs"]
    assert [codec["name"] for codec in codecs] == ["bytes", "zstd", "crc32c"]
    assert TileStore(store).picture("thumbnail").shape[2] == 3


def test_a_slide_that_fails_before_it_is_cut_deletes_nothing_that_lay_at_its_place(
    slide: Path, tmp_path: Path
) -> None:
    """Neither what another tool wrote there, nor another slide's half-finished store."""
    out = tmp_path / "out"
    foreign = out / "broken.zarr" / ".zgroup"
    foreign.parent.mkdir(parents=True)
    foreign.write_text('{"zarr_format": 2}')
    broken, other = tmp_path / "broken.svs", tmp_path / "tissue.tif"
    broken.write_bytes(b"II*\0no slide")
    write_slide(other, paint("dab", 1536, 1280, 8), 0.5)

    class Interrupted(Silent):
        def shard_done(self, done: ShardDone) -> None:
            raise KeyboardInterrupt

    workload = make_workload(Request((slide,), out, SPEC))
    with pytest.raises(KeyboardInterrupt):
        extract(workload, out, SerialExecutor(), Interrupted())
    before = contents(out / "tissue.zarr")
    result, _, _ = go([broken, other], out)
    assert result.statuses == {"broken": "failed", "tissue": "failed"}
    assert foreign.exists()
    assert contents(out / "tissue.zarr") == before


def test_a_store_of_another_version_is_named_as_such(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go([slide], tmp_path / "out")
    monkeypatch.setattr("tiler.options.PIXEL_VERSION", 99)
    with pytest.raises(SpecMismatch, match="tissue was cut by another version of histotile"):
        go([slide], tmp_path / "out")


def test_what_is_kept_as_it_is_is_counted_and_what_cannot_be_is_said(
    slide: Path, tmp_path: Path
) -> None:
    native = replace(SPEC, native=True)
    result, _, _ = go([slide], tmp_path / "jpeg", native)
    assert result.native == result.tiles > 0
    lossless = replace(native, codec=TileCodec("zstd"))
    result, _, manifest = go([slide], tmp_path / "zstd", lossless)
    assert result.native == 0
    assert "its jpeg tiles are encoded anew as zstd" in manifest.stores[0].warnings[0]
