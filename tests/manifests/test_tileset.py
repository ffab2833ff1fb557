"""A packed set of tiles is the set of its members, whatever is asked of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.tileset import TileSet

MEMBERS = st.sets(st.integers(0, 1300))


@given(MEMBERS)
def test_a_set_holds_its_members_in_order(members: set[int]) -> None:
    tiles = TileSet.of(members)
    ordered = sorted(members)
    assert len(tiles) == len(members)
    assert tiles.indices().tolist() == ordered
    assert [tiles.nth(k) for k in range(len(tiles))] == ordered
    assert tiles.end == (ordered[-1] + 1 if ordered else 0)
    assert all((i in tiles) == (i in members) for i in range(-2, 1310))
    assert np.flatnonzero(tiles.mask(1400)).tolist() == ordered
    with pytest.raises(IndexError):
        tiles.nth(len(tiles))


@given(MEMBERS, MEMBERS)
def test_sets_are_combined_like_sets(left: set[int], right: set[int]) -> None:
    a, b = TileSet.of(left), TileSet.of(right)
    assert a & b == TileSet.of(left & right)
    assert a | b == TileSet.of(left | right)
    assert a - b == TileSet.of(left - right)


@given(st.integers(0, 600), MEMBERS)
def test_masks_of_any_length_are_cut_or_filled(count: int, members: set[int]) -> None:
    mask = TileSet.of(members).mask(count)
    assert np.flatnonzero(mask).tolist() == sorted(i for i in members if i < count)
    assert TileSet.where(mask) == TileSet.of({i for i in members if i < count})
    assert TileSet.every(count).indices().tolist() == list(range(count))


@given(MEMBERS)
def test_json_gives_the_set_back(members: set[int]) -> None:
    tiles = TileSet.of(members)
    assert TileSet.from_json(tiles.to_json(), "here") == tiles


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([1], "must be an object"),
        ({"count": 1}, "must be an object"),
        ({"count": 1, "bits": "AQ==", "more": 1}, "must be an object"),
        ({"count": -1, "bits": "AQ=="}, "count"),
        ({"count": True, "bits": "AQ=="}, "count"),
        ({"count": 1, "bits": 7}, "base64"),
        ({"count": 1, "bits": "A"}, "base64"),
        ({"count": 1, "bits": "AQ=\n="}, "base64"),
        ({"count": 1, "bits": "ä"}, "base64"),
        ({"count": 1, "bits": "AQA="}, "last byte is zero"),
        ({"count": 1, "bits": "AR=="}, "not plain"),
        ({"count": 2, "bits": "AQ=="}, "holds 1 tiles, not 2"),
    ],
)
def test_what_is_no_set_is_refused(data: object, says: str) -> None:
    with pytest.raises(ManifestError, match=f"^here.*{says}"):
        TileSet.from_json(data, "here")
