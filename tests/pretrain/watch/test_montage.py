"""Montages: each picture in its place, labels that stay in their column and their row."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from manifests.codec import Rgb
from pretrain.watch.montage import Row, montage

LABELS = 240
GAP = 4


def flat(colour: tuple[int, int, int], side: int = 16) -> Rgb:
    """A picture of one colour."""
    return np.full((side, side, 3), colour, dtype=np.uint8)


RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def cell(picture: Image.Image, row: int, column: int, side: int, top: int = GAP) -> Rgb:
    """The pixels of one picture of a montage."""
    x, y = LABELS + column * (side + GAP), top + row * (side + GAP)
    return np.asarray(picture)[y : y + side, x : x + side]


def test_pictures_stand_in_their_rows_and_columns() -> None:
    rows = [Row("a", (), [flat(RED), flat(GREEN)]), Row("b", (), [flat(BLUE)])]
    made = montage(rows, 16)
    assert made.size == (LABELS + 2 * 20, GAP + 2 * 20)
    for row, column, colour in ((0, 0, RED), (0, 1, GREEN), (1, 0, BLUE), (1, 1, (255,) * 3)):
        assert (cell(made, row, column, 16) == colour).all()


def test_pictures_of_other_sizes_are_brought_to_the_side() -> None:
    made = montage([Row("a", (), [flat(RED, 50), flat(GREEN, 8)])], 20)
    assert (cell(made, 0, 0, 20) == RED).all()
    assert (cell(made, 0, 1, 20) == GREEN).all()


def test_headings_push_the_rows_down() -> None:
    made = montage([Row("a", (), [flat(RED)])], 16, ("tile", "view 1"))
    assert made.size == (LABELS + 2 * 20, 24 + 20)
    assert (cell(made, 0, 0, 16, top=24) == RED).all()


def test_a_tile_that_cannot_be_read_is_crossed_out() -> None:
    hole = cell(montage([Row("a", (), [None])], 16), 0, 0, 16)
    dark = hole.sum(axis=2) < 600
    assert (np.diag(dark) & np.diag(dark[:, ::-1])).all()
    assert dark.sum() < 40


@pytest.mark.parametrize("title", ["H&E × colon", "word " * 60, "x" * 400, "Zürich × β"])
def test_labels_stay_in_their_column_and_row(title: str) -> None:
    rows = [Row(title, ("many lines of notes " * 9,), [flat(RED, 60)]), Row("", (), [])]
    made = np.asarray(montage(rows, 60))
    assert (made[GAP : GAP + 60, :LABELS] < 128).any()
    assert (cell(Image.fromarray(made), 0, 0, 60) == RED).all()
    assert (made[: GAP + 60, LABELS - GAP : LABELS] == 255).all()
    assert (made[2 * GAP + 60 :] == 255).all()


def test_signs_that_the_font_lacks_are_spelled_with_those_that_it_has() -> None:
    def label(title: str) -> bytes:
        return montage([Row(title, (), [flat(RED)])], 16).tobytes()

    assert label("Zürich × 0.5 µm") == label("Zurich x 0.5 um")
    assert label("a") != label("b")
