"""Packed stores are split by picture: all tiles of one, in every resolution, lie in one split."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.errors import StoreError
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest, Selection, StoreEntry
from manifests.splits.holdout import UnitList
from manifests.splits.shares import Share, strata_of, total_of
from manifests.splits.split import SplitError, SplitRule, split_manifest
from manifests.store import open_store
from manifests.tileset import TileSet
from tests.manifests.make_set import make_tiny_store, stored_entry

PICTURES = 40
TILES = 100
GROUPS = ("0.5", "1")
BY_GROUP = SplitRule(by="group", ratios=(0.5, 0.3, 0.2))


def picture_of(tile: int) -> int:
    """Tiles are dealt out to the pictures in turn; picture 0 has none."""
    return 1 + tile % (PICTURES - 1)


def group_of(picture: int) -> str | None:
    """Every third picture says nothing of its group."""
    return None if picture % 3 == 0 else f"g{picture % 7}"


def packed(root: Path, name: str = "packed", number: int = 0, **changes: Any) -> StoreEntry:
    """A packed store of two resolutions; pictures have groups, and a class or none."""
    sources = changes.pop("sources", None) or [
        {"name": f"p{n}.png", **({"columns": {"group": g}} if (g := group_of(n)) else {})}
        for n in range(PICTURES)
    ]
    source = np.array([picture_of(t) for t in range(TILES)], dtype=np.int32)
    columns = {"source": source, "label": (source % 3 - 1).astype(np.int32)}
    counts = dict.fromkeys(GROUPS, TILES)
    make_tiny_store(root / f"{name}.zarr", number, counts, columns=columns, sources=sources)
    fields = {"packed": True, "labels": ("normal", "tumour"), "source": name}
    return stored_entry(root, f"{name}.zarr", number, **{**fields, **changes})


def tiles_of(entry: StoreEntry, split: str, group: str) -> list[int]:
    """Tiles of a split, as the reader takes them."""
    found = entry.members(group, split)
    return list(range(TILES)) if found is None else found.indices().tolist()


def splits_of_pictures(entry: StoreEntry) -> dict[int, set[str]]:
    """The splits that tiles of each picture lie in."""
    found: dict[int, set[str]] = defaultdict(set)
    for split, sets in entry.splits.items():
        for tiles in sets.values():
            for tile in tiles.indices().tolist():
                found[picture_of(tile)].add(split)
    return found


def test_all_tiles_are_in_one_split_and_groups_stay_together(tmp_path: Path) -> None:
    manifest = Manifest((packed(tmp_path),), root=tmp_path)
    [entry] = split_manifest(manifest, BY_GROUP).manifest.stores
    for group in GROUPS:
        every = [tile for split in BY_GROUP.names for tile in tiles_of(entry, split, group)]
        assert sorted(every) == list(range(TILES))
    splits = splits_of_pictures(entry)
    assert sorted(splits) == list(range(1, PICTURES))
    groups: dict[str, set[str]] = defaultdict(set)
    for picture, where in splits.items():
        groups[group_of(picture) or f"picture {picture}"] |= where
    assert all(len(where) == 1 for where in groups.values())
    assert set().union(*groups.values()) == set(BY_GROUP.names)
    assert entry.split is None


def test_pictures_go_where_the_rule_puts_their_group_or_their_name(tmp_path: Path) -> None:
    manifest = Manifest((packed(tmp_path),), root=tmp_path)
    [entry] = split_manifest(manifest, BY_GROUP).manifest.stores
    for picture, where in splits_of_pictures(entry).items():
        group = group_of(picture)
        key = ("value", group) if group else ("picture", "packed", f"p{picture}.png")
        assert where == {BY_GROUP.split_of(key)}


def test_pictures_stay_where_they_are_when_a_merge_renames_their_store(tmp_path: Path) -> None:
    entry = packed(tmp_path)
    first, second = (
        split_manifest(Manifest((e,), root=tmp_path), BY_GROUP).manifest.stores[0]
        for e in (entry, replace(entry, id="cohort-packed"))
    )
    assert first.splits == second.splits


def test_the_reader_sees_each_split(tmp_path: Path) -> None:
    manifest = Manifest((packed(tmp_path),), root=tmp_path)
    save_manifest(split_manifest(manifest, BY_GROUP).manifest, tmp_path / "m.json")
    loaded = load_manifest(tmp_path / "m.json")
    found: Counter[int] = Counter()
    for split in BY_GROUP.names:
        found.update(open_store(loaded, loaded.stores[0], split)["1"].usable().tolist())
    assert found == Counter(range(TILES))


def test_a_store_whose_pictures_agree_is_in_that_split_as_a_whole(tmp_path: Path) -> None:
    manifest = Manifest((packed(tmp_path, patient="P"),), root=tmp_path)
    [entry] = split_manifest(manifest, SplitRule()).manifest.stores
    assert entry.split == SplitRule().split_of(("value", "P"))
    assert entry.splits == {}


def test_a_picture_says_more_than_its_store(tmp_path: Path) -> None:
    sources = [{"name": f"p{n}.png", "columns": {"patient": f"P{n}"}} for n in range(PICTURES)]
    manifest = Manifest((packed(tmp_path, patient="P", sources=sources),), root=tmp_path)
    assert len(split_manifest(manifest, SplitRule()).units) == PICTURES - 1
    assert len(split_manifest(manifest, SplitRule(by="source")).units) == PICTURES - 1
    assert len(split_manifest(manifest, SplitRule(by="id")).units) == 1
    assert len(split_manifest(manifest, SplitRule(by="label")).units) == 2 + 13


def test_a_packed_store_and_a_slide_of_one_patient_stay_together(tmp_path: Path) -> None:
    make_tiny_store(tmp_path / "slide.zarr", 5)
    slide = stored_entry(tmp_path, "slide.zarr", 5, columns={"group": "g1"})
    manifest = Manifest((packed(tmp_path), slide), root=tmp_path)
    for seed in range(10):
        rule = replace(BY_GROUP, seed=seed)
        entry, whole = split_manifest(manifest, rule).manifest.stores
        splits = splits_of_pictures(entry)
        assert all(splits[p] == {whole.split} for p in splits if group_of(p) == "g1")


def test_pictures_of_the_same_store_listed_twice_stay_together(tmp_path: Path) -> None:
    first = packed(tmp_path)
    manifest = Manifest((first, replace(first, id="again")), root=tmp_path)
    result = split_manifest(manifest, BY_GROUP)
    assert result.manifest.stores[0].splits == result.manifest.stores[1].splits
    assert all(len(unit.parts) % 2 == 0 for unit in result.units)


def test_pictures_of_one_name_in_two_folders_are_two_units(tmp_path: Path) -> None:
    entries = (packed(tmp_path), packed(tmp_path, "other", 1, source="packed"))
    result = split_manifest(Manifest(entries, root=tmp_path), BY_GROUP)
    unknown = [unit for unit in result.units if not unit.values]
    assert {len(unit.parts) for unit in unknown} == {1}


def test_splits_of_pictures_are_kept_and_unlisted_tiles_follow(tmp_path: Path) -> None:
    carried = {"test": {"1": TileSet.of([picture_of(0) - 1])}, "val": {"0.5": TileSet.of([1])}}
    entry = packed(tmp_path, splits=carried)
    result = split_manifest(Manifest((entry,), root=tmp_path), BY_GROUP)
    # Tile 0 shows picture 1 of group g1, tile 1 picture 2 of group g2.
    splits = splits_of_pictures(result.manifest.stores[0])
    assert all(splits[p] == {"test"} for p in splits if group_of(p) == "g1")
    assert all(splits[p] == {"val"} for p in splits if group_of(p) == "g2")
    assert result.kept == 2


def test_quotas_continue_an_older_result_by_picture(tmp_path: Path) -> None:
    rule = replace(BY_GROUP, exact=True)
    manifest = Manifest((packed(tmp_path),), root=tmp_path)
    older = split_manifest(manifest, rule).manifest
    more = Manifest((*manifest.stores, packed(tmp_path, "other", 1)), root=tmp_path)
    newer = split_manifest(more, rule, older=older)
    assert newer.manifest.stores[1].splits == older.stores[0].splits
    assert newer.kept == len(split_manifest(manifest, rule).units)


def test_an_older_result_whose_store_was_replaced_cannot_be_continued(tmp_path: Path) -> None:
    rule = replace(BY_GROUP, exact=True)
    older = split_manifest(Manifest((packed(tmp_path),), root=tmp_path), rule).manifest
    manifest = Manifest((packed(tmp_path, number=9),), root=tmp_path)
    with pytest.raises(SplitError, match=r"cannot be continued .*--anew"):
        split_manifest(manifest, rule, older=older)


def test_lists_name_pictures_groups_or_whole_packed_stores(tmp_path: Path) -> None:
    manifest = Manifest((packed(tmp_path),), root=tmp_path)
    lists = [UnitList("val", "a", ("packed/p3.png", "g2")), UnitList("test", "b", ("g1",))]
    [entry] = split_manifest(manifest, BY_GROUP, lists=lists).manifest.stores
    splits = splits_of_pictures(entry)
    assert splits[3] == {"val"}
    assert all(splits[p] == {"val"} for p in splits if group_of(p) == "g2")
    assert all(splits[p] == {"test"} for p in splits if group_of(p) == "g1")
    whole = [UnitList("val", "a", ("packed",))]
    assert split_manifest(manifest, BY_GROUP, lists=whole).manifest.stores[0].split == "val"


def test_shares_count_selected_tiles_while_the_split_holds_for_all(tmp_path: Path) -> None:
    chosen = {"0.5": TileSet.of(range(0, TILES, 2))}
    selected = packed(tmp_path, selection=Selection(({"where": "x"},), chosen))
    result = split_manifest(Manifest((selected,), root=tmp_path), BY_GROUP)
    [entry] = result.manifest.stores
    total = total_of(result, BY_GROUP)
    assert total.tiles == TILES // 2
    for share in total.shares:
        assert share.tiles == sum(len(tiles_of(entry, share.split, g)) for g in GROUPS)
        assert share.stores == 1
    every = [len(tiles) for sets in entry.splits.values() for tiles in sets.values()]
    assert sum(every) == TILES * len(GROUPS)


def test_pictures_outside_of_a_selection_are_no_units(tmp_path: Path) -> None:
    entry = packed(tmp_path)
    chosen = {"0.5": TileSet.of(t for t in range(TILES) if picture_of(t) in (3, 6))}
    selected = replace(entry, selection=Selection(({"where": "x"},), chosen))
    rule = SplitRule(exact=True, by="source")
    result = split_manifest(Manifest((selected,), root=tmp_path), rule)
    assert [unit.parts[0].name for unit in result.units] == ["packed/p3.png", "packed/p6.png"]
    nothing = replace(entry, selection=Selection(({"where": "x"},), {}))
    with pytest.raises(SplitError, match="no picture that has tiles"):
        split_manifest(Manifest((nothing,), root=tmp_path), rule)


def test_strata_may_be_classes_of_pictures(tmp_path: Path) -> None:
    rule = replace(BY_GROUP, by="source", stratify=("label",), exact=True)
    result = split_manifest(Manifest((packed(tmp_path),), root=tmp_path), rule)
    strata = strata_of(result, rule)
    assert [stratum.values for stratum in strata] == [("normal",), ("tumour",), (None,)]
    assert [stratum.units for stratum in strata] == [13, 13, 13]
    for stratum in strata:
        assert all(abs(share.units - share.asked * 13) < 1 for share in stratum.shares)
        assert stratum.tiles == sum(share.tiles for share in stratum.shares)
    classes = [picture_of(tile) % 3 for tile in range(TILES)]
    assert [stratum.tiles for stratum in strata] == [2 * classes.count(k) for k in (1, 2, 0)]


def test_a_stratum_tells_units_stores_and_tiles(tmp_path: Path) -> None:
    for n in range(4):
        make_tiny_store(tmp_path / f"s{n}.zarr", n, {"0.5": n + 1})
    entries = [
        stored_entry(tmp_path, f"s{n}.zarr", n, patient=f"P{n // 2}", organ="lung", split="test")
        for n in range(4)
    ]
    rule = SplitRule(stratify=("organ",))
    result = split_manifest(Manifest(tuple(entries), root=tmp_path), rule)
    [stratum] = strata_of(result, rule)
    assert stratum.values == ("lung",)
    assert stratum.shares[2] == Share("test", 0.1, units=2, stores=4, tiles=10)


@pytest.mark.parametrize(
    "sources",
    [
        [{}],
        [{"columns": {}}],
        [{"name": 7}],
        [{"name": "a", "columns": [1]}],
        [{"name": "a", "columns": {"group": 7}}],
        [{"name": "a", "columns": {}}],
    ],
)
def test_a_list_of_pictures_that_makes_no_sense_is_refused(
    tmp_path: Path, sources: list[Any]
) -> None:
    entry = packed(tmp_path, sources=sources)
    with pytest.raises(StoreError, match=r"picture"):
        split_manifest(Manifest((entry,), root=tmp_path), BY_GROUP)


def test_stores_that_are_not_packed_are_not_opened(tmp_path: Path) -> None:
    entry = replace(packed(tmp_path), packed=False, patient="P", path="nowhere.zarr")
    result = split_manifest(Manifest((entry,), root=tmp_path), SplitRule())
    assert result.manifest.stores[0].split is not None
