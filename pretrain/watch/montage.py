"""Pictures of tiles in rows with a label each: what a mix holds, and what views are made of it.

Pixels are uint8 RGB (H, W, 3); tiles are shown as squares of one side, in pixels of the picture.
The font is the one that Pillow brings along.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from manifests.codec import Rgb

_GAP = 4
_LABEL_WIDTH = 240
_HEADING_HEIGHT = 24
_FONT_SIZE = 13
_SPELLED = str.maketrans({"×": "x", "µ": "u", "–": "-", "ß": "ss"})
"""Signs that the font lacks; it has no accents, either."""
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 32), (110, 110, 110)
_HOLE = (225, 225, 225)


@dataclass(frozen=True, slots=True)
class Row:
    """A label and its pictures."""

    title: str
    notes: tuple[str, ...]
    """Paler lines below the title."""
    pictures: Sequence[Rgb | None]
    """None: a tile that cannot be read, shown crossed out."""


def montage(rows: Sequence[Row], side: int, headings: Sequence[str] = ()) -> Image.Image:
    """Rows of pictures below each other, RGB.

    Args:
        side: pixels of a picture's side; others are brought to it.
        headings: what stands above each column.
    """
    columns = max([len(row.pictures) for row in rows] + [len(headings)])
    top = _HEADING_HEIGHT if headings else _GAP
    step = side + _GAP
    size = (_LABEL_WIDTH + columns * step, top + len(rows) * step)
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT_SIZE)
    for column, heading in enumerate(headings):
        draw.text((_LABEL_WIDTH + column * step, _GAP), heading, _INK, font)
    for number, row in enumerate(rows):
        y = top + number * step
        _write_label(draw, row, y, side)
        for column, pixels in enumerate(row.pictures):
            x = _LABEL_WIDTH + column * step
            if pixels is None:
                _cross_out(draw, x, y, side)
            else:
                picture.paste(_square(pixels, side), (x, y))
    return picture


def _square(pixels: Rgb, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    if image.size == (side, side):
        return image
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _cross_out(draw: ImageDraw.ImageDraw, x: int, y: int, side: int) -> None:
    last = side - 1
    draw.rectangle((x, y, x + last, y + last), fill=_HOLE)
    draw.line((x, y, x + last, y + last), fill=_FAINT)
    draw.line((x, y + last, x + last, y), fill=_FAINT)


def _write_label(draw: ImageDraw.ImageDraw, row: Row, y: int, side: int) -> None:
    """Title and notes as far as there is room: lines break between words, long words are cut."""
    x, end = 2 * _GAP, y + side
    font = ImageFont.load_default(_FONT_SIZE)
    for text, ink in ((row.title, _INK), *((note, _FAINT) for note in row.notes)):
        for line in _lines(draw, _in_font(text), font, _LABEL_WIDTH - 4 * _GAP):
            if y + _FONT_SIZE > end:
                return
            draw.text((x, y), line, ink, font)
            y += _FONT_SIZE + _GAP


def _in_font(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    return "".join(part for part in parts if not unicodedata.combining(part))


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _lines(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(joined, font) <= width:
            lines[-1] = joined
            continue
        while draw.textlength(word, font) > width:
            word = word[:-2].rstrip("…") + "…"
        lines.append(word)
    return lines
