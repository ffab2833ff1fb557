"""Selections keep the tiles of which the expressions are true: held against every tile, one by one,
and read back through the reader that training and exports use."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from manifests.choose.expression import ExpressionError
from manifests.choose.select import NothingSelected, SelectionError, require_tiles, select
from manifests.choose.selected import Selected, StepCount, selected_json
from manifests.errors import ManifestError, StoreError
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest, StoreEntry
from manifests.store import open_store
from manifests.vocabulary import Term, Vocabulary
from tests.manifests.make_selectable import World, f32, make_entry, make_world, tiles_of
from tests.manifests.reference_expression import Tree, says, trees, written

Tiles = Mapping[tuple[str, str], set[int]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def expected(world: World, *wanted: Tree) -> Tiles:
    """The tiles for which every tree is true."""
    found = {
        key: {i for i in world.base[key] if all(says(tree, tiles[i]) is True for tree in wanted)}
        for key, tiles in world.facts.items()
    }
    return {key: tiles for key, tiles in found.items() if tiles}


def tried(manifest: Manifest, *where: str) -> Selected | None:
    """The selection; None where a name is refused that only stores excluded before have."""
    try:
        return select(manifest, where)
    except ExpressionError as error:
        names = "group|cellularity|batch|Sample Type"
        if re.search(f"looked into knows the name ({names});", str(error)) is None:
            raise
        return None


@given(tree=trees())
@settings(max_examples=200, deadline=None)
def test_any_expression_selects_what_it_says_of_each_tile(world: World, tree: Tree) -> None:
    selected = tried(world.manifest, written(tree))
    if selected is None:
        return
    wanted = expected(world, tree)
    assert tiles_of(selected.manifest) == wanted
    assert selected.after.tiles == sum(map(len, wanted.values()))
    assert selected.steps[-1].left == selected.after.tiles


@given(first=trees(), second=trees())
@settings(max_examples=60, deadline=None)
def test_several_expressions_and_several_selections_intersect(
    world: World, first: Tree, second: Tree
) -> None:
    one, two = written(first), written(second)
    wanted = expected(world, first, second)
    after_one = tried(world.manifest, one)
    results = [
        tried(world.manifest, one, two),
        tried(world.manifest, f"({one}) and ({two})"),
        None if after_one is None else tried(after_one.manifest, two),
    ]
    for selected in results:
        if selected is not None:
            assert tiles_of(selected.manifest) == wanted


def test_the_reader_draws_the_selected_tiles_that_were_read_whole(
    world: World, tmp_path: Path
) -> None:
    selected = select(world.manifest, ['organ == "lung" and focus >= 0.1'])
    file = world.manifest.root / "chosen.json"
    save_manifest(selected.manifest, file)
    manifest = load_manifest(file)
    assert manifest == selected.manifest
    usable = {
        (entry.id, group): open_store(manifest, entry)[group].usable().tolist()
        for entry in manifest.stores
        for group in open_store(manifest, entry).groups
    }
    # Tile 3 of a has no focus; 6 has 0.1 as a float of 32 bits.
    assert usable == {
        ("a", "0.5"): [1, 2, 4, 5, 6],
        ("a", "1"): [0, 2],
        ("p", "0.5"): [1, 2, 3, 4, 5],
    }
    everything = select(world.manifest, ['id == "a" and resolution == "0.5"']).manifest
    [entry] = everything.stores
    assert entry.tiles == 7
    assert open_store(everything, entry)["0.5"].usable().tolist() == [0, 1, 2, 4, 5, 6]
    assert open_store(everything, entry)["1"].usable().tolist() == []


def test_the_result_says_how_it_was_chosen_and_keeps_the_rest(world: World) -> None:
    manifest = replace(world.manifest, extra={"x-note": 1})
    chosen = select(manifest, ["x >= 0", "tissue > 0.1"], split="train").manifest
    assert chosen.extra == {"x-note": 1}
    [entry] = chosen.stores
    assert entry.selection is not None
    steps = [{"split": "train"}, {"where": "x >= 0"}, {"where": "tissue > 0.1"}]
    assert [dict(step) for step in entry.selection.steps] == steps
    assert replace(entry, selection=None) == world.manifest.stores[0]
    again = select(world.manifest, ['id == "c"']).manifest.stores[0]
    assert again.selection is not None
    assert [dict(s) for s in again.selection.steps] == [
        {"where": "x != 16"},
        {"where": 'id == "c"'},
    ]
    assert again.tiles == 3


def test_entries_without_tiles_are_left_out(world: World) -> None:
    assert {entry.id for entry in select(world.manifest, ["x >= 0"]).manifest.stores} == set("abcp")
    assert {entry.id for entry in select(world.manifest, ["label != unknown"]).manifest.stores} == {
        "p"
    }


def test_a_split_is_taken_from_the_whole_store_or_its_parts(world: World) -> None:
    selected = select(world.manifest, ["focus >= 0"], split="train")
    wanted = {("a", "0.5"): {0, 1, 2, 4, 5, 6}, ("a", "1"): {0, 1, 2}, ("p", "0.5"): {0, 1, 4}}
    assert tiles_of(selected.manifest) == wanted
    assert tiles_of(select(world.manifest, ['split == "train" and focus >= 0']).manifest) == wanted
    assert selected.steps[0] == StepCount("--split train", 23, 13, 0, 13)
    with pytest.raises(SelectionError, match="split 'tarin'; there are test, train"):
        select(world.manifest, split="tarin")
    with pytest.raises(SelectionError, match="make splits with"):
        select(Manifest((plain_entry(),)), split="train")


def plain_entry(name: str = "far", **fields: Any) -> StoreEntry:
    """An entry whose store is nowhere."""
    [entry] = (e for e in fake_world().manifest.stores if e.id == "b")
    return replace(entry, id=name, **{"path": f"{name}.zarr", "split": None, **fields})


@functools.cache
def fake_world() -> World:
    """The same entries; their stores are gone."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return make_world(Path(folder))


