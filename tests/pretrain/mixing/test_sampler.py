"""The order of samples: even, without repeats, and a pure function of seed and number."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pretrain.errors import ConfigError
from pretrain.mixing.mix import Mix, Slide, Source, Stratum
from pretrain.mixing.sampler import Draw, Sampler
from tests.pretrain.make import mix_of

SEEDS = st.integers(0, 2**63 - 1)
MIXES = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4
).map(lambda strata: mix_of(*strata))

WEIGHTED = st.lists(
    st.tuples(
        st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
        st.one_of(st.integers(1, 9), st.integers(1, 10**6)),
    ),
    min_size=1,
    max_size=7,
).map(lambda pairs: mix_of(*(slides for slides, _ in pairs), weights=[w for _, w in pairs]))


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


def counts(mix: Mix, found: Sequence[Draw]) -> list[int]:
    """Draws of each stratum."""
    home = stratum_of_slide(mix)
    seen = Counter(home[draw.slide] for draw in found)
    return [seen[i] for i in range(len(mix.strata))]


@settings(deadline=None, max_examples=50)
@given(mix=WEIGHTED, seed=SEEDS, first=st.integers(0, 10**9), batch=st.integers(1, 128))
def test_any_batch_holds_nearly_the_share_of_each_stratum(
    mix: Mix, seed: int, first: int, batch: int
) -> None:
    sampler = Sampler(mix, seed, batch)
    found = counts(mix, [sampler.draw(number) for number in range(first, first + batch)])
    total = sum(stratum.weight for stratum in mix.strata)
    # Rounds of at most 64 are cut at both ends; each of three levels of the tree rounds.
    shuffled = min(-(-total // min(s.weight for s in mix.strata)), 64)
    for count, stratum in zip(found, mix.strata, strict=True):
        share = stratum.weight / total
        spread = 2 * min(shuffled, batch) * max(share, 1 - share)
        assert abs(count - batch * share) <= min(2 * shuffled * min(share, 1 - share), spread) + 4


@settings(deadline=None, max_examples=30)
@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=SEEDS,
    start=st.integers(0, 10**6),
)
def test_over_all_weights_together_shares_are_exact(
    weights: list[int], seed: int, start: int
) -> None:
    mix = mix_of(*[(5,)] * len(weights), weights=weights)
    divisor = math.gcd(*weights)
    whole = [weight // divisor for weight in weights]
    # A round may be cut off within the weights' period: both together have a common one.
    round_ = min(-(-sum(whole) // min(whole)), 64)
    period = math.lcm(sum(whole), round_)
    sampler = Sampler(mix, seed, 8)
    first = start * period
    found = counts(mix, [sampler.draw(number) for number in range(first, first + period)])
    assert found == [Fraction(weight * period, sum(whole)) for weight in whole]


CHI_SQUARE_MIXES = {
    "even": mix_of((900,), (20, 80), (5,), (3000,) * 7),
    "tempered": mix_of((900,), (100,), (2500,) * 2, weights=[30_000, 10_000, 70_711]),
    "weighted": mix_of((90,), (70,), (50,), (30,), weights=[2, 1, 4, 1]),
    "steep": mix_of((90,), (70,), (50,), weights=[1, 200, 40_000]),
}


@pytest.mark.parametrize("name", CHI_SQUARE_MIXES)
@pytest.mark.parametrize("seed", [0, 1])
def test_over_ten_thousand_draws_shares_agree_with_the_stated_ones(name: str, seed: int) -> None:
    mix = CHI_SQUARE_MIXES[name]
    found = counts(mix, draws(mix, seed, 10_000, distinct=64))
    stated = np.array([stratum.probability for stratum in mix.strata])
    statistic = float(((np.array(found) - 10_000 * stated) ** 2 / (10_000 * stated)).sum())
    # 5 % of random draws would exceed 5.99 with two degrees of freedom; these are better than that.
    assert statistic < 5.99


def test_strata_meet_every_other_in_small_batches() -> None:
    mix = mix_of(*[(9,)] * 6)
    sampler, home = Sampler(mix, 0, 2), stratum_of_slide(mix)
    met = {frozenset(home[d.slide] for d in sampler.batch(step)) for step in range(300)}
    assert {pair for pair in met if len(pair) == 2} == {
        frozenset((i, j)) for i in range(6) for j in range(i)
    }


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
@given(
    strata=st.lists(
        st.tuples(
            st.lists(st.integers(80, 300), min_size=1, max_size=3).map(tuple), st.integers(1, 500)
        ),
        min_size=1,
        max_size=4,
    ),
    seed=SEEDS,
)
def test_no_batch_of_a_weighted_mix_holds_a_tile_twice(
    strata: list[tuple[tuple[int, ...], int]], seed: int
) -> None:
    # The shuffle of numbers may bring visits of two rounds of 64 together, none of which repeat.
    mix = mix_of(*(slides for slides, _ in strata), weights=[weight for _, weight in strata])
    sampler = Sampler(mix, seed, 16)
    for step in range(30):
        assert len({(d.slide, d.tile) for d in sampler.batch(step)}) == 16


@settings(deadline=None, max_examples=30)
@given(mix=WEIGHTED, seed=SEEDS)
def test_a_weighted_slide_is_gone_through_before_any_tile_comes_again(mix: Mix, seed: int) -> None:
    turns: dict[int, dict[int, int]] = defaultdict(dict)
    for draw in draws(mix, seed, 640, 8):
        assert draw.turn not in turns[draw.slide]
        turns[draw.slide][draw.turn] = draw.tile
    for number, tiles in turns.items():
        size = mix.slides[number].tiles
        for start in range(0, 640, size):
            whole = [tiles[turn] for turn in range(start, start + size) if turn in tiles]
            assert len(set(whole)) == len(whole)


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


@pytest.mark.parametrize("caps", [{}, {"max_per_slide": 3, "max_per_patient": 5}])
def test_the_first_thousand_samples_are_the_same_however_they_are_read(
    caps: dict[str, int],
) -> None:
    mix = patients_of({"a": (40, 50, 60) * 2, "b": (30,) * 20, "c": (9,) * 30}, weights=[1, 2, 3])
    whole = [d for step in range(16) for d in Sampler(mix, 7, 64, **caps).batch(step)][:1000]
    assert [d.number for d in whole] == list(range(1000))
    for ranks in (1, 2, 4):
        samplers = [Sampler(mix, 7, 64, **caps) for _ in range(ranks)]
        found: dict[int, Draw] = {}
        # Ranks go their own pace, the last one backwards.
        for rank, sampler in enumerate(samplers):
            part = slice(rank * 64 // ranks, (rank + 1) * 64 // ranks)
            steps = range(16) if rank + 1 < ranks else reversed(range(16))
            found |= {d.number: d for step in steps for d in sampler.batch(step, part)}
        assert [found[number] for number in range(1000)] == whole


def patients_of(
    strata: dict[str, tuple[int, ...]],
    weights: Sequence[int] | None = None,
    patients: dict[str, str] | None = None,
) -> Mix:
    """Strata of slides of so many tiles, `a-0`, `a-1`, ...; two slides a patient by default."""
    plain = mix_of(*strata.values(), weights=weights)
    made = []
    for (name, sizes), stratum in zip(strata.items(), plain.strata, strict=True):
        ids = [f"{name}-{i}" for i in range(len(sizes))]
        of = patients or {slide: f"{name}{i // 2}" for i, slide in enumerate(ids)}
        slides = (
            Slide(slide, (Source("0.5", (0.5, 0.5), tiles),), of.get(slide))
            for slide, tiles in zip(ids, sizes, strict=True)
        )
        key = (("stain", name), ("organ", "any"))
        made.append(Stratum(key, tuple(slides), stratum.weight, stratum.probability))
    return Mix(tuple(made), tile_size=32)


def most(mix: Mix, batch: Sequence[Draw]) -> tuple[int, int]:
    """The most draws of one slide, and of one patient."""
    slides = [mix.slides[draw.slide] for draw in batch]
    ids = Counter(slide.id for slide in slides)
    patients = Counter((slide.patient is None, slide.patient or slide.id) for slide in slides)
    return max(ids.values()), max(patients.values())


CAPPED = st.lists(
    st.tuples(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 6)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    strata=CAPPED,
    patients=st.lists(st.integers(0, 9), min_size=48, max_size=48),
    seed=SEEDS,
    batch_size=st.integers(2, 24),
    per_slide=st.one_of(st.none(), st.integers(1, 6)),
    per_patient=st.one_of(st.none(), st.integers(1, 8)),
)
def test_caps_hold_in_every_batch_and_leave_the_shares_alone(
    strata: list[tuple[list[int], int]],
    patients: list[int],
    seed: int,
    batch_size: int,
    per_slide: int | None,
    per_patient: int | None,
) -> None:
    sizes = {f"s{i}": tuple(slides) for i, (slides, _) in enumerate(strata)}
    ids = [f"{name}-{i}" for name, slides in sizes.items() for i in range(len(slides))]
    # Patients have slides in several strata, or are not known.
    of = {slide: f"p{p}" for slide, p in zip(ids, patients, strict=False) if p}
    mix = patients_of(sizes, [weight for _, weight in strata], of)
    try:
        sampler = Sampler(mix, seed, batch_size, per_slide, per_patient)
    except ConfigError:
        assume(False)
    home = stratum_of_slide(mix)
    for step in range(12):
        batch = sampler.batch(step)
        plain = [sampler.draw(d.number) for d in batch]
        assert [home[d.slide] for d in batch] == [home[d.slide] for d in plain]
        by_slide, by_patient = most(mix, batch)
        assert by_slide <= (per_slide or batch_size)
        assert by_patient <= (per_patient or batch_size)
        assert all(0 <= d.tile < mix.slides[d.slide].tiles for d in batch)


def test_a_draw_that_caps_move_takes_a_tile_that_the_batch_lacks() -> None:
    mix = patients_of({"a": (400,), "b": (8,) * 40}, weights=[1, 3], patients={})
    sampler = Sampler(mix, 3, 32, max_per_slide=8)
    plain = Sampler(mix, 3, 32)
    for step in range(50):
        batch = sampler.batch(step)
        assert len({(d.slide, d.tile) for d in batch}) == 32
        assert batch == plain.batch(step)  # these caps are never met
    tight = Sampler(mix_of((50,) * 16), 3, 16, max_per_slide=1)
    loose = Sampler(mix_of((50,) * 16), 3, 16)
    assert all(len({d.slide for d in tight.batch(step)}) == 16 for step in range(20))
    assert all(tight.batch(step) == loose.batch(step) for step in range(20))


def test_caps_move_draws_over_a_seam_of_rounds_only() -> None:
    mix = mix_of((50,) * 17)
    sampler = Sampler(mix, 5, 16, max_per_slide=1)
    moved = [d for step in range(100) for d in sampler.batch(step) if d != sampler.draw(d.number)]
    assert 0 < len(moved) < 500
    seen = Counter(d.slide for step in range(100) for d in sampler.batch(step))
    assert max(seen.values()) - min(seen.values()) < 40


@pytest.mark.parametrize(
    ("caps", "message"),
    [
        (
            {"max_per_slide": 1},
            r"max-per-slide 1 cannot be kept in batches of 16: up to 8 of it come from a × any, "
            r"which has 4 slides of 2 patients; take max-per-slide 2 or more, or batches of at "
            r"most 8",
        ),
        (
            {"max_per_patient": 3},
            r"max-per-patient 3 .* from a × any, .*; take max-per-patient 4 or more, or batches of",
        ),
        ({"max_per_slide": 1, "max_per_patient": 9}, "max-per-slide 1"),
        ({"max_per_slide": 2, "max_per_patient": 3}, "take max-per-patient 4"),
    ],
)
def test_caps_that_cannot_be_kept_name_the_stratum_and_what_would_do(
    caps: dict[str, int], message: str
) -> None:
    mix = patients_of({"a": (90,) * 4, "b": (90,) * 30})
    with pytest.raises(ConfigError, match=message):
        Sampler(mix, 0, 16, **caps)
    for fits in ({"max_per_slide": 2, "max_per_patient": 4}, {"max_per_patient": 4}):
        assert len(Sampler(mix, 0, 16, **fits).batch(0)) == 16


def test_a_patient_of_two_strata_makes_room_in_one_for_the_other() -> None:
    # Whatever comes first: a's only patient must be left to it.
    patients = {"a-0": "p", "b-0": "p", "b-1": "q", "b-2": "r"}
    mix = patients_of({"a": (50,), "b": (50, 50, 50)}, patients=patients)
    sampler = Sampler(mix, 0, 4, max_per_patient=2)
    assert all(most(mix, sampler.batch(step))[1] <= 2 for step in range(50))
    tight = Sampler(mix, 0, 6, max_per_patient=3)
    assert all(most(mix, tight.batch(step))[1] <= 3 for step in range(50))
    with pytest.raises(ConfigError, match="take max-per-patient 3 or more, or batches of at"):
        Sampler(mix, 0, 6, max_per_patient=2)


def test_a_packed_store_of_no_patient_is_exempt_from_caps() -> None:
    slides = [
        Slide(name, (Source("0.5", (0.5, 0.5), 60),), pooled=name == "packed")
        for name in ("packed", "a", "b")
    ]
    sides = ((("stain", "x"),), tuple(slides[:1])), ((("stain", "y"),), tuple(slides[1:]))
    mix = Mix(tuple(Stratum(key, members, 1, 0.5) for key, members in sides), 32)
    sampler = Sampler(mix, 0, 8, max_per_slide=2, max_per_patient=2)
    for step in range(20):
        drawn = Counter(mix.slides[draw.slide].id for draw in sampler.batch(step))
        assert drawn == {"packed": 4, "a": 2, "b": 2}


def test_a_store_that_is_in_two_strata_is_one_slide_to_a_cap() -> None:
    def half(group: str, name: str, *ids: str) -> Stratum:
        slides = tuple(Slide(i, (Source(group, (1.0, 1.0), 30),)) for i in ids)
        return Stratum((("mpp", name),), slides, 1, 0.5)

    mix = Mix((half("0.5", "0.5", "a", "b", "c"), half("1", "1", "a", "b", "c", "d")), 32)
    sampler = Sampler(mix, 0, 4, max_per_slide=1)
    assert all(most(mix, sampler.batch(step))[0] == 1 for step in range(60))
