"""`open_slide`: which reader it takes, and that nothing a file holds gets past it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiler.slides import make
from tiler.errors import PixelReadError, UnreadableSlide
from tiler.slides import open_slide


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"not an image at all", "the file is no slide or picture of a known format"),
        (b"II*\0\x08\0\0\0", "the TIFF holds no image"),
        (b"MM\0*", "the TIFF structure is damaged"),
        (b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0", "the TIFF holds no image"),
        (b"\x89PNG\r\n\x1a\n", "the picture is damaged"),
        (b"\xff\xd8\xff\xe0", "the picture is damaged"),
        (bytes(128) + b"DICM", "the DICOM file is cut off"),
    ],
)
def test_what_is_no_slide_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "Jane Doe.svs"
    path.write_bytes(content)
    with pytest.raises(UnreadableSlide) as caught:
        open_slide(path)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)
    assert "Jane" not in str(caught.value), "file names may be names of patients"


def test_missing_files_and_odd_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSlide, match="no such file"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(UnreadableSlide, match="the folder holds no DICOM slide"):
        open_slide(tmp_path)


def test_a_surprise_in_a_library_becomes_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(_path: Path) -> None:
        raise MemoryError

    path = make.write_tiff(tmp_path / "a.tif", make.tissue_like(16, 16))
    monkeypatch.setattr("tiler.slides.tiffpages.read_tiff", surprise)
    with pytest.raises(UnreadableSlide, match="cannot be opened: MemoryError") as caught:
        open_slide(path)
    assert isinstance(caught.value.__cause__, MemoryError)


def test_the_readers_by_content(real_data: Path) -> None:
    expected = {
        "svs/CMU-1-Small-Region.svs": ("openslide", "aperio"),
        "ome_tiff/OS-1-detail.ome.tif": ("tiff", "ome-tiff"),
        "derived/OS-2-ndpi_pyramid.ome.tif": ("tiff", "ome-tiff"),
        "dicom/wsi2dcm-jpeg2000.dcm": ("openslide", "dicom"),
        "he_fields/stardist_histo.jpg": ("picture", "jpeg"),
        "ihc_fields/skimage-ihc.png": ("picture", "png"),
    }
    for name, (reader, vendor) in expected.items():
        with open_slide(real_data / name) as slide:
            assert (slide.facts.reader, slide.facts.vendor) == (reader, vendor)


def test_fluorescence_is_refused(real_data: Path) -> None:
    with pytest.raises(UnreadableSlide, match="found 3 separate channels of uint8"):
        open_slide(real_data / "qptiff/small_vectra.qptiff")


def test_every_broken_file_is_refused_or_read_as_far_as_it_goes(real_data: Path) -> None:
    paths = [path for path in sorted((real_data / "broken").rglob("*")) if path.is_file()]
    assert len(paths) >= 138
    openable: set[str] = set()
    refusals: list[str] = []
    failures: list[str] = []
    for path in paths:
        try:
            slide = open_slide(path)
        except UnreadableSlide as error:
            refusals.append(str(error))
            continue
        openable.add(path.name)
        with slide:
            for index, level in enumerate(slide.facts.levels):
                for column in range(-(-level.width // level.cell_width)):
                    try:
                        slide.read_cell(index, column, 0)
                    except PixelReadError as error:
                        failures.append(str(error))
    assert all(reason and "\n" not in reason for reason in refusals)
    assert failures
    assert all("level-0" in reason for reason in failures)
    assert openable == {
        "derived_CMU-1-Small-Region_3_zeroed_jpeg_tiles.svs",
        "openslide-python-unreadable.svs",
    }


def test_broken_files_need_little_memory(real_data: Path) -> None:
    """In a process of its own, which may not map more than it needs for its libraries."""
    script = (
        "import re, sys; from pathlib import Path\n"
        "from tiler.slides import open_slide; from tiler.errors import UnreadableSlide\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: open_slide(path)\n"
        "    except UnreadableSlide: pass\n"
        # Not ru_maxrss: that counts what the parent held when it started this process.
        "status = Path('/proc/self/status').read_text()\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1])\n"
    )
    folder = real_data / "broken" / "image-tiff_fuzz"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=_limit_address_space,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300 * 1024, "KiB"


def _limit_address_space() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))


def test_importing_the_door_loads_no_decoder() -> None:
    script = (
        "import sys, tiler.slides\n"
        "heavy = {'openslide', 'tifffile', 'imagecodecs', 'PIL', 'simplejpeg'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
