"""Labelled tiles: which tiles an encoder is put to the test on, what they are, in which set.

A row is a place in the order of the parts: all tiles of the first, then of the second; there are N.
All that can be wrong with labels and splits is refused here, in one sentence, before any pixel is
read but to find leaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from manifests import Manifest
from manifests.checks import short
from manifests.splits.units import suggestion
from pretrain.embedding.wanted import Wanted, wanted_tiles
from pretrain.errors import ConfigError
from pretrain.labelling.leaking import Leaks, judge_leaks
from pretrain.labelling.rows import Flags, Integers, Rows, Values
from pretrain.labelling.setrows import SPLITS, VAL, SetRows, limited, sets_of
from pretrain.labelling.targets import check_targets, listed, targets_of
from pretrain.labelling.unitrows import spare_val, units_of
from pretrain.results.settings import CLASSIFICATION, SEGMENTATION

if TYPE_CHECKING:
    from manifests.console import Display


@dataclass(frozen=True, slots=True)
class Labelled:
    """Tiles, what they are, and which set and unit each belongs to."""

    manifest: Manifest
    parts: tuple[Wanted, ...]
    label: str
    """What the label is called; empty for segmentation without one."""
    task: str
    classes: tuple[str, ...]
    """() for regression and segmentation."""
    targets: npt.NDArray[Any]
    """int64 (N,): the number of the class; for regression float64 (N,); for segmentation all 0."""
    units: Integers
    """Index into `unit_names`, (N,)."""
    unit_names: tuple[str, ...]
    by: tuple[str, ...]
    """What units are made by; `slide` or `picture` where nothing else is known."""
    split: npt.NDArray[np.int8]
    """Index into `SPLITS`, (N,)."""
    leaks: Leaks | None
    """What lies in two sets and was not refused; None where nothing does."""
    near: bool
    """Whether tiles that look the same were looked for in two sets."""
    val_from_train: bool
    """Whether val is a fifth of what was train, for want of one."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason → tiles."""

    def __len__(self) -> int:
        return len(self.units)


def label_tiles(
    manifest: Manifest,
    label: str | None,
    *,
    split: Manifest | None = None,
    task: str = CLASSIFICATION,
    by: Sequence[str] | None = None,
    leaks: str = "refuse",
    near: bool = True,
    unlabelled: str = "refuse",
    classes: Sequence[str] = (),
    mpp: str | None = None,
    seed: int = 0,
    display: Display | None = None,
) -> Labelled:
    """All tiles that have a label and are in a set.

    Args:
        label: `label`, a field of the manifest, or a column of the slides table; None only for
            segmentation, where every tile counts.
        split: a manifest with the splits, made from this one; None: its own count.
        by: what units are made by; by default what the splits were made by, else patient or group.
        leaks: `refuse`, `drop` (out of val and test) or `keep` what lies in two sets.
        near: look for tiles that look the same in two sets, which takes the longest.
        unlabelled: `refuse` or `drop` tiles in a set that have no label, those of stores that have
            none at all included.
        classes: only these, in this order; by default all, sorted.
        mpp: the resolution; needed where there are several.
        seed: chooses validation units, where there is no such split.

    Raises:
        ConfigError: labels or splits are not as they must be; the sentence says how.
        LeaksFound: something lies in two sets, and `leaks` is `refuse`.
        SplitError: nothing has a value of a name in `by`.
        StoreError: a store that is needed is missing or damaged.
    """
    rows = Rows(manifest, wanted_tiles(manifest, mpp=mpp))
    plain = task == SEGMENTATION
    values = _of_all(rows) if plain else checked_values(rows, str(label))
    placed = sets_of(rows, split, values.known)
    asked = (str(label), unlabelled, () if plain else tuple(classes))
    kept, left_out = _wanted_rows(rows, values, placed, *asked)
    rows, codes, sets = rows.kept(kept), values.codes[kept], placed.numbers[kept]
    _check_one_resolution(rows)

    made = limited(rows, sets, manifest if split is None else split)
    units = units_of(rows, made, by)
    judged = judge_leaks(rows, sets, units, made, policy=leaks, near=near, display=display)
    rows, codes, sets = rows.kept(judged.kept), codes[judged.kept], sets[judged.kept]
    units = units.kept(judged.kept)
    left_out["for leaks"] = int((~judged.kept).sum())

    found = targets_of(rows, Values(codes, values.names), asked[2], task)
    check_targets(found, sets, units, judged.leaks)
    spared = not (sets == VAL).any()
    if spared:
        sets = spare_val(sets, units, found.kinds, seed)
    return Labelled(
        manifest=manifest,
        parts=rows.parts,
        label="" if plain else str(label),
        task=task,
        classes=found.classes,
        targets=found.numbers,
        units=units.numbers,
        unit_names=units.names,
        by=units.by,
        split=sets,
        leaks=judged.leaks,
        near=near,
        val_from_train=spared,
        left_out={reason: tiles for reason, tiles in left_out.items() if tiles},
    )


