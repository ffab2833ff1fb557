"""The Zarr codec for JPEG tiles, as zarr-python uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from manifests.codec import TileCodec
from manifests.zarr_codec import JpegCodec
from tests.manifests.make import tile_pixels


def test_zarr_writes_and_reads_jpeg_arrays_through_it(tmp_path: Path) -> None:
    tiles = tile_pixels(3)
    array = zarr.create_array(
        str(tmp_path / "a.zarr"),
        shape=tiles.shape,
        chunks=(1, 32, 32, 3),
        dtype="uint8",
        serializer=JpegCodec(level=90, subsampling="444"),
        compressors=None,
        filters=None,
    )
    array[:] = tiles
    found = zarr.open_array(str(tmp_path / "a.zarr"), mode="r")[:]
    codec = TileCodec("jpeg")
    expected = [codec.decode(codec.encode(tile), 32, 32) for tile in tiles]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_the_name_is_registered_for_zarr() -> None:
    from zarr.registry import get_codec_class

    assert get_codec_class("imagecodecs_jpeg") is JpegCodec


def test_metadata_survive_a_round_trip() -> None:
    codec = JpegCodec(level=75, subsampling="420")
    assert JpegCodec.from_dict(codec.to_dict()) == codec
    assert JpegCodec.from_dict({"name": "imagecodecs_jpeg"}) == JpegCodec(90, "444")


@pytest.mark.parametrize(
    "settings", [{"colorspace": "YCbCr"}, {"level": "high"}, {"subsampling": 444}, [90]]
)
def test_settings_that_we_cannot_honour_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match="imagecodecs_jpeg"):
        JpegCodec.from_dict({"name": "imagecodecs_jpeg", "configuration": settings})
