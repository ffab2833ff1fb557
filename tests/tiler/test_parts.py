"""Parts are those of scipy's `label`, in its order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from tiler.parts import connected_parts

Bools = npt.NDArray[np.bool_]

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16))


def check(mask: Bools, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = connected_parts(mask)
    labels, count = ndimage.label(mask)
    assert parts.count == count
    numbers = np.arange(1, count + 1)
    np.testing.assert_array_equal(
        parts.areas(), np.bincount(labels.ravel(), minlength=count + 1)[1:]
    )
    chosen = rng.random(count) < 0.5
    np.testing.assert_array_equal(parts.mask(chosen), np.append(False, chosen)[labels])
    some = mask & (rng.random(mask.shape) < 0.2)
    np.testing.assert_array_equal(parts.holding(some), np.isin(numbers, labels[some]))
    values = rng.random(mask.shape).astype(np.float32)
    expected = np.bincount(labels[some], weights=values[some], minlength=count + 1)[1:]
    np.testing.assert_array_equal(parts.sums(some, values), expected)


@given(masks, st.integers(0, 100))
def test_parts_are_scipys(mask: Bools, seed: int) -> None:
    check(mask, seed)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.7])
def test_parts_of_noise_are_scipys(share: float) -> None:
    """Near 0.6 all clusters grow together, by the most winding ways."""
    check(np.random.default_rng(1).random((300, 400)) < share, 2)


def spiral(side: int) -> Bools:
    """One thin line that winds inwards."""
    mask = np.zeros((side, side), dtype=np.bool_)
    y, x, step = 0, -1, (0, 1)
    for length in [side, *(n for n in range(side - 1, 0, -2) for _ in range(2))]:
        for _ in range(length):
            y, x = y + step[0], x + step[1]
            mask[y, x] = True
        step = step[1], -step[0]
    return mask


@pytest.mark.parametrize("turns", range(4))
def test_winding_parts_are_one(turns: int) -> None:
    comb = np.zeros((201, 201), dtype=np.bool_)
    comb[:, ::2] = comb[-1] = True
    for mask in (spiral(101), comb):
        turned = np.rot90(mask, turns)
        assert connected_parts(turned).count == ndimage.label(turned)[1] == 1


def test_a_mask_without_cells_has_no_parts() -> None:
    parts = connected_parts(np.zeros((3, 4), dtype=np.bool_))
    assert parts.count == 0
    assert parts.areas().shape == (0,)
    assert not parts.mask(np.ones(0, dtype=np.bool_)).any()
