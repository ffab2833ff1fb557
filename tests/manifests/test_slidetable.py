"""Slides tables: how rows are read, how they find their slide, and what is said of broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.errors import TableError
from manifests.slidetable import KEY_COLUMNS, Row, SlidesTable, load_table


def loaded(folder: Path, text: str | bytes) -> SlidesTable:
    path = folder / "slides.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_table(path)


def row_of(folder: Path, text: str | bytes, name: str = "a.svs") -> Row:
    row = loaded(folder, text).find(Path(name))
    assert row is not None
    return row


@pytest.mark.parametrize("column", KEY_COLUMNS)
def test_any_of_the_key_columns_names_the_slide(tmp_path: Path, column: str) -> None:
    assert row_of(tmp_path, f"organ,{column}\nlung,a.svs\n").curated == {"organ": "lung"}


def test_the_first_key_column_counts_and_another_is_kept(tmp_path: Path) -> None:
    row = row_of(tmp_path, "path,slide\nelsewhere,a.svs\n")
    assert (row.key, row.columns) == ("a.svs", {"path": "elsewhere"})


def test_columns_are_understood_in_upper_case_too(tmp_path: Path) -> None:
    row = row_of(tmp_path, "Slide,Organ,MPP,Grade\na.svs,lung,0.5,2\n")
    assert (row.curated, row.mpp, row.columns) == ({"organ": "lung"}, 0.5, {"Grade": "2"})
    assert [row.value(name) for name in ("Organ", "organ", "Grade")] == ["lung", "lung", "2"]


def test_each_column_goes_where_it_belongs(tmp_path: Path) -> None:
    row = row_of(
        tmp_path,
        "slide,id,mpp,roi,organ,stain,patient,age,grade\n"
        "a.svs,case-1,0.25,rois/a.geojson,lung,H&E,p1,61,\n",
    )
    assert row == Row(
        key="a.svs",
        id="case-1",
        mpp=0.25,
        roi="rois/a.geojson",
        curated={"organ": "lung", "stain": "H&E", "patient": "p1"},
        columns={"age": "61"},
    )
    assert [row.value(name) for name in ("organ", "age", "grade")] == ["lung", "61", None]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffslide,organ,note\r\na.svs,lung,\"one, two\"\r\n",
        "slide , organ,note\n a.svs ,  lung,\"one, two\"\n",
        "slide,organ,note\n\n\na.svs,lung,\"one, two\"\n\n",
        "slide,organ,note\n\"a.svs\",\"lung\",\"one, two\"",
    ],
    ids=["byte order mark", "spaces", "empty lines", "quotes"],
)  # fmt: skip
def test_what_spreadsheets_write_is_read(tmp_path: Path, text: str) -> None:
    row = row_of(tmp_path, text)
    assert (row.key, row.curated, row.columns) == ("a.svs", {"organ": "lung"}, {"note": "one, two"})


def test_an_index_column_without_a_name_is_no_column(tmp_path: Path) -> None:
    assert row_of(tmp_path, ",slide,age\n0,a.svs,61\n").columns == {"age": "61"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none; one of slide, file,"),
        ("name,organ\na.svs,lung\n", "has the columns name, organ; one of slide, file,"),
        ("slide;organ\na.svs;lung\n", "has the columns slide;organ; one of .* by commas"),
        ("slide,mpp\na.svs,-1\n", "line 2: the mpp '-1' is not a number"),
        ("slide,mpp\na.svs,nan\n", "line 2: the mpp 'nan' is not a number"),
        ("slide,organ\n\na.svs,lung\n,skin\n", r"slides\.csv, line 4: the column slide is empty"),
        ("slide,mpp\na.svs,0.25\nb.svs,0.25 µm\n", r"line 3: the mpp '0\.25 µm' is not a number"),
        ('slide,mpp\n"a\nb.svs","0,25"\n', r"line 3: the mpp '0,25' is not a number"),
        ("slide,organ\na.svs,lung,left\n", "line 2: more values than columns; quote"),
        ("slide,organ\na.svs,lung\nb.svs,\na.svs,skin\n", r"has two rows for 'a\.svs'; keep one"),
        ("slide,organ,organ\na.svs,lung,skin\n", "has two columns named organ; keep one"),
        ("slide\nÄ.svs\n".encode("latin-1"), "cannot be read: it is not UTF-8; save it"),
        ("slide\n" + "a" * 200_000, "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(TableError, match=message):
        loaded(tmp_path, text)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"the slides table none\.csv cannot be read"):
        load_table(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("key", "path", "matches"),
    [
        ("a.svs", "deep/folder/a.svs", True),
        ("a", "folder/a.svs", True),
        ("a.ome", "a.ome.tif", True),
        ("a", "a.ome.tif", True),
        ("TCGA-AA-3495-01Z-00-DX1", "TCGA-AA-3495-01Z-00-DX1.67f0a.svs", True),
        ("lc25000_224/lung_aca/x.jpeg", "/data/lc25000_224/lung_aca/x.jpeg", True),
        ("lc25000_224/lung_aca/x", "/data/lc25000_224/lung_aca/x.jpeg", True),
        ("lung_aca\\x.jpeg", "/data/lc25000_224/lung_aca/x.jpeg", True),
        ("/data/lung_aca/x.jpeg", "/data/lung_aca/x.jpeg", True),
        ("./lung_aca/x.jpeg", "/data/lung_aca/x.jpeg", True),
        ("lung_scc/x.jpeg", "/data/lung_aca/x.jpeg", False),
        ("aca/x.jpeg", "/data/lung_aca/x.jpeg", False),
        ("a.svs", "b.svs", False),
        ("a.tif", "a.svs", False),
        ("a", "ab.svs", False),
        ("A.svs", "a.svs", False),
        ("svs", "a.svs", False),
    ],
)
def test_the_last_parts_of_a_path_are_enough(key: str, path: str, matches: bool) -> None:
    found = SlidesTable([Row(key)]).find(Path(path))
    assert found == (Row(key) if matches else None)


@pytest.mark.parametrize("path", ["x.jpeg", "./x.jpeg", "../lung_aca/x.jpeg"])
def test_a_path_that_was_typed_short_is_found_by_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    folder = tmp_path / "lung_aca"
    folder.mkdir()
    monkeypatch.chdir(folder)
    table = SlidesTable([Row("lung_aca/x.jpeg"), Row(f"{tmp_path}/lung_scc/x.jpeg")])
    assert table.find(Path(path)) == Row("lung_aca/x.jpeg")
    assert SlidesTable([Row(f"{folder}/x.jpeg")]).find(Path(path)) is not None


@pytest.mark.parametrize(
    ("keys", "path", "best"),
    [
        (["x.jpeg", "aca/x.jpeg", "lung/aca/x.jpeg"], "/d/lung/aca/x.jpeg", "lung/aca/x.jpeg"),
        (["x.jpeg", "aca/x.jpeg"], "/d/scc/x.jpeg", "x.jpeg"),
        (["case1", "case1.2"], "case1.2.svs", "case1.2"),
        (["case1", "case1.2"], "case1.svs", "case1"),
        (["a", "a.svs"], "a.svs", "a.svs"),
        (["a", "a.svs"], "a.tif", "a"),
        (["d/a", "a.svs"], "d/a.svs", "d/a"),
    ],
)
def test_the_row_that_says_most_of_a_path_wins(keys: list[str], path: str, best: str) -> None:
    for order in (keys, keys[::-1]):
        found = SlidesTable([Row(key) for key in order]).find(Path(path))
        assert found is not None
        assert found.key == best


@pytest.mark.parametrize("keys", [("d/a.svs", "d\\a.svs"), ("a.svs", "./a.svs")])
def test_two_rows_that_fit_a_slide_equally_well_are_refused(keys: tuple[str, str]) -> None:
    table = SlidesTable([Row(key) for key in keys])
    with pytest.raises(TableError, match=r"names a\.svs twice, as .* keep one row"):
        table.find(Path("d/a.svs"))


def test_rows_without_a_slide_are_known(tmp_path: Path) -> None:
    table = loaded(tmp_path, "slide\na.svs\nb.svs\nc\n")
    assert len(table) == 3
    assert table.unused() == ["a.svs", "b.svs", "c"]
    table.find(Path("x/c.ndpi"))
    table.find(Path("a.svs"))
    table.find(Path("none.svs"))
    assert table.unused() == ["b.svs"]


def test_the_table_knows_the_folder_its_paths_are_relative_to(tmp_path: Path) -> None:
    assert loaded(tmp_path, "slide,roi\na.svs,rois/a.geojson\n").folder == tmp_path
