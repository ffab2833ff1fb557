"""Annotating: which row speaks of which entry, what becomes of its facts, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from manifests.cli.changing import annotate as annotate_command
from manifests.combine.annotate import (
    ENTRY_KEY_COLUMNS,
    Annotated,
    OnConflict,
    annotate,
    match_rows,
)
from manifests.combine.conflicts import ConflictsFound
from manifests.errors import TableError
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import CURATED_FIELDS, Manifest, SlideInfo, StoreEntry
from manifests.slidetable import Row, SlidesTable, load_table
from manifests.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()


def entry(name: str, source: str = "", **fields: Any) -> StoreEntry:
    """A slide that failed, which is the shortest entry; facts do not depend on the outcome."""
    return StoreEntry(
        id=name, status="failed", source=source or f"{name}.svs", reason="none", **fields
    )


def annotated(
    entries: Sequence[StoreEntry], rows: Sequence[Row], on_conflict: OnConflict = "fail"
) -> Annotated:
    return annotate(
        Manifest(tuple(entries)), SlidesTable(rows), vocabulary=VOCABULARY, on_conflict=on_conflict
    )


def matched(entries: Sequence[StoreEntry], rows: Sequence[Row]) -> dict[str, str]:
    """Key of the row by id of the entry, whatever the order of rows and entries."""
    found = [
        {name: row.key for name, row in match_rows(some, others).items()}
        for some in itertools.permutations(entries)
        for others in itertools.permutations(rows)
    ]
    assert all(one == found[0] for one in found)
    return found[0]


@pytest.mark.parametrize(
    ("row", "matches"),
    [
        (Row("s1"), True),
        (Row("s1.svs"), False),
        (Row("scan.ome.tif"), True),
        (Row("scan.ome"), True),
        (Row("scan"), True),
        (Row("folder/scan.ome.tif"), True),
        (Row("folder\\scan.ome.tif"), True),
        (Row("anything", id="s1"), True),
        (Row("scan.ome.tif", id="unknown"), True),
        (Row("folder/s1"), False),
        (Row("scan.svs"), False),
        (Row("SCAN"), False),
    ],
)
def test_a_row_names_an_entry_by_its_id_or_its_file(row: Row, matches: bool) -> None:
    assert matched([entry("s1", "scan.ome.tif")], [row]) == ({"s1": row.key} if matches else {})


def test_a_row_that_gives_an_id_speaks_of_that_entry_alone() -> None:
    entries = [entry("a", "x.svs"), entry("b", "a.svs")]
    assert matched(entries, [Row("a")]) == {"a": "a"}
    assert matched(entries, [Row("x.svs", id="b")]) == {"b": "x.svs"}


def test_the_row_that_spells_most_of_the_name_out_wins() -> None:
    entries = [entry("1", "case1.svs"), entry("2", "case1.2.svs")]
    assert matched(entries, [Row("case1"), Row("case1.2")]) == {"1": "case1", "2": "case1.2"}


def test_one_row_speaks_of_a_slide_that_is_listed_twice() -> None:
    entries = [entry("fine", "a.svs"), entry("coarse", "a.svs")]
    assert matched(entries, [Row("a")]) == {"fine": "a", "coarse": "a"}


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([Row("x/a.svs"), Row("y/a.svs")], "s by 'x/a.svs' and 'y/a.svs'"),
        ([Row("s"), Row("a.svs")], "s by 's' and 'a.svs'"),
        ([Row("x", id="s"), Row("s")], "s by 'x' and 's'"),
    ],
)
def test_an_entry_that_two_rows_name_is_refused(rows: list[Row], names: str) -> None:
    with pytest.raises(TableError, match=f"1 entry is named by two rows(?s:.*){names}"):
        match_rows([entry("s", "a.svs")], rows)


def test_all_entries_that_two_rows_name_are_listed() -> None:
    rows = [Row(f"{folder}/{name}.svs") for folder in "xy" for name in "abc"]
    with pytest.raises(TableError, match=r"3 entries are(?s:.*)\n  a by (?s:.*)\n  c by"):
        match_rows([entry(name) for name in "abcd"], rows)


def test_facts_go_to_fields_and_own_columns_to_columns() -> None:
    facts = {field: f"{field} 1" for field in CURATED_FIELDS if field not in ("organ", "stain")}
    row = Row("s", curated={**facts, "organ": "LN", "stain": "H & E"}, columns={"Grade": "2"})
    found = annotated([entry("s", columns={"batch": "7"})], [row])
    [fresh] = found.manifest.stores
    assert {field: getattr(fresh, field) for field in facts} == facts
    assert (fresh.organ, fresh.stain) == ("lymph node", "H&E")
    assert fresh.columns == {"batch": "7", "Grade": "2"}
    assert (found.added, found.changed, found.unchanged) == (len(CURATED_FIELDS) + 1, 0, 0)


def test_what_the_manifest_has_already_is_counted_as_unchanged() -> None:
    row = Row("s", curated={"organ": "lung", "site": "A7"}, columns={"grade": "2"})
    once = annotated([entry("s")], [row])
    twice = annotated(once.manifest.stores, [row])
    assert twice.manifest == once.manifest
    assert (twice.added, twice.changed, twice.unchanged) == (0, 0, 3)


def test_another_spelling_of_one_term_is_corrected_and_no_conflict() -> None:
    found = annotated([entry("s", stain="HE")], [Row("s", curated={"stain": "hematoxylin-eosin"})])
    assert [e.stain for e in found.manifest.stores] == ["H&E"]
    assert (found.added, found.changed, found.conflicts) == (0, 1, ())


def test_terms_that_no_vocabulary_knows_are_kept_and_listed_with_the_nearest() -> None:
    rows = [Row("s", curated={"organ": "lungg"}), Row("t", curated={"stain": "qqqqqq"})]
    found = annotated([entry("s"), entry("t")], rows)
    assert [(e.organ, e.stain) for e in found.manifest.stores] == [
        ("lungg", None),
        (None, "qqqqqq"),
    ]
    assert found.unknown_terms == (("organ", "lungg", "lung"), ("stain", "qqqqqq", None))


CONTRADICTED = [
    entry("a", organ="lung", columns={"grade": "1"}),
    entry("b", organ="colon", site="A7"),
    entry("c", organ="skin"),
]
CORRECTION = [
    Row("a", curated={"organ": "breast", "site": "B8"}, columns={"grade": "2"}),
    Row("b", curated={"organ": "colon"}),
    Row("gone", curated={"organ": "skin"}),
]


def test_a_contradiction_stops_and_every_one_is_listed() -> None:
    with pytest.raises(ConflictsFound) as caught:
        annotated(CONTRADICTED, CORRECTION)
    assert caught.value.exit_code == 6
    assert [conflict.sentence for conflict in caught.value.conflicts] == [
        "a: organ is 'lung' in the manifest, 'breast' in the table",
        "a: the column 'grade' is '1' in the manifest, '2' in the table",
    ]


@pytest.mark.parametrize(
    ("on_conflict", "first", "counts"),
    [
        ("first", ("lung", "B8", {"grade": "1"}), (1, 0, 1)),
        ("last", ("breast", "B8", {"grade": "2"}), (1, 2, 1)),
    ],
)
def test_a_person_says_what_counts(
    on_conflict: OnConflict, first: tuple[Any, ...], counts: tuple[int, ...]
) -> None:
    found = annotated(CONTRADICTED, CORRECTION, on_conflict)
    a, b, c = found.manifest.stores
    assert (a.organ, a.site, a.columns) == first
    assert (b, c) == tuple(CONTRADICTED[1:])
    assert (found.added, found.changed, found.unchanged) == counts
    assert (len(found.conflicts), found.dropped) == (2, ())
    assert (found.rows_without_entry, found.entries_without_row) == (("gone",), ("c",))


def test_contradicted_slides_can_be_left_out() -> None:
    found = annotated(CONTRADICTED, CORRECTION, "drop")
    assert found.manifest.stores == tuple(CONTRADICTED[1:])
    assert (found.dropped, found.added, found.unchanged) == (("a",), 0, 1)


@pytest.mark.parametrize("field", ["organ", "stain", "patient"])
def test_one_slide_must_not_become_two_things(field: str) -> None:
    slide = SlideInfo("openslide", "aperio", "jpeg", "sha256:0")
    entries = [entry("a", slide=slide), entry("b", slide=slide), entry("c")]
    rows = [Row(name, curated={field: f"{field} {name}"}) for name in "abc"]
    with pytest.raises(ConflictsFound, match=f"a and b has two values of {field}") as caught:
        annotated(entries, rows)
    assert len(caught.value.conflicts) == 1


def test_one_patient_must_not_come_to_lie_in_two_splits() -> None:
    entries = [entry("a", split="train"), entry("b", split="test"), entry("c", split="test")]
    rows = [Row(name, curated={"patient": "P1" if name < "c" else "P2"}) for name in "abc"]
    with pytest.raises(ConflictsFound, match=r"'P1' lies in two splits") as caught:
        annotated(entries, rows)
    assert len(caught.value.conflicts) == 1


values = st.sampled_from(["x", "y"])
known = st.dictionaries(st.sampled_from(["site", "scanner", "own"]), values)


@given(st.lists(st.tuples(known, known), max_size=4))
def test_first_adds_only_and_last_leaves_what_the_table_says(
    pairs: list[tuple[dict[str, str], dict[str, str]]],
) -> None:
    def parted(facts: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        own = {k: v for k, v in facts.items() if k == "own"}
        return {k: v for k, v in facts.items() if k != "own"}, own

    def said(found: StoreEntry) -> dict[str, str]:
        facts = {"site": found.site, "scanner": found.scanner, **found.columns}
        return {k: v for k, v in facts.items() if v is not None}

    entries, rows = [], []
    for number, (has, says) in enumerate(pairs):
        fields, columns = parted(has)
        entries.append(entry(f"s{number}", columns=columns, **fields))
        fields, columns = parted(says)
        rows.append(Row(f"s{number}", curated=fields, columns=columns))
    first = [said(e) for e in annotated(entries, rows, "first").manifest.stores]
    last = [said(e) for e in annotated(entries, rows, "last").manifest.stores]
    assert first == [{**says, **has} for has, says in pairs]
    assert last == [{**has, **says} for has, says in pairs]


def test_a_table_of_ids_alone_will_do(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,organ,note\na,lung,one\n")
    table = load_table(tmp_path / "t.csv", ENTRY_KEY_COLUMNS)
    [fresh] = annotate(Manifest((entry("a"),)), table, vocabulary=VOCABULARY).manifest.stores
    assert (fresh.organ, fresh.columns) == ("lung", {"note": "one"})


def run(folder: Path, *options: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command on `manifest.json` and `t.csv` in a folder."""
    arguments = [str(folder), "-o", str(folder / "out.json"), *options]
    ran = CliRunner().invoke(annotate_command, arguments, catch_exceptions=False)
    return ran.exit_code, ran.stdout, ran.stderr


