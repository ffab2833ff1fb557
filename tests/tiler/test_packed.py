"""Packed stores: every tile is the right pixels of the right picture; broken ones are listed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from manifests.codec import TileCodec
from manifests.slidetable import Row, SlidesTable
from manifests.store import TileStore
from manifests.writer import StoreWriter
from tests.tiler.fakes import noise
from tiler.errors import SlideError
from tiler.finish import FinishJob, finish_store
from tiler.options import TileSpec
from tiler.outcomes import entry_of
from tiler.packed import PackedJob, cut_packed_shards, plan_packed
from tiler.request import Request, Work, make_workload
from tiler.slides.base import Rgb

SPEC = TileSpec((), 32, codec=TileCodec("zstd"), shard_tiles=5)


def written(folder: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, Rgb]:
    """Pictures of these names and (width, height), no two alike."""
    pictures = {}
    for seed, (name, (width, height)) in enumerate(sorted(sizes.items())):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures[name] = noise(height, width, seed)
        Image.fromarray(pictures[name]).save(path)
    return pictures


def asked(folder: Path, spec: TileSpec = SPEC, **more: Any) -> Work:
    """The one store that is to be made of a folder's pictures."""
    request = Request((folder,), folder.parent / "out", spec, packed=True, assumed_mpp=0.5, **more)
    (work,) = make_workload(request).works
    return work


