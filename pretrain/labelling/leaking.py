"""What lies in two sets of labelled tiles at once, and what is done about it.

Dropping leaves training as it is: what leaks goes from test and validation, and what only these two
share from validation. Rows are those of `Rows`; there are N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from manifests import Manifest
from manifests.splits.leaks import Leak, LeaksFound, find_leaks
from pretrain.labelling.rows import Flags, Rows
from pretrain.labelling.setrows import SPLITS, TEST, TRAIN, VAL
from pretrain.labelling.unitrows import UnitRows

if TYPE_CHECKING:
    from manifests.console import Display

_KEEPERS = (TRAIN, TEST, VAL)
"""What leaks stays in the first of these that it lies in."""


@dataclass(frozen=True, slots=True)
class Leaks:
    """What leaked, and what was done with it."""

    policy: str
    """`drop`: left out of val and test; `keep`: used as it was."""
    sentences: tuple[str, ...]
    """What leaks, and where it lies; the certain and large first."""
    tiles: int
    """Tiles left out for it; 0 with `keep`."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows that may be used, and why not the others."""

    kept: Flags
    """(N,)"""
    leaks: Leaks | None
    """None where nothing leaks."""


def judge_leaks(
    rows: Rows,
    sets: npt.NDArray[np.int8],
    units: UnitRows,
    made: Manifest,
    *,
    policy: str,
    near: bool,
    display: Display | None = None,
) -> Judged:
    """Look for leaks, and do what the policy says.

    Args:
        sets: index into `SPLITS` of each row, (N,).
        made: the manifest, `limited` to these rows.
        policy: `refuse`, `drop` or `keep`.
        near: look for slides and tiles that look the same, too.

    Raises:
        LeaksFound: something leaks, and the policy is `refuse`.
        StoreError: a store is missing or damaged.
    """
    found = find_leaks(made, units.known, near=near, skip_damaged=True, display=display)
    if not found:
        return Judged(np.ones(len(rows), dtype=np.bool_), None)
    if policy == "refuse":
        raise _refusal(found)
    kept = np.ones(len(rows), dtype=np.bool_)
    if policy == "drop":
        kept = ~(_torn(sets, units.numbers) | _told(rows, found))
    sentences = tuple(leak.sentence for leak in found)
    return Judged(kept, Leaks(policy, sentences, int((~kept).sum())))


def _refusal(found: Sequence[Leak]) -> LeaksFound:
    more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
    return LeaksFound(
        f"train, val and test are not apart: {found[0].sentence}{more}; split anew, or leave what "
        "leaks out of val and test with --leaks drop, or use it all the same with --leaks keep, "
        "which the result tells"
    )


def _torn(sets: npt.NDArray[np.int8], units: npt.NDArray[np.int64]) -> Flags:
    """Rows whose unit lies in a set that comes before theirs."""
    ranks = np.argsort(_KEEPERS)[sets]
    first = np.full(int(units.max(initial=-1)) + 1, len(_KEEPERS))
    np.minimum.at(first, units, ranks)
    torn: Flags = ranks > first[units]
    return torn


def _told(rows: Rows, leaks: Sequence[Leak]) -> Flags:
    """Rows that leaks of tiles, or of slides that look the same, tell of, but where they stay.

    Torn units and copies of slides are known by the units already, picture by picture.
    """
    found = np.zeros(len(rows), dtype=np.bool_)
    places = _places(rows)
    for leak in leaks:
        if leak.kind in ("unit", "slide"):
            continue
        keeper = min((SPLITS.index(name) for name in leak.members), key=_KEEPERS.index)
        for name, members in leak.members.items():
            if SPLITS.index(name) == keeper:
                continue
            for member in members:
                for group, (start, indices) in places[member.entry].items():
                    if member.group is None:
                        found[start : start + len(indices)] = True
                    elif member.group == group and member.tile is not None:
                        found[start + int(np.searchsorted(indices, member.tile))] = True
    return found


def _places(rows: Rows) -> Mapping[str, dict[str, tuple[int, npt.NDArray[np.int64]]]]:
    """Entry → resolution → its first row, and the numbers of its tiles."""
    found: dict[str, dict[str, tuple[int, npt.NDArray[np.int64]]]] = {}
    start = 0
    for part in rows.parts:
        found.setdefault(part.entry.id, {})[part.group] = start, part.indices
        start += len(part)
    return found


__all__ = ["Judged", "Leaks", "judge_leaks"]
