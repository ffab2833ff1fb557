"""The OpenSlide reader, against OpenSlide's own `read_region` and against tifffile."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from tests.tiler.slides import make
from tiler.errors import PixelReadError, UnreadableSlide
from tiler.slides import open_slide
from tiler.slides.base import Rgb
from tiler.slides.openslide import OpenSlideSlide

DESCRIPTION = "Aperio Image Library v11.2.1 \n600x700 [0,0 600x700] (256x256) JPEG/RGB Q=90"


def read_region(path: Path, level: int) -> Rgb:
    """A whole level as OpenSlide gives it, over white."""
    with openslide.OpenSlide(path) as slide:
        size = slide.level_dimensions[level]
        rgba = np.asarray(slide.read_region((0, 0), level, size)).astype(int)
    alpha = rgba[..., 3:]
    blended: Rgb = ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return blended


def svs(path: Path, details: str, secret: str = "x") -> Path:
    levels = [make.tissue_like(700, 601), make.tissue_like(175, 150, 1)]
    return make.write_svs(path, levels, DESCRIPTION + details, secret)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("svs/CMU-1-Small-Region.svs", 1),
        ("svs/TCGA-CR-7395-01A-01-TS1.svs", 2),
        ("svs/openslide-python-small.svs", 1),
        ("derived/CMU-1-Small-Region_pyramid.svs", 2),
        ("tiff/openslide-python-boxes.tiff", 4),
        ("ndpi/test3-DAPI-2-(387).ndpi", 4),
        ("dicom/wsi2dcm-jpeg.dcm", 1),
        ("dicom/camelyon-multi_frame_jpeg.dcm", 1),
        ("dicom/cmu-1-small-region-wsi2dcm/level-0-frames-0-30.dcm", 1),
    ],
)
def test_cells_are_what_openslide_shows(real_data: Path, name: str, levels: int) -> None:
    path = real_data / name
    with open_slide(path) as slide:
        assert slide.facts.reader == "openslide"
        for level in range(levels):
            np.testing.assert_array_equal(make.whole_level(slide, level), read_region(path, level))


@pytest.mark.parametrize(
    ("colours", "subsampling"), [("rgb", None), ("ycbcr", "444"), ("ycbcr", "420")]
)
def test_tiles_decoded_past_openslide_are_the_same(
    tmp_path: Path, colours: str, subsampling: str | None
) -> None:
    pixels = make.tissue_like(300, 200)
    path = make.write_abbreviated(tmp_path / "a.tif", pixels, 64, colours, subsampling)
    with open_slide(path) as slide:
        assert slide.facts.vendor == "generic-tiff"
        np.testing.assert_array_equal(make.whole_level(slide), read_region(path, 0))


def test_a_level_with_an_odd_downsample_is_not_blurred(tmp_path: Path) -> None:
    path = svs(tmp_path / "a.svs", "")
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        assert [level.downsample_x for level in slide.facts.levels] == [1.0, 4.0]
        np.testing.assert_array_equal(make.whole_level(slide, 1), tiff.pages[1].asarray())


def test_a_tile_that_aperio_left_out_is_painted_as_openslide_does(tmp_path: Path) -> None:
    path = svs(tmp_path / "a.svs", "")
    make.set_tag(path, 325, [0], image=1)
    with open_slide(path) as slide:
        found = make.whole_level(slide, 1)
    np.testing.assert_array_equal(found, read_region(path, 1))
    assert found.std() > 10, "OpenSlide paints it from the finer level"


def test_bad_tiles_raise_and_the_others_stay_right(real_data: Path) -> None:
    whole = real_data / "svs/CMU-1-Small-Region.svs"
    damaged = real_data / "broken/derived_CMU-1-Small-Region_3_zeroed_jpeg_tiles.svs"
    data, intact = damaged.read_bytes(), whole.read_bytes()
    with tifffile.TiffFile(whole) as tiff:
        places = zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True)
        changed = {
            divmod(index, 10)
            for index, (offset, count) in enumerate(places)
            if data[offset : offset + count] != intact[offset : offset + count]
        }
    assert len(changed) == 3
    with open_slide(damaged) as slide, open_slide(whole) as reference:
        bad: dict[tuple[int, int], str] = {}
        for row in range(13):
            for column in range(10):
                try:
                    found = slide.read_cell(0, column, row)
                except PixelReadError as error:
                    bad[row, column] = str(error)
                else:
                    np.testing.assert_array_equal(found, reference.read_cell(0, column, row))
    assert set(bad) == changed
    for (row, column), reason in bad.items():
        assert f"level-0 ({column * 240}, {row * 240})" in reason


def test_a_handle_that_openslide_latched_is_opened_again(real_data: Path) -> None:
    damaged = real_data / "broken/derived_CMU-1-Small-Region_3_zeroed_jpeg_tiles.svs"
    # Without the TIFF's content there is no way past OpenSlide.
    with OpenSlideSlide(damaged) as slide, open_slide(damaged) as direct:
        good = direct.read_cell(0, 0, 0)
        with pytest.raises(PixelReadError, match=r"level-0 \(0, 720\)"):
            slide.read_cell(0, 0, 3)
        np.testing.assert_array_equal(slide.read_cell(0, 0, 0), good)


def test_a_child_process_reads_right_with_a_slide_opened_before_the_fork(real_data: Path) -> None:
    path = real_data / "ndpi/test3-DAPI-2-(387).ndpi"
    with open_slide(path) as slide:
        expected = slide.read_cell(0, 0, 6)
        child = os.fork()
        if child == 0:
            same = all((slide.read_cell(0, 0, 6) == expected).all() for _ in range(20))
            os._exit(0 if same else 1)
        for _ in range(20):
            assert (slide.read_cell(0, 0, 6) == expected).all()
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("details", "mpp", "problem"),
    [
        ("|MPP = 0.4990", (0.499, 0.499), None),
        ("|MPP = 0", None, "not a positive number"),
        ("|MPP = -0.5", None, "not a positive number"),
        ("|MPP = NaN", None, None),
        ("|MPP = 1e9", None, "outside the believable"),
        ("|MPP = none", None, None),
        ("", None, None),
    ],
)
def test_mpp_is_believed_only_if_it_can_be(
    tmp_path: Path, details: str, mpp: tuple[float, float] | None, problem: str | None
) -> None:
    with open_slide(svs(tmp_path / "a.svs", details)) as slide:
        facts = slide.facts
    assert facts.mpp == mpp
    assert facts.mpp_source == ("openslide" if mpp else "none")
    if problem is None:
        assert facts.mpp_problem is None
    else:
        assert facts.mpp_problem is not None
        assert problem in facts.mpp_problem


@pytest.mark.parametrize(
    ("power", "mpp", "disagrees"),
    [(20, 0.5, False), (40, 0.25, False), (40, 0.17, False), (40, 0.5, True), (20, 0.25, True)],
)
def test_power_and_mpp_that_disagree_are_named(
    tmp_path: Path, power: int, mpp: float, disagrees: bool
) -> None:
    with open_slide(svs(tmp_path / "a.svs", f"|AppMag = {power}|MPP = {mpp}")) as slide:
        assert slide.facts.objective_power == power
        assert any("disagree" in warning for warning in slide.facts.warnings) == disagrees


def test_a_stretched_level_is_named(tmp_path: Path) -> None:
    levels = [make.tissue_like(700, 601), make.tissue_like(175, 154)]
    path = make.write_svs(tmp_path / "a.svs", levels, DESCRIPTION, "x")
    with open_slide(path) as slide:
        assert [w for w in slide.facts.warnings if w.startswith("level 1 is stretched")]


def test_no_label_and_no_name_gets_into_the_facts(tmp_path: Path) -> None:
    secret = "CANARYDOE"
    details = f"|AppMag = 20|MPP = 0.5|User = {secret}|Date = 11/11/11|ImageID = {secret}"
    path = svs(tmp_path / f"{secret}.svs", details, secret)
    assert secret.encode() in path.read_bytes()
    with openslide.OpenSlide(path) as plain:
        assert {"label", "macro"} <= set(plain.associated_images)
    with open_slide(path) as slide:
        said = repr(dataclasses.asdict(slide.facts))
        assert [(x.width, x.height) for x in slide.facts.levels] == [(601, 700), (150, 175)]
    assert secret not in said
    assert "11/11/11" not in said
    assert "2011" not in said


def test_real_facts(real_data: Path) -> None:
    with open_slide(real_data / "ndpi/test3-DAPI-2-(387).ndpi") as slide:
        assert (slide.facts.vendor, slide.facts.scanner) == ("hamamatsu", "C9600-12")
        level = slide.facts.levels[0]
        assert (level.cell_width, level.cell_height) == (3968, 256), "tiles of 3968 x 8"
    with open_slide(real_data / "svs/TCGA-CR-7395-01A-01-TS1.svs") as slide:
        assert slide.facts.compression == "jpeg2000"
        assert slide.facts.mpp is None
        assert slide.facts.fingerprint.startswith("quickhash1:a07b51d43e29")
    with open_slide(real_data / "dicom/cmu-1-small-region-wsi2dcm") as slide:
        assert (slide.facts.vendor, slide.facts.compression) == ("dicom", "jpeg")
        assert slide.facts.mpp == (0.499, 0.499)
        assert len(slide.facts.levels) == 12


def test_a_fingerprint_is_made_where_openslide_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = svs(tmp_path / "a.svs", "")
    monkeypatch.setattr(openslide, "PROPERTY_NAME_QUICKHASH1", "no such property")
    with open_slide(path) as slide:
        first = slide.facts.fingerprint
    assert first.startswith("tiles1:")
    with open_slide(path) as slide:
        assert slide.facts.fingerprint == first


def test_a_dicom_slide_with_one_file_cut_off_is_refused(tmp_path: Path, real_data: Path) -> None:
    whole = real_data / "dicom/cmu-1-small-region-wsi2dcm"
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "level-3-frames-0-1.dcm"
    data = damaged.read_bytes()
    for end in (len(data) - 1, len(data) // 2, 3000):
        damaged.write_bytes(data[:end])
        for given in (tmp_path, tmp_path / "level-0-frames-0-30.dcm"):
            with pytest.raises(UnreadableSlide, match="the DICOM file is cut off"):
                open_slide(given)
    damaged.write_bytes(data + bytes(8))
    with open_slide(tmp_path) as slide:
        assert len(slide.facts.levels) == 12, "what follows the pixels is no damage"
