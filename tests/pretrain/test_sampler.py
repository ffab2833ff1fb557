"""The order of samples: even, without repeats, and a pure function of seed and number."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.mix import Mix
from pretrain.sampler import Draw, Sampler
from tests.pretrain.make import mix_of

SEEDS = st.integers(0, 2**63 - 1)
MIXES = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4
).map(lambda strata: mix_of(*strata))


def draws(mix: Mix, seed: int, count: int, distinct: int = 8) -> list[Draw]:
    sampler = Sampler(mix, seed, distinct)
    return [sampler.draw(number) for number in range(count)]


def stratum_of_slide(mix: Mix) -> list[int]:
    return [i for i, stratum in enumerate(mix.strata) for _ in stratum.slides]


@settings(deadline=None, max_examples=50)
@given(mix=MIXES, seed=SEEDS, count=st.integers(1, 300))
def test_strata_get_even_shares_at_any_point(mix: Mix, seed: int, count: int) -> None:
    home = stratum_of_slide(mix)
    seen = Counter(home[draw.slide] for draw in draws(mix, seed, count))
    shares = [seen[i] for i in range(len(mix.strata))]
    assert max(shares) - min(shares) <= 1


@settings(deadline=None, max_examples=50)
@given(mix=MIXES, seed=SEEDS, count=st.integers(1, 300))
def test_slides_of_a_stratum_get_even_shares_at_any_point(mix: Mix, seed: int, count: int) -> None:
    seen = Counter(draw.slide for draw in draws(mix, seed, count))
    first = 0
    for stratum in mix.strata:
        shares = [seen[first + i] for i in range(len(stratum.slides))]
        assert max(shares) - min(shares) <= 1
        first += len(stratum.slides)


@settings(deadline=None, max_examples=50)
@given(mix=MIXES, seed=SEEDS, distinct=st.integers(2, 70))
def test_every_tile_of_a_slide_comes_once_before_any_comes_again(
    mix: Mix, seed: int, distinct: int
) -> None:
    order: dict[int, list[int]] = defaultdict(list)
    for draw in draws(mix, seed, 600, distinct):
        assert draw.turn == len(order[draw.slide])
        order[draw.slide].append(draw.tile)
    for number, tiles in order.items():
        size = mix.slides[number].tiles
        for start in range(0, len(tiles) - size + 1, size):
            assert sorted(tiles[start : start + size]) == list(range(size))


@settings(deadline=None, max_examples=50)
@given(
    strata=st.lists(
        st.lists(st.integers(16, 120), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3
    ),
    seed=SEEDS,
)
def test_no_window_of_a_batch_holds_a_tile_twice(strata: list[tuple[int, ...]], seed: int) -> None:
    # Each slide has at least as many tiles as the batch, so it is always possible.
    found = [(d.slide, d.tile) for d in draws(mix_of(*strata), seed, 500, distinct=16)]
    for start in range(len(found) - 15):
        assert len(set(found[start : start + 16])) == 16


@settings(deadline=None, max_examples=30)
@given(mix=MIXES, seed=SEEDS, numbers=st.lists(st.integers(0, 10**6), max_size=30))
def test_a_sample_depends_on_seed_and_number_alone(mix: Mix, seed: int, numbers: list[int]) -> None:
    one, other = Sampler(mix, seed, 8), Sampler(mix, seed, 8)
    forwards = {number: one.draw(number) for number in numbers}
    backwards = {number: other.draw(number) for number in reversed(numbers)}
    assert forwards == backwards
    assert all(forwards[number] == Sampler(mix, seed, 8).draw(number) for number in numbers)


def test_another_seed_gives_another_order() -> None:
    mix = mix_of((50, 60), (70,))
    assert [d.tile for d in draws(mix, 1, 40)] != [d.tile for d in draws(mix, 2, 40)]


def test_a_slide_is_shuffled_anew_in_each_pass() -> None:
    tiles = [d.tile for d in draws(mix_of((100,)), 0, 300)]
    assert tiles[:100] != tiles[100:200] != tiles[200:]


def test_adding_a_stratum_keeps_the_order_within_the_other_slides() -> None:
    before = [d.tile for d in draws(mix_of((30,)), 5, 20)]
    after = [d.tile for d in draws(mix_of((30,), (40,)), 5, 40) if d.slide == 0]
    assert before == after


@settings(deadline=None, max_examples=30)
@given(mix=MIXES, seed=SEEDS, number=st.integers(0, 500))
def test_substitutes_walk_through_the_whole_slide(mix: Mix, seed: int, number: int) -> None:
    sampler = Sampler(mix, seed, 8)
    draw = sampler.draw(number)
    tiles = mix.slides[draw.slide].tiles
    later = [sampler.substitute(draw, attempt) for attempt in range(2 * tiles)]
    assert later[0] == draw
    assert {d.slide for d in later} == {draw.slide}
    assert {d.tile for d in later} == set(range(tiles))
