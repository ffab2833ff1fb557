"""The study from pictures to tables, on a made-up data folder of the layout of the real one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from docs.reproduction import measure, plan, sets, study
from docs.reproduction.report import report
from docs.reproduction.steps import Bench, StepFailed, write_json
from tiler.synthetic import paint, write_slide

GROUPS = 12
CLASSES = ("colon_aca", "colon_n", "lung_aca")


def make_data(data: Path) -> None:
    """Fields and a slide of every source, LC25000 tiles in groups of two, and breast fields."""
    for folder in ("ihc_fields", "he_fields/dsb2018_stained", "svs", "tiles/lc25000_224"):
        (data / folder).mkdir(parents=True)
    section = paint("he", 1024, 1024, 1)
    Image.fromarray(section).save(data / "ihc_fields" / "kidney_x_stain_02.png")
    Image.fromarray(section[::-1]).save(data / "he_fields" / "liver_x_HE.jpg")
    nuclei = section[384:640, 352:672]
    Image.fromarray(nuclei).save(data / "he_fields" / "dsb2018_stained" / "a.png")
    write_slide(data / "svs" / "CMU-1-Small-Region.svs", paint("he", 1024, 1024, 2), 0.5)
    make_lc25000(data / "tiles")
    make_breast(data / "tiles" / "brca_m2c")


def make_lc25000(tiles: Path) -> None:
    """Tiles of a colour a class, with noise, and the table of their groups."""
    generator = np.random.default_rng(0)
    rows = []
    for number, label in enumerate(CLASSES):
        (tiles / "lc25000_224" / label).mkdir()
        for group in range(GROUPS):
            for copy in range(2):
                file = f"lc25000_224/{label}/{group}-{copy}.jpeg"
                pixels = generator.integers(60 * number, 60 * number + 120, (224, 224, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(tiles / file)
                rows.append([*("lc25000_224", file, label, label.split("_")[0], "H&E", group)])
    with (tiles / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["dataset", "file", "label", "organ", "stain", "group"])
        writer.writerows(rows)


def make_breast(folder: Path) -> None:
    """Fields of a patient each, and cells of mostly one class."""
    generator = np.random.default_rng(1)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for patient in range(3 * GROUPS):
        stem = f"TCGA-A7-{patient:04d}-01Z-00-DX1_1_1_1000_1000_0.98"
        kind = patient % 3
        pixels = generator.integers(70 * kind, 70 * kind + 100, (150, 150, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{stem}.png")
        places = generator.integers(0, 150, (60, 2))
        kinds = np.where(generator.random(60) < 0.8, kind, (kind + 1) % 3) + 1
        lines = [f"{y} {x} {k}" for (y, x), k in zip(places, kinds, strict=True)]
        (folder / "labels" / f"{stem}_gt_class_coords.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench whose stores and splits are made; the weights of ImageNet are left out."""
    folder = tmp_path_factory.mktemp("study")
    made = Bench(folder / "data", folder / "out")
    make_data(made.data)
    made.out.mkdir()
    write_json(made.record("imagenet"), {"seconds": 0})
    study.prepare(made, 1)
    return made


FLAGS = {"arch": "timm/test_resnet", "image-size": 32, "batch-size": 8, "max-steps": 2}
FLAGS |= {"resize": 128, "tensorboard": False, "monitor-every": 0, "precision": "fp32"}


def variant(name: str, *parts: plan.Part, split: str = "train") -> plan.Variant:
    """A variant that trains for two steps."""
    return plan.Variant(name, parts, {**FLAGS, "device": "cpu"}, split)


def groups_of(bench: Bench, manifest: str, split: str | None = None) -> set[str]:
    """Groups of the LC25000 pictures that a manifest selects, perhaps of a split alone."""
    rows = {row["slide"]: row["group"] for row in sets.lc25000_rows(bench.data)}
    out = bench.out / "listed.csv"
    where = ["--split", split] if split else ["--where", 'dataset == "lc25000"']
    select = ["histotile", "manifest", "select", manifest, *where, "-o", "listed.json"]
    export = [
        "histotile",
        "manifest",
        "export",
        "listed.json",
        "--to",
        "csv",
        "--tiles",
        "-o",
        str(out),
    ]
    bench.output(select)
    bench.output(export)
    with out.open(newline="") as stream:
        pictures = {row["picture"] for row in csv.DictReader(stream) if row.get("picture")}
    return {rows[f"lc25000_224/{picture}"] for picture in pictures}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_study_goes_from_pictures_to_tables_and_goes_on_where_it_was(bench: Bench) -> None:
    experiment = plan.Experiment(
        "views",
        "Which?",
        (
            variant("all", plan.Part(where='not dataset like "coarse*"')),
            variant("two", *(plan.Part(f"dataset == '{name}'", 8) for name in ("liver", "kidney"))),
            plan.Variant("untrained", encoder="random:test_resnet"),
        ),
    )

    study.train(bench, [experiment], 1, 2)
    measure.evaluate(bench, [experiment], 1, 32)
    report(bench, [experiment], 1)
    done = {file: file.stat().st_mtime_ns for file in (bench.out / "records").iterdir()}
    study.train(bench, [experiment], 1)
    measure.evaluate(bench, [experiment], 1, 32)

    assert {file: file.stat().st_mtime_ns for file in (bench.out / "records").iterdir()} == done
    text = (bench.out / "report" / "views.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| two |"))
    assert "–" not in row
    assert "| two | 16 | 2 |" in text
    for file in (bench.out / "records").iterdir():
        assert str(bench.out) not in file.read_text()
        assert str(bench.data) not in file.read_text()


@pytest.mark.slow
def test_pretraining_never_sees_the_groups_of_the_test(bench: Bench) -> None:
    lc25000 = plan.Part(where="dataset == 'lc25000'")
    honest, leaking = variant("honest", lc25000), variant("leaking", lc25000, split="all")
    test = groups_of(bench, "lc25000-s0.json", "test")
    assert test

    for one in (honest, leaking):
        run = one.run(0)
        assert run is not None
        study.draw(bench, run)
        seen = groups_of(bench, f"data-{run.data_key}.json")
        assert seen.isdisjoint(test) == (one is honest)


@pytest.mark.slow
def test_a_part_that_is_smaller_than_asked_for_stops_the_study(bench: Bench) -> None:
    run = variant("too many", plan.Part("dataset == 'liver'", 10_000)).run(0)
    assert run is not None

    with pytest.raises(StepFailed, match="10000 tiles were asked for"):
        study.draw(bench, run)

    assert not bench.is_done(f"data-{run.data_key}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "by"), [("lc25000", "group"), ("breast", "patient")])
def test_splits_of_the_labelled_sets_tear_nothing_and_none_is_empty(
    name: str, by: str, bench: Bench
) -> None:
    check = ["histotile", "manifest", "split", f"{name}-s0.json", "--check", "--no-near"]
    bench.output([*check, "--by", by])

    for split in ("train", "val", "test"):
        select = ["histotile", "manifest", "select", f"{name}-s0.json", "--split", split]
        assert json.loads(bench.output([*select, "--dry-run", "--json"]))["after"]["tiles"] > 0
