"""A share of the labels: which training tiles a learning curve may use.

N is tiles; a unit is a patient or group, whose tiles are taken all or none. Nothing is drawn but
from the seed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def label_subset(labels: Integers, units: Integers, share: float, seed: int) -> Flags:
    """The tiles of about a share of the units, as much of each class as of all, bool (N,).

    A unit is counted with the class of most of its tiles. The units of a class stand in a line
    drawn from the seed, and those are taken whose middle tile lies within the share of the class's
    tiles. Hence a smaller share is part of a larger one of the same seed. One unit of each class is
    always taken, so that a very small share is more than was asked for.

    Args:
        labels: class of each tile, (N,), from 0.
        units: unit of each tile, (N,).
        share: of the tiles, above 0 to 1.
        seed: of the drawing.

    Raises:
        ValueError: the share is out of range, or the shapes differ.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share} is not above 0 and at most 1")
    if labels.shape != units.shape:
        raise ValueError(f"{len(labels)} labels, but {len(units)} units")
    names, of_row = np.unique(units, return_inverse=True)
    classes, of_label = np.unique(labels, return_inverse=True)
    tiles = np.zeros((len(names), len(classes)), dtype=np.int64)
    np.add.at(tiles, (of_row, of_label), 1)
    line = np.random.default_rng(seed).permutation(len(names))
    main, size = tiles.argmax(axis=1), tiles.sum(axis=1)
    middle = np.empty(len(names))
    for c in range(len(classes)):
        members = line[main[line] == c]
        if len(members):
            ends = np.cumsum(size[members])
            middle[members] = (ends - size[members] / 2) / ends[-1]
    taken = middle <= share
    for c in range(len(classes)):
        having = np.flatnonzero(tiles[:, c])
        # The first in line, of those that are mostly of this class if there are such.
        taken[having[np.lexsort((middle[having], main[having] != c))[0]]] = True
    chosen: Flags = taken[of_row]
    return chosen
