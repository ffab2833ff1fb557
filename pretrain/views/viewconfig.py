"""How strongly the two views of a tile differ: the settings of augmentation, and their presets.

Frozen and checked on construction. Areas and blur are fractions of a tile or view, hue is in full
turns. Nothing here needs torch, so that the command line can show its defaults without it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from pretrain.setting import check, setting

PRESETS = ("histology", "simclr", "none")
"""`histology`, the default, is made for stained tissue. Tissue has no upright, so all eight mirror
images and quarter turns are equally likely. A crop keeps a fifth of the tile, as in Stacke et al.,
MELBA 2022:023, lest the two views share nothing. Stain is a signal, so hue is left alone, and
contrast and saturation change half as much as in SimCLR, brightness a quarter: pale tiles turn
white otherwise (with 0.4, one view in ten loses a quarter of its pixels). Colour is dropped half as
often. Instead each view draws its own strengths of the stains (Tellez et al., IEEE Trans. Med.
Imaging 37, 2018), since two views of one tile would otherwise be matched by their colour. Blur is
rarer, as whether it helps depends on the data (Stacke).

`simclr` is the recipe of Chen et al., ICML 2020, for photographs, at full strength. `none` leaves
both views the plain tile.
"""


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """What happens to a tile on its way to a view.

    The defaults are the preset `histology`; `PRESETS` says why.
    """

    preset: str = setting("histology", "Where the settings below start from.", choices=PRESETS)
    crop_area: tuple[float, float] = setting(
        (0.2, 1.0), "Smallest and largest share of a tile's area that a crop takes."
    )
    crop_ratio: tuple[float, float] = setting(
        (3 / 4, 4 / 3), "Smallest and largest width / height of a crop."
    )
    flip: bool = setting(True, "Mirror half of the views.")
    turn: bool = setting(True, "Turn by quarters, each as often.")
    jitter_probability: float = setting(0.8, "How often colours are changed.")
    brightness: float = setting(0.2, "Factors are drawn from 1 - value to 1 + value.")
    contrast: float = setting(0.4, "As brightness.")
    saturation: float = setting(0.4, "As brightness.")
    hue: float = setting(0.0, "Largest turn of the colour circle either way; 0.5 is the opposite.")
    stain_probability: float = setting(0.8, "How often stains are changed.")
    stain_strength: float = setting(
        0.2, "Each stain's optical density is scaled by 1 - value to 1 + value."
    )
    stain_shift: float = setting(0.05, "... and shifted by -value to value.")
    grayscale_probability: float = setting(0.1, "How often colour is dropped.")
    blur_probability: float = setting(0.35, "How often a view is blurred.")
    blur_sigma: tuple[float, float] = setting(
        (0.1 / 224, 2.0 / 224), "Gaussian sigma as a share of the view's side."
    )

    def __post_init__(self) -> None:
        check(self.preset in PRESETS, f"views must be one of {', '.join(PRESETS)}")
        low, high = self.crop_area
        check(0 < low <= high <= 1, f"crop-area must rise within 0 to 1, got {low}, {high}")
        low, high = self.crop_ratio
        good = 0 < low <= high < math.inf
        check(good, f"crop-ratio must be finite and rise above 0, got {low}, {high}")
        low, high = self.blur_sigma
        check(0 <= low <= high <= 0.1, f"blur-sigma must rise within 0 to 0.1, got {low}, {high}")
        names = [item.name for item in dataclasses.fields(self)]
        for name in [name for name in names if name.endswith("_probability")]:
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name.replace('_', '-')} must lie in 0 to 1, got {value}")
        for name in ("brightness", "contrast", "saturation", "stain_strength", "stain_shift"):
            value = getattr(self, name)
            check(0 <= value < 1, f"{name.replace('_', '-')} must lie in 0 to 1, got {value}")
        check(0 <= self.hue <= 0.5, f"hue must lie in 0 to 0.5 turns, got {self.hue}")


def make_view_config(preset: str = "histology", **settings: Any) -> ViewConfig:
    """A preset with some settings of one's own; a setting of None is the preset's.

    Raises:
        ConfigError: the preset is unknown, or a setting is out of range.
    """
    check(preset in _CHANGES, f"views must be one of {', '.join(PRESETS)}, got {preset!r}")
    own = {name: value for name, value in settings.items() if value is not None}
    return ViewConfig(**{"preset": preset, **_CHANGES[preset], **own})


_CHANGES: dict[str, dict[str, Any]] = {
    "histology": {},
    "simclr": {
        "crop_area": (0.08, 1.0),
        "turn": False,
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "stain_probability": 0.0,
        "grayscale_probability": 0.2,
        "blur_probability": 0.5,
    },
    "none": {
        "crop_area": (1.0, 1.0),
        "crop_ratio": (1.0, 1.0),
        "flip": False,
        "turn": False,
        "jitter_probability": 0.0,
        "stain_probability": 0.0,
        "grayscale_probability": 0.0,
        "blur_probability": 0.0,
    },
}
"""Where each preset departs from the defaults."""
