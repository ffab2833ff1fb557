"""Keyed pseudo-random numbers: the same key and counter give the same value, in any order.

Nothing here has a state, so a sample's place in the mix and the look of its views do not depend
on what was drawn before. Keys and counters are integers below 2^64. The mixer is the finaliser of
SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

_BITS64 = (1 << 64) - 1
_BITS31 = (1 << 31) - 1
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_FACTOR_1 = 0xBF58_476D_1CE4_E5B9
_FACTOR_2 = 0x94D0_49BB_1331_11EB
_ROUNDS = 3


def key_of(*parts: int | str) -> int:
    """One key out of integers and names; another order gives another key."""
    key = 0
    for part in parts:
        if isinstance(part, str):
            digest = hashlib.blake2b(part.encode(), digest_size=8).digest()
            part = int.from_bytes(digest, "little")
        key = _mix((key + _GOLDEN) ^ _mix(part))
    return key


def subkey(key: int, number: int) -> int:
    """The key of one of many things that share a key: faster than `key_of`."""
    return _mix(key ^ _mix(number))


def permute(key: int, size: int, position: int) -> int:
    """Where `position` goes in the permutation of `range(size)` that `key` names.

    A Feistel network on the digits of `position` in a base near the root of `size`; results past
    the end are sent through again (cycle walking; Black and Rogaway, CT-RSA 2002), so that time
    and memory do not grow with `size`.
    """
    if not 0 <= position < size:
        raise ValueError(f"position {position} is not in a range of {size}")
    high_size = math.isqrt(size - 1) + 1
    low_size = -(-size // high_size)
    while True:
        high, low = divmod(position, low_size)
        word = key
        # Written out: a call for each number would take twice the time.
        for _ in range(_ROUNDS):
            word = word * _FACTOR_1 + _GOLDEN & _BITS64
            value = (word ^ low) * _FACTOR_2 & _BITS64
            high = (high + ((value ^ value >> 31) * _FACTOR_1 >> 33 & _BITS31)) % high_size
            value = (word ^ high) * _FACTOR_1 & _BITS64
            low = (low + ((value ^ value >> 31) * _FACTOR_2 >> 33 & _BITS31)) % low_size
        position = high * low_size + low
        if position < size:
            return position


def uniforms(key: int, counters: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Independent uniform numbers in [0, 1): `count` for each of B counters, float64 (B, count).

    Row i depends on `key` and `counters[i]` alone.
    """
    rows = _mix_array(counters.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key))
    columns = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _mix_array(rows[:, None] + columns[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: int) -> int:
    value = (value * _GOLDEN + _GOLDEN) & _BITS64
    value = ((value ^ (value >> 30)) * _FACTOR_1) & _BITS64
    value = ((value ^ (value >> 27)) * _FACTOR_2) & _BITS64
    return value ^ (value >> 31)


def _mix_array(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_FACTOR_1)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_FACTOR_2)
    mixed: npt.NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed
