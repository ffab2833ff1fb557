"""`histotile manifest split`: what it writes, prints, and ends with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from manifests.cli.split import split
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest
from manifests.splits.holdout import read_list
from manifests.splits.split import SplitError, SplitRule, split_manifest
from tests.manifests.splits.test_split import slide


def run(*arguments: str | Path) -> Result:
    """The command, as a person types it."""
    return CliRunner().invoke(split, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the manifest of 60 patients of two slides each."""
    organs = ("lung", "colon", "skin")
    slides = [
        slide(n, patient=f"P{n // 2}", organ=organs[n // 2 % 3], columns={"block": f"B{n}"})
        for n in range(120)
    ]
    unknown = slide(900, organ="lung")
    save_manifest(Manifest((*slides, unknown)), tmp_path / "manifest.json")
    return tmp_path


def test_the_written_manifest_is_what_the_function_gives(folder: Path) -> None:
    ran = run(
        folder, "-o", folder / "s.json", "--ratios", "0.6,0.4", "--names", "a,b", "--seed", "4"
    )
    assert ran.exit_code == 0, ran.stderr
    rule = SplitRule(ratios=(0.6, 0.4), names=("a", "b"), seed=4)
    expected = split_manifest(load_manifest(folder), rule).manifest
    assert load_manifest(folder / "s.json") == expected
    assert "Note: 1 store without patient: each a unit of its own" in ran.stderr
    assert "61 units, 0 tiles" in ran.stderr


def test_twice_gives_the_same_bytes_also_in_place(folder: Path) -> None:
    for options in ([], ["--exact"]):
        written = []
        for _ in range(2):
            assert run(folder, "-o", folder / "s.json", *options).exit_code == 0
            written.append((folder / "s.json").read_bytes())
        assert run(folder / "s.json", "-o", folder / "s.json", *options).exit_code == 0
        written.append((folder / "s.json").read_bytes())
        assert len(set(written)) == 1
        (folder / "s.json").unlink()


def test_the_table_shows_asked_and_got_for_each_stratum(folder: Path) -> None:
    ran = run(folder, "-o", folder / "s.json", "--stratify", "organ", "--exact")
    rows = [line.split() for line in ran.stdout.splitlines() if line.strip()]
    assert rows[0] == ["organ", "split", "asked", "patient", "got", "stores", "tiles", "got"]
    assert rows[2][:4] == ["all", "train", "80.0%", "49"]
    assert rows[5][:6] == ["colon", "train", "80.0%", "16", "80.0%", "32"]
    assert [row[:1] for row in rows[5::3]] == [["colon"], ["lung"], ["skin"]]


def test_json_says_what_the_table_says(folder: Path) -> None:
    ran = run(folder, "-o", folder / "s.json", "--stratify", "organ", "--exact", "--json")
    found = json.loads(ran.stdout)
    assert found["strata"][0] == {
        "values": {"organ": "colon"},
        "splits": {
            "train": {"asked": 0.8, "units": 16, "stores": 32, "tiles": 0},
            "val": {"asked": 0.1, "units": 2, "stores": 4, "tiles": 0},
            "test": {"asked": 0.1, "units": 2, "stores": 4, "tiles": 0},
        },
    }
    assert sum(share["units"] for share in found["splits"].values()) == 61
    assert found["warnings"] == []
    assert (found["kept"], found["listed"], found["differing"]) == (0, 0, 0)


def test_strata_that_are_off_are_warned_of_and_exact_is_named(folder: Path) -> None:
    ran = run(folder, "-o", folder / "s.json", "--stratify", "block")
    assert ran.exit_code == 0
    assert "--exact fills quotas" in ran.stderr
    assert re.search(
        r"Warning: too few units for every split, so that one has none: B0; .* and \d+ more",
        ran.stderr,
    )
    assert ran.stderr.count("Warning:") == 1
    in_full = json.loads(
        run(folder, "-o", folder / "s.json", "--stratify", "block", "--json").stdout
    )
    assert len(in_full["strata"]) > 100


def test_quotas_continue_the_older_file(folder: Path) -> None:
    assert run(folder, "-o", folder / "s.json", "--exact").exit_code == 0
    before = {entry.id: entry.split for entry in load_manifest(folder / "s.json").stores}
    larger = (*load_manifest(folder).stores, *(slide(n, patient=f"N{n}") for n in range(200, 240)))
    save_manifest(Manifest(larger), folder / "manifest.json")
    ran = run(folder, "-o", folder / "s.json", "--exact")
    after = {entry.id: entry.split for entry in load_manifest(folder / "s.json").stores}
    assert before.items() <= after.items()
    assert "Note: 61 units stay in the split that they were in" in ran.stderr
    afresh = run(folder, "-o", folder / "s.json", "--exact", "--anew")
    assert "stay in" not in afresh.stderr
    expected = split_manifest(load_manifest(folder), SplitRule(exact=True)).manifest
    assert load_manifest(folder / "s.json") == expected


def test_a_foreign_file_is_not_taken_for_an_older_result(folder: Path) -> None:
    (folder / "s.json").write_text("{}")
    ran = run(folder, "-o", folder / "s.json", "--exact")
    assert ran.exit_code == 5
    assert (folder / "s.json").read_text() == "{}"


def test_lists_go_to_the_last_split_or_to_the_one_that_is_named(folder: Path) -> None:
    (folder / "cases.txt").write_text("\ufeff# official\n P1 \n\ns8\n", encoding="utf-8")
    (folder / "more=1.txt").write_text("P5\r\n", encoding="utf-8")
    ran = run(
        *(folder, "-o", folder / "s.json", "--holdout", folder / "cases.txt"),
        *("--holdout", f"val={folder / 'more=1.txt'}"),
    )
    assert ran.exit_code == 0, ran.stderr
    found = {entry.patient: entry.split for entry in load_manifest(folder / "s.json").stores}
    assert (found["P1"], found["P4"], found["P5"]) == ("test", "test", "val")
    assert "Note: 3 units are where a list puts them" in ran.stderr


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("missing.txt", "No such file"),
        ("tset=cases.txt", "splits are train, val, test"),
        ("val=missing.txt", "No such file"),
        ("latin.txt", "utf-8"),
        ("nul\0", "null"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cases.txt").write_text("P1\n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9\n")
    with pytest.raises(SplitError, match=says):
        read_list(option, ("train", "val", "test"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "-o FILE, or --check"),
        (["-o", "s.json", "--ratios", "a,b"], "must be numbers"),
        (["-o", "s.json", "--ratios", "0.5,0.4"], "sum to 0.9"),
        (["-o", "s.json", "--by", "blok"], "did you mean block?"),
        (["-o", "s.json", "--no-near"], "belongs to --check"),
        (["-o", "s.json", "--check", "--seed", "1"], "takes no -o, --seed"),
        (["--check", "--exact"], "takes no --exact"),
        (["--check"], "no store of the manifest is in a split"),
        (["-o", "deep/s.json"], "no folder deep"),
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(folder)
    ran = run("manifest.json", *arguments)
    assert ran.exit_code == 2
    assert says in ran.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json"]


def test_torn_patients_end_with_6(tmp_path: Path) -> None:
    torn = (slide(1, patient="P", split="train"), slide(2, patient="P", split="test"))
    save_manifest(Manifest(torn), tmp_path / "manifest.json")
    ran = run(tmp_path, "-o", tmp_path / "s.json")
    assert ran.exit_code == 6
    assert "'P' (s1, s2) lies in test and in train" in ran.stderr
    assert not (tmp_path / "s.json").exists()


def test_names_that_steer_a_terminal_are_written_out(tmp_path: Path) -> None:
    bad = "a\x1b[2Jb"
    entries = (slide(1, patient=bad, organ=bad, content=5), slide(2, patient="[red]", content=5))
    save_manifest(Manifest(entries), tmp_path / "manifest.json")
    ran = run(tmp_path, "-o", tmp_path / "s.json", "--stratify", "organ")
    assert ran.exit_code == 0
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "a\\x1b[2Jb" in ran.stdout
    assert "one slide goes by several names, which are one unit: [red] = a\\x1b" in ran.stderr
