"""Tiles to bytes and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manifests.codec import (
    Rgb,
    Subsampling,
    TileCodec,
    codec_from_zarr,
    decode_jpeg,
    encode_jpeg,
    zstd_content_bytes,
)
from manifests.errors import StoreError
from tests.manifests.make import tile_pixels

SIDES = st.integers(1, 40)
TILES = st.tuples(SIDES, SIDES, st.just(3)).flatmap(lambda shape: arrays(np.uint8, shape))


def psnr_db(one: Rgb, other: Rgb) -> float:
    """Peak signal-to-noise ratio; infinite for equal pixels."""
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@given(tile=TILES, level=st.integers(1, 22))
@settings(deadline=None, max_examples=60)
def test_zstd_gives_back_every_pixel(tile: Rgb, level: int) -> None:
    codec = TileCodec("zstd", level=level)
    height, width, _ = tile.shape
    np.testing.assert_array_equal(codec.decode(codec.encode(tile), height, width), tile)


@given(tile=TILES, quality=st.integers(90, 100))
@settings(deadline=None, max_examples=60)
def test_jpeg_stays_close_even_on_noise(tile: Rgb, quality: int) -> None:
    codec = TileCodec("jpeg", quality=quality)
    height, width, _ = tile.shape
    found = codec.decode(codec.encode(tile), height, width)
    assert found.shape == tile.shape
    # The bound is for noise, the worst case; see the next test for pictures.
    assert psnr_db(found, tile) > 20


@pytest.mark.parametrize(
    ("quality", "subsampling", "least_db"),
    [(75, "444", 31), (90, "444", 35), (90, "422", 22), (90, "420", 19), (100, "444", 44)],
)
def test_jpeg_quality_and_colour_resolution_bound_the_error(
    quality: int, subsampling: Subsampling, least_db: float
) -> None:
    codec = TileCodec("jpeg", quality=quality, subsampling=subsampling)
    for tile in tile_pixels(6, size=64, seed=3)[1:]:
        assert psnr_db(codec.decode(codec.encode(tile), 64, 64), tile) > least_db


@pytest.mark.parametrize("codec", [TileCodec("jpeg"), TileCodec("zstd")])
def test_the_same_pixels_give_the_same_bytes(codec: TileCodec) -> None:
    tiles = tile_pixels(5, size=64)
    again = np.asfortranarray(tiles)[::-1]  # another memory layout, the same pixels
    assert [codec.encode(t) for t in tiles] == [codec.encode(t) for t in again[::-1]]


@given(
    codec=st.builds(
        TileCodec,
        st.sampled_from(["jpeg", "zstd"]),
        quality=st.integers(1, 100),
        subsampling=st.sampled_from(["444", "422", "420"]),
        level=st.integers(1, 22),
    )
)
def test_what_zarr_metadata_say_is_what_encoded_the_tiles(codec: TileCodec) -> None:
    found = codec_from_zarr(codec.zarr_codecs())
    assert found.to_json() == codec.to_json()
    assert found.zarr_codecs() == codec.zarr_codecs()


def test_codecs_of_other_writers_are_refused_by_name() -> None:
    with pytest.raises(StoreError, match=r"uses the codecs .*blosc.*, which this version cannot"):
        codec_from_zarr([{"name": "bytes"}, {"name": "blosc"}])


@pytest.mark.parametrize(
    "wrong",
    [{"name": "webp"}, {"quality": 0}, {"quality": 101}, {"subsampling": "411"}, {"level": 0}],
)
def test_settings_that_do_not_exist_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        TileCodec(**{"name": "jpeg", **wrong})  # type: ignore[arg-type]


@given(data=st.binary(max_size=400))
@settings(deadline=None)
@pytest.mark.parametrize("name", ["jpeg", "zstd"])
def test_arbitrary_bytes_decode_to_an_error(name: str, data: bytes) -> None:
    with pytest.raises(StoreError):
        TileCodec(name).decode(data, 16, 16)  # type: ignore[arg-type]


@given(cut=st.integers(0, 10_000), codec=st.sampled_from([TileCodec("jpeg"), TileCodec("zstd")]))
@settings(deadline=None)
def test_truncated_tiles_decode_to_an_error(cut: int, codec: TileCodec) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = codec.encode(tile)
    with pytest.raises(StoreError):
        codec.decode(data[: cut % (len(data) - 2)], 32, 32)


def test_a_zstd_tile_of_another_size_is_refused() -> None:
    data = TileCodec("zstd").encode(tile_pixels(1, size=16)[0])
    with pytest.raises(StoreError, match="holds 768 bytes, not 3072"):
        TileCodec("zstd").decode(data, 32, 32)


@pytest.mark.parametrize("promised", [0, 1, 767, 769, 2**20, 2**40, 2**62])
def test_a_zstd_frame_of_another_size_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch, promised: int
) -> None:
    # Descriptor 0xE0: a single segment whose content size stands in the next eight bytes.
    frame = b"\x28\xb5\x2f\xfd\xe0" + promised.to_bytes(8, "little") + b"\x01\x00\x00"

    def unpack(_data: bytes) -> None:
        raise AssertionError("a foreign frame was unpacked")

    monkeypatch.setattr("numcodecs.zstd.decompress", unpack)
    with pytest.raises(StoreError, match=f"holds {promised} bytes, not 768"):
        TileCodec("zstd").decode(frame, 16, 16)


@given(tile=TILES, level=st.integers(1, 22))
@settings(deadline=None, max_examples=60)
def test_the_size_in_a_zstd_frame_is_the_size_of_its_content(tile: Rgb, level: int) -> None:
    assert zstd_content_bytes(TileCodec("zstd", level=level).encode(tile)) == tile.nbytes


def test_grey_jpegs_decode_to_three_equal_colours() -> None:
    import simplejpeg

    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    data = simplejpeg.encode_jpeg(grey, colorspace="GRAY", quality=100)
    found = decode_jpeg(data, 16, 16)
    assert found.shape == (16, 16, 3)
    assert np.ptp(found.astype(int), axis=2).max() == 0


def test_encoding_takes_views_of_larger_pictures() -> None:
    picture = tile_pixels(1, size=64, seed=5)
    view = picture[0, 8:40, 16:48]
    assert encode_jpeg(view, 90, "444") == encode_jpeg(view.copy(), 90, "444")
