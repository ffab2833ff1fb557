"""The page of an evaluation: scores, curves, confusions, maps and neighbours in one HTML file.

It needs no network and no other file. Without JavaScript all of it is there but the tiles that
maps show under the pointer. The same evaluation and extras give the same bytes, and nothing on the
page says where on a disk anything lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.codec import Rgb
from pretrain.evaluating.result import Evaluation

Numbers = npt.NDArray[np.integer] | npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Extras:
    """What only the page needs: n test tiles, and what each encoder makes of them.

    Choose them by `map.choose_points`, or a few for segmentation; make them small by
    `pictures.shrunk`. Damaged tiles are not among them.
    """

    thumbnails: Rgb
    """uint8 (n, h, w, 3)."""
    names: tuple[str, ...]
    """`slide/group/index`, (n,)."""
    targets: Numbers
    """Class numbers (n,), values (n,), or masks of class numbers (n, h, w), below 0: ignored."""
    units: npt.NDArray[np.int64]
    """(n,)."""
    features: tuple[npt.NDArray[np.floating], ...] = ()
    """(n, F) for each encoder of the evaluation, in its order; () for segmentation."""
    predictions: tuple[Mapping[str, Numbers], ...] = ()
    """Method → shaped as `targets`, for each encoder of the evaluation, in its order."""

    def __post_init__(self) -> None:
        count = len(self.thumbnails)
        rows = [self.names, self.targets, self.units, *self.features]
        rows += [values for found in self.predictions for values in found.values()]
        wrong = [len(values) for values in rows if len(values) != count]
        if wrong:
            raise ValueError(f"{count} thumbnails, but {wrong[0]} names, targets or features")
        if not all(np.isfinite(values).all() for values in self.features):
            raise ValueError("features are not finite: leave damaged tiles out")


def write_report(path: Path, evaluation: Evaluation, extras: Extras) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: the file cannot be written; an older one is then untouched.
    """
    raise NotImplementedError