def test_the_command_writes_the_manifest_and_says_what_it_did(tmp_path: Path) -> None:
    save_manifest(Manifest((entry("a"), entry("b", organ="skin"))), tmp_path / "manifest.json")
    table = tmp_path / "t.csv"
    table.write_text("slide,organ,stain\na.svs,lungg,HE\nc.svs,skin,\n")
    code, out, err = run(tmp_path, "--csv", str(table))
    assert code == 0
    assert out == f"{tmp_path / 'out.json'}: facts of the table: 2 added, 0 changed, 0 unchanged\n"
    assert err.splitlines() == [
        "Note: row names no entry (1): c.svs",
        "Note: entry has no row (1): b",
        "Note: the organ 'lungg' is not in the vocabulary; did you mean lung?",
    ]
    found = load_manifest(tmp_path / "out.json").stores
    assert [(e.organ, e.stain) for e in found] == [("lungg", "H&E"), ("skin", None)]


def test_json_lists_every_case(tmp_path: Path) -> None:
    save_manifest(Manifest(tuple(CONTRADICTED)), tmp_path / "manifest.json")
    table = tmp_path / "t.csv"
    table.write_text("id,organ\na,breast\nb,colon\n" + "".join(f"x{i},lung\n" for i in range(30)))
    code, out, _ = run(tmp_path, "--csv", str(table), "--on-conflict", "last", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["added"], report["changed"], report["unchanged"]) == (0, 1, 1)
    assert len(report["rows_without_entry"]) == 30
    assert report["entries_without_row"] == ["c"]
    assert report["conflicts"] == ["a: organ is 'lung' in the manifest, 'breast' in the table"]


def test_a_contradiction_ends_with_exit_code_6_and_writes_nothing(tmp_path: Path) -> None:
    save_manifest(Manifest(tuple(CONTRADICTED)), tmp_path / "manifest.json")
    (tmp_path / "t.csv").write_text("id,organ\na,breast\n")
    code, out, err = run(tmp_path, "--csv", str(tmp_path / "t.csv"))
    assert (code, out) == (6, "")
    assert "--on-conflict" in err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say --csv TABLE, --pseudonymise, or both"),
        (["--pseudonymise"], "--pseudonymise needs --salt-file"),
        (["--csv", "{}", "--new-salt"], "go with --pseudonymise"),
        (["--csv", "{}", "--salt-file", "x"], "go with --pseudonymise"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tmp_path: Path, options: list[str], message: str
) -> None:
    save_manifest(Manifest((entry("a"),)), tmp_path / "manifest.json")
    (tmp_path / "t.csv").write_text("id,organ\na,breast\n")
    code, _, err = run(tmp_path, *(o.format(tmp_path / "t.csv") for o in options))
    assert code == 2
    assert message in err
