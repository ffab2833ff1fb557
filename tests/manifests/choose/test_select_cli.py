"""`manifest select` as people run it: what it prints, writes and refuses, and its exit codes."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from manifests.cli.select import select
from manifests.jsonfile import load_manifest, save_manifest
from manifests.store import open_store
from tests.manifests.make_selectable import make_world
from tiler.cli import main as cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest and its stores."""
    (tmp_path / "set").mkdir()
    world = make_world(tmp_path / "set")
    save_manifest(world.manifest, tmp_path / "set" / "manifest.json")
    return tmp_path / "set"


def run(*arguments: str | Path) -> Result:
    """The command, as from a shell."""
    return CliRunner().invoke(select, [str(argument) for argument in arguments])


def test_a_selection_is_written_and_works_from_where_it_lies(folder: Path) -> None:
    out = folder.parent / "lung.json"
    text = 'organ == "lung" and focus > 0.1 and tissue >= 0.6'
    result = run(folder, "-o", out, "--where", text)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-1] == f"{out}: 4 tiles of 1 store"
    assert [line.split()[-1] for line in result.stdout.splitlines() if ">" in line] == ["10", "4"]
    manifest = load_manifest(out)
    [entry] = manifest.stores
    assert entry.path == "set/a.zarr"
    assert open_store(manifest, entry)["0.5"].usable().tolist() == [2, 4, 5]
    first = out.read_bytes()
    assert run(folder, "-o", out, "--where", text).exit_code == 0
    assert out.read_bytes() == first
    assert str(folder.parent).encode() not in first


def test_the_manifest_is_there_also_if_nobody_reads_the_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "the reader has gone")

    monkeypatch.setattr("manifests.listing.print_table", gone)
    run(folder, "-o", folder / "some.json", "--where", "x >= 0")
    assert load_manifest(folder / "some.json").stores


def test_a_dry_run_counts_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.parent.rglob("*"))
    result = run(folder / "manifest.json", "--where", "focus > 0.1", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert sorted(folder.parent.rglob("*")) == before
    counts = json.loads(result.stdout)
    assert counts["before"]["tiles"] == 23
    assert counts["after"] == {"stores": 2, "patients": 2, "tiles": 10}
    [step] = counts["steps"]
    assert (step["name"], step["passed"], step["undecided"]) == ("focus > 0.1", 10, 8)
    assert counts["missing_columns"] == {"focus": 2}


def test_options_come_together(folder: Path, tmp_path: Path) -> None:
    vocabulary = tmp_path / "own.toml"
    vocabulary.write_text('[organ.chest]\nsynonyms = ["lung"]\n')
    result = run(
        *(folder, "--dry-run", "--json", "--split", "train", "--vocabulary", vocabulary),
        *("--where", "x >= 0", "--where", 'organ == "chest"', "--seed", "3"),
        *("--max-per-slide", "8", "--max-per-patient", "7", "--sample", "5"),
    )
    assert result.exit_code == 0, result.output
    steps = [(step["name"], step["left"]) for step in json.loads(result.stdout)["steps"]]
    assert steps == [
        ("--split train", 13),
        ('organ == "chest"', 13),
        ("x >= 0", 13),
        ("--max-per-slide 8", 11),
        ("--max-per-patient 7", 8),
        ("--sample 5", 5),
    ]


def test_nothing_left_is_said_counted_and_not_written(folder: Path) -> None:
    out = folder / "none.json"
    result = run(folder, "-o", out, "--where", 'organ == "lung" and stain == "PAS"')
    assert result.exit_code == 4
    assert 'organ == "lung"' in result.stdout
    assert result.stderr.startswith('Error: no tile is left after stain == "PAS": none of the 23')
    assert not out.exists()
    assert run(folder, "--dry-run", "--where", "x < 0").exit_code == 4


USAGE = [
    (("-o", "{}/c.json"), "say what to select"),
    (("--where", "x > 0"), "give -o FILE, or --dry-run"),
    (("--where", "x > 0", "-o", "{}/manifest.json"), "is what you select from"),
    (("--where", "x > 0", "-o", "{}/no/c.json"), "there is no folder"),
    (("--where", "x > 0", "-o", "{}/a.zarr/c.json"), "lie outside of"),
    (("--where", "x = 0", "--dry-run"), "column 3 of the expression: equality is written =="),
    (("--where", "fokus > 0", "--dry-run"), "knows the name fokus; there are focus"),
    (("--where", "focus > 'a'", "--dry-run"), "focus is a number"),
    (("--sample", "0", "--dry-run"), "--sample"),
    (("--split", "tarin", "--dry-run"), "there are test, train"),
]


@pytest.mark.parametrize(("arguments", "sentence"), USAGE)
def test_wrong_usage_ends_with_2(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    result = run(folder, *(argument.format(folder) for argument in arguments))
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_damaged_store_ends_with_5(folder: Path) -> None:
    (folder / "a.zarr" / "0.5" / "focus" / "c.0").write_bytes(b"12345678")
    result = run(folder, "--dry-run", "--where", "focus > 0.1")
    assert result.exit_code == 5
    assert "was changed after the store was committed" in result.stderr


@pytest.mark.slow
def test_tiles_of_a_real_slide_are_selected_by_what_was_measured(
    real_data: Path, tmp_path: Path
) -> None:
    slide = real_data / "svs" / "CMU-1-Small-Region.svs"
    cut = CliRunner().invoke(
        cli,
        [
            *("extract", str(slide), "--mpp", "0.5", "--mpp", "1", "--min-tissue", "0.1"),
            *("--organ", "pancreas", "--stain", "hematoxylin-eosin"),
            *("--workers", "0", "--out", str(tmp_path / "cut")),
        ],
    )
    assert cut.exit_code == 0, cut.output
    out = tmp_path / "sharp.json"
    text = 'organ == "Pancreas" and stain == "H&E" and focus > 0.3 and tissue >= 0.6 and mpp < 0.9'
    result = run(tmp_path / "cut", "-o", out, "--where", text)
    assert result.exit_code == 0, result.output
    manifest = load_manifest(out)
    [entry] = manifest.stores
    store = open_store(manifest, entry)
    group = store["0.5"]
    passes = (group.column("focus") > 0.3) & (group.column("tissue") >= np.float32(0.6))
    assert 0 < passes.sum() < len(group)
    assert group.usable().tolist() == np.flatnonzero(passes).tolist()
    assert store["1"].usable().tolist() == []


def test_help_waits_for_no_library() -> None:
    script = (
        "import sys; from manifests.cli.select import select\n"
        "try: select(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'numpy', 'lark', 'rich', 'zarr'} & sys.modules.keys()\n"
        "assert not slow, slow"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    assert b"--max-per-patient" in ran.stdout
