"""Sets of tiles: which of a group's tiles are meant, packed to a bit per tile.

A tile is its index within its group (one resolution of one store), from 0. Tile i is bit `i % 8`
of byte `i // 8`, the lowest bit first; zero bytes at the end are left out, so that equal sets are
equal bytes. A hundred million tiles are 12.5 MB, a store of which nothing is meant is nothing.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from manifests.checks import check_count, short
from manifests.errors import ManifestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_BLOCK_BYTES = 64


@dataclass(frozen=True, slots=True)
class TileSet:
    """An immutable set of tile indices."""

    bits: bytes = b""
    """A bit per tile; does not end in a zero byte."""
    _before: tuple[int, ...] = field(default=(), repr=False, compare=False)
    """Members before each block of `_BLOCK_BYTES`; filled when first asked for."""

    def __post_init__(self) -> None:
        if self.bits.endswith(b"\0"):
            object.__setattr__(self, "bits", self.bits.rstrip(b"\0"))

    @classmethod
    def of(cls, indices: npt.NDArray[np.integer[Any]] | Iterable[int]) -> Self:
        """The set of some tile indices, in any order."""
        import numpy as np

        found = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if not found.size:
            return cls()
        mask = np.zeros(int(found.max()) + 1, dtype=bool)
        mask[found] = True
        return cls.where(mask)

    @classmethod
    def where(cls, mask: npt.NDArray[np.bool_]) -> Self:
        """The set of the tiles at which a mask of shape (N,) is true."""
        import numpy as np

        return cls(np.packbits(mask, bitorder="little").tobytes())

    @classmethod
    def every(cls, count: int) -> Self:
        """The set of all `count` tiles of a group."""
        return cls(((1 << count) - 1).to_bytes(-(-count // 8), "little"))

    @classmethod
    def from_json(cls, data: object, where: str) -> Self:
        """Read the set from a manifest.

        Raises:
            ManifestError: it is malformed, or does not hold as many tiles as it says.
        """
        if not isinstance(data, dict) or data.keys() != {"count", "bits"}:
            raise ManifestError(f"{where}: {short(data)} must be an object of count and bits")
        check_count(data["count"], f"{where}.count")
        try:
            bits = b64decode(data["bits"], validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise ManifestError(f"{where}.bits is not base64 ({error})") from error
        found = cls(bits)
        if len(found.bits) != len(bits) or found.to_json()["bits"] != data["bits"]:
            raise ManifestError(f"{where}.bits: the last byte is zero, or the base64 is not plain")
        if len(found) != data["count"]:
            raise ManifestError(f"{where} holds {len(found)} tiles, not {data['count']}")
        return found

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest: how many tiles, and the bits in base64."""
        return {"count": len(self), "bits": b64encode(self.bits).decode()}

    def __len__(self) -> int:
        return self._number().bit_count()

    def __bool__(self) -> bool:
        return bool(self.bits)

    def __contains__(self, tile: int) -> bool:
        byte, bit = divmod(tile, 8)
        return 0 <= byte < len(self.bits) and bool(self.bits[byte] >> bit & 1)

    def __and__(self, other: TileSet) -> TileSet:
        return _of_number(self._number() & other._number())

    def __or__(self, other: TileSet) -> TileSet:
        return _of_number(self._number() | other._number())

    def __sub__(self, other: TileSet) -> TileSet:
        return _of_number(self._number() & ~other._number())

    @property
    def end(self) -> int:
        """One more than the largest member; 0 of the empty set."""
        return self._number().bit_length()

    def mask(self, count: int) -> npt.NDArray[np.bool_]:
        """Whether each of `count` tiles is a member, shape (count,)."""
        import numpy as np

        raw = np.frombuffer(self.bits, dtype=np.uint8)[: -(-count // 8)]
        found = np.zeros(count, dtype=np.bool_)
        bits = np.unpackbits(raw, bitorder="little")[:count]
        found[: len(bits)] = bits
        return found

    def indices(self) -> npt.NDArray[np.int64]:
        """The members, ascending."""
        import numpy as np

        raw = np.frombuffer(self.bits, dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(raw, bitorder="little"))

    def nth(self, place: int) -> int:
        """The member at a place, from 0 to `len` - 1, in ascending order.

        Takes no list of the members: a count per block of 512 tiles is kept.
        """
        from bisect import bisect_right

        if not self._before:
            object.__setattr__(self, "_before", tuple(self._counts()))
        if not 0 <= place < self._before[-1]:
            raise IndexError(f"member {place} of a set of {self._before[-1]} tiles")
        block = bisect_right(self._before, place) - 1
        start = block * _BLOCK_BYTES
        left = place - self._before[block]
        for number, byte in enumerate(self.bits[start : start + _BLOCK_BYTES], start):
            if left < byte.bit_count():
                return 8 * number + _nth_bit(byte, left)
            left -= byte.bit_count()
        raise AssertionError("the counts of a set's blocks do not fit its bits")

    def _counts(self) -> list[int]:
        found = [0]
        for start in range(0, len(self.bits), _BLOCK_BYTES):
            block = self.bits[start : start + _BLOCK_BYTES]
            found.append(found[-1] + int.from_bytes(block, "little").bit_count())
        return found

    def _number(self) -> int:
        return int.from_bytes(self.bits, "little")


def _of_number(number: int) -> TileSet:
    return TileSet(number.to_bytes(-(-number.bit_length() // 8), "little"))


def _nth_bit(byte: int, place: int) -> int:
    return [bit for bit in range(8) if byte >> bit & 1][place]


__all__ = ["TileSet"]
