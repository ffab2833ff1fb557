"""Batches hold the tiles that were drawn; damage is survived tile by tile, lost stores are not."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests import Manifest, StoreEntry, StoreError, TileStore, load_manifest, store
from manifests.store import _ShardCache, open_store
from pretrain.config import TrainConfig
from pretrain.errors import ConfigError
from pretrain.loading.loader import TileLoader, resized
from pretrain.mixing.mix import resolve_mix
from pretrain.mixing.sampler import Sampler
from tests.manifests.make import tile_pixels
from tests.pretrain.make import damage_tile, make_slide, numbered_tiles, save


def loader_of(manifest: Manifest, batch_size: int, seed: int = 0) -> TileLoader:
    mix = resolve_mix(manifest, TrainConfig())
    return TileLoader(manifest, mix, Sampler(mix, seed, batch_size), batch_size)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Two slides; slide a has two resolutions. Pixels are the tile's number in the mix."""
    a = make_slide(tmp_path, "a", {"0.25": numbered_tiles(5), "0.5": numbered_tiles(20, 5)})
    b = make_slide(tmp_path, "b", {"0.5": numbered_tiles(30, 25)}, organ="lung")
    return load_manifest(save(tmp_path, a, b))


def test_pixels_are_those_of_the_tiles_in_all_slides_and_resolutions(manifest: Manifest) -> None:
    loader = loader_of(manifest, 10)
    seen: set[int] = set()
    for step in range(6):
        batch = loader.batch(step)
        assert batch.tiles.shape == (10, 8, 8, 3)
        assert batch.tiles.dtype == np.uint8
        np.testing.assert_array_equal(batch.tiles[:, 0, 0, 0], batch.ids)
        np.testing.assert_array_equal(batch.numbers, np.arange(10 * step, 10 * step + 10))
        seen.update(batch.ids.tolist())
    assert seen == set(range(55))


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("cap", [None, 7])
def test_the_parts_of_the_ranks_are_the_batch(
    manifest: Manifest, ranks: int, cap: int | None
) -> None:
    mix = resolve_mix(manifest, TrainConfig())
    sampler = Sampler(mix, 3, 12, max_per_slide=cap)
    whole = TileLoader(manifest, mix, sampler, 12)
    parts = [TileLoader(manifest, mix, sampler, 12, part=(rank, ranks)) for rank in range(ranks)]
    for step in (0, 5):
        batches = [loader.batch(step) for loader in parts]
        assert {len(batch.ids) for batch in batches} == {12 // ranks}
        for name in ("tiles", "numbers", "ids"):
            joined = np.concatenate([getattr(batch, name) for batch in batches])
            np.testing.assert_array_equal(joined, getattr(whole.batch(step), name))


def test_a_batch_that_ranks_cannot_share_evenly_is_refused(manifest: Manifest) -> None:
    mix = resolve_mix(manifest, TrainConfig())
    with pytest.raises(ConfigError, match=r"10 tiles .* 4 GPUs; give --batch-size 8$"):
        TileLoader(manifest, mix, Sampler(mix, 0, 10), 10, part=(1, 4))


def test_ids_lead_back_to_slide_group_and_index(manifest: Manifest) -> None:
    loader = loader_of(manifest, 10)
    for tile_id in (0, 4, 5, 24, 25, 54):
        name, group, index = loader.name_of(tile_id).split("/")
        entry = next(entry for entry in manifest.stores if entry.id == name)
        pixels = open_store(manifest, entry)[group].read(int(index))
        assert pixels[0, 0, 0] == tile_id


def test_tiles_that_could_not_be_read_from_the_slide_are_never_drawn(tmp_path: Path) -> None:
    lost = {"0.25": [1, 2], "0.5": [0, *range(5, 19)]}
    a = make_slide(
        tmp_path, "a", {"0.25": numbered_tiles(5), "0.5": numbered_tiles(20, 5)}, unread=lost
    )
    b = make_slide(tmp_path, "b", {"0.5": numbered_tiles(9, 25)}, unread={})
    c = make_slide(tmp_path, "c", {"0.5": numbered_tiles(9, 34)}, unread={"0.5": range(9)})
    manifest = load_manifest(save(tmp_path, a, b, c))
    mix = resolve_mix(manifest, TrainConfig())
    assert {slide.id: slide.tiles for slide in mix.slides} == {"a": 8, "b": 9}
    loader = TileLoader(manifest, mix, Sampler(mix, 0, 6), 6)
    seen = Counter(int(v) for step in range(30) for v in loader.batch(step).tiles[:, 0, 0, 0])
    assert set(seen) == {0, 3, 4, 6, 7, 8, 9, 24} | set(range(25, 34))
    of_a = [count for tile, count in seen.items() if tile < 25]
    assert max(of_a) - min(of_a) <= 1  # each in its turn, none more often for those left out
    ids = {int(i) for step in range(30) for i in loader.batch(step).ids}
    assert ids == set(range(mix.tiles))


def test_too_many_open_files_are_no_damage(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = loader_of(manifest, 10)
    loader.batch(0)
    monkeypatch.setattr("manifests.store._cache", _ShardCache())
    real, left = os.open, [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def once(*arguments: Any) -> int:
        if left:
            raise left.pop()
        return real(*arguments)

    monkeypatch.setattr("manifests.shard.os.open", once)
    with pytest.raises(StoreError, match=r"Too many open files.*ulimit -n"):
        loader.batch(0)


def test_a_damaged_tile_is_replaced_by_one_of_its_slide_and_reported(manifest: Manifest) -> None:
    before = loader_of(manifest, 50).batch(0)
    damage_tile(manifest.root / "a.zarr", "0.25", 2)
    loader = loader_of(manifest, 50)
    after = loader.batch(0)
    assert {loader.name_of(tile) for tile in after.damaged} == {"a/0.25/2"}
    changed = np.flatnonzero(before.ids != after.ids)
    assert (before.ids[changed] == 2).all()
    assert len(changed) == np.sum(before.ids == 2) > 0
    assert (after.ids[changed] < 25).all()
    np.testing.assert_array_equal(after.tiles[:, 0, 0, 0], after.ids)


def test_a_slide_without_one_readable_tile_stops_the_run(tmp_path: Path) -> None:
    entry = make_slide(tmp_path, "a", {"0.5": numbered_tiles(3)})
    manifest = load_manifest(save(tmp_path, entry))
    for tile in range(3):
        damage_tile(tmp_path / "a.zarr", "0.5", tile)
    with pytest.raises(StoreError, match=r"no tile of .*a\.zarr can be read"):
        loader_of(manifest, 2).batch(0)


def test_a_slide_of_which_nearly_all_is_damaged_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.loading.loader._MOST_ATTEMPTS", 5)
    manifest = load_manifest(save(tmp_path, make_slide(tmp_path, "a", {"0.5": numbered_tiles(16)})))
    for tile in range(15):
        damage_tile(tmp_path / "a.zarr", "0.5", tile)
    with pytest.raises(StoreError, match=r"no tile of .*a\.zarr can be read, of 4 that were"):
        loader_of(manifest, 8).batch(0)


def test_a_store_removed_while_training_stops_the_run(manifest: Manifest) -> None:
    loader = loader_of(manifest, 10)
    loader.batch(0)
    shutil.rmtree(manifest.root / "b.zarr")
    store._cache.shards.clear()  # what is open can be read even though it was removed
    with pytest.raises(StoreError, match=r"b\.zarr was removed while it was read \(.*\)"):
        loader.batch(1)


def test_a_store_removed_before_it_is_first_drawn_from_stops_the_run(manifest: Manifest) -> None:
    loader = loader_of(manifest, 10)
    (manifest.root / "b.zarr" / "commit.json").unlink()
    with pytest.raises(StoreError, match=r"b\.zarr was removed while it was read"):
        loader.batch(0)


def test_changed_metadata_stop_the_run_at_once(manifest: Manifest) -> None:
    file = manifest.root / "b.zarr" / "0.5" / "zarr.json"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(StoreError, match="was changed after the store was committed"):
        loader_of(manifest, 10).batch(0)


def test_a_store_that_is_not_the_one_of_the_manifest_is_refused(manifest: Manifest) -> None:
    loader = loader_of(manifest, 10)
    shutil.rmtree(manifest.root / "b.zarr")
    shutil.copytree(manifest.root / "a.zarr", manifest.root / "b.zarr")
    with pytest.raises(StoreError, match="not the store that the manifest lists"):
        loader.batch(0)


def test_few_stores_are_kept_open_and_all_are_read(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.loading.loader._MOST_OPEN_STORES", 1)
    opened: list[str] = []

    def watched(manifest: Manifest, entry: StoreEntry) -> TileStore:
        opened.append(entry.id)
        return open_store(manifest, entry)

    monkeypatch.setattr("pretrain.loading.loader.open_store", watched)
    loader = loader_of(manifest, 10)
    assert opened == []
    batch = loader.batch(0)
    np.testing.assert_array_equal(batch.tiles[:, 0, 0, 0], batch.ids)
    slides = [loader.name_of(tile_id).partition("/")[0] for tile_id in batch.ids.tolist()]
    assert opened == [slide for slide, _ in itertools.groupby(slides)]


def test_tiles_of_several_sizes_come_in_the_size_that_was_asked_for(tmp_path: Path) -> None:
    a = make_slide(tmp_path, "a", {"0.5": tile_pixels(5, 64)})
    b = make_slide(tmp_path, "b", {"0.5": tile_pixels(5, 32, seed=1)}, organ="lung")
    manifest = load_manifest(save(tmp_path, a, b))
    mix = resolve_mix(manifest, TrainConfig(resize=32))
    batch = TileLoader(manifest, mix, Sampler(mix, 0, 10), 10).batch(0)
    for tile, tile_id in zip(batch.tiles, batch.ids.tolist(), strict=True):
        if tile_id < 5:
            wanted = tile_pixels(5, 64)[tile_id].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
            assert np.abs(tile - wanted).max() <= 0.75
        else:
            np.testing.assert_array_equal(tile, tile_pixels(5, 32, seed=1)[tile_id - 5])


@pytest.mark.parametrize(("before", "after"), [(64, 16), (60, 28), (48, 40), (32, 40), (32, 32)])
def test_resized_tiles_are_means_over_areas(before: int, after: int) -> None:
    """Of a smooth picture, of which every good filter gives the same but at the edges."""
    y, x = np.mgrid[:before, :before] / before
    tile = np.stack([120 + 90 * np.sin(3 * x), 120 + 90 * np.cos(2 * y), 80 * (x + y)], axis=2)
    factor = before / after
    edges = np.arange(after + 1) * factor
    shares = np.zeros((after, before))
    for i in range(after):
        lows = np.maximum(edges[i], np.arange(before))
        highs = np.minimum(edges[i + 1], np.arange(before) + 1)
        shares[i] = np.clip(highs - lows, 0, None) / factor
    wanted = np.einsum("ij,jkc,lk->ilc", shares, np.rint(tile), shares)
    found = resized(np.rint(tile).astype(np.uint8), after)
    assert found.shape == (after, after, 3)
    assert found.dtype == np.uint8
    assert np.abs(found - wanted).max() < 3


def test_a_constant_tile_stays_what_it_is_at_any_size() -> None:
    for size in (7, 10, 16, 20, 33, 64):
        assert (resized(np.full((20, 20, 3), 201, np.uint8), size) == 201).all()
