"""Exports: every row and value is that of the manifest and its stores, and no other."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from manifests.cli.export import export
from manifests.errors import StoreError
from manifests.exports import export as exporting
from manifests.exports.export import write_csv, write_parquet
from manifests.exports.tables import slides_table, tiles_table
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest, Selection, StoreEntry
from manifests.store import open_store
from manifests.tileset import TileSet
from tests.manifests.make_manifest import done_entry, failed_entry, full_manifest
from tests.manifests.make_set import make_tiny_store, stored_entry

Rows = list[dict[str, str]]


def read_csv(file: Path) -> Rows:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def slides_csv(manifest: Manifest, folder: Path) -> Rows:
    assert write_csv(slides_table(manifest), folder / "s.csv") == len(manifest.stores)
    return read_csv(folder / "s.csv")


def tiles_csv(manifest: Manifest, folder: Path) -> Rows:
    rows = write_csv(tiles_table(manifest), folder / "t.csv")
    found = read_csv(folder / "t.csv")
    assert rows == len(found)
    return found


def parquet_rows(file: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    return rows


def test_a_slide_has_a_row_with_all_that_is_known(tmp_path: Path) -> None:
    rows = slides_csv(full_manifest(), tmp_path)
    assert [row["id"] for row in rows] == ["slide-0", "slide-1", "slide-2"]
    one = rows[1]
    assert {k: one[k] for k in ("status", "path", "organ", "stain", "patient", "site")} == {
        "status": "done",
        "path": "slide-1.zarr",
        "organ": "breast",
        "stain": "H&E",
        "patient": "TCGA-A7-A0D9",
        "site": "A7",
    }
    assert (one["resolutions"], one["mpp"], one["mpp_x"]) == ("0.5;1", "0.5;1.0", "0.504;1.0")
    assert (one["tile_size"], one["tiles"], one["bytes"]) == ("256;256", "1500", "12345678")
    assert (one["fingerprint"], one["width"], one["packed"]) == ("sha256:00ff", "100000", "true")
    assert (one["column.batch"], one["column.note"]) == ("7", "")
    assert (rows[2]["path"], rows[2]["reason"]) == ("", "no reader opens the file")
    assert (rows[2]["tiles"], rows[2]["width"], rows[2]["mpp"]) == ("0", "", "")


def test_tiles_of_a_slide_are_counted_as_they_are_meant(tmp_path: Path) -> None:
    chosen = Selection((), {"1": TileSet.of([3, 4])})
    [row] = slides_csv(Manifest((done_entry(selection=chosen, split="val"),)), tmp_path)
    assert (row["tiles"], row["split"]) == ("2", "val")
    splits = {"val": {"0.5": TileSet.of([0])}, "train": {"1": TileSet.of([1])}}
    [row] = slides_csv(Manifest((done_entry(splits=splits),)), tmp_path)
    assert row["split"] == "train;val"


HOSTILE = ["=1+1", "+1", "-1", "@x", '"', "a,b", "a\nb", "a\rb", " x ", "'", "é\u2028", "\t"]


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    entries = [done_entry(f"s{i:02d}", organ=text) for i, text in enumerate(HOSTILE)]
    rows = slides_csv(Manifest(tuple(entries)), tmp_path)
    assert [row["organ"] for row in rows] == HOSTILE
    write_parquet(slides_table(Manifest(tuple(entries))), tmp_path / "s.parquet")
    assert [row["organ"] for row in parquet_rows(tmp_path / "s.parquet")] == HOSTILE


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.dictionaries(texts, texts, max_size=4))
def test_any_columns_of_ones_own_come_back(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    [row] = slides_csv(Manifest((done_entry(columns=columns),)), folder)
    own = {k: v for k, v in row.items() if k.startswith("column.")}
    assert own == {f"column.{name}": value for name, value in columns.items()}


def made_set(root: Path) -> Manifest:
    """Two stores: one with two resolutions and a selection, one packed with splits and classes."""
    unread = np.array([0, 0, 0.5, 0, 0], dtype=np.float32)
    make_tiny_store(root / "a.zarr", 1, {"0.5": 5, "1": 3})
    pictures = [{"name": "x/1.png"}, {"name": "x/2.png"}]
    columns = {
        "source": np.array([0, 0, 1, 1, 1], dtype=np.int32),
        "label": np.array([1, 1, -1, -5, 0], dtype=np.int32),
        "tissue": np.linspace(0, 1, 5, dtype=np.float32),
        "native": np.array([True, False, True, False, True]),
        "unread": unread,
        "rings": np.arange(5, dtype=np.uint8),
    }
    make_tiny_store(root / "b.zarr", 2, columns=columns, sources=pictures)
    selection = Selection((), {"0.5": TileSet.of([1, 4]), "1": TileSet()})
    splits = {"train": {"0.5": TileSet.of([0, 4])}, "test": {"0.5": TileSet.of([2])}}
    entries = (
        stored_entry(root, "a.zarr", 1, selection=selection, split="val"),
        stored_entry(root, "b.zarr", 2, packed=True, labels=("benign", "cancer"), splits=splits),
        done_entry("c", path="c.zarr", selection=Selection((), {})),
        failed_entry("d"),
    )
    return Manifest(entries, root=root)


def test_a_tile_that_is_meant_has_a_row_and_no_other(tmp_path: Path) -> None:
    rows = tiles_csv(made_set(tmp_path), tmp_path)
    places = [(row["id"], row["resolution"], row["index"]) for row in rows]
    assert places == [
        ("a", "0.5", "1"),
        ("a", "0.5", "4"),
        *(("b", "0.5", f"{i}") for i in range(5)),
    ]
    assert [row["x"] for row in rows[:2]] == ["100", "400"]
    assert [row["y"] for row in rows[:2]] == ["7", "28"]
    assert [row["split"] for row in rows] == ["val", "val", "train", "", "test", "", "train"]
    assert [row["label"] for row in rows[2:]] == ["cancer", "cancer", "", "", "benign"]
    assert [row["picture"] for row in rows[2:]] == ["x/1.png"] * 2 + ["x/2.png"] * 3
    assert [row["unread"] for row in rows] == ["0.0", "0.0", "0.0", "0.0", "0.5", "0.0", "0.0"]
    assert [row["native"] for row in rows] == ["", "", "true", "false", "true", "false", "true"]
    assert [row["rings"] for row in rows] == ["", "", "0", "1", "2", "3", "4"]
    assert list(rows[0]) == [
        *("id", "resolution", "index", "x", "y", "split", "label", "picture"),
        *("tissue", "focus", "native", "unread", "rings"),
    ]


def test_floats_have_the_digits_that_tell_them_apart(tmp_path: Path) -> None:
    manifest = made_set(tmp_path)
    rows = [row for row in tiles_csv(manifest, tmp_path) if row["id"] == "b"]
    store = open_store(manifest, manifest.stores[1])
    for name in ("focus", "tissue"):
        values = np.array([row[name] for row in rows], dtype=np.float32)
        np.testing.assert_array_equal(values, store["0.5"].column(name))
        assert max(len(row[name]) for row in rows) <= 11


def test_parquet_says_what_csv_says_with_types(tmp_path: Path) -> None:
    from pyarrow import parquet

    manifest = made_set(tmp_path)
    for name, make in (("slides", slides_table), ("tiles", tiles_table)):
        file = tmp_path / f"{name}.parquet"
        rows = write_parquet(make(manifest), file)
        found = parquet_rows(file)
        assert len(found) == rows
        expected = (
            slides_csv(manifest, tmp_path) if name == "slides" else tiles_csv(manifest, tmp_path)
        )
        plain = [{k: csv_text(v) for k, v in row.items()} for row in found]
        for one, other in zip(plain, expected, strict=True):
            floats = {"focus", "tissue"}
            assert {k: v for k, v in one.items() if k not in floats} == {
                k: v for k, v in other.items() if k not in floats
            }
    schema = parquet.read_schema(tmp_path / "tiles.parquet")
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        **dict.fromkeys(("id", "resolution", "split", "label", "picture"), "string"),
        **dict.fromkeys(("index", "x", "y"), "int64"),
        **dict.fromkeys(("tissue", "focus", "unread"), "float"),
        "native": "bool",
        "rings": "uint8",
    }
    focus = [row["focus"] for row in parquet_rows(tmp_path / "tiles.parquet")][2:]
    column = open_store(manifest, manifest.stores[1])["0.5"].column("focus")
    np.testing.assert_array_equal(np.array(focus, dtype=np.float32), column)


def csv_text(value: Any) -> str:
    """A Python value as the CSV is to have it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)


