"""Settings of a training run: frozen, checked on construction, the one home of every default.

Lengths are pixels, areas and blur are fractions of a tile or view, hue is in full turns. Nothing
here needs torch, so that the command line can show its defaults without it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from manifests.files import Json
from pretrain.errors import ConfigError

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101")
DEVICES = ("auto", "cpu", "cuda")

ALL_SPLITS = "all"
TRAIN_SPLIT = "train"

BATCH_SIZE = {"cuda": 256, "cpu": 64}
"""Tiles a batch where none is asked for; 64 keeps a step on two cores near a second."""
IMAGE_SIZE_PX = {"cuda": 224, "cpu": 112}
"""Side of a view where none is asked for: the paper's 224, and a quarter of that work on a CPU."""


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """How strongly the two views of a tile differ.

    Tissue has no upright, so all eight flips and quarter turns are equally likely. Stain is a
    signal, so hue and grayscale are milder than SimCLR's for photographs (half its jitter, as in
    its CIFAR recipe, and p = 0.1), and a crop keeps at least a fifth of the tile, as in Stacke et
    al., MELBA 2022:023.
    """

    crop_area: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of a tile's area that a crop takes."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a crop."""
    turn: bool = True
    """Whether views are flipped and turned."""
    jitter_probability: float = 0.8
    brightness: float = 0.4
    """Factors are drawn from 1 - value to 1 + value; the same for contrast and saturation."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    """Largest rotation of the hue circle in either direction, in turns (0.5 is the opposite)."""
    grayscale_probability: float = 0.1
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1 / 224, 2.0 / 224)
    """Gaussian sigma as a share of the view's side: SimCLR's 0.1 to 2 px of 224."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        _check(0 < low <= high <= 1, f"crop_area must rise within 0 to 1, got {self.crop_area}")
        low, high = self.crop_ratio
        _check(0 < low <= high, f"crop_ratio must rise above 0, got {self.crop_ratio}")
        low, high = self.blur_sigma
        _check(0 <= low <= high <= 0.1, f"blur_sigma must rise within 0 to 0.1, got {low}, {high}")
        for name in ("jitter_probability", "grayscale_probability", "blur_probability"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"{name} must lie in 0 to 1, got {value}")
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"{name} must lie in 0 to 1, got {value}")
        _check(0 <= self.hue <= 0.5, f"hue must lie in 0 to 0.5 turns, got {self.hue}")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a run depends on besides its tiles.

    `batch_size`, `image_size` and `split` may be left to the device and the data (None); the file
    `config.json` of a run holds what was used.
    """

    arch: str = "resnet18"
    """The paper found deeper ones no better, hence the smallest."""
    epochs: int = 10
    """Passes over as many tiles as the mix has."""
    batch_size: int | None = None
    """Tiles a step; each gives two views."""
    image_size: int | None = None
    """Pixels of a view's side."""
    lr: float = 3e-4
    """Highest learning rate, reached after the warm-up."""
    temperature: float = 0.2
    """Of NT-Xent; between SimCLR's 0.1 for ImageNet and 0.5 for small batches."""
    projection_dim: int = 128
    """Width of the embedding that the loss sees; the encoder's own output is wider."""
    max_steps: int | None = None
    """Stop after so many steps, even within an epoch; the schedule ends there, too."""
    split: str | None = None
    """Train on the tiles of this split alone. By default `train` where the manifest has splits, so
    that nobody pretrains on test slides unawares, else `all`."""
    seed: int = 0
    device: str = "auto"
    """`auto` takes a CUDA GPU if torch sees one."""
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        _check(self.arch in ARCHS, f"arch must be one of {', '.join(ARCHS)}, got {self.arch!r}")
        devices = ", ".join(DEVICES)
        _check(self.device in DEVICES, f"device must be one of {devices}, got {self.device!r}")
        _at_least("epochs", self.epochs, 1)
        # One tile has no negatives, and BatchNorm no statistics.
        _at_least("batch-size", self.batch_size, 2)
        # A ResNet halves five times.
        _at_least("image-size", self.image_size, 32)
        _at_least("projection-dim", self.projection_dim, 1)
        _at_least("max-steps", self.max_steps, 1)
        _check(0 <= self.seed < 2**63, f"seed must lie in 0 to 2^63 - 1, got {self.seed}")
        for name, value in (("lr", self.lr), ("temperature", self.temperature)):
            positive = math.isfinite(value) and value > 0
            _check(positive, f"{name} must be a positive number, got {value}")

    def to_json(self) -> Json:
        """The settings as a JSON value."""
        return dataclasses.asdict(self)


def _at_least(name: str, value: int | None, low: int) -> None:
    _check(value is None or value >= low, f"{name} must be at least {low}, got {value}")


def _check(good: bool, message: str) -> None:
    if not good:
        raise ConfigError(message)
