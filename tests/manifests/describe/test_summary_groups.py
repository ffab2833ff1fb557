"""What a set is made of: groups against a count tile by tile, and the three ways to print them."""

from __future__ import annotations

import csv
import io
import json
import operator
from collections import defaultdict
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from manifests.cli.looking import summary
from manifests.describe.composition import (
    compose,
    composition_csv,
    composition_json,
    composition_listing,
)
from manifests.describe.groups import Group, UnknownField, Value, group_by
from manifests.jsonfile import save_manifest
from manifests.listing import plain_lines
from manifests.model import Manifest, Resolution, Selection, SlideInfo, StoreEntry
from manifests.tileset import TileSet
from tests.manifests.make_manifest import SPEC_HASH, UUID, done_entry, failed_entry, full_manifest

FIELDS = ("organ", "mpp", "split", "tile_size", "batch")


def resolution(mpp: float, tiles: int, size: int = 256) -> Resolution:
    return Resolution(f"{mpp:g}", (mpp * 1.01, mpp * 0.99), mpp, size, tiles, 0, (1.0, 1.0))


def slide_info(fingerprint: str) -> SlideInfo:
    return SlideInfo("openslide", "aperio", "jpeg", fingerprint)


@st.composite
def tile_sets(draw: st.DrawFn, counts: dict[str, int]) -> dict[str, TileSet]:
    return {
        group: TileSet.of(draw(st.sets(st.integers(0, count - 1))))
        for group, count in counts.items()
        if count
    }