def test_stores_are_not_opened_for_what_the_manifest_knows() -> None:
    manifest = fake_world().manifest
    text = (
        'organ == "lung" and stain like "h*" and not packed and mpp < 0.6 and tile_size == 16 '
        'and vendor == "aperio" and batch == 7 and `Sample Type` == "biopsy" and split == "train"'
    )
    selected = select(manifest, [text])
    assert tiles_of(selected.manifest) == {("a", "0.5"): set(range(7))}


def test_stores_that_the_manifest_excludes_are_not_opened(world: World, tmp_path: Path) -> None:
    far = plain_entry(path="s3://bucket/far.zarr", organ="kidney")
    manifest = replace(world.manifest, stores=(*world.manifest.stores, far))
    wanted = expected(world, ("test", "organ", "==", "lung"), ("test", "focus", ">", 0.1))
    # As written, focus comes first.
    assert tiles_of(select(manifest, ['focus > 0.1 and organ == "lung"']).manifest) == wanted
    with pytest.raises(ManifestError, match="histotile manifest relink"):
        select(manifest, ["focus > 0.1"])


def test_a_store_that_lacks_a_column_passes_nothing_and_is_counted(world: World) -> None:
    for text in ("focus > 0.1", "not focus > 0.1", "focus != 0.1"):
        selected = select(world.manifest, [text])
        assert not {"b", "c"} & {entry.id for entry in selected.manifest.stores}
        assert selected.missing == {"focus": 2}
        [note, _] = selected.notes
        assert note.startswith("2 stores have no column focus: none of their tiles passes")
        # The two stores' 7 tiles, and one tile whose focus is not a number.
        assert selected.steps[0].undecided == 8
    only = select(world.manifest, ["focus == unknown"])
    assert {entry.id for entry in only.manifest.stores} == {"a", "b", "c"}


