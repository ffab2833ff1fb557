"""Splits keep together what belongs together, move nobody, and come near to their ratios."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, defaultdict
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.combine.conflicts import ConflictsFound
from manifests.model import Manifest, SlideInfo, StoreEntry
from manifests.splits.holdout import UnitList
from manifests.splits.shares import Share, Stratum, share_warnings
from manifests.splits.split import (
    SplitError,
    SplitResult,
    SplitRule,
    place,
    split_manifest,
    stratum_of,
)

GOLDEN = "rrrrrarrarrrarrrrrarrrrrearerrarrrrrrrrr"
"""Second letters of the splits of patients P0, P1, ... with the seed 0."""
NAMES = ("train", "val", "test")
EXACT = SplitRule(exact=True)


def slide(number: int, **changes: Any) -> StoreEntry:
    """A store of 10 tiles of its own slide; `content` gives it the slide of another."""
    content = changes.pop("content", number)
    fields: dict[str, Any] = {
        "id": f"s{number}",
        "status": "done",
        "source": f"s{number}.svs",
        "path": f"s{number}.zarr",
        "uuid": f"00000000-0000-0000-0000-{number:012d}",
        "spec_hash": "ab" * 32,
        "slide": SlideInfo("openslide", "aperio", "jpeg", f"sha256:{content}"),
    }
    return StoreEntry(**{**fields, **changes})


def cohort(patients: int, each: int = 1, **changes: Any) -> Manifest:
    """Some slides of each of some patients."""
    slides = [
        slide(each * patient + number, patient=f"P{patient}", **changes)
        for patient in range(patients)
        for number in range(each)
    ]
    return Manifest(tuple(slides))


def splits_of(result: SplitResult) -> dict[str, str | None]:
    """Split of each entry, by id."""
    return {entry.id: entry.split for entry in result.manifest.stores}


def by_patient(result: SplitResult) -> dict[str, set[str | None]]:
    """Splits of each patient."""
    found: dict[str, set[str | None]] = defaultdict(set)
    for entry in result.manifest.stores:
        found[str(entry.patient)].add(entry.split)
    return found


PATIENTS = st.one_of(st.none(), st.sampled_from(["P1", "P2", "P3", "é", "P4 "]))
SLIDES = st.lists(
    st.tuples(PATIENTS, st.integers(0, 8), st.sampled_from(["lung", "colon", None])), max_size=14
)
RULES = st.builds(
    SplitRule,
    ratios=st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.34, 0.33, 0.33)]),
    seed=st.integers(-(2**70), 2**70),
    exact=st.booleans(),
)


def entries_of(rows: list[tuple[str | None, int, str | None]]) -> list[StoreEntry]:
    """Entries with these patients, slides and organs."""
    return [
        slide(n, patient=patient, content=content, organ=organ)
        for n, (patient, content, organ) in enumerate(rows)
    ]


def connected(entries: list[StoreEntry]) -> list[set[str]]:
    """Ids of entries that share a patient or a slide, directly or through others: the oracle."""
    groups: list[set[str]] = []
    for entry in entries:
        near = {
            e.id
            for e in entries
            if e.slide == entry.slide or (e.patient is not None and e.patient == entry.patient)
        }
        touching = [group for group in groups if group & near]
        groups = [group for group in groups if not group & near]
        groups.append(near.union(*touching))
    return groups


@given(SLIDES, RULES)
def test_every_slide_is_in_one_split_and_what_belongs_together_in_the_same(
    rows: list[tuple[str | None, int, str | None]], rule: SplitRule
) -> None:
    entries = [slide(99, patient="P1"), *entries_of(rows)]
    result = split_manifest(Manifest(tuple(entries)), rule)
    found = splits_of(result)
    assert set(found.values()) <= set(NAMES)
    assert {frozenset(p.entry.id for p in unit.parts) for unit in result.units} == {
        frozenset(group) for group in connected(entries)
    }
    assert all(len({found[name] for name in group}) == 1 for group in connected(entries))


@given(SLIDES, RULES, st.randoms())
def test_the_order_of_the_slides_does_not_matter(
    rows: list[tuple[str | None, int, str | None]], rule: SplitRule, rng: random.Random
) -> None:
    entries = [slide(99, patient="P1", organ="lung"), *entries_of(rows)]
    other = rng.sample(entries, len(entries))
    rule = replace(rule, stratify=("organ",))
    first = split_manifest(Manifest(tuple(entries)), rule)
    second = split_manifest(Manifest(tuple(other)), rule)
    assert first.manifest == second.manifest


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 100))
def test_slides_that_are_added_move_nobody_without_any_memory(
    before: int, added: int, seed: int
) -> None:
    rule = SplitRule(seed=seed)
    small = splits_of(split_manifest(cohort(before, each=2), rule))
    large = splits_of(split_manifest(cohort(before + added, each=2), rule))
    assert small.items() <= large.items()


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 100))
def test_slides_that_are_added_move_nobody_where_quotas_continue_an_older_result(
    before: int, added: int, seed: int
) -> None:
    rule = SplitRule(seed=seed, exact=True)
    older = split_manifest(cohort(before, each=2), rule)
    newer = split_manifest(cohort(before + added, each=2), rule, older=older.manifest)
    assert splits_of(older).items() <= splits_of(newer).items()
    assert newer.kept == before
    again = split_manifest(newer.manifest, rule, older=older.manifest)
    assert again.manifest == newer.manifest


def test_a_unit_lies_where_its_name_and_the_seed_say() -> None:
    text = '[7,"value","P-é"]'
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    assert place(("value", "P-é"), 7) == (digest >> (256 - 53)) / 2**53
    rule = SplitRule(ratios=(0.5, 0.3, 0.2), seed=7)
    where = place(("value", "P-é"), 7)
    expected = "train" if where < 0.5 else "val" if where < 0.8 else "test"
    assert rule.split_of(("value", "P-é")) == expected


def test_splits_do_not_change_with_the_version_of_histotile() -> None:
    found = splits_of(split_manifest(cohort(40), SplitRule()))
    assert "".join(str(found[f"s{n}"])[1] for n in range(40)) == GOLDEN


def test_shares_come_near_to_the_ratios() -> None:
    count = 4000
    result = split_manifest(cohort(count), SplitRule(ratios=(0.7, 0.2, 0.1)))
    got = Counter(result.splits)
    for name, ratio in zip(NAMES, (0.7, 0.2, 0.1), strict=True):
        spread = math.sqrt(count * ratio * (1 - ratio))
        assert abs(got[name] - ratio * count) < 4 * spread


def test_another_seed_gives_other_splits() -> None:
    first, second = (split_manifest(cohort(200), SplitRule(seed=s)).splits for s in (0, 1))
    moved = sum(a != b for a, b in zip(first, second, strict=True))
    # Two independent draws agree with a probability of 0.8² + 2 · 0.1² = 0.66.
    assert 40 < moved < 100


def test_a_unit_without_a_patient_goes_by_its_slide_whatever_it_is_called() -> None:
    one = Manifest((slide(1), slide(2, patient="P")))
    other = Manifest((slide(1, id="renamed", path="elsewhere.zarr"), slide(2, patient="P")))
    for seed in range(20):
        first, second = (split_manifest(m, SplitRule(seed=seed)) for m in (one, other))
        assert splits_of(first)["s1"] == splits_of(second)["renamed"]


def test_copies_without_a_patient_go_by_the_smallest_fingerprint() -> None:
    uuid = slide(1).uuid
    manifest = Manifest(
        (slide(1, content=5), slide(2, content=4, uuid=uuid), slide(3, patient="P"))
    )
    for seed in range(20):
        rule = SplitRule(seed=seed)
        found = splits_of(split_manifest(manifest, rule))
        assert {found["s1"], found["s2"]} == {rule.split_of(("slide", "sha256:4"))}


def test_patients_who_share_a_slide_are_one_unit_that_goes_by_the_smallest_name() -> None:
    manifest = Manifest(
        (slide(1, patient="B", content=7), slide(2, patient="A", content=7), slide(3, patient="B"))
    )
    for seed in range(20):
        rule = SplitRule(seed=seed)
        result = split_manifest(manifest, rule)
        assert [unit.values for unit in result.units] == [("A", "B")]
        assert set(splits_of(result).values()) == {rule.split_of(("value", "A"))}


def test_entries_of_one_store_stay_together() -> None:
    one = slide(1, patient="A")
    manifest = Manifest((one, slide(2, patient="B", uuid=one.uuid)))
    assert len(split_manifest(manifest, SplitRule()).units) == 1


def test_units_may_be_any_field_or_column() -> None:
    manifest = Manifest(
        tuple(slide(n, site=f"S{n % 3}", columns={"block": f"B{n % 5}"}) for n in range(30))
    )
    assert len(split_manifest(manifest, SplitRule(by="site")).units) == 3
    assert len(split_manifest(manifest, SplitRule(by="block")).units) == 5
    assert len(split_manifest(manifest, SplitRule(by="id")).units) == 30


def test_an_empty_cell_is_no_value() -> None:
    manifest = Manifest(
        (
            slide(1, columns={"block": ""}),
            slide(2, columns={"block": ""}),
            slide(3, columns={"block": "B"}),
        )
    )
    assert len(split_manifest(manifest, SplitRule(by="block")).units) == 3


@pytest.mark.parametrize("name", ["pateint", "blok", "patient"])
def test_a_name_that_nothing_has_a_value_of_is_refused_with_near_ones(name: str) -> None:
    manifest = Manifest((slide(1, organ="lung", columns={"block": "7"}),))
    with pytest.raises(SplitError, match=name) as caught:
        split_manifest(manifest, SplitRule(by=name))
    nearest = {"pateint": "did you mean patient?", "blok": "did you mean block?"}.get(name, "block")
    assert nearest in str(caught.value)
    with pytest.raises(SplitError, match=r"'stian'.*did you mean stain"):
        split_manifest(manifest, SplitRule(by="organ", stratify=("organ", "stian")))


def test_slides_without_tiles_are_in_no_split() -> None:
    empty = slide(1, patient="P0", status="empty", reason="no tissue", split="old")
    failed = StoreEntry("f", "failed", "f.svs", reason="broken", patient="P0", split="old")
    result = split_manifest(Manifest((empty, failed, slide(2, patient="P0"))), SplitRule())
    assert [entry.split is None for entry in result.manifest.stores] == [True, True, False]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ratios": (0.8, 0.1)}, "sum to 0.9, not to 1"),
        ({"ratios": (80, 10, 10)}, "sum to 100"),
        ({"ratios": (1.0,)}, "two or more"),
        ({"ratios": (1.2, -0.2)}, "above 0"),
        ({"ratios": (1.0, 0.0)}, "above 0"),
        ({"ratios": (math.nan, 0.5)}, "above 0"),
        ({"ratios": (math.inf, 0.5)}, "above 0"),
        ({"ratios": (0.25,) * 4}, "4 ratios need as many"),
        ({"names": ("a", "b")}, "3 ratios need as many"),
        ({"names": ("a", "b", "b")}, "different names"),
        ({"names": ("a", "b", "../c")}, "plain name"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SplitError, match=says):
        SplitRule(**changes)


def test_the_usual_names_need_not_be_said() -> None:
    assert SplitRule(ratios=(0.9, 0.1)).names == ("train", "test")
    assert SplitRule(ratios=(0.6, 0.2, 0.2)).names == NAMES
    assert SplitRule(ratios=(1 / 3, 1 / 3, 1 / 3)).names == NAMES


@pytest.mark.parametrize("exact", [False, True])
def test_splits_that_the_manifest_carries_are_kept_and_counted(exact: bool) -> None:
    rule = SplitRule(exact=exact)
    ruled = splits_of(split_manifest(cohort(30), rule))
    others = {"s3": "test", "s4": "val", "s5": "train"}
    carried = tuple(replace(entry, split=others.get(entry.id)) for entry in cohort(30).stores)
    result = split_manifest(Manifest(carried), rule)
    assert others.items() <= splits_of(result).items()
    assert result.kept == 3
    if not exact:
        assert {**ruled, **others} == splits_of(result)
        assert result.differing == sum(ruled[name] != split for name, split in others.items())
    afresh = split_manifest(Manifest(carried), rule, anew=True)
    assert splits_of(afresh) == ruled
    assert (afresh.kept, afresh.differing) == (0, 0)


def test_new_slides_of_a_patient_go_where_the_patient_is() -> None:
    rule = SplitRule()
    away = next(name for name in NAMES if name != rule.split_of(("value", "P0")))
    manifest = Manifest((slide(1, patient="P0", split=away), slide(2, patient="P0")))
    assert splits_of(split_manifest(manifest, rule)) == {"s1": away, "s2": away}


def test_a_patient_who_lies_in_two_splits_already_is_a_conflict_unless_a_list_decides() -> None:
    torn = (slide(1, patient="P", split="train"), slide(2, patient="P", split="test"))
    manifest = Manifest((*torn, slide(3, patient="Q")))
    with pytest.raises(ConflictsFound, match=r"'P' \(s1, s2\) lies in test and in train") as caught:
        split_manifest(manifest, SplitRule())
    assert caught.value.exit_code == 6
    result = split_manifest(manifest, SplitRule(), lists=[UnitList("val", "l", ("P",))])
    assert (splits_of(result)["s1"], splits_of(result)["s2"]) == ("val", "val")
    assert (result.listed, result.moved) == (1, 1)
    assert split_manifest(manifest, SplitRule(), anew=True).kept == 0


def test_a_carried_split_that_the_rule_does_not_have_is_refused() -> None:
    manifest = Manifest((slide(1, patient="P", split="holdout"),))
    with pytest.raises(SplitError, match=r"in 'holdout' already.*--anew"):
        split_manifest(manifest, SplitRule())


@given(st.sets(st.integers(0, 29)), st.sampled_from(NAMES), RULES)
def test_lists_win(listed: set[int], split: str, rule: SplitRule) -> None:
    names = tuple(f"P{n}" for n in sorted(listed))
    carried = tuple(replace(entry, split="train") for entry in cohort(30).stores)
    for manifest in (cohort(30), Manifest(carried)):
        result = split_manifest(manifest, rule, lists=[UnitList(split, "l", names)])
        found = by_patient(result)
        assert all(found[name] == {split} for name in names)
        assert result.listed == len(listed)


def test_lists_name_patients_or_entries() -> None:
    manifest = Manifest(
        (
            slide(1, patient="P", content=5),
            slide(2, patient="Q", content=5),
            slide(3),
            slide(4, patient="s3"),
        )
    )
    found = [
        splits_of(split_manifest(manifest, SplitRule(), lists=[UnitList("val", "l", (name,))]))
        for name in ("Q", "s2", "s4")
    ]
    assert (found[0]["s1"], found[0]["s2"]) == ("val", "val")
    assert found[0] == found[1]
    assert found[2]["s4"] == "val"
    # A patient is called like the entry s3; the patient is meant.
    by_name = split_manifest(manifest, SplitRule(seed=2), lists=[UnitList("val", "l", ("s3",))])
    assert splits_of(by_name)["s4"] == "val"
    assert splits_of(by_name)["s3"] == splits_of(split_manifest(manifest, SplitRule(seed=2)))["s3"]


def test_names_in_lists_that_fit_nothing_are_listed_with_near_ones() -> None:
    failed = StoreEntry("f1", "failed", "f.svs", reason="broken", patient="P99")
    manifest = Manifest((*cohort(12).stores, failed))
    names = UnitList("test", "cases.txt", ("P1", "P99", "f1", "p11", "nobody"))
    with pytest.raises(SplitError) as caught:
        split_manifest(manifest, SplitRule(), lists=[names])
    assert str(caught.value).startswith("cases.txt: 2 of 5 names fit nothing")
    assert "'p11' (did you mean P11?)" in str(caught.value)
    assert "'nobody'" in str(caught.value)
    good = replace(names, names=names.names[:3])
    assert split_manifest(manifest, SplitRule(), lists=[good]).unused == 2


def test_a_unit_in_the_lists_of_two_splits_is_refused() -> None:
    lists = [UnitList("test", "a.txt", ("P1",)), UnitList("val", "b.txt", ("P2", "s1"))]
    with pytest.raises(
        SplitError, match=r"b.txt puts 's1' in val, but the list of test names 'P1'"
    ):
        split_manifest(cohort(5), SplitRule(), lists=lists)
    same = [UnitList("test", "a.txt", ("P1", "P1")), UnitList("test", "b.txt", ("s1",))]
    assert split_manifest(cohort(5), SplitRule(), lists=same).listed == 1


def strata_counts(result: SplitResult) -> dict[Any, Counter[str]]:
    """Units of each split in each stratum."""
    found: dict[Any, Counter[str]] = defaultdict(Counter)
    for unit, split in zip(result.units, result.splits, strict=True):
        found[stratum_of(unit)][split] += 1
    return found


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60),
    RULES,
)
def test_quotas_are_met_within_one_unit_in_each_stratum(
    kinds: list[tuple[int, int]], rule: SplitRule
) -> None:
    entries = [
        slide(n, patient=f"P{n}", organ=f"o{organ}", stain=f"s{stain}")
        for n, (organ, stain) in enumerate(kinds)
    ]
    rule = replace(rule, stratify=("organ", "stain"), exact=True)
    for got in strata_counts(split_manifest(Manifest(tuple(entries)), rule)).values():
        for name, ratio in zip(rule.names, rule.ratios, strict=True):
            quota = Fraction(str(ratio)) * got.total()
            assert math.floor(quota) <= got[name] <= math.ceil(quota)


def test_many_small_strata_do_not_all_favour_the_largest_split() -> None:
    entries = tuple(slide(n, patient=f"P{n}", organ=f"o{n}") for n in range(100))
    result = split_manifest(Manifest(entries), SplitRule(exact=True, stratify=("organ",)))
    assert Counter(result.splits) == {"train": 80, "val": 10, "test": 10}


def test_decimal_ratios_are_meant_as_they_are_written() -> None:
    # As floats, 0.6 is a hair less than 0.6, and 0.6 of 5 would be rounded down to 2.
    organs = ["colon", *["lung"] * 5]
    entries = tuple(slide(n, patient=f"P{n}", organ=organ) for n, organ in enumerate(organs))
    rule = SplitRule(ratios=(0.6, 0.3, 0.1), exact=True, stratify=("organ",))
    counts = strata_counts(split_manifest(Manifest(entries), rule))
    assert counts[(("lung",),)]["train"] == 3


def test_quotas_make_up_for_what_was_kept() -> None:
    kept = tuple(replace(entry, split="train") for entry in cohort(16).stores)
    new = tuple(slide(n, patient=f"P{n}") for n in range(16, 20))
    result = split_manifest(Manifest((*kept, *new)), EXACT)
    assert Counter(result.splits) == {"train": 16, "val": 2, "test": 2}


def test_patients_with_two_stains_are_a_stratum_of_their_own() -> None:
    entries = [slide(n, patient=f"P{n // 2}", stain=("H&E", "IHC")[n % 2]) for n in range(40)]
    entries += [slide(100 + n, patient=f"Q{n}", stain="H&E") for n in range(20)]
    rule = SplitRule(exact=True, stratify=("stain",))
    counts = strata_counts(split_manifest(Manifest(tuple(entries)), rule))
    expected = {"train": 16, "val": 2, "test": 2}
    assert counts == {(("H&E",),): expected, (("H&E",), ("IHC",)): expected}


def test_units_that_left_the_set_do_not_count_in_its_quotas() -> None:
    older = split_manifest(cohort(20), EXACT).manifest
    left = Manifest(cohort(30).stores[20:])
    result = split_manifest(left, EXACT, older=older)
    assert Counter(result.splits) == {"train": 8, "val": 1, "test": 1}


def test_the_manifest_says_how_its_splits_were_made_and_only_once() -> None:
    rule = SplitRule(seed=3, stratify=("patient",))
    once = split_manifest(cohort(4), rule).manifest
    assert once.splits == (
        {
            "by": "patient",
            "ratios": [0.8, 0.1, 0.1],
            "names": ["train", "val", "test"],
            "seed": 3,
            "stratify": ["patient"],
            "exact": False,
        },
    )
    assert split_manifest(once, rule).manifest == once
    exact = split_manifest(once, EXACT).manifest
    assert [record["exact"] for record in exact.splits] == [False, True]
    assert split_manifest(exact, EXACT, anew=True).manifest.splits == (EXACT.to_json(),)


def test_strata_too_small_for_every_split_are_one_warning() -> None:
    def stratum(name: str, units: tuple[int, int, int]) -> Stratum:
        shares = zip(NAMES, (0.8, 0.1, 0.1), units, strict=True)
        return Stratum(
            (name,), tuple(Share(s, ratio, count, count, 0) for s, ratio, count in shares)
        )

    total = replace(stratum("", (80, 10, 10)), values=())
    small = [stratum("lung", (1, 0, 0)), stratum("skin", (2, 1, 1)), stratum("liver", (0, 2, 0))]
    assert share_warnings(total, small) == [
        "too few units for every split, so that one has none: lung; liver"
    ]


def test_splits_that_are_empty_or_far_off_are_warned_of() -> None:
    def warned(units: tuple[int, int, int]) -> list[str]:
        ratios = (0.8, 0.1, 0.1)
        shares = [
            Share(name, ratio, count, count, 0)
            for name, ratio, count in zip(NAMES, ratios, units, strict=True)
        ]
        return share_warnings(Stratum(("lung", None), tuple(shares)), ())

    assert warned((16, 2, 2)) == []
    assert warned((15, 3, 2)) == []
    assert warned((80, 10, 10)) == warned((76, 12, 12)) == warned((80, 5, 15)) == []
    assert warned((17, 3, 0)) == ["test has nothing of lung, (unknown); 2.0 units were asked for"]
    assert warned((14, 4, 2)) == ["val has 4 units of lung, (unknown); 2.0 were asked for"]
    assert warned((80, 4, 16)) == [
        "val has 4 units of lung, (unknown); 10.0 were asked for",
        "test has 16 units of lung, (unknown); 10.0 were asked for",
    ]
