"""Features come in the order of the tiles, whoever reads them; a damaged tile costs its own row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from manifests import Manifest, StoreError, load_manifest, open_store  # noqa: E402
from manifests.model import Selection  # noqa: E402
from manifests.tileset import TileSet  # noqa: E402
from pretrain.embedding.encoders import open_encoder  # noqa: E402
from pretrain.embedding.stream import (  # noqa: E402
    all_features,
    stream_features,
    stream_tiles,
)
from pretrain.embedding.wanted import row_count, wanted_tiles  # noqa: E402
from pretrain.errors import ConfigError  # noqa: E402
from tests.manifests.make import tile_pixels  # noqa: E402
from tests.pretrain.make import damage_tile, make_slide, save  # noqa: E402

ENCODER = open_encoder("random:test_resnet", size=32)


@pytest.fixture
def mixed(tmp_path: Path) -> Manifest:
    """Slides of two sizes in turn, one at two resolutions, one with a selection and a split."""
    a = make_slide(tmp_path, "a", {"0.5": tile_pixels(21, 32, seed=1), "1": tile_pixels(5, 32)})
    b = make_slide(tmp_path, "b", {"0.5": tile_pixels(9, 16, seed=2)}, unread={"0.5": [4]})
    c = make_slide(tmp_path, "c", {"0.5": tile_pixels(12, 32, seed=3)})
    chosen = Selection(({"where": "x"},), {"0.5": TileSet.of([1, 2, 7, 8, 11])})
    c = replace(c, selection=chosen, split="test")
    return load_manifest(save(tmp_path, a, b, c))


def test_rows_are_the_tiles_that_the_manifest_means_in_its_order(mixed: Manifest) -> None:
    parts = wanted_tiles(mixed)
    found = [(p.entry.id, p.group, p.size, p.indices.tolist()) for p in parts]
    assert found == [
        ("a", "0.5", 32, list(range(21))),
        ("a", "1", 32, list(range(5))),
        ("b", "0.5", 16, [0, 1, 2, 3, 5, 6, 7, 8]),
        ("c", "0.5", 32, [1, 2, 7, 8, 11]),
    ]
    assert [p.entry.id for p in wanted_tiles(mixed, split="test")] == ["c"]
    assert [p.group for p in wanted_tiles(mixed, mpp="1")] == ["1"]
    assert row_count(wanted_tiles(mixed, mpp="0.50")) == 34


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"split": "train"}, "no tiles are in the split 'train'; there are: test"),
        ({"mpp": "2"}, "no tiles have 2 µm/px; the manifest's resolutions: 0.5, 1"),
    ],
)
def test_what_is_not_there_is_told(mixed: Manifest, asked: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        wanted_tiles(mixed, **asked)


@pytest.mark.parametrize(("batch_size", "threads"), [(64, 1), (7, 2), (1, 3)])
def test_streamed_tiles_are_those_of_the_stores(
    mixed: Manifest, batch_size: int, threads: int
) -> None:
    parts = wanted_tiles(mixed)
    row = 0
    rows = [
        tile
        for part in parts
        for tile in open_store(mixed, part.entry)[part.group].read_batch(part.indices)
    ]
    for batch in stream_tiles(mixed, parts, batch_size=batch_size, threads=threads):
        assert batch.first == row
        for tile in batch.tiles:
            np.testing.assert_array_equal(tile, rows[row])
            row += 1
    assert row == row_count(parts)


def test_features_are_those_of_a_plain_loop(mixed: Manifest) -> None:
    parts = wanted_tiles(mixed)
    found, damaged = all_features(mixed, parts, ENCODER, batch_size=8)
    expected = []
    with torch.inference_mode():
        for part in parts:
            for tile in open_store(mixed, part.entry)[part.group].read_batch(part.indices):
                expected.append(ENCODER.model(ENCODER.prepare(torch.from_numpy(tile[None]))))
    assert damaged == ()
    np.testing.assert_allclose(found, torch.cat(expected).numpy(), rtol=1e-3, atol=1e-5)


def test_features_depend_neither_on_threads_nor_on_the_other_parts(mixed: Manifest) -> None:
    parts = wanted_tiles(mixed)
    one, _ = all_features(mixed, parts, ENCODER, batch_size=8, threads=1)
    many, _ = all_features(mixed, parts, ENCODER, batch_size=8, threads=4)
    alone, _ = all_features(mixed, parts[2:], ENCODER, batch_size=8)
    np.testing.assert_array_equal(one, many)
    np.testing.assert_array_equal(one[26:], alone)


def test_a_damaged_tile_costs_its_own_row(mixed: Manifest) -> None:
    parts = wanted_tiles(mixed)
    whole, _ = all_features(mixed, parts, ENCODER, batch_size=8)
    damage_tile(mixed.root / "a.zarr", "0.5", 11)  # in the second batch
    found, damaged = all_features(mixed, parts, ENCODER, batch_size=8)
    assert damaged == (11,)
    assert np.isnan(found[11]).all()
    others = np.delete(np.arange(len(whole)), 11)
    np.testing.assert_allclose(found[others], whole[others], rtol=1e-4, atol=1e-6)
    told = [b.damaged for b in stream_features(mixed, parts, ENCODER, batch_size=8)]
    assert told[1] == (11,)
    assert [rows for rows in told if rows] == [(11,)]
    # Memory that held other tiles before: one tile at a time.
    tiles = [b.tiles.copy() for b in stream_tiles(mixed, parts[:1], batch_size=1, threads=1)]
    assert [row for row, tile in enumerate(tiles) if not tile.any()] == [0, 11]  # 0 is black


def test_a_store_that_is_gone_ends_it(mixed: Manifest) -> None:
    parts = wanted_tiles(mixed)
    (mixed.root / "b.zarr" / "commit.json").unlink()
    with pytest.raises(StoreError, match=r"b\.zarr"):
        all_features(mixed, parts, ENCODER)


def test_a_stream_that_nobody_reads_to_its_end_leaves_no_thread(mixed: Manifest) -> None:
    import threading

    before = threading.active_count()
    stream = stream_tiles(mixed, wanted_tiles(mixed), batch_size=2)
    next(stream)
    stream.close()
    assert threading.active_count() == before