def test_tiles_of_stores_without_the_column_unread_were_read(world: World) -> None:
    selected = select(world.manifest, ["unread == 0 and not native"])
    assert selected.missing == {}
    assert selected.notes == ()
    assert tiles_of(selected.manifest)["b", "0.5"] == {0, 1, 2, 3}
    assert tiles_of(selected.manifest)["a", "0.5"] == {1, 4, 5}
    [note] = select(world.manifest, ["not packed"]).notes
    assert note.startswith("1 of the stores chosen has tiles that could not be read in whole")


def test_organs_and_stains_are_compared_by_their_vocabulary(world: World) -> None:
    def ids(text: str, vocabulary: Vocabulary | None = None) -> set[str]:
        selected = select(world.manifest, [text], vocabulary=vocabulary)
        return {entry.id for entry in selected.manifest.stores}

    assert ids('stain == "hematoxylin-eosin"') == {"a", "p"}
    assert ids('stain in ("Ki-67 IHC") and organ == "BREAST"') == {"b"}
    assert ids('stain like "HE" or stain like "IHC*"') == {"a", "b"}
    assert ids('stain like "h&?"') == {"a", "p"}
    assert ids('stain != "HE"') == {"b"}
    own = Vocabulary((Term("chest", synonyms=("lung", "breast")),), (), ())
    assert ids('organ == "chest"', own) == {"a", "b", "p"}


def test_counts_tell_what_each_condition_does(world: World) -> None:
    text = 'tissue >= 0.6 and organ == "lung" and focus > 0.1'
    selected = select(world.manifest, [text])
    # Organ is known without any store, so it comes first; then as written. Slide b is not opened.
    assert selected.steps == (
        StepCount('organ == "lung"', 23, 16, 3, 16),
        StepCount("tissue >= 0.6", 16, 7, 6, 7),
        StepCount("focus > 0.1", 10, 5, 1, 4),
    )
    assert (selected.before.tiles, selected.after.tiles) == (23, 4)
    groups = {(g.stain, g.organ): (g.before.tiles, g.after.tiles) for g in selected.groups}
    assert groups == {
        ("H&E", "lung"): (16, 4),
        ("IHC: Ki67", "breast"): (4, 0),
        (None, None): (3, 0),
    }
    counts = selected_json(selected)
    assert counts["steps"][1]["passed"] == 7
    assert counts["before"] == {"stores": 4, "patients": 2, "tiles": 23}
    assert counts["missing_columns"] == {"tissue": 1}


EMPTY = [
    (
        'organ == "lnug"',
        'no tile is left after organ == "lnug": none of the 23 tiles',
        "lung, Breast",
    ),
    ('label == "tumor"', "none of the 23 tiles", "label is one of normal, tumour"),
    ('split == "val"', "none of the 23", "split is one of"),
    ("focus > 0.5 and x < 0", "after x < 0: none of the", ""),
    ('id == "a" and id == "b"', "4 of the 23 tiles that it was asked about pass, but none", ""),
]


@pytest.mark.parametrize(("text", "sentence", "hint"), EMPTY)
def test_an_empty_selection_says_which_condition_removed_all(
    world: World, text: str, sentence: str, hint: str
) -> None:
    selected = select(world.manifest, [text])
    assert selected.manifest.stores == ()
    with pytest.raises(NothingSelected) as caught:
        require_tiles(selected)
    assert sentence in str(caught.value)
    assert hint in str(caught.value)
    assert caught.value.exit_code == 4


def test_nothing_can_be_selected_from_nothing() -> None:
    with pytest.raises(NothingSelected, match="no tiles to select from"):
        require_tiles(select(Manifest(), ["x > 0"]))


