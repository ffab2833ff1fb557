"""One Zarr v3 shard (`sharding_indexed`, index at the end) written and read by hand.

Layout: a label of 16 bytes, the payloads one after another, then for each slot two little-endian
uint64 (offset and length in bytes from the start of the file), then the crc32c of that index as
little-endian uint32. A slot without a tile holds 2^64 - 1 twice. Each payload ends in the crc32c of
what precedes it (the inner `crc32c` codec), so that a flipped bit is an error and never a wrong
pixel. The label says which shard of which store the file is; Zarr readers never look at it, since
the index points past it. Without it, two shards that were swapped would read as each other.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.errors import StoreError
from manifests.files import crc32c, crc32c_of

_MISSING = 0xFFFF_FFFF_FFFF_FFFF
_ENTRY_BYTES = 16
_CRC_BYTES = 4
_LABEL_BYTES = 16
_MAX_SLOTS = 2**24
_RUN_BYTES = 2**22
_CRC_RESIDUE = 0x48674BC7
"""CRC-32C of anything that ends in its own CRC-32C, little-endian."""


def shard_label(uuid: str, group: str, shard: int) -> bytes:
    """The first bytes of a shard file: which one of which store it is."""
    return hashlib.sha256(f"{uuid}/{group}/{shard}".encode()).digest()[:_LABEL_BYTES]


def shard_pieces(label: bytes, tiles: Iterable[bytes], count: int, slots: int) -> Iterator[bytes]:
    """The bytes of a shard, piece by piece, so that no more than one tile has to be held.

    Args:
        label: of `shard_label`.
        tiles: encoded tiles, without checksums; tile i goes to slot i.
        count: number of tiles.
        slots: tiles that a full shard holds; slots past `tiles` are marked as not written.

    Raises:
        ValueError: there are more or fewer tiles than `count`.
    """
    index: list[int] = []
    offset = len(label)
    yield label
    for tile in tiles:
        if len(index) == 2 * count:
            raise ValueError(f"more tiles than the {count} that were planned for the shard")
        length = len(tile) + _CRC_BYTES
        index += offset, length
        offset += length
        yield tile
        yield struct.pack("<I", crc32c(tile))
    if len(index) < 2 * count:
        raise ValueError(f"{len(index) // 2} tiles, but {count} were planned for the shard")
    index += [_MISSING] * (2 * (slots - count))
    encoded_index = struct.pack(f"<{len(index)}Q", *index)
    yield encoded_index
    yield struct.pack("<I", crc32c(encoded_index))


class Shard:
    """A shard file open for reading. Reads use `pread`: safe for threads and after a fork."""

    def __init__(self, path: Path, slots: int, label: bytes) -> None:
        """Open the file and check its label and its index.

        Raises:
            StoreError: the file is missing, too short, another shard than `label` says, or its
                index fails its checksum.
        """
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"shard {path} cannot be opened ({error.strerror})") from error
        self.size = os.fstat(self._descriptor).st_size
        self._index = self._read_index(slots)
        if self._read(_LABEL_BYTES, 0) != label:
            raise StoreError(f"{path} is not the shard that its name says; were files mixed up?")

    def _read_index(self, slots: int) -> npt.NDArray[np.uint64]:
        length = slots * _ENTRY_BYTES + _CRC_BYTES
        if slots > _MAX_SLOTS:
            raise StoreError(
                f"shard {self._path} is to have {slots} slots, of which none has so many"
            )
        if self.size < _LABEL_BYTES + length:
            raise StoreError(
                f"shard {self._path} has {self.size} bytes, fewer than its index ({length})"
            )
        raw = self._read(length, self.size - length)
        if len(raw) != length or crc32c(raw[:-_CRC_BYTES]) != _uint32(raw[-_CRC_BYTES:]):
            raise StoreError(f"the index of shard {self._path} fails its checksum")
        return np.frombuffer(raw[:-_CRC_BYTES], dtype="<u8").reshape(slots, 2)

    def read(self, slot: int) -> bytes:
        """The encoded bytes of the tile in `slot`, checked against their crc32c.

        Raises:
            StoreError: the slot was never written, or its bytes fail the checksum.
        """
        offset, length = self._index[slot].tolist()
        if offset == _MISSING:
            raise StoreError(f"slot {slot} of shard {self._path} was never written")
        if length < _CRC_BYTES or offset + length > self.size:
            raise StoreError(f"slot {slot} of shard {self._path} points outside the file")
        raw = self._read(length, offset)
        if len(raw) != length or crc32c(raw) != _CRC_RESIDUE:
            raise StoreError(f"the tile in slot {slot} of shard {self._path} fails its crc32c")
        return raw[:-_CRC_BYTES]

    def damaged_slots(self, count: int, step: Callable[[int], None]) -> list[int]:
        """Slots among the first `count` whose tiles fail their crc32c.

        Together with the label and the index, which were checked on opening, this reads every byte
        of the file.

        Args:
            count: tiles of the shard; no slot after them may be in use.
            step: called with the bytes read since the last call; what it raises ends the walk.

        Raises:
            StoreError: by the index, the tiles do not lie one after another from the label to the
                index, so that some bytes have no checksum.
        """
        offsets, lengths = self._index[:count].T
        ends = np.concatenate([np.array([_LABEL_BYTES], dtype=np.uint64), offsets + lengths])
        fits = ((lengths >= _CRC_BYTES) & (lengths <= self.size)).all()
        ends_at = self.size - (len(self._index) * _ENTRY_BYTES + _CRC_BYTES)
        gapless = (ends[:-1] == offsets).all() and int(ends[-1]) == ends_at
        if not fits or not gapless or not (self._index[count:] == _MISSING).all():
            raise StoreError(f"the index of shard {self._path} leaves bytes without a checksum")
        buffer = np.empty(_RUN_BYTES, dtype=np.uint8)
        damaged: list[int] = []
        first = 0
        while first < count:
            # Checked where they lie, still in the cache. Shorter runs would wait more often for the
            # interpreter, which checksums hold and reading lets go.
            start = int(ends[first])
            last = int(np.searchsorted(ends, start + _RUN_BYTES, side="right")) - 1
            if last == first:
                last = first + 1
                sums = [self._crc32c(start, int(ends[last]), buffer, step)]
            else:
                bounds = (ends[first : last + 1] - ends[first]).tolist()
                self._read_into(buffer[: bounds[-1]], start)
                sums = [crc32c_of(buffer[a:b]) for a, b in itertools.pairwise(bounds)]
                step(bounds[-1])
            damaged += [slot for slot, found in enumerate(sums, first) if found != _CRC_RESIDUE]
            first = last
        return damaged

    def _crc32c(
        self, start: int, end: int, buffer: npt.NDArray[np.uint8], step: Callable[[int], None]
    ) -> int:
        """The checksum of a part of the file that is longer than the buffer."""
        found = 0
        for offset in range(start, end, len(buffer)):
            part = buffer[: end - offset]
            self._read_into(part, offset)
            found = crc32c_of(part, found)
            step(len(part))
        return found

    def _read_into(self, buffer: npt.NDArray[np.uint8], offset: int) -> None:
        """Fill the buffer from the file."""
        view, done = buffer.data, 0
        try:
            while done < len(view):
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
                if not count:
                    raise StoreError(f"shard {self._path} became shorter while it was read")
                done += count
        except OSError as error:
            raise StoreError(f"shard {self._path} cannot be read ({error.strerror})") from error

    def _read(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise StoreError(f"shard {self._path} cannot be read ({error.strerror})") from error

    def close(self) -> None:
        """Close the descriptor; reading afterwards is an error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        # Shards live in a cache that drops them while other threads may still read.
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()


def _uint32(raw: bytes) -> int:
    return int(struct.unpack("<I", raw)[0])
