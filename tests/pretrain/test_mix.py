"""The mix is what the manifest says: stain × organ, unknown where nothing is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from manifests import Manifest, ManifestError, StoreEntry
from manifests.model import Selection
from manifests.tileset import TileSet
from pretrain.mix import Mix, Source, resolve_mix
from tests.pretrain.make import make_slide, numbered_tiles


def entry(root: Path, name: str, *sizes: tuple[str, int, int], **facts: Any) -> StoreEntry:
    """A store with (group, tile size, tiles) for each resolution."""
    facts = {"stain": None, "organ": None, **facts}
    return make_slide(
        root,
        name,
        {group: numbered_tiles(tiles, size=size) for group, size, tiles in sizes},
        **facts,
    )


def test_strata_are_stain_by_organ_and_missing_names_are_unknown(tmp_path: Path) -> None:
    manifest = Manifest(
        (
            entry(tmp_path, "a", ("0.5", 8, 4), stain="H&E", organ="colon"),
            entry(tmp_path, "b", ("0.5", 8, 5), stain="H&E", organ="lung"),
            entry(tmp_path, "c", ("0.5", 8, 6), stain="H&E", organ="colon"),
            entry(tmp_path, "d", ("0.5", 8, 7)),
        ),
        tmp_path,
    )
    mix = resolve_mix(manifest)
    found = {(s.stain, s.organ): [slide.id for slide in s.slides] for s in mix.strata}
    assert found == {
        ("H&E", "colon"): ["a", "c"],
        ("H&E", "lung"): ["b"],
        ("unknown", "unknown"): ["d"],
    }
    assert mix.tiles == 22


def test_all_resolutions_of_a_slide_are_its_tiles(tmp_path: Path) -> None:
    slide = entry(tmp_path, "a", ("0.25", 8, 3), ("0.5", 8, 2))
    mix = resolve_mix(Manifest((slide,), tmp_path))
    (found,) = mix.slides
    assert [found.locate(tile) for tile in range(5)] == [
        ("0.25", 0),
        ("0.25", 1),
        ("0.25", 2),
        ("0.5", 0),
        ("0.5", 1),
    ]
    with pytest.raises(IndexError, match="5 tiles"):
        found.locate(5)
    assert mix.mpps == ((0.25, 0.25), (0.5, 0.5))


def test_failed_and_empty_slides_are_left_out(tmp_path: Path) -> None:
    failed = StoreEntry(id="f", status="failed", source="f", reason="unreadable")
    empty = dataclasses.replace(entry(tmp_path, "e", ("0.5", 8, 0)), status="empty")
    hollow = entry(tmp_path, "h", ("0.5", 16, 0))
    stores = (failed, empty, hollow, entry(tmp_path, "a", ("0.5", 8, 1)))
    mix = resolve_mix(Manifest(stores, tmp_path))
    assert [slide.id for slide in mix.slides] == ["a"]


def test_tiles_that_could_not_be_read_have_no_number(tmp_path: Path) -> None:
    slide = entry(
        *(tmp_path, "a", ("0.25", 8, 5), ("0.5", 8, 30)),
        unread={"0.25": [0, 1, 3], "0.5": [7, *range(15, 29)]},
    )
    mix = resolve_mix(Manifest((slide,), tmp_path))
    (found,) = mix.slides
    expected = [("0.25", 2), ("0.25", 4)]
    expected += [("0.5", i) for i in (*range(7), *range(8, 15), 29)]
    assert mix.tiles == found.tiles == len(expected)
    assert [found.locate(tile) for tile in range(mix.tiles)] == expected
    assert mix.to_json()["strata"][0]["slides"] == {"a": len(expected)}


def chosen(tiles: dict[str, list[int]]) -> Selection:
    """A selection of these tiles of each resolution."""
    return Selection(({"where": "x"},), {g: TileSet.of(members) for g, members in tiles.items()})


def drawn(mix: Mix) -> dict[str, list[tuple[str, int]]]:
    """All that can be drawn of each slide."""
    return {slide.id: [slide.locate(tile) for tile in range(slide.tiles)] for slide in mix.slides}


def test_only_selected_tiles_are_drawn_and_never_unread_ones(tmp_path: Path) -> None:
    slide = entry(tmp_path, "a", ("0.25", 8, 5), ("0.5", 8, 30), unread={"0.5": [4, 7]})
    other = entry(tmp_path, "b", ("0.5", 8, 3))
    slide = dataclasses.replace(slide, selection=chosen({"0.5": [3, 4, 29]}))
    other = dataclasses.replace(other, selection=chosen({}))
    mix = resolve_mix(Manifest((slide, other), tmp_path))
    assert drawn(mix) == {"a": [("0.5", 3), ("0.5", 29)]}


def test_a_split_is_drawn_from_alone_whole_stores_and_parts(tmp_path: Path) -> None:
    parts = {"train": {"0.5": TileSet.of([0, 2, 3])}, "test": {"0.5": TileSet.of([1])}}
    stores = (
        dataclasses.replace(entry(tmp_path, "a", ("0.5", 8, 2)), split="train"),
        dataclasses.replace(entry(tmp_path, "b", ("0.5", 8, 2)), split="test"),
        dataclasses.replace(
            entry(tmp_path, "c", ("0.5", 8, 4)), splits=parts, selection=chosen({"0.5": [1, 2, 3]})
        ),
        entry(tmp_path, "d", ("0.5", 8, 2)),
    )
    manifest = Manifest(stores, tmp_path)
    train = resolve_mix(manifest, "train")
    assert drawn(train) == {"a": [("0.5", 0), ("0.5", 1)], "c": [("0.5", 2), ("0.5", 3)]}
    assert drawn(resolve_mix(manifest, "test"))["c"] == [("0.5", 1)]
    assert resolve_mix(manifest).tiles == 9
    assert train.to_json()["split"] == "train"
    with pytest.raises(ManifestError, match="no tiles to train on in val"):
        resolve_mix(manifest, "val")


def test_a_size_of_which_nothing_is_selected_is_no_hindrance(tmp_path: Path) -> None:
    slide = entry(tmp_path, "a", ("0.25", 16, 3), ("0.5", 8, 2))
    slide = dataclasses.replace(slide, selection=chosen({"0.5": [0]}))
    mix = resolve_mix(Manifest((slide,), tmp_path))
    assert (mix.tile_size, drawn(mix)) == (8, {"a": [("0.5", 0)]})


def test_a_store_whose_tiles_are_all_unread_counts_as_empty(tmp_path: Path) -> None:
    lost = entry(tmp_path, "lost", ("0.5", 8, 20), unread={"0.5": range(20)})
    half = entry(tmp_path, "half", ("0.25", 8, 3), ("0.5", 8, 2), unread={"0.25": range(3)})
    whole = entry(tmp_path, "whole", ("0.5", 8, 2), unread={})
    mix = resolve_mix(Manifest((lost, half, whole), tmp_path))
    assert {slide.id: slide.tiles for slide in mix.slides} == {"half": 2, "whole": 2}
    assert mix.mpps == ((0.5, 0.5),)
    with pytest.raises(ManifestError, match="or none that could be read whole"):
        resolve_mix(Manifest((lost,), tmp_path))


def test_where_all_tiles_were_read_no_list_of_them_is_kept(tmp_path: Path) -> None:
    (slide,) = resolve_mix(
        Manifest((entry(tmp_path, "a", ("0.5", 8, 9), unread={}),), tmp_path)
    ).slides
    assert slide.sources == (Source("0.5", (0.5, 0.5), 9),)


def test_a_manifest_without_tiles_is_refused() -> None:
    with pytest.raises(ManifestError, match="no tiles"):
        resolve_mix(Manifest((), Path()))


def test_tiles_of_different_sizes_are_refused_naming_a_slide_of_each(tmp_path: Path) -> None:
    stores = (entry(tmp_path, "a", ("0.5", 16, 1)), entry(tmp_path, "b", ("0.5", 8, 1)))
    with pytest.raises(ManifestError, match="8 px in b, 16 px in a"):
        resolve_mix(Manifest(stores, tmp_path))


def test_the_mix_file_gives_shares_and_counts(tmp_path: Path) -> None:
    stores = (
        entry(tmp_path, "a", ("0.5", 32, 4), organ="colon"),
        entry(tmp_path, "b", ("0.5", 32, 5)),
    )
    assert resolve_mix(Manifest(stores, tmp_path)).to_json() == {
        "split": None,
        "tiles": 9,
        "tile_size": 32,
        "mpp": [[0.5, 0.5]],
        "strata": [
            {"stain": "unknown", "organ": "colon", "share": 0.5, "tiles": 4, "slides": {"a": 4}},
            {"stain": "unknown", "organ": "unknown", "share": 0.5, "tiles": 5, "slides": {"b": 5}},
        ],
    }
