"""`histotile manifest show`: the table for people, the JSON for programs, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from manifests.cli import manifest
from manifests.jsonfile import save_manifest
from manifests.model import Manifest
from manifests.summary import summarise, summary_json
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
        "µm/px",
        "tiles",
        "MB",
        "reason,",
        "warnings",
    ]
    assert lines[2][:4] == ["slide-0", "empty", "0", "0.0"]
    assert lines[3][:5] == ["slide-1", "done", "breast", "H&E", "TCGA-BRCA"]
    assert " ".join(lines[3][5:11]) == "0.504 × 0.502, 1 1,500 12.3"
    assert " ".join(lines[4]) == "slide-2 failed 0 0.0 no reader opens the file"
    assert " ".join(lines[-1]) == "3 in all 1 done, 1 empty, 1 failed 1,500 12.3"


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


def test_wrong_usage_ends_with_2() -> None:
    for arguments in (["show"], ["show", "a", "b"], ["show", "a", "--yaml"], ["nonsense"]):
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
