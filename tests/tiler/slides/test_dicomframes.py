"""DICOM frames decoded past OpenSlide, against OpenSlide; and files that lie about them."""

from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from tests.tiler.slides import make, make_dicom
from tests.tiler.slides.test_openslide import read_region
from tiler.errors import PixelReadError, UnreadableSlide
from tiler.slides import dicom, dicomframes, open_slide
from tiler.slides.base import Level
from tiler.slides.direct import Road
from tiler.slides.rawfile import RawFile

PIXELS = make.tissue_like(300, 400)
"""Neither side a multiple of the frames' 128 px: the last ones are padded."""

ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
TABLES = ("none", "basic", "extended")


def write(folder: Path, **changes: Any) -> Path:
    """Write a slide of one level with JPEG frames of 128 px."""
    return make_dicom.write(folder / "a.dcm", make_dicom.slide(PIXELS, **changes))


def jpegs(colours: str, subsampling: str | None, markers: bytes = b"") -> list[bytes]:
    tiles = make.tiles_of(PIXELS, 128)
    return [make_dicom.jpeg(tile, colours, subsampling, markers) for tile in tiles]


def check(path: Path, tolerance: int = 0, pixels: str = "direct") -> str:
    """Hold all levels against OpenSlide's; return why they are read as they are."""
    with open_slide(path) as slide:
        assert (slide.facts.reader, slide.facts.pixels) == ("openslide", pixels), slide.facts
        for level in range(len(slide.facts.levels)):
            found, expected = make.whole_level(slide, level), read_region(path, level)
            assert np.abs(found.astype(int) - expected).max() <= tolerance
        return slide.facts.pixels_why


@pytest.mark.parametrize("table", TABLES)
def test_frames_are_found_however_they_are_told(tmp_path: Path, table: str) -> None:
    reason = check(write(tmp_path, table=table))
    assert reason == "jpeg tiles of 128 x 128 px lie edge to edge"


@pytest.mark.parametrize(
    ("photometric", "colours", "subsampling", "markers"),
    [
        ("YBR_FULL_422", "ycbcr", "422", b""),
        ("YBR_FULL_422", "ycbcr", "422", JFIF),
        ("YBR_FULL_422", "ycbcr", "444", b""),
        ("YBR_FULL_422", "ycbcr", "420", b""),
        ("RGB", "rgb", None, b""),
        ("RGB", "rgb", None, ADOBE_RGB),
        # The header's word on colours is what counts, also where it seems odd.
        ("RGB", "ycbcr", "422", b""),
        ("YBR_FULL_422", "ycbcr", "422", ADOBE_RGB),
    ],
)
def test_jpeg_colours_are_the_same(
    tmp_path: Path, photometric: str, colours: str, subsampling: str | None, markers: bytes
) -> None:
    frames = jpegs(colours, subsampling, markers)
    check(write(tmp_path, frames=frames, photometric=photometric))


@pytest.mark.parametrize(
    ("syntax", "photometric"),
    [
        (make_dicom.JPEG2000_LOSSLESS, "YBR_RCT"),
        (make_dicom.JPEG2000_LOSSLESS, "RGB"),
        (make_dicom.JPEG2000, "YBR_ICT"),
    ],
)
def test_jpeg2000_is_the_same_within_rounding(
    tmp_path: Path, syntax: str, photometric: str
) -> None:
    is_lossless = syntax == make_dicom.JPEG2000_LOSSLESS
    tiles = list(make.tiles_of(PIXELS, 128))
    frames = [make_dicom.jpeg2000(tile, is_lossless=is_lossless) for tile in tiles]
    path = write(tmp_path, frames=frames, syntax=syntax, photometric=photometric)
    check(path, tolerance=0 if is_lossless else 1)
    if is_lossless:
        with open_slide(path) as slide:
            np.testing.assert_array_equal(make.whole_level(slide), PIXELS)


