"""Labelled tiles: labels, sets and units are what was put in; wrong input is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests import Manifest, load_manifest
from manifests.errors import EXIT_CONFLICT
from manifests.likeness.duplicates import Member
from manifests.model import Selection, SlideInfo
from manifests.splits.leaks import Leak, LeaksFound
from manifests.splits.units import SplitError
from manifests.tileset import TileSet
from pretrain.embedding.wanted import wanted_tiles
from pretrain.errors import ConfigError
from pretrain.labelling.labelled import Labelled, checked_values, label_tiles
from pretrain.labelling.rows import Rows
from tests.manifests.make import tile_pixels
from tests.pretrain.evaluating.make import CLASSES, SPLIT_OF_UNIT, labelled_set, splits_of
from tests.pretrain.make import make_slide
from tests.pretrain.watch.packed import make_packed

MADE_BY_GROUP = ({"by": "group"},)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three classes of six units of four tiles, split by group."""
    return load_manifest(labelled_set(tmp_path_factory.mktemp("set")))


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    """A manifest whose only entry is another."""
    return replace(manifest, stores=(replace(manifest.stores[0], **changes),))


def pictures(
    root: Path,
    units: str,
    splits: str,
    labels: str,
    *,
    name: str = "own",
    values: Mapping[str, list[str]] | None = None,
    same: tuple[int, int] | None = None,
) -> Manifest:
    """A packed store with a tile for each letter: its unit, its split's and its class's initial.

    Args:
        labels: `.` for none.
        values: columns of the slides table besides `group`.
        same: a tile that looks as another does.
    """
    classes = sorted(set(labels) - {"."})
    tiles = tile_pixels(len(units) + 1, 64, seed=1)[1:]
    if same is not None:
        tiles[same[0]] = tiles[same[1]]
    columns = [{"group": unit} if unit != "." else {} for unit in units]
    for column, texts in (values or {}).items():
        columns = [{**row, column: text} for row, text in zip(columns, texts, strict=True)]
    entry = make_packed(
        root,
        name,
        tiles,
        labels=[-1 if c == "." else classes.index(c) for c in labels],
        names=classes,
        columns=columns,
    )
    initials = {"t": "train", "v": "val", "s": "test", "x": "extra", ".": ""}
    entry = replace(entry, splits=splits_of([initials[s] for s in splits]))
    return Manifest((entry,), root, splits=MADE_BY_GROUP)


def told(found: Labelled) -> list[tuple[int, str, str, str]]:
    """Every row as tile, target, unit and split."""
    tiles = np.concatenate([part.indices for part in found.parts]).tolist()
    names = [found.classes[t] if found.classes else f"{t:g}" for t in found.targets.tolist()]
    units = [found.unit_names[u] for u in found.units.tolist()]
    splits = [("train", "val", "test")[s] for s in found.split.tolist()]
    return list(zip(tiles, names, units, splits, strict=True))


def test_rows_are_what_the_store_and_its_table_say(given: Manifest) -> None:
    found = label_tiles(given, "label")
    expected = [
        (24 * c + 4 * u + t, CLASSES[c], f"{CLASSES[c]}-{u}", SPLIT_OF_UNIT[u])
        for c in range(3)
        for u in range(6)
        for t in range(4)
    ]
    assert told(found) == expected
    assert (found.classes, found.by) == (("fat", "mucus", "stroma"), ("group",))
    assert found.targets.dtype == found.units.dtype == np.int64
    assert not found.val_from_train
    assert found.leaks is None
    assert not found.left_out


def test_a_column_may_be_the_label_and_numbers_may_be_predicted(given: Manifest) -> None:
    assert label_tiles(given, "site").classes == ("A", "B")
    found = label_tiles(given, "score", task="regression")
    scores = [p["columns"]["score"] for p in rows_of(given)]
    assert found.classes == ()
    assert found.targets.dtype == np.float64
    np.testing.assert_array_equal(found.targets, [float(score) for score in scores])


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    """What the store of the only entry says of each picture."""
    from manifests.store import open_store

    return open_store(manifest, manifest.stores[0]).sources()


