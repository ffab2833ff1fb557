"""Which tiles are chosen to look at, what their classes are, and which of them are kin."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from manifests import Manifest, StoreEntry
from manifests.model import Selection, SlideInfo
from manifests.tileset import TileSet
from pretrain.watch.labels import KnownTile, Pool, choose_tiles, known_names, related
from tests.manifests.make import tile_pixels
from tests.pretrain.make import make_slide
from tests.pretrain.watch.packed import make_packed


def pool_of(
    root: Path, *entries: StoreEntry, split: str | None = None, seed: int = 0, by: str | None = None
) -> Pool:
    """All tiles of some entries."""
    splits = () if by is None else ({"by": by},)
    manifest = Manifest(entries, root, splits=splits)
    return Pool(manifest, frozenset(entry.id for entry in entries), split, seed)


def slide(root: Path, name: str, tiles: int, *, organ: str | None = "colon") -> StoreEntry:
    """A slide with so many tiles."""
    return make_slide(root, name, {"0.5": tile_pixels(tiles, 16)}, organ=organ)


def where(tiles: tuple[KnownTile, ...]) -> list[tuple[str, str, int]]:
    """Where the tiles lie."""
    return [(tile.slide, tile.group, tile.index) for tile in tiles]


def test_classes_are_balanced_and_take_turns(tmp_path: Path) -> None:
    pool = pool_of(
        tmp_path,
        *(slide(tmp_path, f"c{n}", 30) for n in range(3)),
        slide(tmp_path, "lung", 20, organ="lung"),
        slide(tmp_path, "skin", 2, organ="skin"),
        slide(tmp_path, "none", 9, organ=None),
    )
    tiles = choose_tiles(pool, "organ", 30)
    assert Counter(tile.label for tile in tiles) == {"colon": 10, "lung": 10, "skin": 2}
    assert Counter(tile.label for tile in tiles[:6]) == {"colon": 2, "lung": 2, "skin": 2}
    assert len(set(where(tiles))) == 22


def test_slides_of_a_class_are_even_and_all_tiles_come_once(tmp_path: Path) -> None:
    entries = [slide(tmp_path, name, count) for name, count in (("a", 40), ("b", 40), ("c", 2))]
    tiles = choose_tiles(pool_of(tmp_path, *entries), "organ", 22)
    assert Counter(tile.slide for tile in tiles) == {"a": 10, "b": 10, "c": 2}
    every = choose_tiles(pool_of(tmp_path, *entries), "organ", 1000)
    assert len(set(where(every))) == len(every) == 82


def test_the_choice_depends_on_the_seed_alone(tmp_path: Path) -> None:
    entries = [slide(tmp_path, name, 40) for name in "ab"]
    first = where(choose_tiles(pool_of(tmp_path, *entries), "organ", 10))
    again = where(choose_tiles(pool_of(tmp_path, *reversed(entries)), "organ", 10))
    other = where(choose_tiles(pool_of(tmp_path, *entries, seed=1), "organ", 10))
    assert first == again != other


def test_without_a_field_tiles_of_any_class_are_chosen(tmp_path: Path) -> None:
    entries = [slide(tmp_path, "a", 5, organ="lung"), slide(tmp_path, "b", 5, organ=None)]
    tiles = choose_tiles(pool_of(tmp_path, *entries), None, 6)
    assert Counter(tile.slide for tile in tiles) == {"a": 3, "b": 3}
    assert {tile.label for tile in tiles} == {None}


def test_only_tiles_of_the_split_the_selection_and_the_pool_are_chosen(tmp_path: Path) -> None:
    packed = replace(
        make_packed(tmp_path, "p", tile_pixels(10, 16), labels=[0, 1] * 5, names=["n", "t"]),
        splits={"train": {"0.5": TileSet.of([0, 1, 2, 3])}, "val": {"0.5": TileSet.of([4, 5])}},
        selection=Selection(({"where": "x"},), {"0.5": TileSet.of([1, 2, 3, 4, 5])}),
    )
    for split, expected in (("train", {1, 2, 3}), ("val", {4, 5}), (None, {1, 2, 3, 4, 5})):
        tiles = choose_tiles(pool_of(tmp_path, packed, split=split), "label", 100)
        assert {tile.index for tile in tiles} == expected
        assert all(tile.label == "nt"[tile.index % 2] for tile in tiles)
    assert choose_tiles(pool_of(tmp_path, packed, split="test"), "label", 100) == ()
    elsewhere = replace(pool_of(tmp_path, packed), slides=frozenset({"other"}))
    assert choose_tiles(elsewhere, "label", 100) == ()


def test_tiles_that_were_not_read_whole_are_never_chosen(tmp_path: Path) -> None:
    unread = {"0.5": [0, 3, 4]}
    entry = make_slide(tmp_path, "a", {"0.5": tile_pixels(8, 16)}, unread=unread)
    entry = replace(entry, unread=3)
    tiles = choose_tiles(pool_of(tmp_path, entry), "organ", 100)
    assert {tile.index for tile in tiles} == {1, 2, 5, 6, 7}


def test_labels_of_several_stores_are_one_class_if_they_are_called_the_same(
    tmp_path: Path,
) -> None:
    pixels = tile_pixels(6, 16)
    entries = [
        make_packed(tmp_path, "p", pixels, labels=[0, 0, 1, 1, -1, -1], names=["n", "t"]),
        make_packed(tmp_path, "q", pixels, labels=[0] * 6, names=["t"]),
        slide(tmp_path, "a", 5),
    ]
    tiles = choose_tiles(pool_of(tmp_path, *entries), "label", 100)
    assert Counter(tile.label for tile in tiles) == {"t": 8, "n": 2}
    assert {(t.slide, t.index) for t in tiles if t.label == "n"} == {("p", 0), ("p", 1)}


def test_a_class_may_be_a_column_of_slides_or_pictures(tmp_path: Path) -> None:
    columns = [{"grade": "low"}, {"grade": "high"}, {}]
    packed = make_packed(
        tmp_path, "p", tile_pixels(6, 16), source=[0, 0, 1, 1, 2, 2], columns=columns
    )
    whole = replace(slide(tmp_path, "a", 4), columns={"grade": "low"})
    tiles = choose_tiles(pool_of(tmp_path, packed, whole), "grade", 100)
    found = {(tile.slide, tile.index): tile.label for tile in tiles}
    assert found == {
        **{("p", index): "low" for index in (0, 1)},
        **{("p", index): "high" for index in (2, 3)},
        **{("a", index): "low" for index in range(4)},
    }


def test_of_very_many_classes_the_largest_are_taken(tmp_path: Path) -> None:
    labels = [*range(130), *range(100), *range(100)]
    names = [f"class-{number:03}" for number in range(130)]
    packed = make_packed(tmp_path, "p", tile_pixels(330, 8), labels=labels, names=names)
    tiles = choose_tiles(pool_of(tmp_path, packed), "label", 1000)
    assert {tile.label for tile in tiles} == set(names[:100])


def kin_of(tiles: tuple[KnownTile, ...]) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """The kin of each tile, by slide and index."""
    found = related(tiles)
    assert (found == found.T).all()
    names = [(tile.slide, tile.index) for tile in tiles]
    return {
        name: {names[j] for j in np.flatnonzero(row).tolist()}
        for name, row in zip(names, found, strict=True)
    }


def test_tiles_of_a_slide_and_of_a_patient_are_kin(tmp_path: Path) -> None:
    info = SlideInfo("openslide", "aperio", "jpeg", "sha256:same")
    entries = [
        replace(slide(tmp_path, "a", 1), patient="P1"),
        replace(slide(tmp_path, "b", 2), patient="P1"),
        replace(slide(tmp_path, "c", 1), slide=info),
        replace(slide(tmp_path, "d", 1), slide=info),
        slide(tmp_path, "e", 1),
    ]
    kin = kin_of(choose_tiles(pool_of(tmp_path, *entries), "organ", 100))
    assert kin["a", 0] == kin["b", 0] == {("a", 0), ("b", 0), ("b", 1)}
    assert kin["c", 0] == {("c", 0), ("d", 0)}
    assert kin["e", 0] == {("e", 0)}


def test_tiles_of_a_picture_of_its_patient_and_its_group_are_kin(tmp_path: Path) -> None:
    columns = [{"patient": "P1"}, {"patient": "P1"}, {"group": "g"}, {"group": "g"}, {}]
    packed = make_packed(
        tmp_path,
        "p",
        tile_pixels(6, 16),
        labels=[0] * 6,
        names=["t"],
        source=[0, 1, 2, 3, 4, 4],
        columns=columns,
    )
    other = replace(slide(tmp_path, "a", 1), patient="P1", columns={"group": "other"})
    pool = pool_of(tmp_path, packed, other)
    kin = kin_of(choose_tiles(pool, "label", 100))
    assert kin["p", 0] == {("p", 0), ("p", 1)}
    assert kin["p", 2] == {("p", 2), ("p", 3)}
    assert kin["p", 4] == {("p", 4), ("p", 5)}
    everyone = kin_of(choose_tiles(pool, "organ", 100))
    assert everyone["a", 0] == {("a", 0), ("p", 0), ("p", 1)}


def test_what_the_set_was_split_by_is_kin(tmp_path: Path) -> None:
    entries = [
        replace(slide(tmp_path, name, 1), columns={"block": block, "organ_part": "x"})
        for name, block in (("a", "1"), ("b", "1"), ("c", "2"))
    ]
    kin = kin_of(choose_tiles(pool_of(tmp_path, *entries, by="block"), "organ", 100))
    assert kin["a", 0] == {("a", 0), ("b", 0)}
    kin = kin_of(choose_tiles(pool_of(tmp_path, *entries, by="organ"), "organ", 100))
    assert kin["a", 0] == {("a", 0)}


@pytest.mark.parametrize("listed", [True, False])
def test_pictures_that_are_not_listed_are_all_kin(tmp_path: Path, listed: bool) -> None:
    packed = make_packed(
        tmp_path, "p", tile_pixels(3, 16), labels=[0] * 3, names=["t"], listed=listed
    )
    found = related(choose_tiles(pool_of(tmp_path, packed), "label", 100))
    assert found.all() != listed


def test_names_with_values_are_known(tmp_path: Path) -> None:
    entry = replace(slide(tmp_path, "a", 1), columns={"grade": "low", "empty": ""})
    packed = make_packed(tmp_path, "p", tile_pixels(1, 16), labels=[0], names=["t"])
    assert {"grade", "organ"} <= set(known_names(pool_of(tmp_path, entry)))
    assert not {"empty", "label", "scanner"} & set(known_names(pool_of(tmp_path, entry)))
    assert "label" in known_names(pool_of(tmp_path, packed))
