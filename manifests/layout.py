"""Where things lie in a store and what its Zarr metadata say: the on-disk format, version 1.

<store-id>.zarr/
   zarr.json                  group; attributes: what the store is and how it was made
   <group>/zarr.json          one group per resolution, named by its mpp ("0.5")
   <group>/tiles/             uint8 (N, S, S, 3), sharded, one tile per inner chunk
   <group>/<column>/          one value per tile, (N,), one chunk
   thumbnail/, tissue_mask/   small pictures of the slide
   sources.json               packed stores: the pictures that the tiles were cut from
   .parts/                    while writing: one record per finished shard
   commit.json                written last: length and sha256 of every file
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from manifests.codec import TileCodec, codec_from_zarr, zstd_content_bytes
from manifests.errors import StoreError
from manifests.files import Json, crc32c

STORE_FORMAT = "histotile-store"
COMMIT_FORMAT = "histotile-commit"
FORMAT_VERSION = 1

COMMIT_FILE = "commit.json"
SOURCES_FILE = "sources.json"
PARTS_FOLDER = ".parts"

Column = npt.NDArray[Any]
"""One value per tile, shape (N,)."""

_DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")
_BYTES_CODEC: Json = {"name": "bytes", "configuration": {"endian": "little"}}
_CHUNK_KEYS: Json = {"name": "default", "configuration": {"separator": "."}}


@dataclass(frozen=True, slots=True)
class TilesLayout:
    """Shape and encoding of one resolution's tiles."""

    count: int
    """Number of tiles, N; known before the first pixel is read."""
    tile_size: int
    """Pixels of a tile's side, S."""
    shard_tiles: int
    """Tiles in a full shard."""
    codec: TileCodec

    def __post_init__(self) -> None:
        numbers = (self.count, self.tile_size, self.shard_tiles)
        if any(type(number) is not int for number in numbers):
            raise ValueError(f"counts and sizes must be integers: {self}")
        if self.count < 0 or self.tile_size < 1 or self.shard_tiles < 1:
            raise ValueError(f"counts and sizes must be positive: {self}")

    @classmethod
    def from_zarr_json(cls, metadata: Json) -> Self:
        """The inverse of `zarr_json`.

        Raises:
            StoreError: the array is not one that histotile writes.
        """
        try:
            sharding = metadata["codecs"][0]
            if sharding["name"] != "sharding_indexed":
                raise StoreError(f"tiles are stored with {sharding['name']}, not sharding_indexed")
            return cls(
                count=metadata["shape"][0],
                tile_size=metadata["shape"][1],
                shard_tiles=metadata["chunk_grid"]["configuration"]["chunk_shape"][0],
                codec=codec_from_zarr(sharding["configuration"]["codecs"]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StoreError(
                f"the tiles array has metadata that histotile never writes ({error})"
            ) from error

    @property
    def shards(self) -> int:
        """Number of shards; none for an empty store."""
        return -(-self.count // self.shard_tiles)

    def shard_range(self, shard: int) -> range:
        """Indices of the tiles in a shard."""
        start = shard * self.shard_tiles
        return range(start, min(start + self.shard_tiles, self.count))

    @staticmethod
    def shard_file(shard: int) -> str:
        """File of a shard, relative to its group."""
        return f"tiles/c.{shard}.0.0.0"

    def zarr_json(self) -> Json:
        """Metadata of the tiles array."""
        size = self.tile_size
        sharding = {
            "chunk_shape": [1, size, size, 3],
            "codecs": self.codec.zarr_codecs(),
            "index_codecs": [_BYTES_CODEC, {"name": "crc32c"}],
            "index_location": "end",
        }
        return _array_json(
            (self.count, size, size, 3),
            "uint8",
            (self.shard_tiles, size, size, 3),
            [{"name": "sharding_indexed", "configuration": sharding}],
            ("tile", "y", "x", "rgb"),
        )


def group_json(attributes: Mapping[str, Json]) -> Json:
    """Metadata of a Zarr group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def column_json(values: npt.NDArray[np.generic]) -> Json:
    """Metadata of a one-dimensional column that is stored as one checksummed chunk."""
    chunk = (max(1, len(values)),)
    codecs = [_bytes_codec(values.dtype), {"name": "crc32c"}]
    return _array_json(values.shape, values.dtype.name, chunk, codecs, ("tile",))


def encode_column(values: npt.NDArray[np.generic]) -> bytes:
    """The chunk of a column: little-endian values, then their crc32c."""
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return raw + crc32c(raw).to_bytes(4, "little")


def decode_column(data: bytes, metadata: Json, name: str) -> npt.NDArray[np.generic]:
    """Read a column's chunk back; a damaged one raises `StoreError`."""
    raw, checksum = data[:-4], data[-4:]
    if crc32c(raw) != int.from_bytes(checksum, "little"):
        raise StoreError(f"the column {name} fails its checksum")
    dtype, (count,) = metadata["data_type"], metadata["shape"]
    if dtype not in _DTYPES:
        raise StoreError(f"the column {name} has the type {dtype}, which this version cannot read")
    values = np.frombuffer(raw, dtype=np.dtype(dtype).newbyteorder("<"))
    if len(values) != count:
        raise StoreError(f"the column {name} holds {len(values)} values, not {count}")
    return values.astype(dtype)


def pack_column(values: Column, count: int) -> Json:
    """A column of `count` values as JSON: type, and the bytes of its chunk in base64.

    Raises:
        ValueError: it has another shape, or a type that is not part of the format.
    """
    if values.shape != (count,):
        raise ValueError(f"a column of {count} tiles has the shape {values.shape}")
    data_type = column_json(values)["data_type"]
    return {"data_type": data_type, "chunk": b64encode(encode_column(values)).decode()}


def unpack_column(packed: Json, count: int, name: str) -> Column:
    """The inverse of `pack_column`; a damaged column raises `StoreError`."""
    try:
        metadata = {"data_type": packed["data_type"], "shape": [count]}
        return decode_column(b64decode(packed["chunk"]), metadata, name)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"the column {name} is damaged ({error})") from error


def picture_json(pixels: npt.NDArray[np.generic], codec: TileCodec) -> Json:
    """Metadata of a thumbnail (uint8 RGB) or a mask (bool), stored as one chunk."""
    codecs = codec.zarr_codecs() if pixels.ndim == 3 else _mask_codecs()
    names = ("y", "x", "rgb")[: pixels.ndim]
    return _array_json(pixels.shape, pixels.dtype.name, pixels.shape, codecs, names)


def picture_chunk(pixels: npt.NDArray[np.generic], codec: TileCodec) -> tuple[str, bytes]:
    """File name and bytes of the one chunk of a thumbnail or mask."""
    if pixels.ndim == 3:
        data, name = codec.encode(pixels.astype(np.uint8)), "c.0.0.0"
    else:
        import imagecodecs  # numcodecs takes as long to import as fifty tiles take to cut

        data, name = bytes(imagecodecs.zstd_encode(pixels.tobytes(), level=3)), "c.0.0"
    return name, data + crc32c(data).to_bytes(4, "little")


def decode_picture(data: bytes, metadata: Json, name: str) -> npt.NDArray[np.generic]:
    """Read the chunk of a thumbnail or mask back; a damaged one raises `StoreError`."""
    chunk, checksum = data[:-4], data[-4:]
    if crc32c(chunk) != int.from_bytes(checksum, "little"):
        raise StoreError(f"the picture {name} fails its checksum")
    height, width, *_ = metadata["shape"]
    if len(metadata["shape"]) == 3:
        return codec_from_zarr(metadata["codecs"]).decode(chunk, height, width)
    import numcodecs.zstd

    size = zstd_content_bytes(chunk)
    if size != height * width:
        raise StoreError(f"the picture {name} holds {size} pixels, not {height * width}")
    raw = numcodecs.zstd.decompress(chunk)
    return np.frombuffer(raw, dtype=np.bool_).reshape(height, width)


def _mask_codecs() -> list[Json]:
    zstd = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
    return [{"name": "bytes"}, zstd, {"name": "crc32c"}]


def _bytes_codec(dtype: np.dtype[np.generic]) -> Json:
    return {"name": "bytes"} if dtype.itemsize == 1 else _BYTES_CODEC


def _array_json(
    shape: tuple[int, ...],
    dtype: str,
    chunk: tuple[int, ...],
    codecs: list[Json],
    names: tuple[str, ...],
) -> Json:
    if dtype not in _DTYPES:
        raise ValueError(f"arrays of {dtype} are not part of the format; use one of {_DTYPES}")
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": _CHUNK_KEYS,
        "fill_value": False if dtype == "bool" else 0,
        "codecs": codecs,
        "dimension_names": list(names),
        "attributes": {},
    }


__all__ = [
    "COMMIT_FILE",
    "COMMIT_FORMAT",
    "FORMAT_VERSION",
    "PARTS_FOLDER",
    "SOURCES_FILE",
    "STORE_FORMAT",
    "Column",
    "TilesLayout",
    "column_json",
    "decode_column",
    "decode_picture",
    "encode_column",
    "group_json",
    "pack_column",
    "picture_chunk",
    "picture_json",
    "unpack_column",
]
