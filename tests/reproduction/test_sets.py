"""The study's data: breast tiles and their labels, against loops, and what no encoder may see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from docs.reproduction import sets

TILE = sets.BREAST_TILE_PX


@given(length=st.integers(TILE, 2000))
def test_tiles_cover_a_length_and_none_reaches_over_it(length: int) -> None:
    starts = sets.starts(length, TILE)

    covered = {pixel for start in starts for pixel in range(start, start + TILE)}
    assert covered == set(range(length))
    assert (len(starts) - 1) * TILE < length


def test_centres_are_x_y_though_the_file_says_y_x(tmp_path: Path) -> None:
    file = tmp_path / "cells.txt"
    file.write_text("178 376 1\n20 30 3\n")

    cells = sets.read_cells(file)

    assert cells.centres.tolist() == [[376, 178], [30, 20]]
    assert cells.classes.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("classes", "label"),
    [
        ([1] * 8, "tumour"),
        ([1] * 7, None),
        ([0] * 4 + [2] * 4, "lymphocyte"),
        ([0] * 4 + [1] * 3 + [2] * 3, None),
        ([2] * 6 + [0] * 4, "stroma"),
        ([], None),
    ],
)
def test_a_tile_is_of_the_class_that_half_of_its_cells_are_of(
    classes: list[int], label: str | None
) -> None:
    assert sets.tile_label(np.array(classes, dtype=np.int64)) == label


def make_field(
    folder: Path, name: str, side: int, cells: npt.NDArray[np.int64]
) -> tuple[Path, Path]:
    """A field of random pixels, and the file of its cells, rows of (x, y, class from 0)."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    picture = folder / "images" / f"{name}.png"
    Image.fromarray(pixels).save(picture)
    lines = [f"{y} {x} {kind + 1}" for x, y, kind in cells]
    file = folder / "labels" / f"{name}_gt_class_coords.txt"
    file.write_text("\n".join(lines))
    return picture, file


def test_tiles_of_a_field_are_labelled_as_a_loop_does(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    cells = np.column_stack(
        [generator.integers(0, 300, (200, 2)), generator.choice(3, 200, p=[0.2, 0.6, 0.2])]
    )
    name = "TCGA-A7-A0D9-01Z-00-DX2_1_2_1000_1000_0.98"
    picture, _ = make_field(tmp_path / "tiles" / "brca_m2c", name, 300, cells)
    out = tmp_path / "breast_tiles"

    rows = sets.cut_breast(tmp_path, out)

    field = np.asarray(Image.open(picture))
    assert rows
    for row in rows:
        folder, label, file = row["slide"].split("/")
        left, top = (int(part) for part in Path(file).stem.split("_")[-2:])
        inside = [k for x, y, k in cells if left <= x < left + TILE and top <= y < top + TILE]
        counts = [inside.count(kind) for kind in range(3)]
        assert sets.LABELS[counts.index(max(counts))] == label
        assert float(row["tumour_share"]) == pytest.approx(counts[1] / len(inside), abs=1e-4)
        cut = np.asarray(Image.open(tmp_path / folder / label / file))
        assert np.array_equal(cut, field[top : top + TILE, left : left + TILE])
        assert row["patient"] == "TCGA-A7-A0D9"
    assert len({row["slide"] for row in rows}) == len(rows)


def test_no_encoder_is_trained_on_the_breast_fields_or_on_false_colours(tmp_path: Path) -> None:
    paths = ("tiles/brca_m2c/images/a.png", "dicom/cmu-1-small-region-wsi2dcm/0.dcm")
    for path in (*paths, "ihc_fields/kidney_zeeshannisar_stain_02.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()

    found = [file.name for source in sets.SOURCES for file in source.files(tmp_path)]

    assert set(found) == {"kidney_zeeshannisar_stain_02.png"}


def test_a_row_says_what_is_known_of_its_picture_and_stands_for_itself(tmp_path: Path) -> None:
    kidney = next(source for source in sets.SOURCES if source.name == "kidney")
    for name in ("kidney_zeeshannisar_stain_02.png", "kidney_zeeshannisar_stain_13.png"):
        (tmp_path / "ihc_fields").mkdir(exist_ok=True)
        (tmp_path / "ihc_fields" / name).touch()

    pas, unnamed = kidney.rows(tmp_path)

    assert (pas["organ"], pas["stain"]) == ("kidney", "PAS")
    assert unnamed["organ"] == "kidney"
    assert "stain" not in unnamed
    assert pas["group"] != unnamed["group"]
    table = tmp_path / "kidney.csv"
    sets.write_table(table, [unnamed, pas])
    assert table.read_text().splitlines()[0] == "slide,dataset,group,organ,stain"
    assert table.read_text().splitlines()[1].endswith(",kidney,")
