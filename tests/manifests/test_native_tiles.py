"""Stores with JPEG tiles as scanners made them: other quality, subsampling and colours than the
codec's configuration says. Such a payload is stored as it is and decoded by what it says itself.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from manifests import TileStore
from manifests.codec import Rgb, TileCodec, encode_jpeg
from tests.manifests.make import plan_store

SIZE = 32
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""The APP14 marker with transform 0: the three components are red, green and blue."""


def smooth_pixels() -> Rgb:
    """Colours that change slowly, far apart in red, green and blue: uint8 (S, S, 3)."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    return np.stack([250 - 4 * x, 20 + 3 * y, 120 + x + y], axis=2).astype(np.uint8)


def rgb_jpeg(pixels: Rgb) -> bytes:
    """A JPEG whose components are RGB, and called 1, 2, 3: only the marker tells what they are."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, keep_rgb=True)
    data = bytearray(file.getvalue())
    assert ADOBE_RGB in data
    # Names of the components in the headers of frame (3 bytes each) and scan (2 bytes each).
    for start, width in ((data.index(b"\xff\xc0") + 10, 3), (data.index(b"\xff\xda") + 5, 2)):
        assert data[start : start + 3 * width : width] == b"RGB"
        data[start : start + 3 * width : width] = b"\1\2\3"
    return bytes(data)


def pillow_pixels(data: bytes) -> Rgb:
    """The oracle: what Pillow sees in a JPEG."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


PAYLOADS = {
    "4:2:0, quality 70": encode_jpeg(smooth_pixels(), 70, "420"),
    "RGB with APP14": rgb_jpeg(smooth_pixels()),
    "4:2:2, quality 30": encode_jpeg(smooth_pixels(), 30, "422"),
    "as configured": encode_jpeg(smooth_pixels(), 90, "444"),
}


@pytest.fixture
def native_store(tmp_path: Path) -> Path:
    """A committed store of these payloads whose metadata say level 90 and 4:4:4."""
    tiles = np.zeros((len(PAYLOADS), SIZE, SIZE, 3), dtype=np.uint8)
    path = tmp_path / "a.zarr"
    writer = plan_store(path, tiles, codec=TileCodec("jpeg", quality=90, subsampling="444"))
    native = np.array([name != "as configured" for name in PAYLOADS])
    writer.write_shard("0.5", 0, PAYLOADS.values(), lambda: {"native": native})
    writer.commit()
    return path


def test_the_tiles_are_those_that_went_in(native_store: Path) -> None:
    group = TileStore(native_store)["0.5"]
    for i, payload in enumerate(PAYLOADS.values()):
        assert group.read_encoded(i) == payload
        np.testing.assert_array_equal(group.read(i), pillow_pixels(payload))
        # Reds, greens and blues lie where they should; 4:2:0 at quality 70 costs some.
        assert np.abs(group.read(i).astype(int) - smooth_pixels()).mean() < 4


def test_rgb_needs_its_marker() -> None:
    # Else the test above would pass with a decoder that does not look at it.
    data = PAYLOADS["RGB with APP14"].replace(ADOBE_RGB, b"")
    assert np.abs(pillow_pixels(data).astype(int) - smooth_pixels()).mean() > 40


def test_plain_zarr_reads_the_same(native_store: Path) -> None:
    group = TileStore(native_store)["0.5"]
    root: Any = zarr.open(str(native_store), mode="r")
    np.testing.assert_array_equal(root["0.5/tiles"][:], group.read_batch(range(len(PAYLOADS))))
    np.testing.assert_array_equal(root["0.5/tiles"][1], group.read(1))
    assert root["0.5/native"].dtype == group.column("native").dtype == np.bool_
    assert root["0.5/native"][:].tolist() == group.column("native").tolist()


def test_a_fresh_process_that_knows_only_zarr_reads_the_same(
    native_store: Path, tmp_path: Path
) -> None:
    script = (
        "import sys, zarr\n"
        "sys.stdout.buffer.write(zarr.open(sys.argv[1], mode='r')['0.5/tiles'][:].tobytes())\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(native_store)]
    done = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
    group = TileStore(native_store)["0.5"]
    assert done.stdout == group.read_batch(range(len(PAYLOADS))).tobytes()