REFUSED = [
    ("fokus > 0.1", "column 1 .* looked into knows the name fokus; there are focus, "),
    ("x > 0 and grup == 3", "column 11 .* knows the name grup; there are group, "),
    ('focus > "high"', 'column 1 .* focus is a number, and "high" is a text'),
    ("x > 0 and organ == 3", 'column 11 .* organ is a text, and 3 is a number; write "3"'),
    ('packed == "yes"', 'packed is true or false, and "yes" is a text'),
    ("tissue", "tissue is a number: compare it with one"),
    ("batch == true", "column 1 .* batch is a text: compare it with one"),
    ('cellularity == "high"', 'cellularity is a number, and "high" is a text'),
    ("group != false", "group is a text, and false is true or false"),
]


@pytest.mark.parametrize(("text", "sentence"), REFUSED)
def test_names_and_kinds_that_do_not_fit_are_refused(
    world: World, text: str, sentence: str
) -> None:
    with pytest.raises(ExpressionError, match=sentence):
        select(world.manifest, [text])


def test_a_name_that_no_store_was_asked_for_is_not_called_unknown(world: World) -> None:
    selected = select(world.manifest, ['organ == "kidney" and mitoses > 3'])
    assert selected.after.tiles == 0


def test_names_of_pictures_win_over_those_of_their_folder(world: World) -> None:
    for text, tiles in {
        'packed and patient == "P0"': {3, 4},
        'packed and patient == "P1"': {0, 1},
        "packed and batch == 9": {2, 5},
        "packed and batch == 8": {0, 1, 3, 4},
        'packed and source like "*/3.png"': {3, 4},
        "group > 5": {0, 1},
    }.items():
        assert tiles_of(select(world.manifest, [text]).manifest) == {("p", "0.5"): tiles}, text


def damaged(folder: Path, column: str) -> Manifest:
    """A slide with one bit of a column flipped."""
    entry = make_entry(folder, "s", {"0.5": {"x": np.arange(3), "tissue": f32(1, 1, 1)}})
    file = folder / "s.zarr" / "0.5" / column / "c.0"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    return Manifest((entry,), root=folder)


def test_damaged_and_missing_stores_are_errors_not_empty_sets(tmp_path: Path) -> None:
    manifest = damaged(tmp_path, "tissue")
    with pytest.raises(StoreError, match="changed after the store was committed"):
        select(manifest, ["tissue > 0"])
    assert select(manifest, ["x > 0"]).after.tiles == 2
    with pytest.raises(StoreError, match="there is no store"):
        select(fake_world().manifest, ["x > 0"])


WRONG_PLACES: list[dict[str, Any]] = [
    {"source": np.array([0, 1], dtype=np.int32)},
    {"source": np.array([0, -1], dtype=np.int32)},
    {"source": np.zeros(2, np.int32), "label": np.array([0, 2], dtype=np.int32)},
    {"source": np.zeros(2, np.int32), "label": np.array([0, -2], dtype=np.int32)},
]


@pytest.mark.parametrize("columns", WRONG_PLACES)
def test_columns_that_point_past_their_lists_are_damage(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    entry = make_entry(
        tmp_path, "p", {"0.5": columns}, sources=[{"name": "1.png"}], packed=True, labels=("a", "b")
    )
    with pytest.raises(StoreError, match="points past"):
        select(Manifest((entry,), root=tmp_path), ['source like "*" and label == "a"'])


def test_progress_tells_of_every_entry(world: World) -> None:
    told: list[tuple[int, int]] = []
    for text in ("x > 0", "not packed"):
        select(world.manifest, [text], progress=lambda *now: told.append(now))
    assert told == 2 * [(i, 4) for i in range(1, 5)]


def test_an_error_stops_the_rest_of_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def slow(manifest: Manifest, entry: StoreEntry) -> None:
        opened.append(entry.id)
        time.sleep(0.01)
        raise StoreError("gone")

    monkeypatch.setattr("manifests.choose.tilefacts.open_store", slow)
    entries = [plain_entry(f"s{i:04}") for i in range(1000)]
    with pytest.raises(StoreError, match="gone"):
        select(Manifest(tuple(entries)), ["x > 0"])
    assert len(opened) < 500