def test_stores_share_row_groups_and_large_ones_make_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    entries = []
    for number, tiles in enumerate([2, 3, 9, 1]):
        make_tiny_store(tmp_path / f"{number}.zarr", number, {"0.5": tiles})
        entries.append(stored_entry(tmp_path, f"{number}.zarr", number))
    monkeypatch.setattr(exporting, "_ROW_GROUP_ROWS", 4)
    table = tiles_table(Manifest(tuple(entries), root=tmp_path))
    seen: list[int] = []
    assert write_parquet(table, tmp_path / "t.parquet", seen.append) == 15
    groups = parquet.ParquetFile(tmp_path / "t.parquet").metadata
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sizes == [4, 1, 4, 4, 1, 1]
    assert seen == [5, 14, 15]
    ids = [row["id"] for row in parquet_rows(tmp_path / "t.parquet")]
    assert ids == [f"{n}" for n, tiles in enumerate([2, 3, 9, 1]) for _ in range(tiles)]


def test_long_stores_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = made_set(tmp_path)
    whole = tiles_csv(manifest, tmp_path)
    monkeypatch.setattr(exporting, "_CSV_ROWS", 2)
    assert tiles_csv(manifest, tmp_path) == whole


def test_stores_may_give_one_column_two_types(tmp_path: Path) -> None:
    entries = []
    for number, kind in enumerate((np.uint8, np.float64)):
        make_tiny_store(
            tmp_path / f"{number}.zarr", number, columns={"z": np.arange(5, dtype=kind)}
        )
        entries.append(stored_entry(tmp_path, f"{number}.zarr", number))
    rows = tiles_csv(Manifest(tuple(entries), root=tmp_path), tmp_path)
    assert [row["z"] for row in rows] == ["0.0", "1.0", "2.0", "3.0", "4.0"] * 2