@st.composite
def entries(draw: st.DrawFn, name: str) -> StoreEntry:
    """A store of a few tiles, with or without a selection and splits."""
    pick = draw(st.lists(st.sampled_from([0.25, 0.5, 1.0]), unique=True, max_size=3))
    found = tuple(
        resolution(mpp, draw(st.integers(0, 9)), draw(st.sampled_from([224, 256]))) for mpp in pick
    )
    counts = {item.group: item.tiles for item in found}
    chosen = draw(st.none() | tile_sets(counts))
    a, b = draw(tile_sets(counts)), draw(tile_sets(counts))
    in_parts = {"train": a, "test": {group: b[group] - a[group] for group in b}}
    split, splits = draw(st.sampled_from([(None, {}), ("train", {}), (None, in_parts)]))
    return StoreEntry(
        id=name,
        status="done",
        source=f"{name}.svs",
        path=f"{name}.zarr",
        uuid=UUID,
        spec_hash=SPEC_HASH,
        organ=draw(st.sampled_from([None, "lung", "skin"])),
        patient=draw(st.sampled_from([None, "p1", "p2"])),
        packed=draw(st.booleans()),
        slide=slide_info(draw(st.sampled_from(["sha256:1", "sha256:2", f"sha256:{name}"]))),
        resolutions=found,
        bytes=draw(st.integers(0, 10**7)),
        columns=draw(st.sampled_from([{}, {"batch": "7"}, {"batch": ""}])),
        selection=None if chosen is None else Selection((), chosen),
        split=split,
        splits=splits,
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    return Manifest(tuple(draw(entries(f"s{i}")) for i in range(draw(st.integers(1, 4)))))


def tiles_one_by_one(manifest: Manifest) -> Iterator[tuple[dict[str, Value], StoreEntry, bool]]:
    """Each tile of each store: its values, its entry, and whether it is meant."""
    for entry in manifest.stores:
        for item in entry.resolutions:
            chosen = entry.members(item.group)
            for tile in range(item.tiles):
                inside = [s for s, sets in entry.splits.items() if tile in sets.get(item.group, ())]
                values: dict[str, Value] = {
                    "organ": entry.organ,
                    "mpp": item.mpp_requested,
                    "split": entry.split or (inside[0] if inside else None),
                    "tile_size": item.tile_size,
                    "batch": entry.columns.get("batch") or None,
                }
                yield values, entry, chosen is None or tile in chosen


@given(manifests(), st.lists(st.sampled_from(FIELDS[:-1]), unique=True, max_size=4))
def test_groups_are_what_counting_tile_by_tile_gives(manifest: Manifest, by: list[str]) -> None:
    if any("batch" in entry.columns for entry in manifest.stores if entry.tiles):
        by.append("batch")
    counted: dict[tuple[Value, ...], list[tuple[StoreEntry, bool]]] = defaultdict(list)
    for values, entry, meant in tiles_one_by_one(manifest):
        counted[tuple(values[name] for name in by)].append((entry, meant))
    groups = group_by(manifest, by)
    assert {group.key for group in groups} == counted.keys()
    for group in groups:
        rows = counted[group.key]
        meant_entries = [entry for entry, meant in rows if meant]
        assert group.tiles == len(meant_entries)
        assert group.tiles_before_selection == len(rows)
        slides = {e.slide.fingerprint for e in meant_entries if e.slide and not e.packed}
        assert group.slides == len(slides)
        assert group.packed == len({entry.id for entry in meant_entries if entry.packed})
        assert group.patients == len({entry.patient for entry in meant_entries} - {None})
        parts = sum(len(p.members) if p.members is not None else p.cut for p in group.parts)
        assert parts == group.tiles
    assert [group.tiles for group in groups] == sorted((g.tiles for g in groups), reverse=True)


@given(manifests(), st.lists(st.sampled_from(FIELDS[:-1]), unique=True))
def test_bytes_of_all_groups_add_up_to_the_meant_share_of_every_store(
    manifest: Manifest, by: list[str]
) -> None:
    groups = group_by(manifest, by)
    whole = {
        entry.id: entry.bytes * entry.tiles // cut
        for entry in manifest.stores
        if (cut := sum(item.tiles for item in entry.resolutions))
    }
    assert sum(group.bytes for group in groups) == sum(whole.values())
    exact = [group for group in groups if not group.estimated]
    for group in exact:
        ids = {part.entry.id for part in group.parts if part.tiles}
        assert group.bytes == sum(e.bytes for e in manifest.stores if e.id in ids)


@given(manifests())
def test_totals_are_the_group_by_nothing(manifest: Manifest) -> None:
    found = compose(manifest, ["organ", "mpp"])
    everything: tuple[Group, ...] = group_by(manifest, [])
    assert (found.totals,) == everything or (found.totals.parts, everything) == ((), ())
    assert found.totals.tiles == sum(entry.tiles for entry in manifest.stores)
    assert found.totals.tiles == sum(group.tiles for group in found.groups)


def test_a_slide_at_two_resolutions_is_in_both_groups_and_once_in_the_totals() -> None:
    found = compose(Manifest((done_entry(packed=False),)), ["mpp"])
    assert [(g.key, g.slides, g.patients, g.tiles) for g in found.groups] == [
        ((0.5,), 1, 1, 1200),
        ((1.0,), 1, 1, 300),
    ]
    assert (found.totals.slides, found.totals.tiles) == (1, 1500)
    assert found.totals.bytes == 12_345_678
    assert [group.bytes for group in found.groups] == [9_876_542, 2_469_136]
    assert [group.estimated for group in (found.totals, *found.groups)] == [False, True, True]
    assert found.groups[0].mpp == (0.502, 0.504)


def test_what_a_selection_emptied_stands_there_with_no_slide() -> None:
    chosen = Selection(({"where": "focus > 2"},), {})
    emptied = done_entry("a", path="a.zarr", stain="PAS", selection=chosen, packed=False)
    found = compose(Manifest((emptied, done_entry("b", path="b.zarr", packed=False))), ["stain"])
    row = [group for group in found.groups if group.key == ("PAS",)]
    assert [(g.slides, g.patients, g.tiles, g.tiles_before_selection) for g in row] == [
        (0, 0, 0, 1500)
    ]
    assert (found.totals.slides, found.totals.tiles_before_selection) == (1, 3000)


def test_unknown_metadata_are_counted_by_store_and_pictures_may_know_their_patients() -> None:
    nothing = {"organ": None, "patient": None, "site": None}
    entries = (
        done_entry("a", path="a.zarr", packed=True, **nothing),
        done_entry("b", path="b.zarr", packed=False, **nothing),
        done_entry("c", path="c.zarr", packed=False),
        failed_entry("d"),
    )
    found = compose(Manifest(entries))
    assert found.unknown["organ"] == found.unknown["site"] == 2
    assert found.unknown["patient"] == 1
    assert found.unknown["stain"] == 0
    assert found.status == {"done": 3, "empty": 0, "failed": 1}


def test_a_field_that_no_entry_has_is_refused_and_the_nearest_is_named() -> None:
    for name in ("organs", "batches", ""):
        with pytest.raises(UnknownField, match=r"organ, stain, dataset.*batch"):
            group_by(full_manifest(), ["stain", name])
    with pytest.raises(UnknownField, match=r"do you mean organ\?"):
        group_by(full_manifest(), ["organs"])
    assert [group.key for group in group_by(full_manifest(), ["batch"])] == [("7",)]


def run(folder: Path, *options: str) -> str:
    """Standard output of a `summary` that succeeds."""
    ran = CliRunner().invoke(summary, [str(folder), *options])
    assert (ran.exit_code, ran.stderr) == (0, ""), ran.output
    return ran.stdout


def test_json_is_complete_and_has_the_same_keys_for_an_empty_manifest(tmp_path: Path) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    found = json.loads(run(tmp_path, "--json"))
    assert found == json.loads(json.dumps(composition_json(compose(full_manifest()))))
    assert found["by"] == ["organ", "stain", "dataset", "mpp", "scanner", "site"]
    assert found["groups"][0] == {
        "fields": {
            "organ": "breast",
            "stain": "H&E",
            "dataset": "TCGA-BRCA",
            "mpp": 0.5,
            "scanner": "Aperio ScanScope",
            "site": "A7",
        },
        "slides": 0,
        "packed_stores": 1,
        "patients": 1,
        "tiles": 1200,
        "tiles_before_selection": 1200,
        "bytes": 9_876_542,
        "bytes_estimated": True,
        "mpp_true": [0.502, 0.504],
    }
    assert found["totals"]["status"] == {"done": 1, "empty": 1, "failed": 1}
    assert found["codecs"][0]["codec"] == "jpeg 90 444"
    save_manifest(Manifest(), tmp_path / "manifest.json")
    empty = json.loads(run(tmp_path, "--json"))
    assert empty.keys() == found.keys()
    assert empty["totals"].keys() == found["totals"].keys()
    assert empty["totals"]["tiles"] == 0


def test_csv_has_a_line_per_group_and_names_the_fields_first(tmp_path: Path) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    rows = list(csv.reader(io.StringIO(run(tmp_path, "--csv", "--by", "scanner, mpp"))))
    assert rows[0][:4] == ["scanner", "mpp", "slides", "packed_stores"]
    assert [row[:2] for row in rows[1:]] == [
        ["Aperio ScanScope", "0.5"],
        ["Aperio ScanScope", "1.0"],
    ]
    assert len(composition_csv(compose(full_manifest())).splitlines()) == 3


def test_the_table_leaves_out_what_is_never_known_and_marks_estimates(tmp_path: Path) -> None:
    entry = done_entry(scanner=None, patient=None, packed=False)
    save_manifest(Manifest((entry, failed_entry())), tmp_path / "manifest.json")
    shown = run(tmp_path)
    lines = [" ".join(line.split()) for line in shown.splitlines() if line.strip()]
    assert lines[0] == "organ stain dataset µm/px site slides tiles MB"
    assert lines[2] == "breast H&E TCGA-BRCA 0.5 A7 1 1,200 ≈ 9.9"
    assert lines[5] == "2 in all 1 1,500 12.3"
    assert "entries 2: 1 done, 1 failed" in lines
    assert "µm/px 0.5: 1,200 tiles; 1: 300 tiles" in lines
    assert "licence CC0-1.0: 1,500 tiles" in lines
    assert "not known patient 1, scanner 1 (stores with tiles)" in lines


def test_a_set_of_thousands_of_groups_is_shown_whole(tmp_path: Path) -> None:
    many = tuple(
        done_entry(f"s{i}", path=f"{i}.zarr", patient=f"p{i}", packed=False) for i in range(1000)
    )
    found = compose(Manifest(many), ["patient"])
    lines = list(plain_lines(composition_listing(found)))
    assert len(lines) == 1004
    assert {line.split()[0] for line in lines[2:-2]} == {f"p{i}" for i in range(1000)}
    save_manifest(Manifest(many), tmp_path / "manifest.json")
    shown = run(tmp_path, "--by", "patient")
    assert all(f" p{i} " in shown for i in (0, 500, 999))


@pytest.mark.parametrize("options", [["--json", "--csv"], ["--by", "nothing"], ["--by", ""]])
def test_wrong_options_end_with_2_and_print_nothing(tmp_path: Path, options: list[str]) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    ran = CliRunner().invoke(summary, [str(tmp_path), *options])
    assert (ran.exit_code, ran.stdout) == (2, "")


def test_parts_of_a_packed_store_are_in_the_groups_of_their_splits() -> None:
    train, test = TileSet.of(range(100)), TileSet.of(range(100, 130))
    entry = done_entry(splits={"train": {"0.5": train}, "test": {"0.5": test}})
    groups = {group.key: group for group in group_by(Manifest((entry,)), ["split"])}
    assert {key: group.tiles for key, group in groups.items()} == {
        ("train",): 100,
        ("test",): 30,
        (None,): 1370,
    }
    [rest] = [part for part in groups[None,].parts if part.resolution.group == "0.5"]
    assert rest.members is not None
    every = reduce(operator.or_, (train, test, rest.members))
    assert every == TileSet.every(1200)
