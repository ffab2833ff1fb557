"""What leaks is dropped until nothing does, and no more than leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import Manifest
from manifests.splits.leaks import find_leaks
from pretrain.embedding.wanted import wanted_tiles
from pretrain.labelling.leaking import Judged, judge_leaks
from pretrain.labelling.rows import Rows
from pretrain.labelling.setrows import SPLITS, TEST, TRAIN, VAL, limited
from pretrain.labelling.unitrows import units_of
from tests.manifests.make import tile_pixels
from tests.pretrain.watch.packed import make_packed

UNITS = "aaabbbcccddd....eeff"
"""Of twenty pictures; `.` for none, which are units of their own."""
SAME = {14: 0, 15: 3, 17: 16}
"""Pictures that are equal to others."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Twenty tiles in one packed store."""
    root = tmp_path_factory.mktemp("leaky")
    tiles = tile_pixels(len(UNITS) + 1, 64, seed=1)[1:]
    for one, other in SAME.items():
        tiles[one] = tiles[other]
    columns = [{"group": unit} if unit != "." else {} for unit in UNITS]
    manifest = Manifest((make_packed(root, "p", tiles, columns=columns),), root)
    return Rows(manifest, wanted_tiles(manifest))


def judge(rows: Rows, sets: np.ndarray, policy: str) -> Judged:
    """What is kept of the rows."""
    made = replace(limited(rows, sets, rows.manifest), splits=({"by": "group"},))
    units = units_of(rows, made, None)
    return judge_leaks(rows, sets, units, made, policy=policy, near=False)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2), min_size=20, max_size=20))
def test_after_dropping_nothing_leaks_and_training_is_whole(rows: Rows, drawn: list[int]) -> None:
    sets = np.array(drawn, dtype=np.int8)
    judged = judge(rows, sets, "drop")
    assert judged.kept[sets == TRAIN].all()
    left = limited(rows.kept(judged.kept), sets[judged.kept], rows.manifest)
    assert find_leaks(left, ["group"], near=False) == []
    assert judged.kept.tolist() == [_stays(row, sets) for row in range(len(sets))]


def _stays(row: int, sets: np.ndarray) -> bool:
    """Whether a tile is in the first set that its unit, and its equals, are in."""
    order = (TRAIN, TEST, VAL)
    unit = [n for n, u in enumerate(UNITS) if u == UNITS[row] != "." or n == row]
    first = SAME.get(row, row)
    equal = [n for n in range(len(UNITS)) if SAME.get(n, n) == first]
    return all(
        order.index(sets[row]) == min(order.index(sets[n]) for n in kin) for kin in (unit, equal)
    )


def test_keeping_keeps_all(rows: Rows) -> None:
    sets = np.arange(20, dtype=np.int8) % 3
    judged = judge(rows, sets, "keep")
    assert judged.kept.all()
    assert judged.leaks is not None
    assert judged.leaks.tiles == 0


def test_a_limited_manifest_holds_these_rows_and_sets_alone(rows: Rows) -> None:
    sets = np.arange(20, dtype=np.int8) % 3
    few = rows.kept(np.arange(20) < 9)
    [entry] = limited(few, sets[:9], rows.manifest).stores
    for number, name in enumerate(SPLITS):
        members = entry.members("0.5", name)
        assert members is not None
        assert members.indices().tolist() == np.flatnonzero(sets[:9] == number).tolist()
    [entry] = limited(few, np.zeros(9, dtype=np.int8), rows.manifest).stores
    assert (entry.split, entry.tiles, Path(entry.path or "").name) == ("train", 9, "p.zarr")