def test_classes_that_are_numbers_are_sorted_by_size(tmp_path: Path) -> None:
    grades = {"grade": ["10", "9", "10", "9"] * 2}
    made = pictures(tmp_path, "abcdefgh", "ttttvvss", "kkkkkkkk", values=grades)
    assert label_tiles(made, "grade").classes == ("9", "10")


def test_only_classes_that_were_asked_for_in_their_order(given: Manifest) -> None:
    found = label_tiles(given, "label", classes=("stroma", "fat"))
    assert found.classes == ("stroma", "fat")
    assert found.left_out == {"of other classes": 24}
    assert [name for _, name, _, _ in told(found)] == ["fat"] * 24 + ["stroma"] * 24


def test_tiles_that_are_not_selected_or_in_no_set_do_not_count(given: Manifest) -> None:
    chosen = TileSet.of(np.arange(0, 72, 2))
    only = changed(given, selection=Selection((), {"0.5": chosen}))
    assert [row[0] for row in told(label_tiles(only, "label"))] == chosen.indices().tolist()
    splits = dict(given.stores[0].splits)
    splits["extra"] = splits.pop("val")
    found = label_tiles(changed(given, splits=splits), "label", near=False)
    assert found.left_out == {"in splits of other names": 12}
    assert found.val_from_train


def slides(root: Path, *rows: tuple[str, str, str, str | None]) -> Manifest:
    """Slides of three tiles: name, organ, split and patient of each."""
    entries = [
        replace(
            make_slide(root, name, {"0.5": tile_pixels(4, 32, seed=number)[1:]}, organ=organ),
            split=split,
            patient=patient,
        )
        for number, (name, organ, split, patient) in enumerate(rows)
    ]
    return Manifest(tuple(entries), root)


SIX_SLIDES = (
    ("a", "colon", "training", "p"),
    ("b", "colon", "training", "p"),
    ("c", "lung", "Training", None),
    ("d", "lung", "validation", None),
    ("e", "colon", "test", None),
    ("f", "lung", "test", "q"),
)


def test_a_slide_has_the_label_of_its_entry(tmp_path: Path) -> None:
    made = slides(tmp_path, *SIX_SLIDES)
    found = label_tiles(made, "organ", near=False)
    assert found.by == ("patient",)
    assert [row[1:] for row in told(found)[::3]] == [
        ("colon", "p", "train"),
        ("colon", "p", "train"),
        ("lung", "c", "train"),
        ("lung", "d", "val"),
        ("colon", "e", "test"),
        ("lung", "q", "test"),
    ]


def test_copies_of_a_slide_are_one_unit(tmp_path: Path) -> None:
    made = slides(tmp_path, *((*row[:3], None) for row in SIX_SLIDES))
    info = SlideInfo("openslide", "v", "jpeg", "file1:same")
    again = {entry.id: replace(entry, slide=info) for entry in made.stores if entry.id in "ac"}
    copied = replace(made, stores=tuple(again.get(entry.id, entry) for entry in made.stores))
    found = label_tiles(copied, "organ", near=False)
    assert found.by == ("slide",)
    assert [row[2] for row in told(found)[::3]] == ["a", "b", "a", "d", "e", "f"]


def test_pictures_without_any_group_are_units_of_their_own(tmp_path: Path) -> None:
    made = pictures(tmp_path, "." * 8, "ttttvvss", "aabbabab")
    found = label_tiles(replace(made, splits=()), "label")
    assert found.by == ("picture",)
    assert len(found.unit_names) == 8


def test_units_may_be_joined_by_two_columns(tmp_path: Path) -> None:
    blocks = {"block": ["1", "2", "2", "3", "4", "5", "6", "7"]}
    made = pictures(tmp_path, "aabcdefg", "ttttvvss", "abababab", values=blocks)
    found = label_tiles(made, "label", by=("group", "block"))
    assert len(set(found.units[:3].tolist())) == 1
    assert len(found.unit_names) == 6
    assert found.by == ("group", "block")


def test_the_split_file_counts_and_is_matched_by_uuid(given: Manifest) -> None:
    bare = changed(given, splits={}, id="renamed")
    found = label_tiles(bare, "label", split=given)
    assert told(found) == told(label_tiles(given, "label"))
    # What the file does not mean is in no set.
    half = changed(given, selection=Selection((), {"0.5": TileSet.of(np.arange(0, 72, 2))}))
    assert len(label_tiles(bare, "label", split=half)) == 36