def test_an_empty_set_gives_a_header(tmp_path: Path) -> None:
    for manifest in (Manifest(), Manifest((failed_entry(),))):
        assert tiles_csv(manifest, tmp_path) == []
        assert (tmp_path / "t.csv").read_text().startswith("id,resolution,index,x,y,split,")
        assert write_parquet(tiles_table(manifest), tmp_path / "t.parquet") == 0
        assert parquet_rows(tmp_path / "t.parquet") == []
        assert len(slides_csv(manifest, tmp_path)) == len(manifest.stores)


@pytest.mark.parametrize("name", ["label", "source"])
def test_an_index_that_names_nothing_is_refused(tmp_path: Path, name: str) -> None:
    columns = {name: np.array([0, 1, 2, 0, 7], dtype=np.int32)}
    make_tiny_store(tmp_path / "a.zarr", columns=columns, sources=[{"name": "1"}] * 3)
    entry = stored_entry(tmp_path, "a.zarr", labels=("x", "y", "z"))
    with pytest.raises(StoreError, match=f"a: the column {name} has the index 7, but there are 3"):
        tiles_csv(Manifest((entry,), root=tmp_path), tmp_path)


def test_a_list_of_pictures_without_names_is_refused(tmp_path: Path) -> None:
    columns = {"source": np.zeros(5, dtype=np.int32)}
    make_tiny_store(tmp_path / "a.zarr", columns=columns, sources=[{"title": "1"}])
    manifest = Manifest((stored_entry(tmp_path, "a.zarr"),), root=tmp_path)
    with pytest.raises(StoreError, match=r"sources\.json lists a picture without a name"):
        tiles_csv(manifest, tmp_path)


def test_nothing_is_written_if_a_store_is_missing(tmp_path: Path) -> None:
    manifest = made_set(tmp_path)
    lost = replace(manifest, stores=(*manifest.stores, done_entry("z", path="z.zarr")))
    (tmp_path / "t.csv").write_text("old")
    with pytest.raises(StoreError, match="there is no store at"):
        tiles_csv(lost, tmp_path)
    assert (tmp_path / "t.csv").read_text() == "old"


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_failure_half_way_leaves_the_old_file(tmp_path: Path, write: Any) -> None:
    manifest = made_set(tmp_path)
    table = tiles_table(manifest)
    file = tmp_path / "t"
    file.write_text("old")
    (tmp_path / "b.zarr/commit.json").unlink()
    with pytest.raises(StoreError):
        write(table, file)
    assert file.read_text() == "old"
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_same_set_gives_the_same_bytes(tmp_path: Path) -> None:
    manifest = made_set(tmp_path)
    for write, make in (
        (w, m) for w in (write_csv, write_parquet) for m in (slides_table, tiles_table)
    ):
        for name in ("one", "two"):
            write(make(manifest), tmp_path / name)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    ran = CliRunner().invoke(export, [str(a) for a in arguments], catch_exceptions=False)
    return ran.exit_code, ran.stdout, ran.stderr


