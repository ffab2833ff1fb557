"""Damaged native tiles, from end to end: they cost the tiles that need them, and nothing else.

The slide is a JPEG TIFF of 256 px tiles with two levels at 0.5 and 2 µm/px. Damage is done to its
bytes: to the compressed tiles, whose places tifffile tells.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from manifests import TileStore, load_manifest
from manifests.codec import TileCodec, decode_jpeg
from tests.tiler.test_run import go
from tiler.options import TileSpec
from tiler.slides import open_slide
from tiler.synthetic import paint

SIDE = 256
COLUMNS, ROWS = 6, 5
SPEC = TileSpec((0.5,), SIDE, tissue=False, shard_tiles=8, codec=TileCodec("jpeg"))
SHIFTED = replace(SPEC, tile_size=128, stride=192)
"""Tiles that lie across the native ones."""

Damage = Callable[[bytes], bytes]


def cut_off(tile: bytes) -> bytes:
    """The last third was never written."""
    return tile[: -len(tile) // 3] + bytes(len(tile) // 3)


def zeroed(tile: bytes) -> bytes:
    return bytes(len(tile))


def flipped(tile: bytes) -> bytes:
    """Bits of the entropy-coded part are turned, such that a decoder notices."""
    middle = len(tile) // 2
    return tile[:middle] + b"\xff\xd9\xff\xff" + tile[middle + 4 :]


def of_another_size(tile: bytes) -> bytes:
    """The frame header asks for 60,000 x 60,000 px."""
    place = tile.index(b"\xff\xc0") + 5
    return tile[:place] + b"\xea\x60\xea\x60" + tile[place + 4 :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    pixels = paint("he", SIDE * COLUMNS, SIDE * ROWS, 3)
    small = np.asarray(Image.fromarray(pixels).reduce(4))
    options: dict[str, Any] = {
        "tile": (SIDE, SIDE),
        "compression": "jpeg",
        "photometric": "rgb",
        "metadata": None,
    }
    with tifffile.TiffWriter(path) as tiff:
        resolution = (20_000, 20_000)
        tiff.write(pixels, resolution=resolution, resolutionunit="CENTIMETER", **options)
        tiff.write(small, subfiletype=1, **options)
    return path


def damaged(whole: Path, path: Path, page: int, tiles: list[int], damage: Damage) -> Path:
    shutil.copy(whole, path)
    with tifffile.TiffFile(whole) as tiff:
        places = [
            (tiff.pages[page].dataoffsets[i], tiff.pages[page].databytecounts[i]) for i in tiles
        ]
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            broken = damage(file.read(count))
            assert len(broken) == count
            file.seek(offset)
            file.write(broken)
    return path


def store_of(slide: Path, out: Path, spec: TileSpec) -> TileStore:
    _, _, manifest = go([slide], out, spec)
    return TileStore(manifest.store_path(manifest.stores[0]))


@pytest.mark.parametrize("damage", [cut_off, zeroed, flipped, of_another_size])
@pytest.mark.parametrize("spec", [SPEC, SHIFTED], ids=["native", "shifted"])
def test_exactly_the_tiles_that_need_a_damaged_tile_are_marked_and_all_others_stay(
    whole: Path, tmp_path: Path, damage: Damage, spec: TileSpec
) -> None:
    slide = damaged(whole, tmp_path / "slide.tif", 0, [8, 21], damage)
    good = store_of(whole, tmp_path / "good", spec)["0.5"]
    result, reporter, manifest = go([slide], tmp_path / "out", spec)
    group = TileStore(manifest.store_path(manifest.stores[0]))["0.5"]
    assert len(group) == len(good) > 15
    lost = group.unread().tolist()
    x, y = group.column("x").tolist(), group.column("y").tolist()
    for i in range(len(group)):
        share = sum(
            max(0, min(x[i] + spec.tile_size, left + SIDE) - max(x[i], left))
            * max(0, min(y[i] + spec.tile_size, top + SIDE) - max(y[i], top))
            for left, top in ((2 * SIDE, SIDE), (3 * SIDE, 3 * SIDE))
        ) / (spec.tile_size**2)
        assert group.column("unread")[i] == pytest.approx(share)
        assert (i in lost) == (share > 0)
        if not share:
            assert group.read_encoded(i) == good.read_encoded(i)
            assert group.column("focus")[i] == good.column("focus")[i]
    assert len(lost) == (2 if spec is SPEC else 6)
    entry = manifest.stores[0]
    assert (entry.status, entry.unread, result.exit_code) == ("done", len(lost), 0)
    first = lost[0]
    assert f"({x[first]}, {y[first]})" in entry.warnings[-1]
    assert "could not be read in whole" in str(reporter.endings["slide"][1])


def test_whole_native_tiles_are_kept_to_the_byte_and_decode_to_the_slides_pixels(
    whole: Path, tmp_path: Path
) -> None:
    group = store_of(whole, tmp_path / "a", replace(SPEC, native=True))["0.5"]
    assert len(group) == COLUMNS * ROWS
    assert group.column("native").all()
    with open_slide(whole) as slide:
        for i, (x, y) in enumerate(zip(group.column("x"), group.column("y"), strict=True)):
            data = group.read_encoded(i)
            assert data == slide.native_tile(0, int(x) // SIDE, int(y) // SIDE)
            cell = slide.read_cell(0, int(x) // SIDE, int(y) // SIDE)
            assert np.array_equal(decode_jpeg(data, SIDE, SIDE), cell)


def test_a_tile_that_is_cut_off_is_found_without_decoding_any(whole: Path, tmp_path: Path) -> None:
    slide = damaged(whole, tmp_path / "slide.tif", 0, [8], cut_off)
    spec = replace(SPEC, native=True, quality=False)
    result, _, manifest = go([slide], tmp_path / "out", spec)
    group = TileStore(manifest.store_path(manifest.stores[0]))["0.5"]
    [lost] = group.unread().tolist()
    assert (group.column("x")[lost], group.column("y")[lost]) == (2 * SIDE, SIDE)
    assert np.flatnonzero(~group.column("native")).tolist() == [lost]
    assert result.decoded == 1, "the damaged one, in vain"


@pytest.mark.parametrize("exact", [False, True])
def test_damage_stays_where_it_is_when_tiles_are_reduced(
    whole: Path, tmp_path: Path, exact: bool
) -> None:
    slide = damaged(whole, tmp_path / "slide.tif", 0, [0], zeroed)
    spec = replace(SPEC, mpps=(1.0,), tile_size=64, exact=exact)
    good, group = (store_of(s, tmp_path / s.parent.name, spec)["1"] for s in (whole, slide))
    lost = group.unread().tolist()
    assert len(lost) == 4
    assert {(group.column("x")[i] // 128, group.column("y")[i] // 128) for i in lost} == {
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
    }
    same = [group.read_encoded(i) == good.read_encoded(i) for i in group.usable()]
    assert all(same)


def test_a_damaged_tile_of_a_coarse_level_costs_nothing(whole: Path, tmp_path: Path) -> None:
    slide = damaged(whole, tmp_path / "slide.tif", 1, [0], zeroed)
    spec = replace(SPEC, tissue=True)
    good, other = (store_of(s, tmp_path / s.parent.name, spec) for s in (whole, slide))
    assert len(other["0.5"].unread()) == 0
    assert np.array_equal(good.picture("tissue_mask"), other.picture("tissue_mask"))
    assert len(other["0.5"]) == len(good["0.5"])


def test_what_is_lost_is_said_again_when_the_run_finds_the_store_finished(
    whole: Path, tmp_path: Path
) -> None:
    slide = damaged(whole, tmp_path / "slide.tif", 0, [8], zeroed)
    go([slide], tmp_path / "out", SPEC)
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    result, _, _ = go([slide], tmp_path / "out", SPEC)
    assert result.skipped == 1
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_a_slide_of_which_nothing_can_be_read_has_failed(whole: Path, tmp_path: Path) -> None:
    everything = list(range(COLUMNS * ROWS))
    slide = damaged(whole, tmp_path / "slide.tif", 0, everything, zeroed)
    result, _, _ = go([slide], tmp_path / "out", SPEC)
    entry = load_manifest(tmp_path / "out").stores[0]
    assert (entry.status, result.exit_code) == ("failed", 4)
    assert entry.reason is not None
    assert entry.reason.startswith("none of its 30 tiles can be read: level 0 cannot be read at")
    assert not list((tmp_path / "out").glob("*.zarr"))
