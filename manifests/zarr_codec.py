"""The Zarr codec that lets plain zarr-python open JPEG stores.

Registered under the entry point group `zarr.codecs` as `imagecodecs_jpeg`, the name and the
configuration (`level`, `subsampling`) that `imagecodecs-zarr` uses: a store opens with either
package. A chunk is one picture: all dimensions but the last two and the colours must be 1.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON

from manifests.codec import JPEG_CODEC, decode_jpeg, encode_jpeg


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """JPEG over chunks of uint8 RGB, shape (..., height, width, 3)."""

    is_fixed_size = False
    level: int = 90
    subsampling: str = "444"

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Read the codec's entry in a `zarr.json`; settings unknown to us are refused."""
        settings = data.get("configuration") or {}
        if not isinstance(settings, dict) or not set(settings) <= {"level", "subsampling"}:
            raise ValueError(f"{JPEG_CODEC} takes level and subsampling only, got {settings!r}")
        level, subsampling = settings.get("level", 90), settings.get("subsampling", "444")
        if not isinstance(level, int) or not isinstance(subsampling, str):
            raise ValueError(f"{JPEG_CODEC}: level is an int and subsampling a string: {settings}")
        return cls(level=level, subsampling=subsampling)

    def to_dict(self) -> dict[str, JSON]:
        """The codec's entry in a `zarr.json`."""
        settings: dict[str, JSON] = {"level": self.level, "subsampling": self.subsampling}
        return {"name": JPEG_CODEC, "configuration": settings}

    def compute_encoded_size(self, _input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """A JPEG's size is not known before it is made."""
        raise ValueError("the size of a JPEG cannot be computed from the size of its pixels")

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        *_, height, width, _ = chunk_spec.shape
        pixels = decode_jpeg(chunk_bytes.to_bytes(), height, width)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        *_, height, width, colours = chunk_spec.shape
        pixels = np.asarray(chunk_array.as_numpy_array(), dtype=np.uint8)
        data = encode_jpeg(pixels.reshape(height, width, colours), self.level, self.subsampling)
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)
