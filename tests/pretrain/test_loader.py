"""Batches hold the tiles that were drawn; damage is survived tile by tile, lost stores are not."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from manifests import Manifest, StoreError, load_manifest
from pretrain.loader import Batch, TileLoader, prefetch
from pretrain.mix import resolve_mix
from pretrain.sampler import Sampler
from tests.manifests.make import UUID
from tests.pretrain.make import damage_tile, make_slide, numbered_tiles, save


def loader_of(manifest: Manifest, batch_size: int, seed: int = 0) -> TileLoader:
    mix = resolve_mix(manifest)
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


def test_the_size_of_batches_does_not_change_the_order(manifest: Manifest) -> None:
    mix = resolve_mix(manifest)
    sampler = Sampler(mix, 3, 4)
    small = [TileLoader(manifest, mix, sampler, 4).batch(step).ids for step in range(3)]
    np.testing.assert_array_equal(
        np.concatenate(small), TileLoader(manifest, mix, sampler, 12).batch(0).ids
    )


def test_tiles_that_could_not_be_read_from_the_slide_are_never_drawn(tmp_path: Path) -> None:
    lost = {"0.25": [1, 2], "0.5": [0, *range(5, 19)]}
    a = make_slide(
        tmp_path, "a", {"0.25": numbered_tiles(5), "0.5": numbered_tiles(20, 5)}, unread=lost
    )
    b = make_slide(tmp_path, "b", {"0.5": numbered_tiles(9, 25)}, unread={})
    c = make_slide(tmp_path, "c", {"0.5": numbered_tiles(9, 34)}, unread={"0.5": range(9)})
    manifest = load_manifest(save(tmp_path, a, b, c))
    mix = resolve_mix(manifest)
    assert {slide.id: slide.tiles for slide in mix.slides} == {"a": 8, "b": 9}
    loader = TileLoader(manifest, mix, Sampler(mix, 0, 6), 6)
    seen = Counter(int(v) for step in range(30) for v in loader.batch(step).tiles[:, 0, 0, 0])
    assert set(seen) == {0, 3, 4, 6, 7, 8, 9, 24} | set(range(25, 34))
    of_a = [count for tile, count in seen.items() if tile < 25]
    assert max(of_a) - min(of_a) <= 1  # each in its turn, none more often for those left out
    ids = {int(i) for step in range(30) for i in loader.batch(step).ids}
    assert ids == set(range(mix.tiles))


def test_a_damaged_tile_is_replaced_by_one_of_its_slide_and_reported(manifest: Manifest) -> None:
    before = loader_of(manifest, 50).batch(0)
    damage_tile(manifest.root / "a.zarr", "0.25", 2)
    after = loader_of(manifest, 50).batch(0)
    assert set(after.damaged) == {("a", 2)}
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


def test_a_store_removed_while_training_stops_the_run(manifest: Manifest) -> None:
    loader = loader_of(manifest, 10)
    shutil.rmtree(manifest.root / "b.zarr")
    with pytest.raises(StoreError, match=r"b\.zarr was removed while training"):
        loader.batch(0)


def test_an_uncommitted_store_is_refused_before_the_first_batch(manifest: Manifest) -> None:
    (manifest.root / "a.zarr" / "commit.json").unlink()
    with pytest.raises(StoreError, match="not committed") as caught:
        loader_of(manifest, 10)
    assert caught.value.exit_code == 5


def test_a_store_that_is_not_the_one_of_the_manifest_is_refused(manifest: Manifest) -> None:
    first, second = manifest.stores
    other = dataclasses.replace(manifest, stores=(dataclasses.replace(first, uuid=UUID), second))
    with pytest.raises(StoreError, match="not the store that the manifest lists"):
        loader_of(other, 10)


def test_counts_that_differ_from_the_manifest_are_refused(manifest: Manifest) -> None:
    first, second = manifest.stores
    fewer = dataclasses.replace(second.resolutions[0], tiles=29)
    changed = dataclasses.replace(second, resolutions=(fewer,))
    with pytest.raises(StoreError, match=r"has 30 tiles of 8 px in 0\.5, but the manifest says 29"):
        loader_of(dataclasses.replace(manifest, stores=(first, changed)), 10)


def empty_batch(step: int) -> Batch:
    numbers = np.array([step])
    return Batch(np.zeros((1, 1, 1, 3), np.uint8), numbers, numbers)


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_however_many_threads(threads: int) -> None:
    def read(step: int) -> Batch:
        threading.Event().wait(0.002 * (step % 3))
        return empty_batch(step)

    assert [int(b.numbers[0]) for b in prefetch(read, range(20), threads)] == list(range(20))


def test_reading_ahead_is_bounded() -> None:
    started: list[int] = []

    def read(step: int) -> Batch:
        started.append(step)
        return empty_batch(step)

    batches = prefetch(read, range(100), threads=2)
    next(batches)
    batches.close()
    assert len(started) <= 4


def test_an_error_comes_where_its_batch_would_have_come() -> None:
    def read(step: int) -> Batch:
        if step == 2:
            raise StoreError("gone")
        return empty_batch(step)

    batches = prefetch(read, range(5), threads=2)
    assert [int(next(batches).numbers[0]) for _ in range(2)] == [0, 1]
    with pytest.raises(StoreError, match="gone"):
        next(batches)


def test_closing_ends_the_threads() -> None:
    batches = prefetch(empty_batch, range(100), threads=2)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tiles")]
