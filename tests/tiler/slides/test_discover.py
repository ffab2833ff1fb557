"""From paths to sources."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.tiler.slides import make
from tiler.errors import TilerError
from tiler.slides import Sources, find_pictures, find_sources, source_token
from tiler.slides.dicom import WHOLE_SLIDE_CLASS, DicomHeader, read_header

PNG = b"\x89PNG\r\n\x1a\n"
TIFF = b"II*\0\x08\0\0\0"
JPEG = b"\xff\xd8\xff\xe0"
ANNOTATION = "1.2.840.10008.5.1.4.1.1.88.33"


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def names(sources: Sources) -> list[str]:
    return [source.name for source in sources.found]


def test_a_folder_is_searched_by_suffix_and_by_content(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            "b/two.SVS": b"damaged",
            "a/one.ome.tiff": TIFF,
            "a/field.png": PNG,
            "nameless": JPEG,
            "labels.csv": b"x",
            ".hidden.svs": TIFF,
            ".cache/three.svs": TIFF,
            "old.zarr/0.5/tiles/c/0": JPEG,
        },
    )
    found = find_sources([tmp_path])
    assert names(found) == ["nameless", "field", "one", "two"]
    assert [source.kind for source in found.found] == ["picture", "picture", "slide", "slide"]
    assert {path.name for path in found.ignored} == {"labels.csv", "old.zarr"}


def test_an_output_folder_among_the_slides_is_passed_over(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            "a.svs": TIFF,
            "preview/a.png": PNG,
            "tiles/a.zarr/zarr.json": b"{}",
            "tiles/manifest.json": b"{}",
            "tiles/preview/a.png": PNG,
        },
    )
    assert [s.path.relative_to(tmp_path).as_posix() for s in find_sources([tmp_path]).found] == [
        "a.svs",
        "preview/a.png",  # beside no store: somebody's own
    ]
    pictures, _ = find_pictures(tmp_path)
    assert [path.name for path in pictures] == ["a.svs", "a.png"]


def test_a_store_is_no_folder_of_pictures(tmp_path: Path) -> None:
    fill(tmp_path, {"a.zarr/zarr.json": b"{}", "a.zarr/thumbnail/c.0.0.0": JPEG})
    for find in (lambda path: find_sources([path]), find_pictures):
        with pytest.raises(TilerError, match="is a Zarr store"):
            find(tmp_path / "a.zarr")


def test_a_named_file_is_always_a_source_and_counts_once(tmp_path: Path) -> None:
    fill(tmp_path, {"notes.txt": b"x", "a.svs": TIFF})
    (tmp_path / "link.svs").symlink_to(tmp_path / "a.svs")
    given = [tmp_path / "notes.txt", tmp_path / "a.svs", tmp_path / "link.svs", tmp_path]
    found = find_sources(given)
    assert names(found) == ["notes", "a"]


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TilerError, match=r"none\.svs does not exist"):
        find_sources([tmp_path / "none.svs"])


def test_links_that_loop_are_survived_and_dangling_ones_kept(tmp_path: Path) -> None:
    fill(tmp_path, {"a/one.svs": TIFF})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.svs").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "self.svs").symlink_to(tmp_path / "a" / "self.svs")
    assert sorted(names(find_sources([tmp_path]))) == ["gone", "one", "self"]


@pytest.mark.parametrize("is_implicit", [False, True])
def test_a_dicom_header_is_read_past_sequences(tmp_path: Path, is_implicit: bool) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(make.dicom_bytes("1.2.3", is_implicit=is_implicit))
    assert read_header(path) == DicomHeader("1.2.3", "1.2.840.10008.5.1.4.1.1.77.1.6")
    for keep in range(132, path.stat().st_size - 6, 7):
        path.write_bytes(make.dicom_bytes("1.2.3", is_implicit=is_implicit)[:keep])
        assert read_header(path) is None


def test_a_dicom_series_counts_once_however_it_is_named(tmp_path: Path) -> None:
    slide = fill(
        tmp_path / "case7",
        {name: make.dicom_bytes("1.2.3") for name in ("l0.dcm", "l1.dcm", "l2.dcm")},
    )
    (slide / "readme.txt").write_text("x")
    for given in ([slide], [slide / "l1.dcm"], [tmp_path], [slide, slide / "l2.dcm", tmp_path]):
        (source,) = find_sources(given).found
        assert (source.name, source.kind, source.path) == ("case7", "dicom", slide)
        assert [path.name for path in source.files] == ["l0.dcm", "l1.dcm", "l2.dcm"]


def test_two_dicom_series_in_a_folder_are_two_slides(tmp_path: Path) -> None:
    files = {"a0.dcm": "1.2", "b0.dcm": "1.3", "b1": "1.3", "note.dcm": "1.4"}
    for name, series in files.items():
        kind = ANNOTATION if name == "note.dcm" else WHOLE_SLIDE_CLASS
        (tmp_path / name).write_bytes(make.dicom_bytes(series, kind))
    found = find_sources([tmp_path])
    assert names(found) == ["a0", "b0"]
    assert [len(source.files) for source in found.found] == [1, 2]
    assert [path.name for path in found.ignored] == ["note.dcm"]
    assert names(find_sources([tmp_path / "note.dcm"])) == ["note"]


def test_companion_files_are_no_slides(tmp_path: Path) -> None:
    index = b"[Virtual Microscope Specimen]\r\nImageFile=s.jpg\r\nMapFile=s_map.jpg\r\n"
    fill(
        tmp_path,
        {
            "m.mrxs": JPEG,
            "m/Slidedat.ini": b"x",
            "m/Data0000.dat": b"x",
            "orphan/Slidedat.ini": b"x",
            "orphan/Data.tif": TIFF,
            "v/s.vms": index,
            "v/s.jpg": JPEG,
            "v/s_map.jpg": JPEG,
            "v/other.jpg": JPEG,
        },
    )
    found = find_sources([tmp_path])
    assert names(found) == ["m", "other", "s"]
    assert {path.name for path in found.found[0].files} == {
        "m.mrxs",
        "Slidedat.ini",
        "Data0000.dat",
    }
    assert {path.name for path in found.found[2].files} == {"s.vms", "s.jpg", "s_map.jpg"}
    assert {path.parent.name for path in found.ignored} == {"orphan"}


def test_the_token_follows_every_file_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "x", {"m.mrxs": JPEG, "m/Slidedat.ini": b"x", "m/Data.dat": b"1"})
    (source,) = find_sources([tmp_path / "x"]).found
    first = source_token(source)
    assert first == source_token(source)
    assert len(first) == 16
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    (moved,) = find_sources([tmp_path / "y"]).found
    assert source_token(moved) == first, "a moved slide is the same slide"
    companion = tmp_path / "x" / "m" / "Data.dat"
    os.utime(companion, ns=(1, 1))
    touched = source_token(source)
    assert touched != first
    companion.unlink()
    assert source_token(source) not in (first, touched)


def test_pictures_are_listed_by_relative_path(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            "b/1.png": PNG,
            "a/2.JPG": JPEG,
            "a-b/3.tif": TIFF,
            "a/nameless": PNG,
            "labels.csv": b"x",
            ".hidden.png": PNG,
            "out.zarr/c/0": JPEG,
        },
    )
    pictures, ignored = find_pictures(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in pictures] == [
        "a-b/3.tif",
        "a/2.JPG",
        "a/nameless",
        "b/1.png",
    ]
    assert [path.name for path in ignored] == ["labels.csv", "out.zarr"]
    with pytest.raises(TilerError, match="is no folder"):
        find_pictures(tmp_path / "labels.csv")


def test_real_slides_are_found_once_each(real_data: Path) -> None:
    found = find_sources([real_data / "dicom"])
    assert len([s for s in found.found if s.name == "cmu-1-small-region-wsi2dcm"]) == 1
    assert len(found.found) == 5, "four series beside each other, two files of one of them"
    every = find_sources([real_data / part for part in ("svs", "ome_tiff", "derived", "tiff")])
    assert "OS-2-ndpi_pyramid" in names(every)
    assert len(every.found) == 9
    assert every.ignored == ()
