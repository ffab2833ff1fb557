"""Files of masks: which there are below a folder, and the values that one holds.

A mask is a picture of one channel, or with a palette, whose values (0 to 255) are numbers of
classes; grey in colours will do. JPEGs and pictures of 1 bit are black and white. Pixels are uint8
(h, w).
"""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from manifests.errors import EXIT_BAD_DATA, HistotileError
from pretrain.errors import ConfigError

WHITE = 255

_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
"""The first that is there counts."""
_HALF = 128

Pixels = npt.NDArray[np.uint8]


class MaskError(HistotileError):
    """Masks are missing, or do not fit their pictures or each other."""

    exit_code = EXIT_BAD_DATA


def masks_below(folder: Path) -> dict[str, Path]:
    """Masks by their path in the folder, without suffix and `_mask`; those with `_mask` first."""
    if not folder.is_dir():
        raise ConfigError(f"the folder of masks {folder} is not there: give --masks FOLDER")
    found: dict[str, Path] = {}
    files = [file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES]

    def order(file: Path) -> tuple[bool, int, str]:
        plain = not file.stem.endswith("_mask")
        return plain, _SUFFIXES.index(file.suffix.lower()), file.as_posix()

    for file in sorted(files, key=order):
        inside = PurePosixPath(file.relative_to(folder).as_posix())
        plain = inside.stem.removesuffix("_mask") or inside.stem
        found.setdefault(str(inside.with_name(plain)), file)
    return found


def read_mask(file: Path) -> tuple[Pixels, bool]:
    """A mask's values, uint8 (h, w), and whether it can only be black and white."""
    try:
        with warnings.catch_warnings():
            # Masks of slides are large; what is too large for Pillow is refused all the same.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.format == "JPEG":
                    grey = np.asarray(image.convert("L"))
                    return np.where(grey >= _HALF, np.uint8(WHITE), np.uint8(0)), True
                if image.mode == "1":
                    return np.asarray(image.convert("L")), True
                return _values(np.asarray(image), file), False
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise MaskError(f"the mask {file.name} cannot be read ({error})") from error


def _values(pixels: npt.NDArray[np.generic], file: Path) -> Pixels:
    """One channel of a picture; of a grey picture in colours, its grey."""
    if pixels.ndim == 3:
        colours = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
        if (colours != colours[..., :1]).any():
            raise MaskError(
                f"the mask {file.name} has colours: save it with one channel, or with a palette, "
                "whose values are the numbers of classes"
            )
        pixels = colours[..., 0]
    if not np.issubdtype(pixels.dtype, np.integer) or pixels.min() < 0 or pixels.max() > WHITE:
        raise MaskError(f"the mask {file.name} holds values other than 0 to 255")
    return np.asarray(pixels, dtype=np.uint8)