@pytest.mark.parametrize(
    "name",
    [
        "wsi2dcm-jpeg.dcm",
        "wsi2dcm-jpeg2000.dcm",
        "camelyon-multi_frame_jpeg.dcm",
        "camelyon-multi_frame_jpeg2000.dcm",
    ],
)
def test_every_real_slide_is_the_same(tmp_path: Path, real_data: Path, name: str) -> None:
    # Two files of one series lie there.
    check(Path(shutil.copy(real_data / "dicom" / name, tmp_path)))


def test_a_real_slide_of_ambiguous_colours_is_left_to_openslide(real_data: Path) -> None:
    with open_slide(real_data / "dicom/cmu-1-small-region-wsi2dcm") as slide:
        assert slide.facts.pixels == "openslide"
        assert slide.facts.pixels_why == "JFIF tiles in a file that says RGB are ambiguous"


def test_a_frame_is_handed_on_as_it_is(tmp_path: Path) -> None:
    with open_slide(write(tmp_path)) as slide:
        slide.will_need(0, [(0, 0), (1, 1)])
        native = slide.native_tile(0, 1, 1)
        assert native is not None
        expected = slide.read_cell(0, 1, 1)
        np.testing.assert_array_equal(simplejpeg.decode_jpeg(native), expected)
        assert slide.native_tile(0, 3, 2) is None, "it is padded"


def test_frames_are_reduced_while_they_are_decoded(tmp_path: Path) -> None:
    path = write(tmp_path)
    with open_slide(path) as slide, open_slide(path, reader="openslide") as other:
        assert (other.facts.pixels, slide.facts.pixels) == ("openslide", "direct")
        found = slide.read_cell(0, 1, 1, 4).astype(int)
        assert np.abs(found - other.read_cell(0, 1, 1, 4)).mean() < 2


@pytest.mark.parametrize("table", ["basic", "extended"])
def test_divided_frames_are_left_to_openslide(tmp_path: Path, table: str) -> None:
    path = write(tmp_path, table=table, fragments=2)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(make.whole_level(slide), read_region(path, 0))
        assert slide.native_tile(0, 0, 0) is None


@pytest.mark.parametrize("table", ["basic", "extended"])
def test_one_divided_frame_among_others_is_left_to_openslide(tmp_path: Path, table: str) -> None:
    path = write(tmp_path, table=table)
    whole = read_region(path, 0)
    frame = make_dicom.slide(PIXELS).frames[1]
    # Eight bytes of the frame's end are those of a second item now.
    data = path.read_bytes()
    place = data.index(make_dicom.item(frame)) + 8
    length = len(frame) + len(frame) % 2
    parts = length - 48, 40
    header, second = (struct.pack("<HHI", 0xFFFE, 0xE000, part) for part in parts)
    changed = header + data[place : place + parts[0]] + second + data[place + parts[0] + 8 :]
    path.write_bytes(data[: place - 8] + changed)
    with open_slide(path) as slide:
        assert slide.facts.pixels == "direct"
        assert slide.native_tile(0, 1, 0) is None
        np.testing.assert_array_equal(slide.read_cell(0, 2, 0), whole[:128, 256:384])
        try:
            found = slide.read_cell(0, 1, 0)
        except PixelReadError:
            return  # OpenSlide knows that it is damaged
        np.testing.assert_array_equal(found, read_region(path, 0)[:128, 128:256])


UNUSUAL: dict[str, tuple[dict[str, Any], str]] = {
    "sparse": (
        {"organization": "TILED_SPARSE", "extra": {(0x5200, 0x9230): (b"SQ", b"")}},
        "its frames are placed one by one",
    ),
    "places of frames": (
        {"extra": {(0x5200, 0x9230): (b"SQ", b"")}},
        "its frames are placed one by one",
    ),
    "more frames": (
        {"frames": [*jpegs("ycbcr", "422"), *jpegs("ycbcr", "422")]},
        "the number of its frames is not that of its tiles",
    ),
    "a JFIF that is RGB": (
        {"frames": jpegs("rgb", None, JFIF), "photometric": "RGB"},
        "JFIF tiles in a file that says RGB are ambiguous",
    ),
    "too long a table": ({"table": "basic", "spare_entries": 1}, "has not one entry for each"),
}


