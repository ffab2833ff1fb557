"""Plain pictures (PNG, JPEG) as slides of one level without a resolution.

The picture is decoded whole at the first cell that is asked for, and cells are cut from it.
Level-0 pixels are those of the file; an EXIF orientation is not applied.
"""

from __future__ import annotations

import hashlib
import struct
import warnings as python_warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from tiler.errors import PixelReadError, UnreadableSlide
from tiler.slides import colour, limits, pyramid
from tiler.slides.base import Level, Rgb, Slide, SlideFacts
from tiler.slides.shrink import shrunk

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"

_COMPRESSION: Final = {"png": "deflate", "jpeg": "jpeg"}
_OPAQUE = frozenset({"1", "L", "RGB", "P"})
_WITH_ALPHA = frozenset({"LA", "PA", "RGBA"})
_ORIENTATION_TAG = 0x0112
_PNG_BIT_DEPTH_AT = 24


class PictureSlide(Slide):
    """A plain picture, see `base.Slide`."""

    def __init__(self, path: Path) -> None:
        """Read the header and hash the file.

        Raises:
            UnreadableSlide: the header is damaged, the picture too large, or not 8-bit RGB or gray.
        """
        self._path = path
        self._pixels: Rgb | None = None
        kind, self._size, orientation = _read_header(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        width, height = self._size
        warnings = []
        if orientation != 1:
            warnings.append(f"its EXIF orientation {orientation} is not applied")
        self._facts = SlideFacts(
            reader="picture",
            vendor=kind,
            compression=_COMPRESSION[kind],
            levels=(Level(width, height, 1.0, 1.0, limits.PREFERRED_CELL, limits.PREFERRED_CELL),),
            mpp=None,
            mpp_source="none",
            mpp_problem=None,
            objective_power=None,
            bounds=(0, 0, width, height),
            background=colour.WHITE,
            pixels="whole picture",
            pixels_why=f"a {kind} file has no tiles",
            fingerprint=f"file1:{digest}",
            warnings=tuple(warnings),
        )

    @property
    def facts(self) -> SlideFacts:
        """What is known about the picture."""
        return self._facts

    def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
        """Cut one cell from the picture, see `base.Slide.read_cell`.

        Raises:
            PixelReadError: the picture is damaged or cut off.
        """
        pyramid.check_cell(self._facts.levels, level, column, row, reduce)
        if self._pixels is None:
            self._pixels = self._decode()
        side = limits.PREFERRED_CELL
        l0_x, l0_y = column * side, row * side
        cell = self._pixels[l0_y : l0_y + side, l0_x : l0_x + side]
        return cell.copy() if reduce == 1 else shrunk(cell, reduce)

    def native_tile(self, level: int, column: int, row: int) -> bytes | None:
        """None: a picture has no tiles."""
        pyramid.check_cell(self._facts.levels, level, column, row)
        return None

    def will_need(self, level: int, cells: Iterable[tuple[int, int]]) -> None:
        """Do nothing: a picture is read at once."""

    def _decode(self) -> Rgb:
        try:
            with _open(self._path) as image:
                if image.size != self._size:
                    raise OSError("its size changed since it was opened")
                has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
                pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
        except Exception as error:
            # Pillow meets damage with OSError, SyntaxError, ValueError, struct.error and others.
            raise PixelReadError(
                f"the picture cannot be decoded: {limits.spoken(error, self._path)}"
            ) from error
        if has_alpha:
            return colour.over_background(pixels[:, :, :3], pixels[:, :, 3], colour.WHITE)
        return pixels

    def close(self) -> None:
        """Forget the pixels."""
        self._pixels = None


def _open(path: Path) -> Image.Image:
    """Open lazily. Pillow refuses more than 178 Mpx; its warning from half of that is not ours."""
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=("PNG", "JPEG"))


def _read_header(path: Path) -> tuple[str, tuple[int, int], int]:
    """Return the kind (`png`, `jpeg`), the size (width, height) and the EXIF orientation."""
    with path.open("rb") as file:
        start = file.read(_PNG_BIT_DEPTH_AT + 1)
    kind = "png" if start.startswith(PNG_MAGIC) else "jpeg"
    try:
        with _open(path) as image:
            size, mode, orientation = image.size, image.mode, _orientation(image)
    except Exception as error:
        raise UnreadableSlide(f"the picture is damaged: {limits.spoken(error, path)}") from error
    if size[0] * size[1] > limits.MAX_PICTURE_PIXELS:
        raise UnreadableSlide(
            f"a picture of {size[0]} x {size[1]} px is above the limit of "
            f"{limits.MAX_PICTURE_PIXELS // 10**6} Mpx; convert it to a tiled TIFF"
        )
    # Pillow drops the lower half of 16-bit colours silently, so the header is asked.
    if kind == "png" and start[_PNG_BIT_DEPTH_AT:] == b"\x10":
        raise UnreadableSlide(limits.wrong_pixels(1 if mode.startswith("I") else 3, "uint16"))
    if mode not in _OPAQUE | _WITH_ALPHA:
        raise UnreadableSlide(f"needs 8-bit RGB or gray; found a picture of mode {mode}")
    return kind, size, orientation


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1  # EXIF that cannot be read turns nothing
