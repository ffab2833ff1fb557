"""`histotile manifest show`: the table for people, JSON and CSV for programs, the exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from manifests.cli import manifest
from manifests.describe.summary import summarise, summary_json
from manifests.jsonfile import save_manifest
from manifests.model import Manifest, Selection, StoreEntry
from manifests.tileset import TileSet
from tests.manifests.make_manifest import done_entry, failed_entry, full_manifest


def show(folder: Path, *options: str) -> str:
    """Standard output of a `show` that succeeds."""
    ran = CliRunner().invoke(manifest, ["show", str(folder), *options])
    assert (ran.exit_code, ran.stderr) == (0, "")
    return ran.stdout


def test_the_table_has_a_row_per_entry_and_totals(tmp_path: Path) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    lines = [line.split() for line in show(tmp_path).splitlines() if line.strip()]
    assert lines[0] == [
        "id",
        "status",
        "organ",
        "stain",
        "dataset",
        "patient",
        "µm/px",
        "tiles",
        "MB",
        "reason,",
        "warnings",
    ]
    assert lines[2][:4] == ["slide-0", "empty", "0", "0.0"]
    assert lines[3][:6] == ["slide-1", "done", "breast", "H&E", "TCGA-BRCA", "TCGA-A7-A0D9"]
    assert " ".join(lines[3][6:12]) == "0.504 × 0.502, 1 1,500 12.3"
    assert " ".join(lines[4]) == "slide-2 failed 0 0.0 no reader opens the file"
    assert " ".join(lines[-1]) == "3 in all 1 done, 1 empty, 1 failed 1,500 12.3"


def test_columns_stand_there_where_an_entry_has_them(tmp_path: Path) -> None:
    save_manifest(Manifest((done_entry(patient=None),)), tmp_path / "manifest.json")
    head = show(tmp_path).splitlines()[1].split()
    assert not {"patient", "split"} & set(head)
    parts = {"val": {"0.5": TileSet.of([0, 1])}, "train": {"0.5": TileSet.of([2])}}
    entries = (
        done_entry("a", path="a.zarr", patient=None, splits=parts),
        done_entry("b", path="b.zarr", split="test"),
    )
    save_manifest(Manifest(entries), tmp_path / "manifest.json")
    lines = show(tmp_path).splitlines()
    assert {"patient", "split"} <= set(lines[1].split())
    assert "train, val" in lines[3]
    assert "test" in lines[4].split()


def test_a_selection_is_shown_as_a_part_of_all(tmp_path: Path) -> None:
    chosen = Selection(({"sample": 3},), {"0.5": TileSet.of([1, 5, 1199])})
    save_manifest(Manifest((done_entry(selection=chosen),)), tmp_path / "manifest.json")
    assert " 3 of 1,500 " in show(tmp_path)
    [found] = json.loads(show(tmp_path, "--json"))["stores"]
    assert (found["tiles"], found["tiles_before_selection"]) == (3, 1500)


def test_a_long_table_has_the_same_rows_as_a_short_one(tmp_path: Path) -> None:
    def entries(count: int) -> tuple[StoreEntry, ...]:
        return tuple(
            done_entry(f"slide-{i:04}", path=f"{i}.zarr", organ="肝臓" if i % 2 else "liver\n")
            for i in range(count)
        )

    shown = {}
    for count in (300, 301):
        save_manifest(Manifest(entries(count)), tmp_path / "manifest.json")
        lines = [line for line in show(tmp_path).splitlines() if line.strip()]
        shown[count] = [" ".join(line.split()) for line in lines]
        assert len(lines) == count + 4
        # Aligned: the tiles of all rows end in the same cell of the terminal.
        ends = {cell_len(line[: line.index("1,500") + 5]) for line in lines[2:-2]}
        assert len(ends) == 1
    short, long = shown[300], shown[301]
    assert long[0] == short[0]
    assert long[2:302] == short[2:302]
    assert long[-1].startswith("301 in all 301 done")


def test_csv_has_the_same_columns_whatever_is_known(tmp_path: Path) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    rows = list(csv.DictReader(io.StringIO(show(tmp_path, "--csv"))))
    assert [row["id"] for row in rows] == ["slide-0", "slide-1", "slide-2"]
    assert rows[1]["sample_type"] == "Primary Solid Tumor"
    assert (rows[1]["tiles"], rows[1]["tiles_before_selection"]) == ("1500", "1500")
    assert rows[1]["mpp"] == "0.504 × 0.502, 1"
    assert rows[2]["reason"] == "no reader opens the file"
    assert rows[2]["organ"] == ""
    save_manifest(Manifest(), tmp_path / "manifest.json")
    assert show(tmp_path, "--csv") == ",".join(rows[0]) + "\n"


def test_long_ids_are_whole_in_pipes_and_notes_are_short(tmp_path: Path) -> None:
    long = "TCGA-A7-A0D9-01Z-00-DX2.52B5E2D6-" * 6
    entries = (
        done_entry(long, path="a.zarr", dataset="d" * 150),
        failed_entry("b", reason="because " * 100),
    )
    save_manifest(Manifest(entries), tmp_path / "manifest.json")
    shown = show(tmp_path)
    assert long in shown
    assert "d" * 150 in shown
    [row] = [line for line in shown.splitlines() if "because" in line]
    assert row.rstrip().endswith("…")
    assert row.count("because") == 12


def test_names_with_markup_or_control_characters_are_shown_as_they_are(tmp_path: Path) -> None:
    entries = (
        done_entry("[red]a", path="a.zarr", organ=":skin: [/x]", stain="a\x1b[2Jb"),
        failed_entry("b", reason="two\nlines"),
    )
    save_manifest(Manifest(entries), tmp_path / "manifest.json")
    shown = show(tmp_path)
    assert "[red]a" in shown
    assert ":skin: [/x]" in shown
    assert "a\\x1b[2Jb" in shown
    assert "two lines" in shown
    assert "\x1b" not in shown


def test_an_empty_manifest_has_a_table_too(tmp_path: Path) -> None:
    save_manifest(Manifest(), tmp_path / "manifest.json")
    assert "0 in all" in show(tmp_path)
    assert json.loads(show(tmp_path, "--json"))["totals"]["stores"] == 0


def test_json_says_what_the_manifest_says(tmp_path: Path) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    found = json.loads(show(tmp_path / "manifest.json", "--json"))
    assert found == json.loads(json.dumps(summary_json(summarise(full_manifest()))))
    assert found["totals"] == {
        "stores": 3,
        "status": {"done": 1, "empty": 1, "failed": 1},
        "tiles": 1500,
        "bytes": 12_345_678,
    }
    assert found["stores"][1]["resolutions"] == [
        {"group": "0.5", "mpp": [0.504, 0.502], "tiles": 1200},
        {"group": "1", "mpp": [1, 1], "tiles": 300},
    ]
    assert found["stores"][2]["reason"] == "no reader opens the file"


@pytest.mark.parametrize("text", [None, "{", '{"format": "other"}'])
def test_a_bad_manifest_ends_with_5_and_a_sentence(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "manifest.json"
    if text is not None:
        file.write_text(text)
    ran = CliRunner().invoke(manifest, ["show", str(file)])
    assert ran.exit_code == 5
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"Error: {file}")
    assert ran.stderr.count("\n") == 1


BOTH = ["show", "a", "--json", "--csv"]


def test_wrong_usage_ends_with_2() -> None:
    for arguments in (["show"], ["show", "a", "b"], ["show", "a", "--yaml"], ["nonsense"], BOTH):
        assert CliRunner().invoke(manifest, arguments).exit_code == 2


def test_importing_the_commands_does_not_import_numpy() -> None:
    script = (
        "import sys, manifests.cli\n"
        "slow = {'numpy', 'zarr', 'rich', 'jsonschema', 'simplejpeg'} & set(sys.modules)\n"
        "sys.exit(', '.join(slow) or 0)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_the_package_door_opens_every_name_it_promises() -> None:
    import manifests

    for name in manifests.__all__:
        assert getattr(manifests, name).__name__ == name
    assert dir(manifests) == sorted(manifests.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        manifests.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_a_carriage_return_does_not_break_a_row_of_csv(tmp_path: Path) -> None:
    entries = (done_entry("a", path="a.zarr", organ="one\rtwo"), failed_entry("b"))
    save_manifest(Manifest(entries), tmp_path / "manifest.json")
    with io.StringIO(show(tmp_path, "--csv"), newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["organ"] for row in rows] == ["one\rtwo", ""]
