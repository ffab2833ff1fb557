"""Tiles to bytes and back: JPEG, or lossless Zstandard. Pixels are uint8 RGB, shape (S, S, 3).

What is written here is what the Zarr metadata (`zarr_codecs`) promises to other readers; the class
that lets zarr-python decode JPEG tiles lives in `manifests.zarr_codec`, so that reading a store
through histotile never imports zarr.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import simplejpeg

from manifests.errors import StoreError
from manifests.files import Json

Rgb = npt.NDArray[np.uint8]
Subsampling = Literal["444", "422", "420"]

JPEG_CODEC = "imagecodecs_jpeg"
"""Name of the JPEG codec in Zarr metadata: the one that `imagecodecs-zarr` registers, too."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class TileCodec:
    """How tiles are encoded in a store."""

    name: Literal["jpeg", "zstd"]
    """`jpeg` (lossy, small) or `zstd` (lossless, readable by any Zarr v3 reader)."""
    quality: int = 90
    """JPEG quality, 1 to 100; of no effect for zstd."""
    subsampling: Subsampling = "444"
    """JPEG chroma subsampling; of no effect for zstd. 4:2:0 halves the colour that stains carry."""
    level: int = 3
    """Zstandard level; of no effect for JPEG."""

    def __post_init__(self) -> None:
        if self.name not in ("jpeg", "zstd"):
            raise ValueError(f"codec must be jpeg or zstd, got {self.name!r}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"JPEG quality must lie in 1 to 100, got {self.quality}")
        if self.subsampling not in ("444", "422", "420"):
            raise ValueError(f"subsampling must be 444, 422 or 420, got {self.subsampling!r}")
        if not 1 <= self.level <= 22:
            raise ValueError(f"zstd level must lie in 1 to 22, got {self.level}")

    def encode(self, tile: Rgb) -> bytes:
        """Encode uint8 pixels (height, width, 3); the same pixels give the same bytes."""
        pixels = np.ascontiguousarray(tile)
        if self.name == "jpeg":
            return encode_jpeg(pixels, self.quality, self.subsampling)
        import numcodecs.zstd

        return bytes(numcodecs.zstd.compress(pixels, self.level))

    def decode(self, data: bytes, height: int, width: int, out: Rgb | None = None) -> Rgb:
        """Decode to uint8 (height, width, 3).

        Args:
            out: contiguous, of that shape: where to put the pixels; it is returned.

        Raises:
            StoreError: the bytes are damaged or hold a picture of another size.
        """
        if self.name == "jpeg":
            return decode_jpeg(data, height, width, out)
        import numcodecs.zstd

        # The header first: a frame of a few bytes can ask for any amount of memory.
        size = zstd_content_bytes(data)
        if size != height * width * 3:
            raise StoreError(f"a zstd tile holds {size} bytes, not {height * width * 3}")
        try:
            raw = numcodecs.zstd.decompress(data)
        except (RuntimeError, ValueError) as error:
            raise StoreError(f"a zstd tile cannot be decoded ({error})") from error
        if len(raw) != size:
            raise StoreError(f"a zstd tile holds {len(raw)} bytes, but its header says {size}")
        pixels = np.frombuffer(raw, dtype=np.uint8).reshape(height, width, 3)
        if out is None:
            return pixels
        out[:] = pixels
        return out

    def zarr_codecs(self) -> list[Json]:
        """The inner codec chain as Zarr v3 metadata."""
        return [*self._array_to_bytes(), {"name": "crc32c"}]

    def _array_to_bytes(self) -> list[Json]:
        if self.name == "jpeg":
            settings = {"level": self.quality, "subsampling": self.subsampling}
            return [{"name": JPEG_CODEC, "configuration": settings}]
        settings_zstd = {"level": self.level, "checksum": False}
        return [{"name": "bytes"}, {"name": "zstd", "configuration": settings_zstd}]

    def to_json(self) -> dict[str, Json]:
        """The parameters that change bytes, for specs and manifests."""
        if self.name == "jpeg":
            return {"name": "jpeg", "quality": self.quality, "subsampling": self.subsampling}
        return {"name": "zstd", "level": self.level}


def codec_from_zarr(codecs: list[Json]) -> TileCodec:
    """The inverse of `TileCodec.zarr_codecs`.

    Raises:
        StoreError: the chain is not one that histotile writes.
    """
    names = [codec["name"] for codec in codecs]
    if names == [JPEG_CODEC, "crc32c"]:
        settings = codecs[0]["configuration"]
        return TileCodec("jpeg", quality=settings["level"], subsampling=settings["subsampling"])
    if names == ["bytes", "zstd", "crc32c"]:
        return TileCodec("zstd", level=codecs[1]["configuration"]["level"])
    raise StoreError(f"the store uses the codecs {names}, which this version cannot read")


def encode_jpeg(pixels: Rgb, quality: int, subsampling: str) -> bytes:
    """Encode uint8 RGB (height, width, 3) as a baseline JPEG."""
    return cast(
        bytes,
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels),
            quality=quality,
            colorspace="RGB",
            colorsubsampling=subsampling,
        ),
    )


def decode_jpeg(data: bytes, height: int, width: int, out: Rgb | None = None) -> Rgb:
    """Decode a JPEG of exactly that size; a damaged or foreign one raises `StoreError`.

    Args:
        out: uint8 (height, width, 3), contiguous: where to put the pixels; it is returned.
    """
    try:
        # The header first: a 14 kB JPEG can ask for 12 GiB of pixels.
        found_height, found_width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (found_height, found_width) != (height, width):
            raise StoreError(
                f"a JPEG tile is {found_width} x {found_height} px, not {width} x {height}"
            )
        if out is None:
            return cast(Rgb, simplejpeg.decode_jpeg(data, colorspace="RGB"))
        if out.shape != (height, width, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise TypeError(f"out must be contiguous uint8 of shape {(height, width, 3)}")
        simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
        return out
    except ValueError as error:
        raise StoreError(f"a JPEG tile cannot be decoded ({error})") from error


def zstd_content_bytes(data: bytes) -> int:
    """The size of a Zstandard frame's content, as its header states it (RFC 8878, 3.1.1.1).

    Raises:
        StoreError: the bytes are no frame, or the frame does not state a size.
    """
    if data[:4] != _ZSTD_MAGIC or len(data) < 5:
        raise StoreError("a zstd tile cannot be decoded (it does not begin as a zstd frame)")
    descriptor = data[4]
    single_segment = descriptor >> 5 & 1
    field_bytes = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    field = data[start : start + field_bytes]
    if not field_bytes or len(field) != field_bytes:
        raise StoreError("a zstd tile cannot be decoded (its frame states no size)")
    return int.from_bytes(field, "little") + (256 if field_bytes == 2 else 0)