def checked_values(rows: Rows, name: str) -> Values:
    """What a field says of each row.

    Raises:
        ConfigError: it says nothing of any row; with what there is.
        StoreError: a packed store is missing or damaged; others are not opened.
    """
    values = rows.values(name)
    if not values.names:
        known = rows.known_names()
        raise ConfigError(
            f"no tile has a {short(name)}{suggestion(name, known)}; tiles have "
            f"{', '.join(map(short, known))}, and `histotile manifest annotate` adds others"
        )
    return values


def _of_all(rows: Rows) -> Values:
    return Values(np.zeros(len(rows), dtype=np.int64), ("",))


def _wanted_rows(
    rows: Rows,
    values: Values,
    placed: SetRows,
    label: str,
    unlabelled: str,
    classes: Sequence[str],
) -> tuple[Flags, Counter[str]]:
    """Which rows count, and how many do not, by the reason."""
    kept = placed.numbers >= 0
    bare = kept & ~values.known
    if bare.any() and unlabelled == "refuse":
        raise _unlabelled(rows, label, bare, int(kept.sum()))
    apart = values.known & ~kept
    left_out = Counter(
        {
            "in no split": int((apart & ~placed.other).sum()),
            "in splits of other names": int((apart & placed.other).sum()),
            "without a label": int(bare.sum()),
        }
    )
    kept &= values.known
    if classes:
        asked = np.isin(values.codes, [_code_of(values, name) for name in classes])
        left_out["of other classes"] = int((kept & ~asked).sum())
        kept &= asked
    return kept, left_out


def _code_of(values: Values, name: str) -> int:
    if name not in values.names:
        raise ConfigError(
            f"--classes names {short(name)}, which no tile has{suggestion(name, values.names)}; "
            f"there are {listed(values.names)}"
        )
    return values.names.index(name)


def _unlabelled(rows: Rows, label: str, bare: Flags, total: int) -> ConfigError:
    stores = {part.entry.id for part in rows.parts}
    without = rows.kept(~bare)
    none = len(stores) - len({part.entry.id for part in without.parts})
    of_stores = f" ({none:,} of {len(stores):,} stores have none at all)" if none else ""
    return ConfigError(
        f"{int(bare.sum()):,} of {total:,} tiles in train, val and test have no {short(label)}"
        f"{of_stores}, such as {rows.name_of(int(np.flatnonzero(bare)[0]))}; leave them out with "
        "--unlabelled drop, or say it with `histotile manifest annotate`"
    )


def _check_one_resolution(rows: Rows) -> None:
    groups = sorted({part.group for part in rows.parts})
    if len(groups) > 1:
        raise ConfigError(
            f"the labelled tiles have {len(groups)} resolutions, {', '.join(groups)} µm/px; name "
            "one by --mpp"
        )


__all__ = ["SPLITS", "Labelled", "checked_values", "label_tiles"]
