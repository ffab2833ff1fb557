"""How strongly the two views of a tile differ: the settings of augmentation, and their presets.

Frozen and checked on construction. Areas and blur are fractions of a tile or view, hue is in full
turns. Nothing here needs torch, so that the command line can show its defaults without it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pretrain.setting import check, setting

PRESETS = ("simclr", "histology", "none")


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """What happens to a tile on its way to a view.

    The defaults are the preset `histology`. Tissue has no upright, so all eight flips and quarter
    turns are equally likely. Stain is a signal, so hue and grayscale are milder than SimCLR's for
    photographs (half its jitter, as in its CIFAR recipe, and p = 0.1), and a crop keeps at least a
    fifth of the tile, as in Stacke et al., MELBA 2022:023.
    """

    preset: str = setting("histology", "Where the settings below start from.", choices=PRESETS)
    crop_area: tuple[float, float] = setting(
        (0.2, 1.0), "Smallest and largest share of a tile's area that a crop takes."
    )
    crop_ratio: tuple[float, float] = setting(
        (3 / 4, 4 / 3), "Smallest and largest width / height of a crop."
    )
    flip: bool = setting(True, "Mirror left and right.")
    turn: bool = setting(True, "Mirror up and down and turn by quarters, too.")
    jitter_probability: float = setting(0.8, "How often colours are changed.")
    brightness: float = setting(0.4, "Factors are drawn from 1 - value to 1 + value.")
    contrast: float = setting(0.4, "As brightness.")
    saturation: float = setting(0.4, "As brightness.")
    hue: float = setting(0.1, "Largest turn of the colour circle either way; 0.5 is the opposite.")
    stain_probability: float = setting(0.0, "How often stains are changed.")
    stain_strength: float = setting(
        0.0, "Each stain's optical density is scaled by 1 - value to 1 + value."
    )
    stain_shift: float = setting(0.0, "... and shifted by -value to value.")
    grayscale_probability: float = setting(0.1, "How often colour is dropped.")
    blur_probability: float = setting(0.5, "How often a view is blurred.")
    blur_sigma: tuple[float, float] = setting(
        (0.1 / 224, 2.0 / 224), "Gaussian sigma as a share of the view's side."
    )

    def __post_init__(self) -> None:
        check(self.preset in PRESETS, f"views must be one of {', '.join(PRESETS)}")
        low, high = self.crop_area
        check(0 < low <= high <= 1, f"crop-area must rise within 0 to 1, got {low}, {high}")
        low, high = self.crop_ratio
        check(0 < low <= high, f"crop-ratio must rise above 0, got {low}, {high}")
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


_CHANGES: dict[str, dict[str, Any]] = {"histology": {}, "simclr": {}, "none": {}}
"""Where each preset departs from the defaults."""
