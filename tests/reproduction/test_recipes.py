"""All recipes on small generated downloads, laid out as each set is, by the real commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from docs.reproduction.recipe import FOLDER, RecipeError, commands, cook, lay_out, main, read_recipe
from manifests import Manifest, load_manifest
from manifests.catalog import find_dataset
from tiler.cli import main as histotile

NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
TISSUES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
COLOURS = ((230, 205, 225), (220, 120, 160), (130, 60, 130), (70, 50, 110), (150, 150, 215))


def picture(file: Path, number: int, size: tuple[int, int]) -> None:
    """A picture of a class's colour with a little noise, (width, height) pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(sum(file.as_posix().encode()))
    # The noise repeats itself, and is packed in no time.
    noise = random.integers(-12, 13, (16, 16, 3))
    pixels = np.clip(np.array(COLOURS[number % 5]) + noise, 0, 255).astype(np.uint8)
    whole = np.tile(pixels, (size[1] // 16 + 1, size[0] // 16 + 1, 1))[: size[1], : size[0]]
    if file.suffix == ".png":
        Image.fromarray(whole).save(file, compress_level=1)
    else:
        Image.fromarray(whole).save(file)


def bach(root: Path) -> None:
    photos = root / "ICIAR2018_BACH_Challenge" / "Photos"
    rows = []
    for number, label in enumerate(("Normal", "Benign", "InSitu", "Invasive")):
        for index in range(10):
            stem = f"{('n', 'b', 'is', 'iv')[number]}{index:03}"
            picture(photos / label / f"{stem}.tif", number, (300, 280))
            rows.append(f"{stem},P{number}{index // 2}\n")
    (photos / "microscopy_ground_truth.csv").write_text("n000.tif,Normal\n")
    (photos / "patients.csv").write_text("picture,patient\n" + "".join(rows))


def breakhis(root: Path) -> None:
    for label, kind, code in (
        ("benign", "adenosis", "B_A"),
        ("malignant", "ductal_carcinoma", "M_DC"),
    ):
        for patient in range(6):
            for x in ("40X", "400X"):
                slide = f"SOB_{code}_14-{1000 + patient}AB"
                name = f"SOB_{code}-14-{1000 + patient}AB-{x[:-1]}-001.png"
                folder = root / "BreaKHis_v1/histology_slides/breast" / label / "SOB" / kind
                picture(folder / slide / x / name, label == "malignant", (460, 230))


def nct_crc(root: Path) -> None:
    for number, label in enumerate(TISSUES):
        for index in range(3):
            picture(root / "NCT-CRC-HE-100K" / label / f"{label}-A{index}.tif", number, (224, 224))
        picture(root / "CRC-VAL-HE-7K" / label / f"{label}-TCGA-B.tif", number, (224, 224))


def lymph(root: Path) -> None:
    for number, label in enumerate(("CLL", "FL", "MCL")):
        for case in range(5):
            for index in (1, 2):
                name = f"sj-05-{100 * number + case}-R{index}_00{index}.tif"
                picture(root / label / name, number, (360, 360))
    (root / "MCL" / "test.txt").write_text("not a picture")


def gleason2019(root: Path) -> None:
    for core in range(5):
        stem = f"slide00{core // 3 + 1}_core{core:03}"
        picture(root / "Train Imgs" / f"{stem}.jpg", core, (910, 910))
        values = np.zeros((910, 910), np.uint8)
        values[:448, :448], values[:448, 448:896] = 1, 3
        values[448:896, :448], values[448:896, 448:896] = 4, 5
        for expert in (1, 3, 4):
            folder = root / f"Maps{expert}_T"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / f"{stem}_classimg_nonconvex.png")


def breastpathq(root: Path) -> None:
    datasets = root / "breastpathq" / "datasets"
    train, test = [], []
    for slide in range(5):
        for region in (1, 2):
            picture(datasets / "train" / f"{9000 + slide}_{region}.tif", slide, (512, 512))
            train.append(f"{9000 + slide},{region},{slide / 5}\n")
    for slide in range(2):
        picture(datasets / "validation" / f"{8000 + slide}_1.tif", slide, (512, 512))
        test.append(f"{8000 + slide},1,{slide / 2},0.9\n")
    (datasets / "train_labels.csv").write_text("slide,rid,y\n" + "".join(train))
    (root / "breastpathq-test").mkdir()
    (root / "breastpathq-test" / "val_labels.csv").write_text("slide,rid,p1,p2\n" + "".join(test))


def digestpath(root: Path) -> None:
    names = (
        "2018_53984_1-3_2019-02-25 21_57_36-lv1-34937-13151-5832-5494",
        "2018_53984_1-4_2019-02-25 21_59_36-lv1-1-1-2-2",
        "2019-05-07 23_38_35-lv1-5777-10234-3244-4446",
        "D201801_2019-05-07 23_38_35-lv1-1-2-3-4",
        "2018_64000_1-1_2019-02-25 21_57_36-lv1-3-3-3-3",
    )
    for index, name in enumerate(names):
        file = root / "tissue-train-pos-v1" / f"{name}.jpg"
        picture(file, 1, (512, 512))
        mask = np.zeros((512, 512), np.uint8)
        mask[:, : 128 + 64 * (index % 3)] = 255
        Image.fromarray(mask).save(file.with_name(f"{name}_mask.jpg"))
        picture(
            root / "tissue-train-neg" / f"2019-05-0{index + 1} 10_00_00-lv1-1.jpg", 0, (512, 512)
        )


DOWNLOADS: dict[str, Callable[[Path], None]] = {
    maker.__name__: maker
    for maker in (bach, breakhis, nct_crc, lymph, gleason2019, breastpathq, digestpath)
}


def in_process(command: Sequence[str]) -> None:
    """Run a `histotile` command without a new process."""
    words = [*command[1:], *(["--workers", "0", "--quiet"] if command[1] == "extract" else [])]
    assert command[0] == "histotile"
    result = CliRunner().invoke(histotile, words)
    assert result.exit_code == 0, result.output


Cooked = Callable[[str], tuple[Manifest, Path]]


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> Cooked:
    """The split manifest of a recipe's generated download, and the folder of both."""
    roots: dict[str, Path] = {}

    def once(name: str) -> tuple[Manifest, Path]:
        if name not in roots:
            root = tmp_path_factory.mktemp(name)
            DOWNLOADS[name](root / "download")
            cook(name, root / "download", root / "out", (), in_process)
            roots[name] = root
        return load_manifest(roots[name] / "out" / "tiles" / "split.json"), roots[name]

    return once


def rows_of(root: Path) -> list[dict[str, str]]:
    """The slides table that was written."""
    with (root / "out" / "slides.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_there_is_a_recipe_and_a_download_for_each_set_of_the_paper() -> None:
    assert sorted(DOWNLOADS) == NAMES
    assert len(NAMES) == 7


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_where_its_facts_come_from(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.url.startswith("https://")
    assert recipe.licence
    assert recipe.unconfirmed
    assert find_dataset(recipe.dataset) is not None
    assert recipe.metric == {"regression": "l1", "segmentation": "dice"}.get(
        recipe.task, "macro_f1"
    )


@pytest.mark.parametrize(
    ("name", "tiles", "splits", "labels"),
    [
        ("bach", 40, {"train", "val", "test"}, {"Benign", "InSitu", "Invasive", "Normal"}),
        ("breakhis", 24, {"train", "val", "test"}, {"benign", "malignant"}),
        ("nct_crc", 36, {"train", "test"}, set(TISSUES)),
        ("lymph", 30, {"train", "val", "test"}, {"CLL", "FL", "MCL"}),
        (
            "gleason2019",
            20,
            {"train", "val", "test"},
            {"benign", "grade3", "grade4", "grade5"},
        ),
        ("breastpathq", 12, {"train", "test"}, set()),
        ("digestpath", 10, {"train", "val", "test"}, set()),
    ],
)
def test_a_download_becomes_tiles_with_labels_and_splits(
    cooked: Cooked, name: str, tiles: int, splits: set[str], labels: set[str]
) -> None:
    manifest, _ = cooked(name)
    assert sum(entry.tiles for entry in manifest.committed()) == tiles
    assert {s for entry in manifest.committed() for s in entry.split_names} == splits
    assert {label for entry in manifest.committed() for label in entry.labels} == labels
    assert {r.tile_size for e in manifest.committed() for r in e.resolutions} == {
        read_recipe(name).tile_px
    }


def test_official_test_pictures_are_the_test_and_nothing_else_is(cooked: Cooked) -> None:
    manifest, _ = cooked("nct_crc")
    (entry,) = manifest.committed()
    assert {split: len(sets["0.5"]) for split, sets in entry.splits.items()} == {
        "train": 27,
        "test": 9,
    }


def test_names_become_patients(tmp_path: Path) -> None:
    for name, column, expected in (
        ("breakhis", "patient", {f"14-{1000 + n}" for n in range(6)}),
        ("lymph", "group", {f"sj-05-{100 * k + n}" for k in range(3) for n in range(5)}),
        ("digestpath", "patient", {"2018_53984", "2018_64000", "D201801", ""}),
        ("bach", "patient", {f"P{k}{n}" for k in range(4) for n in range(5)}),
    ):
        root = tmp_path / name
        DOWNLOADS[name](root / "download")
        (root / "out").mkdir()
        lay_out(read_recipe(name), root / "download", root / "out")
        assert {row[column] for row in rows_of(root)} == expected


def test_a_score_is_read_from_the_table_of_its_part(cooked: Cooked) -> None:
    _, root = cooked("breastpathq")
    scores = {Path(row["slide"]).stem: row["cellularity"] for row in rows_of(root)}
    assert scores["9004_2"] == "0.8"
    assert scores["8001_1"] == "0.5"  # the first of two pathologists


def test_a_patch_has_the_grade_that_most_of_it_has_by_the_vote(tmp_path: Path) -> None:
    download = tmp_path / "download"
    gleason2019(download)
    for expert in (3, 4):  # two of three say grade 4 where the first says benign
        file = download / f"Maps{expert}_T" / "slide001_core000_classimg_nonconvex.png"
        values = np.array(Image.open(file))
        values[:448, :448] = 4
        values[448:896, 448:700] = 0  # more than half of that patch is not marked
        Image.fromarray(values).save(file)
    file = download / "Maps1_T" / "slide001_core000_classimg_nonconvex.png"
    values = np.array(Image.open(file))
    values[448:896, 448:700] = 0
    Image.fromarray(values).save(file)
    (tmp_path / "out").mkdir()
    lay_out(read_recipe("gleason2019"), download, tmp_path / "out")
    found = {Path(row["slide"]).stem: row["label"] for row in rows_of(tmp_path)}
    assert found["slide001_core000_0_0"] == "grade4"
    assert found["slide001_core001_0_0"] == "benign"
    assert "slide001_core000_448_448" not in found


def test_pictures_where_nothing_is_malignant_get_an_empty_mask(cooked: Cooked) -> None:
    manifest, root = cooked("digestpath")
    masks = root / "out" / "masks"
    blank = Image.open(masks / "tissue-train-neg" / "2019-05-01 10_00_00-lv1-1.png")
    assert blank.size == (512, 512)
    assert not np.asarray(blank).any()
    assert len(list((masks / "tissue-train-pos-v1").glob("*_mask.jpg"))) == 5
    pytest.importorskip("torch")
    from pretrain.embedding.wanted import wanted_tiles
    from pretrain.segmenting.masks import find_masks

    found = find_masks(manifest, wanted_tiles(manifest), masks)
    assert found.has.all()
    shares = [found.read([row]).mean() for row in range(10)]
    assert sorted(round(float(share), 2) for share in shares) == [0] * 5 + [
        0.25,
        0.25,
        0.38,
        0.38,
        0.5,
    ]


def test_what_is_missing_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download = tmp_path / "download"
    breastpathq(download)
    (download / "breastpathq-test" / "val_labels.csv").unlink()
    with pytest.raises(RecipeError, match=r"lacks its table breastpathq-test/val_labels\.csv"):
        cook("breastpathq", download, tmp_path / "out", (), in_process)
    with pytest.raises(RecipeError, match=r"no pictures such as NCT-CRC-HE-100K/ADI/ADI-AAAFLCLY"):
        cook("nct_crc", download, tmp_path / "out", (), in_process)
    assert main(["colon", str(download), "-o", str(tmp_path / "out")]) == 2
    assert "there is no recipe colon; there are bach," in capsys.readouterr().err


def test_a_picture_that_the_table_forgets_is_named(tmp_path: Path) -> None:
    download = tmp_path / "download"
    breastpathq(download)
    picture(download / "breastpathq" / "datasets" / "train" / "77_1.tif", 0, (512, 512))
    with pytest.raises(RecipeError, match="1 of 13 pictures have no cellularity, the first is"):
        cook("breastpathq", download, tmp_path / "out", (), in_process)


def test_a_folder_of_another_recipe_is_not_written_over(tmp_path: Path) -> None:
    breastpathq(tmp_path / "download")
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    with pytest.raises(RecipeError, match="out holds pictures already"):
        cook("breastpathq", tmp_path / "download", tmp_path / "out", (), in_process)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["pictures"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "digestpath"])
def test_encoders_are_evaluated_on_every_set(cooked: Cooked, name: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from pretrain.cli.evaluate import evaluate

    _, root = cooked(name)
    recipe = read_recipe(name)
    *_, command = commands(recipe, root / "out", (), ("random:test_resnet",))
    small = (
        "--image-size",
        "32",
        "--no-curve",
        "--resamples",
        "20",
        "--device",
        "cpu",
        "--no-near",
    )
    result = CliRunner().invoke(evaluate, [*command[2:], *small, "--leaks", "keep"])
    assert result.exit_code == 0, result.output
    found = json.loads((root / "out" / "evaluation" / "evaluation.json").read_text())
    assert found["task"] == recipe.task
    assert [encoder["kind"] for encoder in found["encoders"]] == ["encoder", "baseline"]
