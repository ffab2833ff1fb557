"""`histopretrain evaluate`: a table or JSON on stdout, two files, a sentence for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from pretrain.cli.evaluate import evaluate
from tests.pretrain.evaluating.make import labelled_set, save_split, splits_of
from tests.pretrain.segmenting.masked import blobs, cut, write

TINY = "random:timm/test_resnet"
QUICK = ("--label", "label", "--no-curve", "--no-near", "--resamples", "20")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_set(tmp_path_factory.mktemp("set"))


def test_a_table_goes_to_stdout_and_two_files_to_the_folder(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = call(TINY, manifest, *QUICK, "-o", out)

    assert ran.exit_code == 0, ran.stderr
    assert "classification of label: fat, mucus, stroma" in ran.stdout
    assert "random:test_resnet" in ran.stdout
    assert "colour histogram" in ran.stdout
    assert "test 24 tiles of 6 (units are made by group)" in ran.stdout
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "report.html"]
    assert str(out / "report.html") in ran.stderr

    before = (out / "report.html").read_bytes()
    ran = call(TINY, manifest, *QUICK, "-o", out, "--json")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout == (out / "evaluation.json").read_text(encoding="utf-8")
    assert json.loads(ran.stdout)["encoders"][0]["name"] == "random:test_resnet"
    assert len((out / "report.html").read_bytes()) == pytest.approx(len(before), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((TINY, "no.json", *QUICK), 5, "no.json"),
        ((TINY, "no.json"), 2, "--task classification needs --label NAME"),
        ((TINY, "no.json", "--label", "x", "--task", "regressoin"), 2, "regressoin"),
        (("random:nonesuch", "no.json", *QUICK), 2, "nonesuch"),
        (("no.json",), 2, "Missing argument"),
    ],
)
def test_mistakes_end_with_a_sentence_and_no_folder(
    arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    ran = call(*arguments, "-o", tmp_path / "out")

    assert ran.exit_code == code
    assert said in ran.stderr
    assert ran.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_refused_before_any_work(
    manifest: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("mine")
    ran = call("random:nonesuch", manifest, *QUICK, "-o", tmp_path)

    assert ran.exit_code == 2
    assert "was not written by histopretrain evaluate" in ran.stderr
    assert (tmp_path / "report.html").read_text() == "mine"


def test_masks_can_be_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.segmenting.segment.STEPS", 10)
    made = {f"{number}.png": blobs(32, seed=number) for number in range(10)}
    write(tmp_path / "pictures", {name: picture for name, (picture, _) in made.items()})
    masks = write(tmp_path / "masks", {name: mask for name, (_, mask) in made.items()})
    (entry,) = cut(tmp_path / "pictures", tmp_path / "out", "--packed", "--tile-size", 32).stores
    names = ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    manifest = save_split(tmp_path / "out", replace(entry, splits=splits_of(names)), by="source")
    given = ("--task", "segmentation", "--masks", masks, "--classes", "ground,disc", "--no-near")

    ran = call(TINY, manifest, *given, "--resamples", "20", "-o", tmp_path / "found")

    assert ran.exit_code == 0, ran.stderr
    assert "segmentation of masks: ground, disc" in ran.stdout
    assert "Dice" in ran.stdout
    said = json.loads((tmp_path / "found" / "evaluation.json").read_text(encoding="utf-8"))
    assert said["classes"] == ["ground", "disc"]
    assert said["split"]["tiles"] == {"train": 5, "val": 2, "test": 3}
    assert [set(encoder["scores"]["decoder"]) for encoder in said["encoders"]] == [
        {"dice", "iou"}
    ] * 2
    assert (tmp_path / "found" / "report.html").exists()


def test_ctrl_c_leaves_nothing_half_written(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.evaluating.judge.score_features", interrupted)
    ran = call(TINY, manifest, *QUICK, "-o", tmp_path / "out")

    assert ran.exit_code == 130
    assert not (tmp_path / "out").exists()


def test_the_command_is_there_without_anything_heavy() -> None:
    script = (
        "import sys, pretrain.cli.evaluate\n"
        "print(sorted({'torch', 'sklearn', 'scipy', 'zarr', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
