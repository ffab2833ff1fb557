"""`split --check` finds what lies in two splits, and only that."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from manifests.cli.split import split
from manifests.codec import Rgb, TileCodec
from manifests.jsonfile import load_manifest, save_manifest
from manifests.layout import TilesLayout
from manifests.likeness.duplicates import DuplicateGroup, Duplicates, Member
from manifests.model import Manifest, Selection, StoreEntry
from manifests.splits import leaks
from manifests.splits.leaks import Leak, find_leaks, units_to_check
from manifests.splits.split import SplitError, SplitRule, split_manifest
from manifests.store import GroupPlan, StoreWriter
from manifests.tileset import TileSet
from tests.manifests.make_set import SPEC_HASH, store_uuid, stored_entry
from tests.manifests.splits.test_split import slide
from tests.manifests.splits.test_split_packed import BY_GROUP, packed, picture_of

TILE = 96


@pytest.fixture
def no_duplicates(monkeypatch: pytest.MonkeyPatch) -> list[DuplicateGroup]:
    """What the search for duplicates finds; tests put groups in."""
    groups: list[DuplicateGroup] = []
    nothing = Duplicates((), slides=0, tiles=0, blank=0, unpictured=0, passed_over=0)
    monkeypatch.setattr(
        leaks, "find_duplicates", lambda *_, **__: replace(nothing, groups=tuple(groups))
    )
    return groups


def told(found: list[Leak]) -> list[tuple[str, dict[str, list[str]]]]:
    """Kinds of leaks, and the entries in each split."""
    return [
        (leak.kind, {s: [m.entry for m in members] for s, members in leak.members.items()})
        for leak in found
    ]


def test_a_patient_in_two_splits_is_a_leak(no_duplicates: list[DuplicateGroup]) -> None:
    entries = (
        slide(1, patient="P", split="train"),
        slide(2, patient="P", split="test"),
        slide(3, patient="P", split="test"),
        slide(4, patient="Q", split="test"),
        slide(5, patient="Q"),
    )
    found = find_leaks(Manifest(entries), ["patient"])
    assert told(found) == [("unit", {"test": ["s2", "s3"], "train": ["s1"]})]
    assert found[0].sentence == "the patient 'P' in test (s2, s3) and train (s1)"
    assert found[0].to_json() == {
        "kind": "unit",
        "name": "the patient 'P'",
        "similarity": 1.0,
        "splits": {"test": [{"entry": "s2"}, {"entry": "s3"}], "train": [{"entry": "s1"}]},
    }
    assert told(find_leaks(Manifest(entries), ["id"])) == []


def test_several_kinds_of_units_can_be_checked(no_duplicates: list[DuplicateGroup]) -> None:
    entries = (
        slide(1, patient="P", site="A", split="train"),
        slide(2, patient="Q", site="A", split="test"),
        slide(3, patient="P", site="B", split="test"),
    )
    found = find_leaks(Manifest(entries), ["patient", "site"])
    assert [leak.name for leak in found] == ["the patient 'P'", "the site 'A'"]


def test_one_slide_in_two_splits_is_a_leak_whatever_its_patients(
    no_duplicates: list[DuplicateGroup],
) -> None:
    one = slide(1, patient="P", split="train")
    copies = (slide(2, patient="Q", content=1, split="test"), replace(one, id="s3", split="test"))
    found = find_leaks(Manifest((one, *copies, slide(4, split="test"))), ["id"])
    assert told(found) == [
        ("slide", {"test": ["s2", "s3"], "train": ["s1"]}),
        ("slide", {"test": ["s3"], "train": ["s1"]}),
    ]
    assert told(find_leaks(Manifest((one, replace(one, id="s3"))), ["id"])) == []


def test_what_the_splits_were_made_by_is_checked_by_default() -> None:
    made = [SplitRule(by="site").to_json(), SplitRule(by="site", seed=2).to_json(), {"by": 7}]
    assert units_to_check(Manifest(splits=tuple(made))) == ("site",)
    assert units_to_check(Manifest()) == ("patient",)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", ["slide", "tile"])
def test_duplicates_are_leaks_where_they_lie_in_two_splits(
    no_duplicates: list[DuplicateGroup], kind: Any, exact: bool
) -> None:
    where = () if kind == "slide" else ("0.5", 3)
    no_duplicates += [
        DuplicateGroup(kind, exact, tuple(Member(f"s{n}", *where) for n in group), 0.9)
        for group in ((1, 2), (1, 3), (3, 4))
    ]
    entries = (
        slide(1, split="train"),
        slide(2, split="train"),
        slide(3, split="test"),
        slide(4, split="test"),
    )
    found = told(find_leaks(Manifest(entries), ["id"]))
    if exact and kind == "slide":
        assert found == []  # fingerprints are compared without the search
    else:
        name = kind if exact else f"near {kind}"
        assert found == [(name, {"test": ["s3"], "train": ["s1"]})]


def test_tiles_of_a_packed_store_are_looked_up_in_its_splits(
    tmp_path: Path, no_duplicates: list[DuplicateGroup]
) -> None:
    entry = packed(
        tmp_path, splits={"train": {"1": TileSet.of([1])}, "test": {"1": TileSet.of([2])}}
    )
    pairs = ((1, 2), (1, 3), (3, 4))
    no_duplicates += [
        DuplicateGroup("tile", True, tuple(Member("packed", "1", t) for t in pair), 1.0)
        for pair in pairs
    ]
    no_duplicates.append(
        DuplicateGroup("tile", True, (Member("packed", "0.5", 1), Member("packed", "1", 2)), 1.0)
    )
    [leak] = find_leaks(Manifest((entry,), root=tmp_path), ["id"])[1:]
    assert (
        leak.sentence == "equal tiles in test (tile 2 of packed 1) and train (tile 1 of packed 1)"
    )


def test_groups_of_pictures_in_two_splits_are_leaks(
    tmp_path: Path, no_duplicates: list[DuplicateGroup]
) -> None:
    manifest = Manifest((packed(tmp_path),), root=tmp_path)
    clean = split_manifest(manifest, BY_GROUP).manifest
    assert find_leaks(clean, ["group"]) == []
    naive = split_manifest(manifest, replace(BY_GROUP, by="source")).manifest
    found = find_leaks(naive, ["group"])
    assert {leak.kind for leak in found} == {"unit"}
    assert "the group 'g1'" in [leak.name for leak in found]
    assert find_leaks(naive, ["source"]) == []


def test_a_picture_whose_tiles_are_torn_is_a_leak(
    tmp_path: Path, no_duplicates: list[DuplicateGroup]
) -> None:
    tiles = [t for t in range(100) if picture_of(t) == 3]
    torn = {"train": {"0.5": TileSet.of(tiles[:1])}, "test": {"1": TileSet.of(tiles[1:])}}
    entry = packed(tmp_path, splits=torn)
    [leak] = find_leaks(Manifest((entry,), root=tmp_path), ["group"])
    assert leak.name == "'packed/p3.png'"


def test_pictures_of_a_store_listed_twice_are_compared_one_by_one(
    tmp_path: Path, no_duplicates: list[DuplicateGroup]
) -> None:
    result = split_manifest(Manifest((packed(tmp_path),), root=tmp_path), BY_GROUP).manifest
    [entry] = result.stores
    twice = replace(result, stores=(entry, replace(entry, id="again")))
    assert find_leaks(twice, ["group"]) == []
    names = dict(zip(("train", "val", "test"), ("val", "test", "train"), strict=True))
    turned = {names[name]: sets for name, sets in entry.splits.items()}
    other = replace(result, stores=(entry, replace(entry, id="again", splits=turned)))
    assert Counter(leak.kind for leak in find_leaks(other, ["id"]))["slide"] == 39


def test_a_manifest_without_splits_cannot_be_checked() -> None:
    with pytest.raises(SplitError, match="no store of the manifest is in a split"):
        find_leaks(Manifest((slide(1, patient="P"),)), ["patient"])


def make_store(root: Path, name: str, number: int, tiles: Rgb, codec: TileCodec) -> StoreEntry:
    """A store of these tiles, and its entry."""
    layout = TilesLayout(len(tiles), tiles.shape[1], 16, codec)
    xy: dict[str, npt.NDArray[np.generic]] = {
        axis: np.arange(len(tiles), dtype=np.int64) for axis in "xy"
    }
    writer = StoreWriter(root / f"{name}.zarr")
    attributes = {"format": "histotile-store", "version": 1, "uuid": store_uuid(number)}
    more = {"groups": ["0.5"], "spec": {}, "spec_hash": SPEC_HASH}
    group = GroupPlan(layout, {"mpp": [0.5, 0.5], "mpp_requested": 0.5}, xy)
    overview = tiles[:12].reshape(3, 4, *tiles.shape[1:]).swapaxes(1, 2)
    thumbnail = np.ascontiguousarray(overview.reshape(3 * TILE, 4 * TILE, 3)[::2, ::2])
    pictures = {"thumbnail": thumbnail, "tissue_mask": thumbnail.min(axis=2) < 200}
    writer.plan({**attributes, **more}, {"0.5": group}, pictures)
    for shard in writer.missing_shards("0.5"):
        writer.write_shard(
            "0.5", shard, [codec.encode(tiles[i]) for i in layout.shard_range(shard)], {}
        )
    writer.commit()
    entry = stored_entry(root, f"{name}.zarr", number)
    [resolution] = entry.resolutions
    return replace(entry, resolutions=(replace(resolution, tile_size=TILE),))


def painted(seed: int) -> Rgb:
    """12 tiles of random blots, each as unlike the others as tissue of other places."""
    coarse = np.random.default_rng(seed).integers(20, 236, (12, 14, 14, 3), dtype=np.uint8)
    tiles = [
        Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.BICUBIC) for tile in coarse
    ]
    return np.stack([np.asarray(tile) for tile in tiles])


def check(manifest: Manifest, *options: str) -> Result:
    """The command on a manifest, written to its folder."""
    save_manifest(manifest, manifest.root / "manifest.json")
    return CliRunner().invoke(split, [str(manifest.root), "--check", "--by", "id", *options])


def two_splits(root: Path, first: Rgb, second: Rgb, quality: int = 90) -> Manifest:
    """A training store and a test store."""
    train = make_store(root, "a", 1, first, TileCodec("jpeg", 90, "444"))
    test = make_store(root, "b", 2, second, TileCodec("jpeg", quality, "444"))
    return Manifest((replace(train, split="train"), replace(test, split="test")), root=root)


def test_different_slides_do_not_leak(tmp_path: Path) -> None:
    ran = check(two_splits(tmp_path, painted(1), painted(2)))
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert "No leak was found." in ran.stderr


def test_equal_tiles_in_two_splits_leak_also_without_the_search_for_near_ones(
    tmp_path: Path,
) -> None:
    second = painted(2)
    second[5] = painted(1)[7]
    manifest = two_splits(tmp_path, painted(1), second)
    ran = check(manifest, "--no-near", "--json")
    assert ran.exit_code == 6
    found = json.loads(ran.stdout)
    assert found["counts"] == {"unit": 0, "slide": 0, "near slide": 0, "tile": 1, "near tile": 0}
    assert found["leaks"][0]["splits"] == {
        "test": [{"entry": "b", "group": "0.5", "tile": 5}],
        "train": [{"entry": "a", "group": "0.5", "tile": 7}],
    }
    without = TileSet.of([t for t in range(12) if t != 7])
    selected = replace(manifest.stores[0], selection=Selection(({"where": "x"},), {"0.5": without}))
    clean = check(replace(manifest, stores=(selected, manifest.stores[1])), "--no-near")
    assert (clean.exit_code, clean.stdout) == (0, "")


def test_a_copy_of_the_test_slide_that_was_encoded_anew_leaks(tmp_path: Path) -> None:
    manifest = two_splits(tmp_path, painted(1), painted(1), quality=70)
    assert check(manifest, "--no-near").exit_code == 0
    ran = check(manifest)
    assert ran.exit_code == 6
    assert "near tile: tiles that look the same in test (tile" in ran.stdout
    assert "near slide: slides that look the same in test (b) and train (a)" in ran.stdout
    assert "Error: 13 leaks: 1 × near slide, 12 × near tile" in ran.stderr


@pytest.mark.parametrize("turn", ["mirror", "quarter"])
def test_a_turned_tile_of_the_test_slide_leaks(tmp_path: Path, turn: str) -> None:
    second = painted(2)
    tile = painted(1)[7]
    second[5] = tile[:, ::-1] if turn == "mirror" else np.rot90(tile)
    ran = check(two_splits(tmp_path, painted(1), second))
    assert ran.exit_code == 6
    where = r"test \(tile 5 of b 0\.5\) and train \(tile 7 of a 0\.5\), similarity (1|0\.9)"
    assert re.search(where, ran.stdout)


def test_many_leaks_are_counted_in_the_text_and_listed_in_the_json(
    tmp_path: Path, no_duplicates: list[DuplicateGroup]
) -> None:
    entries = tuple(
        slide(n, patient=f"P{n // 2}", split=("train", "test")[n % 2]) for n in range(60)
    )
    save_manifest(Manifest(entries), tmp_path / "manifest.json")
    ran = CliRunner().invoke(split, [str(tmp_path), "--check"])
    assert ran.exit_code == 6
    assert len(ran.stdout.splitlines()) == 21
    assert ran.stdout.endswith("… and 10 more\n")
    as_json = CliRunner().invoke(split, [str(tmp_path), "--check", "--json"])
    assert as_json.exit_code == 6
    assert len(json.loads(as_json.stdout)["leaks"]) == 30


@pytest.mark.slow
def test_pictures_made_from_one_another_leak_unless_they_are_split_by_group(
    real_data: Path, tmp_path: Path
) -> None:
    # 600 pictures of LC25000, made from about 220 by turning, mirroring and zooming.
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "tiler", "extract", real_data / "tiles/lc25000_224/colon_n"),
            *("--packed", "--slides", real_data / "tiles/labels.csv", "--assume-mpp", "0.5"),
            *("--tile-size", "224", "--no-quality", "--out", tmp_path),
        ],
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    manifest = load_manifest(tmp_path)
    found = {}
    for by in ("group", "source"):
        made = split_manifest(manifest, SplitRule(by=by)).manifest
        found[by] = Counter(leak.kind for leak in find_leaks(made, ["group"]))
    assert found["group"]["unit"] == 0
    # Two groups of the published labels are one picture each time.
    assert found["group"].total() <= 3
    assert found["source"]["unit"] > 50
    assert found["source"]["near tile"] > 50
