"""One picture that tells at a glance what will be cut: thumbnail, tissue outline, tile grid.

Rectangles are (l0_x, l0_y, width, height) in level-0 pixels; `l0_per_px` is level-0 pixels per
thumbnail pixel in (x, y). The picture's own pixels are `view_x`, `view_y`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from tiler.slides.base import Rgb

VIEW_SIDE = 1600
"""Longer side of the picture in pixels: fits a screen, and a 256 px tile still shows as 3-10 px."""

OUTLINE = (0, 170, 60)
GRID = (20, 60, 200)
LEGEND_BACKGROUND = (32, 32, 36)
LEGEND_TEXT = (240, 240, 240)
GRID_TINT = 0.18
"""How strongly kept tiles are tinted: visible, yet the tissue below stays recognisable."""
PEN_TINT = (255, 150, 0)
LEGEND_SIZE = 18


def draw_preview(
    thumbnail: Rgb,
    mask: npt.NDArray[np.bool_],
    l0_rects: npt.NDArray[np.float64],
    l0_per_px: tuple[float, float],
    *,
    slide_id: str,
    mpp: float,
    pen: npt.NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Draw the tissue outline (green) and the kept tiles (blue) over the thumbnail.

    Args:
        thumbnail: uint8 (height, width, 3).
        mask: bool (height, width), tissue.
        l0_rects: float64 (n, 4), the kept tiles as (l0_x, l0_y, width, height).
        l0_per_px: level-0 pixels per thumbnail pixel in (x, y).
        slide_id: name of the slide, for the legend.
        mpp: µm per pixel of the tiles, for the legend.
        pen: bool (height, width), marker ink, shown in orange.

    Returns:
        An RGB picture, longer side `VIEW_SIDE`, with a line of legend below.

    Raises:
        ValueError: masks that do not fit the thumbnail, or rectangles not of shape (n, 4).
    """
    if mask.shape != thumbnail.shape[:2] or (pen is not None and pen.shape != mask.shape):
        raise ValueError(f"masks of {thumbnail.shape[:2]} needed, got {mask.shape}")
    if l0_rects.ndim != 2 or l0_rects.shape[1] != 4:
        raise ValueError(f"rectangles of shape (n, 4) needed, got {l0_rects.shape}")
    height, width = mask.shape
    zoom = VIEW_SIDE / max(height, width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    view = Image.fromarray(thumbnail).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if pen is not None:
        _tint(view, _resized(pen, size), PEN_TINT, 0.5)
    view_per_l0 = np.array([size[0] / (width * l0_per_px[0]), size[1] / (height * l0_per_px[1])])
    _draw_tiles(view, l0_rects * np.tile(view_per_l0, 2))
    _tint(view, _outline(_resized(mask, size)), OUTLINE, 1.0)
    tiles = f"{len(l0_rects):,} tile{'' if len(l0_rects) == 1 else 's'}"
    return _with_legend(view, f"{tiles}   ·   {mpp:g} mpp   ·   {slide_id}")


def save_preview(picture: Image.Image, path: Path) -> None:
    """Write the picture as PNG, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        picture.save(temporary, format="PNG", optimize=False, compress_level=6)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _resized(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), dtype=np.bool_)


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Inner rim of the mask, two pixels wide; closed at the picture's edge too."""
    padded = np.pad(mask, 2)
    rim: npt.NDArray[np.bool_] = padded & ~ndimage.binary_erosion(padded, iterations=2)
    return rim[2:-2, 2:-2]


def _tint(
    view: Image.Image, where: npt.NDArray[np.bool_], colour: tuple[int, int, int], strength: float
) -> None:
    stencil = Image.fromarray(where.astype(np.uint8) * np.uint8(round(255 * strength)))
    view.paste(colour, (0, 0), stencil)


def _draw_tiles(view: Image.Image, view_rects: npt.NDArray[np.float64]) -> None:
    """Tint the kept tiles and draw their edges; tiles a few pixels wide get the tint only."""
    stencil = Image.new("L", view.size, 0)
    draw = ImageDraw.Draw(stencil)
    for x, y, w, h in view_rects.tolist():
        box = (round(x), round(y), max(round(x), round(x + w) - 1), max(round(y), round(y + h) - 1))
        if min(box[2] - box[0], box[3] - box[1]) >= 4:
            draw.rectangle(box, fill=round(255 * GRID_TINT), outline=230)
        else:
            draw.rectangle(box, fill=round(255 * GRID_TINT))
    view.paste(GRID, (0, 0), stencil)


def _with_legend(view: Image.Image, text: str) -> Image.Image:
    """Put a line of text below, shrunk to the picture's width; what is still too long is cut."""
    bar = 2 * LEGEND_SIZE
    framed = Image.new("RGB", (view.width, view.height + bar), LEGEND_BACKGROUND)
    framed.paste(view, (0, 0))
    draw = ImageDraw.Draw(framed)
    size = LEGEND_SIZE
    while size > 8 and draw.textlength(text, font=ImageFont.load_default(size)) > view.width - 16:
        size -= 1
    centre = view.height + bar // 2
    font = ImageFont.load_default(size)
    draw.text((8, centre), text, fill=LEGEND_TEXT, font=font, anchor="lm")
    return framed
