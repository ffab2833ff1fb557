"""Which question is asked of the features, with which queries, and when none can be asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from manifests import Manifest, StoreEntry
from manifests.tileset import TileSet
from pretrain.config import TrainConfig
from pretrain.errors import ConfigError
from pretrain.mixing.mix import resolve_mix
from pretrain.watch.panel import Panel, choose_panel
from tests.manifests.make import tile_pixels
from tests.pretrain.make import make_slide
from tests.pretrain.watch.packed import make_packed


def panel_of(root: Path, *entries: StoreEntry, **settings: object) -> Panel:
    """The panel of some entries."""
    manifest = Manifest(entries, root)
    config = TrainConfig(**{"split": "all", **settings})  # type: ignore[arg-type]
    return choose_panel(manifest, resolve_mix(manifest, config), config)


def slide(root: Path, name: str, organ: str | None, **more: object) -> StoreEntry:
    """A slide with four tiles."""
    entry = make_slide(root, name, {"0.5": tile_pixels(4, 16)}, organ=organ)
    return replace(entry, **more)  # type: ignore[arg-type]


def organs(root: Path) -> list[StoreEntry]:
    """Two slides each of three organs, of three patients each."""
    return [
        slide(root, f"{organ}-{number}", organ, patient=f"{organ}-{number}")
        for organ in ("colon", "lung", "skin")
        for number in range(2)
    ]


def packed(root: Path) -> StoreEntry:
    """A packed store of two classes."""
    labels = [0, 1] * 4
    return make_packed(root, "p", tile_pixels(8, 16), labels=labels, names=["n", "t"])


def test_labels_are_asked_for_first_then_organs_then_stains(tmp_path: Path) -> None:
    every = [*organs(tmp_path), packed(tmp_path)]
    found = panel_of(tmp_path, *every)
    assert (found.field, found.names) == ("label", ("n", "t"))
    found = panel_of(tmp_path, *every[:-1])
    assert (found.field, found.names) == ("organ", ("colon", "lung", "skin"))
    stains = [replace(e, organ="skin", stain=e.id[-1]) for e in every[:-1]]
    assert panel_of(tmp_path, *stains).field == "stain"


def test_the_field_can_be_chosen(tmp_path: Path) -> None:
    every = [*organs(tmp_path), packed(tmp_path)]
    assert panel_of(tmp_path, *every, knn_field="organ").field == "organ"
    columns = [replace(e, columns={"grade": e.id[-1]}) for e in every[:-1]]
    assert panel_of(tmp_path, *columns, knn_field="grade").names == ("0", "1")


def test_a_field_that_no_slide_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"knn-field is 'scaner'.* choose one of .*organ"):
        panel_of(tmp_path, *organs(tmp_path), knn_field="scaner")


def test_a_tile_is_never_scored_by_its_kin(tmp_path: Path) -> None:
    found = panel_of(tmp_path, *organs(tmp_path))
    assert found.queries.all()
    slides = [tile.slide for tile in found.tiles]
    for i, row in enumerate(found.allowed):
        assert {slides[j] for j in np.flatnonzero(row)} == set(slides) - {slides[i]}


def test_a_class_of_one_patient_is_left_out(tmp_path: Path) -> None:
    entries = [replace(e, patient="P") if e.organ == "skin" else e for e in organs(tmp_path)]
    found = panel_of(tmp_path, *entries)
    assert found.names == ("colon", "lung")
    assert {tile.label for tile in found.tiles} == {"colon", "lung"}
    assert set(found.labels.tolist()) == {0, 1}
    assert "2 classes" in found.note
    assert "0.50" in found.note


def test_where_nothing_can_be_scored_the_note_says_so_and_tiles_are_looked_at(
    tmp_path: Path,
) -> None:
    one_each = [e for e in organs(tmp_path) if e.id.endswith("0")]
    for settings in ({}, {"knn_field": "organ"}):
        found = panel_of(tmp_path, *one_each, **settings)
        assert found.field is None
        assert found.names == ()
        assert Counter(tile.slide for tile in found.tiles) == {e.id: 4 for e in one_each}
        assert found.note.startswith("No k-NN score: ")
        assert found.note.count(".") == 1


def split_panel(root: Path, held_out: str, *, train: str = "train") -> Panel:
    """The panel of three slides an organ: two to train on, one in another split."""
    entries = [
        slide(root, f"{organ}-{number}", organ, split=held_out if number == 2 else "train")
        for organ in ("colon", "lung")
        for number in range(3)
    ]
    return panel_of(root, *entries, split=train)


def test_queries_come_from_the_validation_split(tmp_path: Path) -> None:
    found = split_panel(tmp_path, "val")
    assert found.held_out == "val"
    asked = [tile.slide for tile, q in zip(found.tiles, found.queries, strict=True) if q]
    assert Counter(asked) == {"colon-2": 4, "lung-2": 4}
    bank = found.allowed.any(axis=0)
    assert (bank == ~found.queries).all()
    assert not found.allowed[~found.queries].any()


def test_the_test_split_is_never_looked_at(tmp_path: Path) -> None:
    found = split_panel(tmp_path, "test")
    assert found.held_out is None
    assert {tile.slide[-1] for tile in found.tiles} == {"0", "1"}


def test_a_run_that_trains_on_all_tiles_has_no_held_out_ones(tmp_path: Path) -> None:
    found = split_panel(tmp_path, "val", train="all")
    assert found.held_out is None
    assert found.queries.all()


def test_a_validation_split_of_one_class_leaves_one_out_instead(tmp_path: Path) -> None:
    entries = [replace(e, split="train") for e in organs(tmp_path)]
    entries.append(slide(tmp_path, "held", "lung", split="val"))
    found = panel_of(tmp_path, *entries, split="train")
    assert found.held_out is None
    assert found.names == ("colon", "lung", "skin")


def test_kin_across_splits_are_no_neighbours(tmp_path: Path) -> None:
    store = make_packed(
        tmp_path,
        "p",
        tile_pixels(8, 16),
        labels=[0, 0, 0, 0, 1, 1, 1, 1],
        names=["n", "t"],
        columns=[{"group": f"g{number // 2}"} for number in range(8)],
    )
    parts = {"train": [0, 2, 4, 6, 7], "val": [1, 5]}
    splits = {name: {"0.5": TileSet.of(tiles)} for name, tiles in parts.items()}
    found = panel_of(tmp_path, replace(store, splits=splits), split="train")
    indices = [tile.index for tile in found.tiles]
    near = {
        indices[i]: sorted(indices[j] for j in np.flatnonzero(found.allowed[i]))
        for i in np.flatnonzero(found.queries)
    }
    assert near == {1: [2, 4, 6, 7], 5: [0, 2, 6, 7]}


def test_a_panel_without_some_tiles_keeps_the_rest_in_order(tmp_path: Path) -> None:
    found = panel_of(tmp_path, *organs(tmp_path))
    kept = np.array([0, 3, 7])
    fewer = found.only(kept)
    assert fewer.tiles == tuple(found.tiles[i] for i in (0, 3, 7))
    assert (fewer.labels == found.labels[kept]).all()
    assert (fewer.allowed == found.allowed[np.ix_(kept, kept)]).all()
