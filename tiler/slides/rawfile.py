"""The bytes of a file at given places, without a position that anyone could share.

Offsets and counts are in bytes. Reads carry their offset with them (`pread`), so a file that was
open before a fork stays right in the child.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from tiler.slides import limits

_NEAR = 64 * 1024
"""Ranges with gaps up to this many bytes are announced as one."""

_WAIT_S = 100e-6
"""Mean time of a read above which a file is not in memory; there a read takes some 10 µs."""

_MOST_AT_ONCE = 2 * limits.MAX_CELL_BYTES
"""Encoded bytes of one segment: no codec makes pixels much larger."""


class RawFile:
    """An open file that is read by offset."""

    def __init__(self, path: Path) -> None:
        """Open the file for reading."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._reads = 0
        self._seconds = 0.0
        self._was_slow = False

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly `count` bytes.

        Raises:
            ValueError: the file ends before that, or nobody needs so many bytes at once.
            OSError: the file cannot be read, or is closed.
        """
        if count > _MOST_AT_ONCE:
            raise ValueError(f"a segment claims {count:,} bytes")
        began = time.perf_counter()
        data = os.pread(self._fd, count, offset)
        self._reads += 1
        self._seconds += time.perf_counter() - began
        while len(data) < count:
            more = os.pread(self._fd, count - len(data), offset + len(data))
            if not more:
                raise ValueError("the file ends inside the segment")
            data += more
        return data

    def is_slow(self) -> bool:
        """Whether reads were ever waited for, so that telling them ahead is worth its time."""
        self._was_slow = self._was_slow or self._seconds > _WAIT_S * self._reads
        self._reads, self._seconds = 0, 0.0
        return self._was_slow

    def will_need(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Tell the system that these ranges (offset, count) will be read soon.

        It then fetches them side by side, which network file systems gain from. Does nothing where
        the system takes no advice.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for offset, count in merged(ranges):
            try:
                os.posix_fadvise(self._fd, offset, count, os.POSIX_FADV_WILLNEED)
            except OSError:
                return  # advice that is not taken changes nothing

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges (offset, count) that touch or lie near each other, in order of offsets.

    >>> merged([(100, 10), (0, 50), (10_000_000, 5)])
    [(0, 110), (10000000, 5)]
    """
    joined: list[tuple[int, int]] = []
    for offset, count in sorted(ranges):
        if joined and offset <= sum(joined[-1]) + _NEAR:
            start, length = joined[-1]
            joined[-1] = (start, max(length, offset + count - start))
        else:
            joined.append((offset, count))
    return joined
