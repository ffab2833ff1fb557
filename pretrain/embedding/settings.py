"""Settings of `histopretrain embed`: frozen, checked on construction, the home of every default.

Nothing here needs torch, so that the command line can show its defaults without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.config import DEVICES
from pretrain.setting import check, check_least, setting

ZARR, H5 = "zarr", "h5"
FORMATS = (ZARR, H5)
DTYPES = ("float16", "float32")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """Everything that features depend on besides the encoder's name and the tiles."""

    format: str = setting(
        ZARR, "A Zarr store a slide, or an HDF5 file a slide as MIL code reads it.", choices=FORMATS
    )
    dtype: str | None = setting(
        None, "Type of the stored numbers.", choices=DTYPES, shown="float16; h5: float32"
    )
    split: str | None = setting(None, "Only the tiles of this split.", shown="all tiles")
    mpp: str | None = setting(
        None, "Only this resolution, a group of the stores such as 0.5.", shown="all"
    )
    any_mpp: bool = setting(
        False, "Take tiles of other µm per pixel than the encoder was trained on."
    )
    image_size: int | None = setting(
        None, "Bring tiles to so many pixels.", shown="as the encoder needs it, else as they are"
    )
    precision: str = setting(
        "fp32", "What the network computes in; bf16 is for GPUs.", choices=PRECISIONS
    )
    device: str = setting("auto", "auto takes a GPU if there is one.", choices=DEVICES)
    batch_size: int = setting(64, "Tiles that go through the encoder at a time.", exact=False)
    threads: int = setting(2, "Threads that read tiles.", exact=False)
    seed: int = setting(0, "Of the weights of a random encoder.")

    def __post_init__(self) -> None:
        for name, choices in (
            ("format", FORMATS),
            ("dtype", (None, *DTYPES)),
            ("precision", PRECISIONS),
            ("device", DEVICES),
        ):
            value = getattr(self, name)
            listed = ", ".join(filter(None, choices))
            check(value in choices, f"{name} must be one of {listed}, got {value!r}")
        check_least(self, (("threads", 1), ("batch_size", 1), ("image_size", 8)))
        check(0 <= self.seed < 2**63, f"seed must lie in 0 to 2^63 - 1, got {self.seed}")

    @property
    def stored_dtype(self) -> str:
        """The type of the stored numbers: what `dtype` says, or what suits the format."""
        # MIL code feeds what it reads to float32 layers, mostly without a cast.
        return self.dtype or ("float16" if self.format == ZARR else "float32")
