"""Draws hang on the seed and on the tile alone, are uniform, nested, and hold what they promise."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.choose import draws
from manifests.choose.draws import Owners, Pool, cap, cap_each, lots, sample
from manifests.choose.select import Draws, SelectionError, select
from manifests.model import Manifest
from manifests.tileset import TileSet
from tests.manifests.make_selectable import World, make_entry, make_world, store_uuid, tiles_of

Tile = tuple[str, str, int]


def lot(draw: str, seed: int, tile: Tile) -> int:
    """SplitMix64 in Python's whole numbers: the oracle of `lots`."""
    name, group, index = tile
    digest = hashlib.blake2b(f"{draw}\n{seed}\n{name}\n{group}".encode(), digest_size=8).digest()
    most = 2**64 - 1
    value = (int.from_bytes(digest, "little") + (index + 1) * 0x9E3779B97F4A7C15) & most
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & most
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & most
    return value ^ (value >> 31)


def pools() -> st.SearchStrategy[list[Pool]]:
    """Some resolutions of some stores, each with some tiles."""
    keys = st.tuples(st.sampled_from("abc"), st.sampled_from(["0.5", "1"]))
    tiles = st.sets(st.integers(0, 40), min_size=1, max_size=20)
    found = st.dictionaries(keys, tiles, min_size=1)
    return found.map(lambda d: [Pool(*key, TileSet.of(tiles)) for key, tiles in d.items()])


def members(pools: list[Pool], kept: list[TileSet]) -> set[Tile]:
    """The tiles that are left of each pool."""
    return {
        (pool.uuid, pool.group, int(i))
        for pool, tiles in zip(pools, kept, strict=True)
        for i in tiles.indices()
    }


def whole(pools: list[Pool]) -> set[Tile]:
    """All tiles of the pools."""
    return members(pools, [pool.tiles for pool in pools])


def lowest(draw: str, seed: int, most: int, tiles: set[Tile]) -> set[Tile]:
    """What a draw must give."""
    return set(sorted(tiles, key=lambda tile: lot(draw, seed, tile))[:most])


@given(pools(), st.integers(-3, 2**70))
def test_lots_are_those_of_splitmix64(pools: list[Pool], seed: int) -> None:
    for pool in pools:
        indices = pool.tiles.indices()
        expected = [lot("x", seed, (pool.uuid, pool.group, int(i))) for i in indices]
        assert lots("x", seed, pool, indices).tolist() == expected


@given(pools(), st.integers(1, 60), st.integers(0, 3))
def test_a_draw_takes_the_lowest_lots_in_whatever_order_pools_come(
    pools: list[Pool], most: int, seed: int
) -> None:
    assert members(pools, cap("s", seed, most, pools)) == lowest("s", seed, most, whole(pools))
    backwards = pools[::-1]
    expected = members(pools, sample("s", seed, most, pools))
    assert expected == lowest("s", seed, most, whole(pools))
    assert members(backwards, sample("s", seed, most, backwards)) == expected


@given(pools(), st.integers(1, 6), st.integers(0, 3), st.data())
def test_each_owner_keeps_the_lowest_lots(
    pools: list[Pool], most: int, seed: int, data: st.DataObject
) -> None:
    owners, tiles = [], {}
    for pool in pools:
        indices = pool.tiles.indices()
        names = data.draw(st.lists(st.sampled_from("PQR"), min_size=1, max_size=3, unique=True))
        codes = np.array([data.draw(st.integers(0, len(names) - 1)) for _ in indices])
        one = len(names) == 1 and data.draw(st.booleans())
        owners.append(Owners(tuple(names), None if one else codes))
        for i, code in zip(indices, codes, strict=True):
            tiles[pool.uuid, pool.group, int(i)] = names[code]
    expected: set[Tile] = set()
    for name in "PQR":
        mine = {tile for tile, owner in tiles.items() if owner == name}
        expected |= lowest("d", seed, most, mine)
    assert members(pools, cap_each("d", seed, most, pools, owners)) == expected


def test_a_draw_of_many_buckets_is_that_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Pool(f"s{i}", "1", TileSet.every(5000)) for i in range(40)]
    for most in (1, 77, 199_999):
        drawn = sample("s", 5, most, many)
        assert sum(map(len, drawn)) == most
        assert drawn == cap("s", 5, most, many)
    assert draws._BUCKETS == 1 << 16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def drawn(manifest: Manifest, **draws: int) -> set[Tile]:
    """The tiles that draws leave."""
    chosen = select(manifest, drawing=Draws(**draws)).manifest
    return {(*key, i) for key, tiles in tiles_of(chosen).items() for i in tiles}