def test_without_val_a_fifth_of_the_training_units_is_taken(tmp_path: Path) -> None:
    set_of = load_manifest(labelled_set(tmp_path, units=12, tiles=3, classes=2))
    made = changed(set_of, splits={**set_of.stores[0].splits, "val": {}})
    found = label_tiles(made, "label", near=False)
    assert found.val_from_train
    train, val = (set(found.units[found.split == s].tolist()) for s in (0, 1))
    assert not train & val
    assert len(val) == 2
    assert set(found.targets[found.split == 1].tolist()) == {0, 1}
    same = label_tiles(made, "label", near=False)
    other = label_tiles(made, "label", near=False, seed=5)
    np.testing.assert_array_equal(found.split, same.split)
    assert not np.array_equal(found.split, other.split)


def test_regression_without_val_takes_units_too(tmp_path: Path) -> None:
    values = {"score": [str(n) for n in range(8)]}
    made = pictures(tmp_path, "abcdefgh", "ttttttss", "........", values=values)
    found = label_tiles(made, "score", task="regression")
    assert found.val_from_train
    assert (found.split == 1).sum() == 1


def test_segmentation_needs_no_label(given: Manifest) -> None:
    found = label_tiles(given, None, task="segmentation", classes=("gland", "ground"))
    assert len(found) == 72
    assert found.classes == ()
    assert not found.targets.any()
    assert len(found.unit_names) == 18


