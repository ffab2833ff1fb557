"""The picture of nearest neighbours: in each row a tile, then those that look most like it.

Lengths are pixels of the picture. A green frame is a neighbour of the query's class, a red one is
of another; the text below says similarity and class, so that nobody depends on the colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.codec import Rgb
from manifests.files import atomic_file

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

SIDE = 112
"""Of a tile in the picture."""
_FRAME = 4
_GAP = 8
_TEXT = 18
_TITLE = 30
_MARGIN = 12

_PAPER = (255, 255, 255)
_INK = (30, 30, 30)
_QUERY = (60, 60, 60)
_UNKNOWN = (170, 170, 170)
_AGREES = (0, 145, 80)
_DIFFERS = (210, 45, 45)


@dataclass(frozen=True, slots=True)
class Cell:
    """One tile of the picture."""

    pixels: Rgb | None
    """uint8 (S, S, 3); None where it could not be read."""
    text: str
    agrees: bool | None
    """Whether it has the class of its row's query; None where that is not known."""


def draw_picture(rows: Sequence[Sequence[Cell]], title: str) -> Image.Image:
    """Draw rows of tiles, RGB; the first tile of each row is the query."""
    from PIL import Image, ImageDraw, ImageFont

    step_x, step_y = SIDE + 2 * _FRAME + _GAP, SIDE + 2 * _FRAME + _TEXT + _GAP
    columns = max((len(row) for row in rows), default=1)
    width = 2 * _MARGIN + columns * step_x + _GAP
    picture = Image.new("RGB", (width, _MARGIN + _TITLE + len(rows) * step_y), _PAPER)
    draw = ImageDraw.Draw(picture)
    font, large = ImageFont.load_default(12), ImageFont.load_default(16)
    draw.text((_MARGIN, _MARGIN - 3), _shortened(title, large, width - 2 * _MARGIN), _INK, large)
    for number, row in enumerate(rows):
        for place, cell in enumerate(row):
            # The query stands a little apart.
            x = _MARGIN + place * step_x + (_GAP if place else 0)
            y = _MARGIN + _TITLE + number * step_y
            _draw_cell(picture, draw, cell, (x, y), font, is_query=place == 0)
    return picture


def write_picture(path: Path, rows: Sequence[Sequence[Cell]], title: str) -> None:
    """Draw rows of tiles to a PNG that is either whole or not there."""
    picture = draw_picture(rows, title)
    with atomic_file(path) as file:
        picture.save(file, "PNG")


def _draw_cell(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: Cell,
    corner: tuple[int, int],
    font: Font,
    *,
    is_query: bool,
) -> None:
    from PIL import Image

    x, y = corner
    outer = SIDE + 2 * _FRAME
    draw.rectangle((x, y, x + outer - 1, y + outer - 1), fill=_frame(cell, is_query=is_query))
    if cell.pixels is None:
        inner = (x + _FRAME, y + _FRAME, x + _FRAME + SIDE - 1, y + _FRAME + SIDE - 1)
        draw.rectangle(inner, fill=_PAPER)
    else:
        tile = Image.fromarray(cell.pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
        picture.paste(tile, (x + _FRAME, y + _FRAME))
    draw.text((x + 1, y + outer + 2), _shortened(cell.text, font, outer), _INK, font)


def _frame(cell: Cell, *, is_query: bool) -> tuple[int, int, int]:
    if is_query:
        return _QUERY
    if cell.agrees is None:
        return _UNKNOWN
    return _AGREES if cell.agrees else _DIFFERS


def _shortened(text: str, font: Font, width: int) -> str:
    """A text that fits into a width, with an ellipsis where it was cut."""
    text = "".join(character if character.isprintable() else " " for character in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