@pytest.mark.parametrize(("changes", "reason"), UNUSUAL.values(), ids=UNUSUAL.keys())
def test_the_unusual_is_left_to_openslide(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path, **changes)
    with open_slide(path) as slide:
        assert slide.facts.pixels == "openslide"
        assert reason in slide.facts.pixels_why
    if "spare_entries" not in changes:  # which OpenSlide does not read
        check(path, pixels="openslide")


def roads(path: Path, side: int = 128, size: tuple[int, int] = (400, 300)) -> list[Road]:
    """The road to the level in one file, as OpenSlide would tell that level."""
    files: list[RawFile] = []

    def open_file(path: Path) -> RawFile:
        files.append(RawFile(path))
        return files[-1]

    level = Level(*size, 1.0, 1.0, side, side)
    white = (255, 255, 255)
    try:
        levels = dicomframes.read_levels((path,))
        found = dicomframes.find_roads(levels, (level,), white, open_file, is_exact=False)
        for road in found:
            if road.reader is not None:
                _read_all(road, -(-size[0] // side), -(-size[1] // side))
        return list(found)
    finally:
        for file in files:
            file.close()


def _read_all(road: Road, columns: int, rows: int) -> None:
    assert road.reader is not None
    for column, row in np.ndindex(columns, rows):
        try:
            if not road.reader.is_elsewhere(column, row):
                road.reader.read(column, row)
        except Exception:  # noqa: BLE001 - codecs have classes of their own; the slide names it
            continue


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another syntax": (
        {"syntax": "1.2.840.10008.1.2.4.70"},
        "its frames are neither baseline JPEG nor JPEG 2000",
    ),
    "uncompressed": (
        {"syntax": "1.2.840.10008.1.2.1"},
        "its frames are neither baseline JPEG nor JPEG 2000",
    ),
    "other colours": ({"photometric": "YBR_FULL"}, "its colours are none of those"),
    "colours of another codec": ({"photometric": "YBR_ICT"}, "its colours are none of those"),
    "part of a level": (
        {"extra": {(0x0020, 0x9161): (b"UI", b"1.2.3")}},
        "the level is spread over several files",
    ),
    "too few frames": (
        {"number_of_frames": 12, "frames": jpegs("ycbcr", "422")[:11]},
        "do not lie one behind the other",
    ),
    "too many frames": (
        {"number_of_frames": 12, "frames": [*jpegs("ycbcr", "422"), b"\0\0"]},
        "its frames are divided, or more than its tiles",
    ),
    "divided without a table": ({"fragments": 2}, "its frames are divided"),
    "a number that is none": (
        {"extra": {(0x0028, 0x0008): (b"IS", b"12a ")}},
        "the number of its frames cannot be",
    ),
    "no size of frames": (
        {"extra": {(0x0028, 0x0010): (b"US", b"\0\0")}},
        "the size of the level or of its frames is missing",
    ),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_plain_level_has_no_road(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    (road,) = roads(write(tmp_path, **changes))
    assert road.reader is None
    assert reason in road.why


def test_too_many_frames_without_a_table_are_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomframes, "_MOST_WALKED", 11)
    (road,) = roads(write(tmp_path))
    assert road.why == "it has 12 frames and no table of them"
    assert roads(write(tmp_path, table="basic"))[0].reader is not None


def test_each_level_is_read_from_its_own_file(tmp_path: Path) -> None:
    small = make.tissue_like(150, 200, 1)
    make_dicom.write(tmp_path / "0.dcm", make_dicom.slide(PIXELS))
    kind = "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    level = make_dicom.slide(small, image_type=kind, instance="1.2.5", table="extended")
    make_dicom.write(tmp_path / "1.dcm", level)
    kind = "ORIGINAL\\PRIMARY\\LABEL\\NONE"
    label = make_dicom.slide(small[:128, :128], image_type=kind, instance="1.2.6")
    make_dicom.write(tmp_path / "2.dcm", label)
    check(tmp_path / "0.dcm")
    with open_slide(tmp_path) as slide:
        assert [level.downsample_x for level in slide.facts.levels] == [1.0, 2.0]
        first = slide.read_cell(1, 0, 0)
        assert np.abs(first.astype(int) - small[:128, :128]).mean() < 6


def test_a_level_in_two_files_is_left_to_openslide(tmp_path: Path) -> None:
    path = write(tmp_path)
    shutil.copy(path, tmp_path / "copy.dcm")
    reason = check(path, pixels="openslide")
    assert reason == "2 files of the slide have the size of the level"


def test_small_levels_of_one_frame_are_read_directly(tmp_path: Path) -> None:
    pixels = make.tissue_like(23, 17)
    check(make_dicom.write(tmp_path / "a.dcm", make_dicom.slide(pixels, 32)))


SMALL = make.tissue_like(32, 32)


def why(path: Path) -> str:
    """Read what can be read of a slide of four frames; return what there is to say."""
    try:
        return roads(path, 16, (32, 32))[0].why
    except UnreadableSlide as error:
        return str(error)


@pytest.mark.parametrize("table", TABLES)
def test_no_cut_gets_past_the_reader(tmp_path: Path, table: str) -> None:
    path = tmp_path / "a.dcm"
    data = make_dicom.write(path, make_dicom.slide(SMALL, 16, table=table)).read_bytes()
    assert why(path) == "jpeg tiles of 16 x 16 px lie edge to edge"
    for length in range(len(data) - 1, -1, -1):
        os.truncate(path, length)
        assert why(path) != "jpeg tiles of 16 x 16 px lie edge to edge" or length > len(data) - 5


@pytest.mark.parametrize("table", TABLES)
def test_no_changed_byte_gets_past_the_reader(tmp_path: Path, table: str) -> None:
    path = tmp_path / "a.dcm"
    slide = make_dicom.slide(SMALL, 16, table=table)
    data = make_dicom.write(path, slide).read_bytes()
    starts = [data.index(make_dicom.item(frame)) for frame in slide.frames]
    items = {start + byte for start in starts for byte in range(8)}
    places = {*range(132, starts[0]), *items, *range(starts[0], len(data), 61)}
    tracemalloc.start()
    for place in sorted(places):
        for value in (0x00, 0xFF, data[place] ^ 1, data[place] ^ 0x80):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            why(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_sizes_that_no_file_holds_are_refused_at_once(tmp_path: Path) -> None:
    giant = (b"UL", struct.pack("<I", 2**32 - 1))
    extra = {(0x48, 6): giant, (0x48, 7): giant, (0x28, 8): (b"IS", b"1125899873288192")}
    for table in TABLES:
        (road,) = roads(write(tmp_path, table=table, extra=extra), 128, (2**32 - 1,) * 2)
        assert road.why == "the number of its frames cannot be"


FATAL: dict[str, tuple[str, int, int]] = {
    f"{table}, entry {entry}, {offset}": (table, entry, offset)
    for table, largest in (("basic", 2**32), ("extended", 2**64))
    for entry in (0, 5, 11)
    for offset in (largest - 1, largest // 2, largest // 2 - 1, largest - 8, 10**6)
}


@pytest.mark.parametrize(("table", "entry", "offset"), FATAL.values(), ids=FATAL.keys())
def test_tables_on_which_openslide_crashes_are_refused(
    tmp_path: Path, table: str, entry: int, offset: int
) -> None:
    """OpenSlide 4.0.1 takes the process with it when it reads such a frame."""
    path = write(tmp_path, table=table)
    data = path.read_bytes()
    kind = "<I" if table == "basic" else "<Q"
    second = struct.pack(kind, len(make_dicom.item(make_dicom.slide(PIXELS).frames[0])))
    place = data.index(bytes(len(second)) + second) + entry * len(second)
    path.write_bytes(data[:place] + struct.pack(kind, offset) + data[place + len(second) :])
    for reader in ("auto", "openslide"):
        with pytest.raises(UnreadableSlide, match="the table of frames in the DICOM file is dam"):
            open_slide(path, reader=reader)


@pytest.mark.parametrize("organization", ["TILED_SPARSE", "3D"])
def test_frames_without_places_are_refused(tmp_path: Path, organization: str) -> None:
    """OpenSlide 4.0.1 takes the process with it when it opens such a file."""
    path = write(tmp_path, organization=organization)
    with pytest.raises(UnreadableSlide, match="does not say where its frames belong"):
        open_slide(path)


def test_damage_is_told_and_costs_one_cell(tmp_path: Path) -> None:
    path = write(tmp_path, table="basic")
    data = path.read_bytes()
    place = data.index(make_dicom.slide(PIXELS).frames[1])
    path.write_bytes(data[: place + 4] + bytes(40) + data[place + 44 :])
    with open_slide(path) as slide:
        with pytest.raises(PixelReadError, match=r"level-0 \(128, 0\)"):
            slide.read_cell(0, 1, 0)
        assert slide.read_cell(0, 2, 0).shape == (128, 128, 3)
    path.write_bytes(data[:-100])
    with pytest.raises(UnreadableSlide, match="the DICOM file is cut off"):
        open_slide(path)


def test_a_frame_beyond_four_gigabytes_is_found(tmp_path: Path) -> None:
    frames = [make_dicom.jpeg(tile, "ycbcr", "422") for tile in make.tiles_of(SMALL[:16], 16)]
    path = tmp_path / "a.dcm"
    slide = make_dicom.slide(SMALL[:16], 16, frames=frames, table="extended")
    data = make_dicom.write(path, slide).read_bytes()
    second = data.index(make_dicom.item(frames[1]))
    gap = 2**32 - 2**16
    length = len(frames[0]) + len(frames[0]) % 2
    offsets = data.index(struct.pack("<2Q", 0, length + 8))
    start = data.index(make_dicom.item(frames[0]))
    told = data[: offsets + 8] + struct.pack("<Q", length + 8 + gap) + data[offsets + 16 :]
    with path.open("wb") as file:
        file.write(told[:start] + struct.pack("<HHI", 0xFFFE, 0xE000, length + gap))
        file.write(told[start + 8 : second])
        file.seek(gap, os.SEEK_CUR)  # a hole
        file.write(told[second:])
    files = [RawFile(path)]
    level = Level(32, 16, 1.0, 1.0, 16, 16)
    levels = dicomframes.read_levels((path,))
    white = (255, 255, 255)
    (road,) = dicomframes.find_roads(levels, (level,), white, lambda _: files[0], is_exact=True)
    assert road.reader is not None
    assert not road.reader.is_elsewhere(1, 0)
    expected = simplejpeg.decode_jpeg(frames[1][:2] + JFIF + frames[1][2:])
    np.testing.assert_array_equal(road.reader.read(1, 0), expected)
    files[0].close()


def test_a_header_too_long_to_follow_is_not_taken_for_a_cut(tmp_path: Path) -> None:
    empty = struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1)
    empty += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    path = write(tmp_path, extra={(0x5200, 0x9230): (b"UN", empty * 12_000)})
    data = path.read_bytes()
    place = data.index(struct.pack("<HH2sHI", 0x5200, 0x9230, b"UN", 0, 16 * 12_000))
    begin = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, 2**32 - 1)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    body = place + 12 + 16 * 12_000
    path.write_bytes(data[:place] + begin + data[place + 12 : body] + end + data[body:] + bytes(4))
    dicom.check_complete(path)
    assert roads(path)[0].reader is None