def test_a_larger_draw_holds_the_smaller_and_another_seed_gives_another(world: World) -> None:
    for name in ("max_per_slide", "max_per_patient", "sample"):
        found = [drawn(world.manifest, **{name: most}) for most in range(1, 12)]
        assert all(less < more for less, more in pairwise(found[:5])), name
        assert all(less <= more for less, more in pairwise(found)), name
        assert drawn(world.manifest, **{name: 3}) == found[2]
        assert drawn(world.manifest, **{name: 3, "seed": 1}) != found[2], name


def test_slides_count_with_all_their_resolutions(world: World) -> None:
    tiles = drawn(world.manifest, max_per_slide=4)
    assert Counter(name for name, _, _ in tiles) == {"a": 4, "b": 4, "c": 3, "p": 4}
    assert {group for name, group, _ in tiles if name == "a"} == {"0.5", "1"}


def test_what_other_slides_are_there_changes_nothing(world: World) -> None:
    alone = Manifest(world.manifest.stores[:1], root=world.manifest.root)
    tiles = drawn(world.manifest, max_per_slide=4)
    assert {tile for tile in tiles if tile[0] == "a"} == drawn(alone, max_per_slide=4)


def test_patients_are_those_of_the_pictures_and_unknown_ones_count_by_store(world: World) -> None:
    tiles = drawn(world.manifest, max_per_patient=2)
    patients: Counter[object] = Counter()
    for name, group, index in tiles:
        patient = world.facts[name, group][index].get("patient")
        patients[name if patient is None else patient] += 1
    # P1 has 10 tiles of the slide a, and 2 of the packed pictures.
    assert patients == {"P1": 2, "P2": 2, "P0": 2, "b": 2, "c": 2}
    with_names = [
        (store_uuid(name), group, i)
        for (name, group), facts in world.facts.items()
        for i, tile in enumerate(facts)
        if tile.get("patient") == "P1"
    ]
    expected = lowest("max_per_patient", 0, 2, set(with_names))
    mine = {
        (store_uuid(name), group, i)
        for name, group, i in tiles
        if world.facts[name, group][i].get("patient") == "P1"
    }
    assert mine == expected


def test_draws_follow_the_conditions_and_each_other(world: World) -> None:
    where = ["tissue >= 0.2"]
    chosen = select(
        world.manifest, where, drawing=Draws(max_per_slide=3, max_per_patient=2, sample=4, seed=9)
    )
    names = [step.name for step in chosen.steps]
    assert names == ["tissue >= 0.2", "--max-per-slide 3", "--max-per-patient 2", "--sample 4"]
    assert [step.left for step in chosen.steps][1:] == [9, 6, 4]
    assert all(step.tiles == before.left for before, step in pairwise(chosen.steps))
    entry = chosen.manifest.stores[0]
    assert entry.selection is not None
    assert [dict(step) for step in entry.selection.steps][-4:] == [
        {"where": "tissue >= 0.2"},
        {"max_per_slide": 3, "seed": 9},
        {"max_per_patient": 2, "seed": 9},
        {"sample": 4, "seed": 9},
    ]
    first = select(world.manifest, where).manifest
    again = select(first, drawing=Draws(max_per_slide=3, max_per_patient=2, sample=4, seed=9))
    assert tiles_of(again.manifest) == tiles_of(chosen.manifest)


def test_a_sample_of_more_than_there_is_says_so(world: World) -> None:
    selected = select(world.manifest, ["not packed"], drawing=Draws(sample=1000))
    assert selected.after.tiles == 17
    assert "1,000 tiles were to be drawn, and there are 17" in selected.notes


@pytest.mark.parametrize("name", ["max_per_slide", "max_per_patient", "sample"])
def test_a_draw_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(SelectionError, match=f"{name} is 0; it must be at least 1"):
        Draws(**{name: 0})


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Ten slides of 5,000 tiles and ten of 100."""
    folder = tmp_path_factory.mktemp("uneven")
    sizes = [5000] * 10 + [100] * 10
    entries = [
        make_entry(folder, f"s{i:02}", {"1": {"x": np.arange(size)}})
        for i, size in enumerate(sizes)
    ]
    return Manifest(tuple(entries), root=folder)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sample_after_a_cap_favours_no_slide(uneven: Manifest, seed: int) -> None:
    # If both draws used the same lots, the large slides' survivors would win nearly all places.
    tiles = drawn(uneven, max_per_slide=100, sample=1000, seed=seed)
    large = sum(name < "s10" for name, _, _ in tiles)
    # 1000 of 2000 tiles, half of which are of large slides: 500, with a deviation of 11.
    assert 450 < large < 550


def test_a_draw_takes_tiles_from_everywhere(uneven: Manifest) -> None:
    tiles = drawn(uneven, sample=5100)
    # A tenth of 51,000 tiles; of each large slide 500 with a deviation of 20.
    counts = Counter(name for name, _, _ in tiles)
    assert all(400 < counts[f"s{i:02}"] < 600 for i in range(10))
    assert sum(counts.values()) == 5100
    places = np.histogram([i for name, _, i in tiles if name < "s10"], bins=10)[0]
    assert places.min() > 400
