"""Intervals: they hold the truth as often as they say, and a loop finds the same ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.scoring import intervals as module
from pretrain.scoring.intervals import (
    Interval,
    bootstrap,
    difference,
    intervals,
    score_classes,
    score_masks,
    score_numbers,
)
from pretrain.scoring.metrics import (
    Floats,
    Integers,
    auc,
    balanced_accuracy,
    confusion,
    confusion_by_unit,
    dice,
    iou,
    macro_f1,
    mean_absolute_error,
    r2,
)

SEEDS = st.integers(0, 2**32 - 1)
TILES = 10
PATIENTS = 50


def patients(random: np.random.Generator) -> tuple[Integers, Floats, Integers]:
    """Truth, probabilities and patient of tiles that are right by half, or always, by patient.

    Both classes and both kinds of patients are as many, so that macro-F1, balanced accuracy and
    AUC of all patients that could be drawn are 0.75 each.
    """
    truth = np.tile(np.arange(TILES) % 2, PATIENTS)
    unit = np.repeat(np.arange(PATIENTS), TILES)
    sure = np.where(random.random(PATIENTS) < 0.5, 0.5, 1.0)
    right = random.random(len(truth)) < sure[unit]
    said = np.where(right, truth, 1 - truth)
    return truth, np.eye(2)[said], unit


def test_intervals_over_patients_hold_the_truth_and_those_over_tiles_do_not() -> None:
    random = np.random.default_rng(0)
    held: dict[str, list[tuple[bool, bool]]] = {}
    for seed in range(200):
        truth, probabilities, unit = patients(random)
        tiles = np.arange(len(truth))
        both = [
            score_classes(truth, probabilities, over, 2, resamples=160, seed=seed)
            for over in (unit, tiles)
        ]
        for name in both[0]:
            found = [scores[name].low <= 0.75 <= scores[name].high for scores in both]
            held.setdefault(name, []).append((found[0], found[1]))
    assert set(held) == {"macro_f1", "balanced_accuracy", "auc"}
    for each in held.values():
        over_patients, over_tiles = np.mean(each, axis=0)
        # Of 200 intervals: 95 % ± 2.5 standard deviations, and what 50 patients lack.
        assert 0.90 <= over_patients <= 0.99
        assert over_tiles <= 0.85


@settings(max_examples=20)
@given(seed=SEEDS, units=st.integers(2, 6), block=st.sampled_from([1, 100, 1 << 22]))
def test_intervals_of_classes_are_those_of_a_loop(seed: int, units: int, block: int) -> None:
    random = np.random.default_rng(seed)
    truth, unit = random.integers(3, size=25), random.integers(units, size=25) * 7 - 3
    shares = random.integers(1, 5, size=(25, 3)) / 5
    given = {"resamples": 30, "seed": seed}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = score_classes(truth, shares, unit, 3, ranked=True, **given)
    said = shares.argmax(axis=1)
    loops = {
        "macro_f1": bootstrap(lambda rows: macro_f1(truth[rows], said[rows], 3), unit, **given),
        "balanced_accuracy": bootstrap(
            lambda rows: balanced_accuracy(truth[rows], said[rows], 3), unit, **given
        ),
        "auc": bootstrap(lambda rows: auc(truth[rows], shares[rows]), unit, **given),
    }
    assert_same(found, loops)


@settings(max_examples=20)
@given(seed=SEEDS, units=st.integers(2, 6))
def test_intervals_of_numbers_are_those_of_a_loop(seed: int, units: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted = random.normal(size=(2, 25)) + 1000
    unit = random.integers(units, size=25)
    given = {"resamples": 30, "seed": seed}
    found = score_numbers(truth, predicted, unit, **given)
    loops = {
        "l1": bootstrap(lambda r: mean_absolute_error(truth[r], predicted[r]), unit, **given),
        "r2": bootstrap(lambda rows: r2(truth[rows], predicted[rows]), unit, **given),
    }
    assert_same(found, loops)


@settings(max_examples=20)
@given(seed=SEEDS, units=st.integers(2, 5))
def test_intervals_of_masks_are_those_of_a_loop(seed: int, units: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted = random.integers(4, size=(2, units, 6, 6)) % 3
    unit = np.broadcast_to(np.arange(units)[:, None, None], truth.shape)
    matrices = confusion_by_unit(truth, predicted, 3, unit, units)
    given = {"resamples": 30, "seed": seed}
    loops = {
        "dice": bootstrap(lambda u: dice(truth[u], predicted[u], 3), np.arange(units), **given),
        "iou": bootstrap(lambda u: iou(truth[u], predicted[u], 3), np.arange(units), **given),
    }
    assert_same(score_masks(matrices, **given), loops)


def assert_same(found: dict[str, Interval], expected: dict[str, Interval]) -> None:
    """Both say the same but for rounding."""
    assert found.keys() == expected.keys()
    for name, one in found.items():
        other = expected[name]
        assert (one.value, one.low, one.high) == pytest.approx(
            (other.value, other.low, other.high), rel=1e-9, abs=1e-12, nan_ok=True
        )


def test_the_seed_decides_and_nothing_else() -> None:
    truth, probabilities, unit = patients(np.random.default_rng(1))
    first, again, other = (
        score_classes(truth, probabilities, unit, 2, resamples=50, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first["macro_f1"].value == other["macro_f1"].value
    assert first["macro_f1"] != other["macro_f1"]
    # Patients by other numbers, in the same order, are the same patients.
    assert score_classes(truth, probabilities, unit * 5 - 9, 2, resamples=50, seed=3) == first


def test_without_ranks_the_rest_is_the_same() -> None:
    truth, probabilities, unit = patients(np.random.default_rng(1))
    whole = score_classes(truth, probabilities, unit, 2, resamples=50)
    del whole["auc"]
    assert score_classes(truth, probabilities, unit, 2, ranked=False, resamples=50) == whole


def test_the_value_is_that_of_all_tiles_and_lies_inside() -> None:
    truth, probabilities, unit = patients(np.random.default_rng(2))
    found = score_classes(truth, probabilities, unit, 2)["macro_f1"]
    assert found.value == macro_f1(truth, probabilities.argmax(axis=1), 2)
    assert 0 < found.low < found.value < found.high < 1
    assert found.high - found.low == pytest.approx(0.14, abs=0.03)


def test_one_unit_gives_no_bounds() -> None:
    found = score_masks(np.array([[[3, 1], [0, 4]]]))
    assert found["dice"].value == pytest.approx((6 / 7 + 8 / 9) / 2)
    assert np.isnan([found["dice"].low, found["dice"].high]).all()


def test_resamples_of_one_class_are_left_out_of_auc() -> None:
    # Three of ten patients have class 1, so that about one resample in 35 has none.
    truth = np.array([0] * 7 + [1] * 3).repeat(4)
    unit = np.arange(10).repeat(4)
    scores = np.random.default_rng(0).random(40)
    found = score_classes(truth, np.stack([1 - scores, scores], axis=1), unit, 2)["auc"]
    assert 0 <= found.low < found.value < found.high <= 1


def test_where_most_resamples_are_not_defined_there_are_no_bounds() -> None:
    def statistics(counts: Floats) -> dict[str, Floats]:
        needs_all = np.where(counts.min(axis=1) > 0, 1.0, np.nan)  # one in 1,069 has all nine
        return {"all": needs_all, "first": counts[:, 0]}

    found = intervals(statistics, 9)
    assert found["all"].value == 1
    assert np.isnan([found["all"].low, found["all"].high]).all()
    assert (found["first"].low, found["first"].high) == (0, 3)


def test_no_resamples_give_no_bounds() -> None:
    found = intervals(lambda counts: {"sum": counts.sum(axis=1)}, 9, resamples=0)["sum"]
    assert found.value == 9
    assert np.isnan([found.low, found.high]).all()


def test_what_is_not_defined_at_all_is_nan() -> None:
    one_class = np.zeros(6, dtype=np.int64)
    found = score_classes(one_class, np.full((6, 2), 0.5), np.arange(6), 2)
    assert np.isnan([found["auc"].value, found["auc"].low, found["auc"].high]).all()
    assert found["macro_f1"] == Interval(1.0, 1.0, 1.0)
    flat = score_numbers(np.full(6, 0.1), np.arange(6.0), np.arange(6))
    assert np.isnan([flat["r2"].value, flat["r2"].low, flat["r2"].high]).all()
    assert flat["l1"].low < flat["l1"].value < flat["l1"].high


def test_probabilities_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        score_classes(np.zeros(3, np.int64), np.zeros((3, 2)), np.arange(3), 3)


def test_confusion_of_a_sum_is_the_sum_of_confusions() -> None:
    truth, predicted = np.random.default_rng(5).integers(3, size=(2, 50))
    unit = np.arange(50) % 4
    whole = confusion(truth, predicted, 3)
    assert confusion_by_unit(truth, predicted, 3, unit, 4).sum(axis=0).tolist() == whole.tolist()


def test_a_difference_is_taken_resample_by_resample() -> None:
    random = np.random.default_rng(6)
    truth, probabilities, unit = patients(random)
    other = np.where(random.random((len(truth), 1)) < 0.2, probabilities[:, ::-1], probabilities)
    said, other_said = (shares.argmax(axis=1) for shares in (probabilities, other))

    found = difference(
        *(
            score_classes(truth, shares, unit, 2, resamples=200, seed=4)["macro_f1"]
            for shares in (probabilities, other)
        )
    )

    expected = bootstrap(
        lambda rows: (
            macro_f1(truth[rows], said[rows], 2) - macro_f1(truth[rows], other_said[rows], 2)
        ),
        unit,
        resamples=200,
        seed=4,
    )
    assert_same({"": found}, {"": expected})
    assert np.allclose(found.resampled, expected.resampled)


def test_what_both_owe_to_the_units_falls_away_from_a_difference() -> None:
    # Patients are hard or easy for both, and one is better by a little in each.
    random = np.random.default_rng(7)
    unit = np.repeat(np.arange(40), 25)
    hard = random.uniform(0, 3, 40)[unit]
    truth = np.zeros(len(unit))
    one, other = (
        score_numbers(truth, hard + more + random.normal(0, 0.1, len(unit)), unit)["l1"]
        for more in (0.1, 0.0)
    )

    found = difference(one, other)

    assert max(one.low, other.low) < min(one.high, other.high)
    assert 0 < found.low < 0.1 < found.high
    assert found.high - found.low < (one.high - one.low) / 10


def test_intervals_of_a_difference_hold_the_truth_at_the_stated_rate() -> None:
    held, runs = 0, 200
    random = np.random.default_rng(8)
    unit = np.repeat(np.arange(40), 5)
    for _ in range(runs):
        truth = random.integers(2, size=len(unit))
        shared = np.repeat(random.uniform(0.5, 1, 40), 5)
        said = [np.where(random.random(len(unit)) < shared, truth, 1 - truth) for _ in range(2)]
        scores = [
            score_classes(truth, np.eye(2)[of], unit, 2, resamples=200)["macro_f1"] for of in said
        ]
        found = difference(*scores)
        held += found.low <= 0 <= found.high
    assert 0.90 <= held / runs <= 0.98


def test_numbers_of_other_draws_have_no_difference() -> None:
    one, other = (
        score_numbers(np.zeros(9), np.arange(9.0), np.arange(9), resamples=n)["l1"]
        for n in (20, 30)
    )
    with pytest.raises(ValueError, match="20 and 30 resamples"):
        difference(one, other)


def test_a_difference_of_one_unit_has_no_bounds() -> None:
    found = difference(Interval(0.8, np.nan, np.nan), Interval(0.5, np.nan, np.nan))
    assert found.value == pytest.approx(0.3)
    assert np.isnan([found.low, found.high]).all()