@pytest.mark.parametrize("target", ["csv", "parquet"])
def test_the_command_writes_either_table(tmp_path: Path, target: str) -> None:
    save_manifest(made_set(tmp_path), tmp_path / "manifest.json")
    for options, rows in (([], 4), (["--tiles"], 7)):
        out = tmp_path / f"x.{target}"
        code, text, _ = run(tmp_path, "--to", target, "-o", out, *options)
        assert (code, text) == (0, f"{out}: {rows} rows\n")
        found: list[Any] = list(read_csv(out) if target == "csv" else parquet_rows(out))
        assert len(found) == rows
        assert str(tmp_path).encode() not in out.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "csv", "-o", "manifest.json"], "is the manifest itself"),
        (["--to", "csv", "-o", "x", "--name", "y"], "go with --to croissant"),
        (["--to", "croissant", "-o", "x", "--tiles"], "--tiles goes with"),
        (["--to", "croissant", "-o", "x", "--url", "x.y"], "is no http"),
        (["--to", "xml", "-o", "x"], "'xml' is not one of"),
        (["--to", "csv", "-o", "nowhere/x"], "there is no folder nowhere to write x to"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    code, _, err = run("manifest.json", *options)
    assert code == 2
    assert message in err
    assert load_manifest(tmp_path) == full_manifest()


def test_a_store_behind_a_url_is_said_to_be_copied_first(tmp_path: Path) -> None:
    entry: StoreEntry = done_entry(path="s3://bucket/a.zarr")
    save_manifest(Manifest((entry,)), tmp_path / "manifest.json")
    code, _, err = run(tmp_path, "--to", "csv", "--tiles", "-o", tmp_path / "t.csv")
    assert code == 5
    assert "copy it to this machine" in err


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    script = (
        "import sys\n"
        "sys.modules['pyarrow'] = None\n"
        "from manifests.cli.export import export\n"
        "export()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), "-o", str(tmp_path / "x"), "--to"]
    ran = subprocess.run([*command, "parquet"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "pip install 'histotile[parquet]'" in ran.stderr
    assert "Traceback" not in ran.stderr
    for target in ("csv", "croissant"):
        subprocess.run([*command, target], capture_output=True, check=True)
    assert json.loads((tmp_path / "x").read_text())["@type"] == "sc:Dataset"


@pytest.mark.slow
def test_a_real_slide_and_real_pictures_are_exported_tile_by_tile(
    tmp_path: Path, real_data: Path
) -> None:
    from tiler.cli import main

    def extract(*options: str | Path) -> None:
        ran = CliRunner().invoke(main, ["extract", *map(str, options)], catch_exceptions=False)
        assert ran.exit_code == 0, ran.stderr

    extract(real_data / "svs/CMU-1-Small-Region.svs", "--mpp", "1", "--out", tmp_path / "a")
    table = real_data / "tiles/labels.csv"
    packed = ["--packed", "--assume-mpp", "0.5", "--tile-size", "224", "--label-from", "parent"]
    packed += ["--slides", str(table), "--out", str(tmp_path / "b")]
    extract(real_data / "tiles/lc25000_224", *packed)
    for folder, packed_set in (("a", False), ("b", True)):
        manifest = load_manifest(tmp_path / folder)
        rows = tiles_csv(manifest, tmp_path)
        assert len(rows) == sum(entry.tiles for entry in manifest.committed()) > 0
        write_parquet(tiles_table(manifest), tmp_path / "t.parquet")
        assert len(parquet_rows(tmp_path / "t.parquet")) == len(rows)
        for row in rows:
            assert row["picture"].startswith(f"{row['label']}/" if packed_set else "")
            assert bool(row["label"]) == packed_set
            assert 0 <= float(row["focus"]) <= 1