def made(work: Work) -> TileStore:
    """Run all tasks of a packed store, one after the other."""
    assert isinstance(work.job, PackedJob)
    for shard in plan_packed(work.job).jobs:
        cut_packed_shards(shard)
    finish_store(FinishJob(work.job.id, work.job.store, None))
    return TileStore(work.job.store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tiles"


def test_each_tile_shows_its_place_in_its_picture(folder: Path) -> None:
    sizes = {
        "a.png": (32, 32),
        "b/large.png": (100, 70),
        "b/small.png": (64, 32),
        "c.png": (97, 31),
    }
    pictures = written(folder, sizes)
    store = made(asked(folder))
    names = [entry["name"] for entry in store.sources()]
    assert names == sorted(sizes)
    group = store["0.5"]
    assert len(group) == 1 + 3 * 2 + 2 + 0
    x, y, source = (group.column(name).tolist() for name in ("x", "y", "source"))
    assert source == [0] + [1] * 6 + [2] * 2
    places = set()
    for index, tile in enumerate(group.read_batch(range(len(group)))):
        picture = pictures[names[source[index]]]
        left, top = x[index], y[index]
        assert np.array_equal(tile, picture[top : top + 32, left : left + 32])
        places.add((source[index], left, top))
    assert places >= {(1, left, top) for left in (0, 32, 64) for top in (0, 32)}
    assert store.attributes["groups"] == ["0.5"]
    assert group.attributes["dropped"] == {"edge": (4 * 3 - 3 * 2) + 4}


def test_padding_keeps_every_pixel_of_every_picture(folder: Path) -> None:
    pictures = written(folder, {"a.png": (40, 30), "b.png": (8, 8)})
    group = made(asked(folder, replace(SPEC, edge="pad")))["0.5"]
    assert list(zip(*(group.column(n).tolist() for n in ("source", "x", "y")), strict=True)) == [
        (0, 0, 0),
        (0, 32, 0),
        (1, 0, 0),
    ]
    white = np.full((3, 32, 32, 3), 255, dtype=np.uint8)
    white[0, :30] = pictures["a.png"][:, :32]
    white[1, :30, :8] = pictures["a.png"][:, 32:]
    white[2, :8, :8] = pictures["b.png"]
    assert np.array_equal(group.read_batch([0, 1, 2]), white)


def test_another_resolution_is_the_mean_of_the_pictures_pixels(folder: Path) -> None:
    pictures = written(folder, {"a.png": (128, 64)})
    store = made(asked(folder, replace(SPEC, mpps=(0.5, 1.0))))
    assert store.groups == ("0.5", "1")
    assert [len(store[name]) for name in store.groups] == [8, 2]
    blocks = pictures["a.png"].reshape(32, 2, 64, 2, 3).sum(axis=(1, 3), dtype=np.int64)
    halved = (blocks + 2) // 4
    assert np.array_equal(store["1"].read(0), halved[:, :32])
    assert np.array_equal(store["1"].read(1), halved[:, 32:])


def test_labels_point_into_the_class_names(folder: Path) -> None:
    written(folder, {"n/1.png": (64, 32), "aca/2.png": (32, 32), "scc/3.png": (32, 64)})
    store = made(asked(folder, label_from="parent"))
    assert store.attributes["labels"] == ["aca", "n", "scc"]
    group = store["0.5"]
    names = [store.sources()[index]["name"] for index in group.column("source")]
    labels = [store.attributes["labels"][index] for index in group.column("label")]
    assert labels == [name.split("/")[0] for name in names] == ["aca", "n", "n", "scc", "scc"]


def test_a_folder_without_classes_has_no_label_column(folder: Path) -> None:
    written(folder, {"1.png": (32, 32)})
    store = made(asked(folder))
    assert "label" not in store.columns_of("0.5")
    assert {"x", "y", "source", "tissue"} <= set(store.columns_of("0.5"))


def test_what_the_table_says_of_a_picture_stays_with_it(folder: Path) -> None:
    written(folder, {"1.png": (32, 32), "2.png": (32, 32)})
    row = Row("2.png", curated={"patient": "p2"}, columns={"age": "61"})
    store = made(asked(folder, table=SlidesTable([row])))
    assert store.sources() == [
        {"name": "1.png"},
        {"name": "2.png", "columns": {"patient": "p2", "age": "61"}},
    ]


def test_tissue_is_measured_on_each_tile(folder: Path) -> None:
    written(folder, {"b.png": (64, 64)})
    Image.new("RGB", (64, 64), (255, 255, 255)).save(folder / "a.png")
    Image.new("RGB", (64, 64), (180, 90, 160)).save(folder / "c.png")
    group = made(asked(folder, replace(SPEC, tile_size=64)))["0.5"]
    tissue = group.column("tissue")
    assert tissue.dtype == np.float32
    assert tissue[0] == 0
    assert tissue[2] > 0.9


def cut_off(folder: Path) -> str:
    """A PNG that ends in the middle."""
    written(folder, {"bad.png": (200, 200)})
    data = (folder / "bad.png").read_bytes()
    (folder / "bad.png").write_bytes(data[: len(data) // 2])
    return "bad.png"


def damaged_at_the_end(folder: Path) -> str:
    """A TIFF of 4 x 4 tiles, the last of which is no longer what it was."""
    path = folder / "bad.tif"
    tifffile.imwrite(
        path, noise(256, 256), tile=(64, 64), photometric="rgb", compression="zlib", metadata=None
    )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        start, length = page.dataoffsets[-1], page.databytecounts[-1]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * length)
    return path.name


def no_picture(folder: Path) -> str:
    """A text with the name of a JPEG."""
    (folder / "bad.jpg").write_text("no picture at all")
    return "bad.jpg"


@pytest.mark.parametrize("spoil", [cut_off, damaged_at_the_end, no_picture])
def test_a_broken_picture_is_listed_and_the_others_are_stored(folder: Path, spoil: Any) -> None:
    pictures = written(folder, {"a.png": (32, 32), "z.png": (32, 32)})
    bad = spoil(folder)
    work = asked(folder)
    store = made(work)
    assert [entry["name"] for entry in store.sources()] == ["a.png", "z.png"]
    assert np.array_equal(store["0.5"].read_batch([0, 1]), [*pictures.values()])
    assert list(store.attributes["failed_sources"]) == [bad]
    reason = store.attributes["failed_sources"][bad]
    assert reason
    assert str(folder) not in reason
    assert entry_of(work).warnings[0] == "1 of 3 pictures cannot be read"


def test_a_folder_of_broken_pictures_fails_with_the_first_reason(folder: Path) -> None:
    folder.mkdir()
    no_picture(folder)
    work = asked(folder)
    with pytest.raises(SlideError, match=r"none of 1 pictures can be read; bad\.jpg: \w+"):
        made(work)
    assert not work.job.store.exists()


@pytest.mark.parametrize(
    ("mpps", "at", "short"), [((), "0.5", 31), ((1.0,), "1", 63)], ids=["as they are", "reduced"]
)
def test_pictures_too_small_for_a_tile_are_warned_of(
    folder: Path, mpps: tuple[float, ...], at: str, short: int
) -> None:
    sizes = {"large.png": (short + 1, short + 1), "low.png": (64, short), "thin.png": (short, 64)}
    written(folder, sizes)
    work = asked(folder, replace(SPEC, mpps=mpps))
    store = made(work)
    assert set(store[at].column("source")) == {0}
    (warning,) = entry_of(work).warnings
    assert warning.startswith(f"2 of 3 pictures are smaller than a tile of 32 px at {at} µm/px")
    assert "--edge pad" in warning


def test_pictures_that_give_no_tile_at_all_make_an_empty_store_that_says_why(folder: Path) -> None:
    written(folder, {"a.png": (20, 20), "b.png": (31, 64)})
    work = asked(folder)
    made(work)
    entry = entry_of(work)
    assert (entry.status, entry.tiles) == ("empty", 0)
    assert entry.reason == (
        "no tile of 32 px at 0.5 µm/px fits into any of the 2 pictures; "
        "--edge pad keeps cut-off tiles"
    )


def test_an_mpp_that_no_microscope_gives_is_refused(folder: Path) -> None:
    written(folder, {"a.png": (32, 32)})
    work = asked(folder, table=SlidesTable([Row("a.png", mpp=72.0)]))
    with pytest.raises(SlideError, match=r"72 µm/px is outside .* give the pictures' true µm"):
        made(work)


def test_an_interrupted_store_goes_on_where_it_stopped(folder: Path) -> None:
    written(folder, {f"{number}.png": (96, 32) for number in range(7)})
    work = asked(folder)
    assert isinstance(work.job, PackedJob)
    shards = plan_packed(work.job).jobs
    assert [job.shards for job in shards] == [(0,), (1,), (2,), (3,), (4,)]
    cut_packed_shards(shards[3])
    assert [job.shards for job in plan_packed(work.job).jobs] == [(0,), (1,), (2,), (4,)]
    resumed = made(work)
    files = {name: resumed.read_file(name) for name in resumed.files()}
    whole = made(replace(work, job=replace(work.job, store=folder.parent / "other.zarr")))
    assert {name: whole.read_file(name) for name in whole.files()} == files


def test_a_picture_that_changed_starts_the_store_anew_only_if_it_may(folder: Path) -> None:
    written(folder, {"a.png": (32, 32), "b.png": (32, 32)})
    work = asked(folder)
    made(work)
    Image.fromarray(noise(64, 64, 9)).save(folder / "b.png")
    changed = asked(folder)
    with pytest.raises(SlideError, match="holds tiles of another slide, or of this one before"):
        made(changed)
    assert len(made(asked(folder, overwrite=True))["0.5"]) == 5


def test_a_shard_says_what_it_did(folder: Path) -> None:
    written(folder, {"a.png": (96, 32), "b.png": (96, 32)})
    work = asked(folder)
    assert isinstance(work.job, PackedJob)
    done = [cut_packed_shards(shard) for shard in plan_packed(work.job).jobs]
    assert [item.tiles for item in done] == [5, 1]
    assert [item.decoded for item in done] == [2, 1]
    folder_of_shards = StoreWriter(work.job.store).path / "0.5" / "tiles"
    sizes = [path.stat().st_size for path in sorted(folder_of_shards.glob("c.*"))]
    assert [item.bytes for item in done] == sizes