REFUSED: Mapping[str, tuple[Callable[[Manifest], object], str]] = {
    "no such label": (lambda m: label_tiles(m, "lable"), r"no tile has a 'lable' \(did you mean"),
    "no splits": (
        lambda m: label_tiles(changed(m, splits={}), "label"),
        "has no splits; make them with",
    ),
    "no test": (
        lambda m: label_tiles(changed(m, splits={}, split="training"), "label"),
        "in a split called test; the splits are 'training', and there must be",
    ),
    "names of splits": (
        lambda m: label_tiles(changed(m, splits={}, split="fold-1"), "label"),
        "called train or test; the splits are 'fold-1'",
    ),
    "another manifest": (
        lambda m: label_tiles(
            m, "label", split=changed(m, uuid="12345678-1234-5678-1234-567812345678")
        ),
        r"is of another manifest: it lacks 1 of 1 stores that have labels \('pictures'\)",
    ),
    "other tiles": (
        lambda m: label_tiles(m, "label", split=recounted(m, 70)),
        "'pictures' has 72 tiles of 32 px in 0.5 here, but 70 tiles of 32 px in 0.5 there",
    ),
    "no such class": (
        lambda m: label_tiles(m, "label", classes=("fat", "mucous")),
        r"names 'mucous', which no tile has \(did you mean mucus\?\); there are 'fat', 'mucus'",
    ),
    "one class": (
        lambda m: label_tiles(m, "label", classes=("fat",)),
        "all 24 labelled tiles are of one class, 'fat'",
    ),
    "no number": (
        lambda m: label_tiles(m, "site", task="regression"),
        r"tile 0 of pictures 0.5 \(picture-0.png\) says 'A', which is no finite number",
    ),
    "one value": (
        lambda m: label_tiles(changed(m, scanner="5"), "scanner", task="regression"),
        "all 36 tiles of train have one value, 5",
    ),
    "no such resolution": (lambda m: label_tiles(m, "label", mpp="0.25"), "resolutions: 0.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_is_told_in_one_sentence(given: Manifest, case: str) -> None:
    call, sentence = REFUSED[case]
    with pytest.raises(ConfigError, match=sentence) as caught:
        call(given)
    assert "\n" not in str(caught.value)


def recounted(manifest: Manifest, tiles: int) -> Manifest:
    """The manifest, as if its store had so many tiles."""
    entry = manifest.stores[0]
    resolution = replace(entry.resolutions[0], tiles=tiles)
    return changed(manifest, resolutions=(resolution,), splits={}, split="train")


def test_units_by_a_name_that_nothing_has(given: Manifest) -> None:
    with pytest.raises(SplitError, match=r"no store and no picture .* says its 'grup'"):
        label_tiles(given, "label", by=("grup",))


def test_no_finite_number_is_told_by_its_tile(tmp_path: Path) -> None:
    values = {"score": ["1", "2", "3", "4", "5", "nan"]}
    made = pictures(tmp_path, "abcdef", "tttvss", "......", values=values)
    with pytest.raises(ConfigError, match=r"tile 5 of own 0.5 .* says 'nan', which is no finite"):
        label_tiles(made, "score", task="regression")


def test_numbers_whose_squares_are_none_are_refused(tmp_path: Path) -> None:
    values = {"score": ["1", "2", "3", "4", "5", "-6e200"]}
    made = pictures(tmp_path, "abcdef", "tttvss", "......", values=values)
    with pytest.raises(ConfigError, match=r"tile 5 of .* says '-6e200', which is too large"):
        label_tiles(made, "score", task="regression")


def test_tiles_without_a_label_are_refused_or_left_out(tmp_path: Path) -> None:
    made = pictures(tmp_path, "abcdefghi", "ttttvsst.", "ab.babab.")
    with pytest.raises(
        ConfigError, match=r"1 of 8 tiles in train, val and test have no 'label', such as tile 2 of"
    ):
        label_tiles(made, "label")
    found = label_tiles(made, "label", unlabelled="drop")
    assert len(found) == 7
    assert found.left_out == {"without a label": 1}


def test_stores_that_have_no_label_at_all_are_counted(tmp_path: Path) -> None:
    made = pictures(tmp_path, "abcdef", "ttvvss", "ababab")
    slide = make_slide(tmp_path, "slide", {"1": tile_pixels(5, 32, seed=9)})
    both = replace(made, stores=(*made.stores, replace(slide, split="train")))
    with pytest.raises(
        ConfigError, match=r"5 of 11 tiles .* \(1 of 2 stores have none at all\), such as tile 0"
    ):
        label_tiles(both, "label")
    # What has no label needs no resolution, and need not be in the split file either.
    assert len(label_tiles(both, "label", unlabelled="drop")) == 6
    bare = replace(both, stores=tuple(replace(e, split=None, splits={}) for e in both.stores))
    assert len(label_tiles(bare, "label", split=made)) == 6
    with pytest.raises(ConfigError, match="it lacks 1 of 2 stores that have labels"):
        label_tiles(bare, "organ", split=made)


def test_two_resolutions_need_one_to_be_named(tmp_path: Path) -> None:
    both = {mpp: tile_pixels(4, 32) for mpp in ("0.5", "1")}
    entries = [
        replace(make_slide(tmp_path, name, both, organ=organ), split=split)
        for name, organ, split, _ in SIX_SLIDES
    ]
    made = Manifest(tuple(entries), tmp_path)
    with pytest.raises(ConfigError, match=r"have 2 resolutions, 0.5, 1 µm/px; name one by --mpp"):
        label_tiles(made, "organ")
    found = label_tiles(made, "organ", mpp="1", near=False, leaks="keep")
    assert [(part.group, len(part)) for part in found.parts] == [("1", 4)] * 6


def test_a_class_of_one_unit_is_refused(tmp_path: Path) -> None:
    made = pictures(tmp_path, "aabbccddee", "ttttvvssss", "ababababkk")
    with pytest.raises(
        ConfigError,
        match=r"the class 'k' has one group only, 'e': .*; leave it out with --classes a,b",
    ):
        label_tiles(made, "label")


def test_of_many_classes_that_are_no_use_all_are_left_out_at_once(tmp_path: Path) -> None:
    made = pictures(tmp_path, "aabbccddeefghi", "ttttvvssssttss", "ababababkkllmm")
    with pytest.raises(
        ConfigError,
        match=r"'k' has one group only, .* leave it and 2 more that lack something out with "
        r"--classes a,b$",
    ):
        label_tiles(made, "label")


def test_a_class_must_be_in_train_and_in_test(tmp_path: Path) -> None:
    made = pictures(tmp_path, "abcdefgh", "ttttssss", "aabbabkk")
    with pytest.raises(
        ConfigError, match=r"'k' has no tile in train; .* or leave it out with --classes a,b"
    ):
        label_tiles(made, "label")


def test_no_unit_can_be_spared_for_validation(tmp_path: Path) -> None:
    made = pictures(tmp_path, "abcd", "ttss", "abab")
    with pytest.raises(ConfigError, match="no val split, and no unit can be spared"):
        label_tiles(made, "label")


LEAKY = ("abcdeaiefgh", "ttttvvvssss", "abababababa")
"""The unit a is in train and val, e in val and test."""


def test_a_torn_unit_is_refused_with_its_exit_code(tmp_path: Path) -> None:
    made = pictures(tmp_path, *LEAKY)
    with pytest.raises(
        LeaksFound, match=r"are not apart: the group 'a' in train .*, and 1 more"
    ) as e:
        label_tiles(made, "label")
    assert e.value.exit_code == EXIT_CONFLICT


def test_dropping_keeps_training_whole_and_then_nothing_leaks(tmp_path: Path) -> None:
    made = pictures(tmp_path, *LEAKY, same=(10, 0))
    found = label_tiles(made, "label", leaks="drop")
    # Of a the tile in val goes, of e the one in val, too, and of test the one that is like tile 0.
    assert [row[0] for row in told(found)] == [0, 1, 2, 3, 6, 7, 8, 9]
    assert found.leaks is not None
    assert found.leaks.tiles == found.left_out["for leaks"] == 3
    assert len(found.leaks.sentences) == 3
    assert found.leaks.policy == "drop"


def test_of_slides_that_look_the_same_training_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = slides(tmp_path, *((*row[:3], None) for row in SIX_SLIDES))
    more = make_slide(tmp_path, "g", {"0.5": tile_pixels(4, 32, seed=9)[1:]}, organ="lung")
    made = replace(made, stores=(*made.stores, replace(more, split="test")))
    alike = Leak(
        "near slide", "slides", {"test": (Member("f"),), "train": (Member("b"),)}, similarity=0.9
    )
    monkeypatch.setattr("pretrain.labelling.leaking.find_leaks", lambda *_, **__: [alike])
    found = label_tiles(made, "organ", leaks="drop")
    assert [part.entry.id for part in found.parts] == ["a", "b", "c", "d", "e", "g"]


def test_keeping_uses_all_and_tells(tmp_path: Path) -> None:
    made = pictures(tmp_path, *LEAKY, same=(10, 0))
    found = label_tiles(made, "label", leaks="keep")
    assert len(found) == 11
    assert found.leaks is not None
    assert found.leaks.tiles == 0
    assert len(found.leaks.sentences) == 3


def test_what_has_no_label_or_set_does_not_leak(tmp_path: Path) -> None:
    made = pictures(tmp_path, "aabcdefgb", "tsttvvss.", "a.bbababa", same=(8, 6))
    found = label_tiles(made, "label", unlabelled="drop")
    assert found.leaks is None
    assert found.left_out == {"without a label": 1, "in no split": 1}


def texts(made: Manifest, name: str) -> list[str | None]:
    """What a field says of each tile."""
    found = checked_values(Rows(made, wanted_tiles(made)), name)
    return [found.names[code] if code >= 0 else None for code in found.codes.tolist()]


def test_fields_of_pictures_come_before_those_of_their_store(tmp_path: Path) -> None:
    made = pictures(tmp_path, "abcd", "tttt", "aa.b", values={"organ": ["lung", "", "skin", ""]})
    assert texts(made, "organ") == ["lung", "colon", "skin", "colon"]
    assert texts(made, "label") == ["a", "a", None, "b"]
    assert texts(made, "source") == [f"picture-{n}.png" for n in range(4)]
    assert texts(made, "id") == ["own"] * 4
    with pytest.raises(ConfigError, match="no tile has a 'scaner'"):
        texts(made, "scaner")


def test_slides_are_not_opened_for_what_the_manifest_says(tmp_path: Path) -> None:
    entry = make_slide(tmp_path, "gone", {"0.5": tile_pixels(3)})
    made = Manifest((replace(entry, path="elsewhere.zarr"),), tmp_path)
    assert texts(made, "organ") == ["colon"] * 3


def test_the_set_is_frozen(given: Manifest) -> None:
    found = label_tiles(given, "label", near=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.label = "other"  # type: ignore[misc]
    assert found.near is False
