"""The picture of nearest neighbours: what stands where, read back from its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from PIL import Image

from pretrain.watch.neighbours import SIDE, Cell, draw_picture, write_picture

GREEN, RED, GREY, DARK = (0, 145, 80), (210, 45, 45), (170, 170, 170), (60, 60, 60)


def cell(value: int, agrees: bool | None = None, text: str = "") -> Cell:
    """A tile of one colour."""
    return Cell(np.full((20, 20, 3), value, dtype=np.uint8), text, agrees)


def places(picture: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of the frames of a colour, from top to bottom."""
    there = np.all(np.asarray(picture) == colour, axis=2)
    there &= ~np.roll(there, 1, axis=0) & ~np.roll(there, 1, axis=1)
    return [(int(x), int(y)) for y, x in np.argwhere(there)]


def test_frames_say_which_neighbours_agree() -> None:
    row = [cell(10), cell(20, True), cell(30, False), cell(40, None)]
    picture = draw_picture([row, row], "")
    pixels = np.asarray(picture)
    corners = [places(picture, colour) for colour in (DARK, GREEN, RED, GREY)]
    assert [len(found) for found in corners] == [2, 2, 2, 2]
    for line in range(2):
        xs = [found[line][0] for found in corners]
        assert xs == sorted(xs)
        assert len({found[line][1] for found in corners}) == 1
        for found, value in zip(corners, (10, 20, 30, 40), strict=True):
            x, y = found[line]
            assert (pixels[y + 4 : y + 4 + SIDE, x + 4 : x + 4 + SIDE] == value).all()


def test_a_tile_that_cannot_be_read_leaves_its_place_empty() -> None:
    picture = draw_picture([[cell(10), Cell(None, "gone", False)]], "")
    ((x, y),) = places(picture, RED)
    assert (np.asarray(picture)[y + 4 : y + 4 + SIDE, x + 4 : x + 4 + SIDE] == 255).all()


def test_long_and_strange_texts_stay_below_their_tile() -> None:
    long = draw_picture([[cell(10, text="x"), cell(20, True, "adeno\ncarcinoma " * 20)]], "T" * 500)
    short = draw_picture([[cell(10, text="x"), cell(20, True, "")]], "")
    assert long.size == short.size
    ((x, _),) = places(short, GREEN)
    right = x + SIDE + 8
    below = np.asarray(long)[42:, right:]
    assert (below == 255).all()


def test_no_rows_are_a_picture_too(tmp_path: Path) -> None:
    write_picture(tmp_path / "neighbours.png", [], "Nearest neighbours")
    with Image.open(tmp_path / "neighbours.png") as picture:
        assert picture.format == "PNG"


def test_an_older_picture_stays_whole_when_a_new_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "neighbours.png"
    write_picture(path, [[cell(10)]], "first")
    before = path.read_bytes()
    broken = Cell(np.zeros((4, 4, 7), dtype=np.uint8), "", None)
    with pytest.raises(TypeError):
        write_picture(path, [[broken]], "second")
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["neighbours.png"]
