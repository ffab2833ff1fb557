"""Splits of a set: which units go to `train`, `val` and `test`, and why they stay there.

By default a unit's split depends on its own name and the seed alone, so nothing that is added later
moves it. With `exact`, quotas are filled per stratum and what an older result says is kept. Shares
are numbers between 0 and 1 that sum to 1.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate

from manifests.checks import check_name, short
from manifests.combine.conflicts import Conflict, ConflictsFound
from manifests.errors import ManifestError, StoreError
from manifests.files import Json, canonical_json
from manifests.model import Manifest, StoreEntry
from manifests.splits.holdout import UnitList, match_lists
from manifests.splits.units import (
    Key,
    Part,
    SplitError,
    Unit,
    check_known,
    join_units,
    list_parts,
    tile_sets,
)

DEFAULT_NAMES = {2: ("train", "test"), 3: ("train", "val", "test")}
_SUM_TOLERANCE = 1e-6
_BITS = 53
"""Bits of a hash that become a float between 0 and 1 without rounding."""


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How a set is to be split."""

    by: str = "patient"
    """What must stay together."""
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    names: tuple[str, ...] = ()
    """Of the splits, one per ratio; by default `DEFAULT_NAMES`."""
    seed: int = 0
    stratify: tuple[str, ...] = ()
    """Fields whose values make a stratum; shares are shown, and with `exact` held, in each."""
    exact: bool = False
    """Whether quotas are filled, rather than each unit drawn by itself."""

    def __post_init__(self) -> None:
        shown = ",".join(f"{ratio:g}" for ratio in self.ratios)
        if len(self.ratios) < 2 or not all(r > 0 and math.isfinite(r) for r in self.ratios):
            raise SplitError(f"the ratios {shown} must be two or more numbers above 0")
        if abs(math.fsum(self.ratios) - 1) > _SUM_TOLERANCE:
            raise SplitError(f"the ratios {shown} sum to {math.fsum(self.ratios):g}, not to 1")
        if not self.names:
            object.__setattr__(self, "names", DEFAULT_NAMES.get(len(self.ratios), ()))
        if len(self.names) != len(self.ratios) or len(set(self.names)) != len(self.names):
            raise SplitError(
                f"{len(self.ratios)} ratios need as many different names of splits; "
                f"--names gives {','.join(self.names) or 'none'}"
            )
        for name in self.names:
            try:
                check_name(name, "the name of a split")
            except ManifestError as error:
                raise SplitError(str(error)) from error

    def split_of(self, key: Key) -> str:
        """Where the rule puts a unit: a function of its key and the seed, and of nothing else."""
        bounds = list(accumulate(self.ratios))[:-1]
        return self.names[bisect_right(bounds, place(key, self.seed))]

    def to_json(self) -> dict[str, Json]:
        """As it stands in a manifest's list `splits`."""
        return {
            "by": self.by,
            "ratios": list(self.ratios),
            "names": list(self.names),
            "seed": self.seed,
            "stratify": list(self.stratify),
            "exact": self.exact,
        }


@dataclass(frozen=True, slots=True)
class SplitResult:
    """A manifest whose stores have splits, and how that came about."""

    manifest: Manifest
    units: tuple[Unit, ...]
    splits: tuple[str, ...]
    """Split of each unit."""
    listed: int
    """Units that a list put where they are."""
    moved: int
    """Units that a list put elsewhere than where they were."""
    kept: int
    """Units that stay where they were."""
    differing: int
    """Those of them that the rule would put elsewhere; 0 with `exact`, which has no such rule."""
    unused: int
    """Lines of lists that name slides without tiles."""


def place(key: Key, seed: int) -> float:
    """Where a unit lies in [0, 1): the first 53 bits of sha256 of the JSON list `[seed, *key]`."""
    digest = hashlib.sha256(canonical_json([seed, *key])).digest()
    return math.ldexp(int.from_bytes(digest[:8], "big") >> (64 - _BITS), -_BITS)


def split_manifest(
    manifest: Manifest,
    rule: SplitRule,
    *,
    lists: Sequence[UnitList] = (),
    older: Manifest | None = None,
    anew: bool = False,
) -> SplitResult:
    """Give every store that has tiles, and every picture of a packed one, a split.

    Lists count most, then the splits that `manifest` and `older` say, then the rule.

    Args:
        older: an earlier result; units keep the splits that they have there.
        anew: forget the splits that `manifest` says.

    Raises:
        SplitError: a name is unknown, a line of a list fits nothing, or a unit is in two lists.
        ConflictsFound: a unit lies in two splits already and no list decides.
        StoreError, ManifestError: a packed store cannot be read; others are not opened.
    """
    parts = list_parts(manifest, rule.by, rule.stratify)
    check_known(manifest, parts, rule.by, rule.stratify)
    if anew:
        parts = [replace(part, splits=frozenset()) for part in parts]
    memory = [] if older is None else _memory(older, rule)
    _check_names([*parts, *memory], rule)
    units = join_units(parts, memory)
    listed, unused = match_lists(units, manifest, rule.by, lists)
    _check_torn(units, listed)
    kept = {i: min(u.splits) for i, u in enumerate(units) if u.splits and i not in listed}
    fixed = {**kept, **listed}
    if rule.exact:
        splits = fill_quotas(units, fixed, rule)
    else:
        splits = [fixed.get(i, rule.split_of(unit.key)) for i, unit in enumerate(units)]
    differing = [] if rule.exact else [i for i in kept if rule.split_of(units[i].key) != splits[i]]
    moved = [i for i in listed if units[i].splits - {splits[i]}]
    return SplitResult(
        manifest=_with_splits(manifest, units, splits, _records(manifest, rule, older, anew)),
        units=tuple(units),
        splits=tuple(splits),
        listed=len(listed),
        moved=len(moved),
        kept=len(kept),
        differing=len(differing),
        unused=unused,
    )


def fill_quotas(units: Sequence[Unit], fixed: Mapping[int, str], rule: SplitRule) -> list[str]:
    """Fill the splits of each stratum up to their ratios, without moving the units in `fixed`.

    The units of a stratum, in the order of `place`, go to the split that is furthest below its
    quota rounded down. The few that are left go where the strata so far, taken together, lack most,
    so that many small strata do not all favour the largest split. Without `fixed`, every split gets
    its quota of each stratum, rounded down or up.

    Args:
        fixed: split of some of the units, by their index.

    Returns:
        The split of each unit.
    """
    total = sum(map(_exact, rule.ratios))
    ratios = {name: _exact(r) / total for name, r in zip(rule.names, rule.ratios, strict=True)}
    found = dict(fixed)
    # Over all strata so far: how many units a split should have got less those that it got.
    lacking = dict.fromkeys(rule.names, Fraction(0))
    for members in _by_stratum(units):
        quota = {name: ratio * len(members) for name, ratio in ratios.items()}
        got = Counter(found[i] for i in members if i in found)
        for name in rule.names:
            lacking[name] += quota[name] - got[name]
        free = [i for i in members if i not in found]
        for i in sorted(free, key=lambda i: (place(units[i].key, rule.seed), units[i].name)):
            below = [name for name in rule.names if got[name] < math.floor(quota[name])]
            if below:
                chosen = max(below, key=lambda name: quota[name] - got[name])
            else:
                room = [name for name in rule.names if got[name] < quota[name]]
                chosen = max(room, key=lacking.__getitem__)
            found[i] = chosen
            got[chosen] += 1
            lacking[chosen] -= 1
    return [found[i] for i in range(len(units))]


def stratum_of(unit: Unit) -> tuple[tuple[str | None, ...], ...]:
    """What a unit's quota is counted with: all values of its parts, so a patient with slides of two
    stains counts among those that have both."""
    return tuple(sorted({part.fields for part in unit.parts}, key=stratum_order))


def stratum_order(fields: tuple[str | None, ...]) -> tuple[tuple[bool, str], ...]:
    """Sorts values of strata, those that are not known last."""
    return tuple((field is None, field or "") for field in fields)


def _by_stratum(units: Sequence[Unit]) -> list[list[int]]:
    found: dict[tuple[tuple[str | None, ...], ...], list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        found[stratum_of(unit)].append(index)
    return [found[key] for key in sorted(found, key=lambda key: list(map(stratum_order, key)))]


def _exact(ratio: float) -> Fraction:
    """A ratio as the decimal number that was typed: 0.1 of 30 units are 3, no hair more."""
    return Fraction(repr(ratio))


def _memory(older: Manifest, rule: SplitRule) -> list[Part]:
    try:
        return list_parts(older, rule.by, rule.stratify)
    except (StoreError, ManifestError) as error:
        raise SplitError(
            f"the older result cannot be continued ({error}); --anew begins without it"
        ) from error


def _check_names(parts: Iterable[Part], rule: SplitRule) -> None:
    if strange := sorted({s for part in parts for s in part.splits} - set(rule.names)):
        raise SplitError(
            f"stores are in {', '.join(map(short, strange))} already, and the splits are to be "
            f"{', '.join(rule.names)}: name all by --names and --ratios, or begin with --anew"
        )


def _check_torn(units: Iterable[Unit], listed: Mapping[int, str]) -> None:
    """Refuse units that lie in two splits already, unless a list says where they belong."""
    torn = []
    for index, unit in enumerate(units):
        if len(unit.splits) > 1 and index not in listed:
            where = " and in ".join(sorted(unit.splits))
            ids = tuple(sorted({part.entry.id for part in unit.parts}))
            called = " = ".join(map(short, unit.values or (unit.name,)))
            sentence = f"{called} ({', '.join(ids)}) lies in {where}"
            torn.append(Conflict("split", ids, sentence))
    if torn:
        raise ConflictsFound(torn, "say where they belong by --holdout, or begin with --anew")


def _records(
    manifest: Manifest, rule: SplitRule, older: Manifest | None, anew: bool
) -> list[Mapping[str, Json]]:
    """How the splits came about: what held for those that are kept, then this rule; each once."""
    found: list[Mapping[str, Json]] = []
    before = () if anew else (*manifest.splits, *(older.splits if older is not None else ()))
    for record in (*before, rule.to_json()):
        if record not in found:
            found.append(record)
    return found


def _with_splits(
    manifest: Manifest,
    units: Sequence[Unit],
    splits: Sequence[str],
    records: Sequence[Mapping[str, Json]],
) -> Manifest:
    whole: dict[str, str] = {}
    pictures: dict[str, dict[int, str]] = defaultdict(dict)
    for unit, split in zip(units, splits, strict=True):
        for part in unit.parts:
            if part.picture is None:
                whole[part.entry.id] = split
            else:
                pictures[part.entry.id][part.picture] = split

    def placed(entry: StoreEntry) -> StoreEntry:
        split_of = pictures.get(entry.id, {})
        if len(set(split_of.values())) > 1:
            return replace(entry, split=None, splits=tile_sets(manifest, entry, split_of))
        # Stores without tiles are in no split.
        split = next(iter(split_of.values()), whole.get(entry.id))
        same = entry.split == split and not entry.splits
        return entry if same else replace(entry, split=split, splits={})

    return replace(manifest, stores=tuple(map(placed, manifest.stores)), splits=tuple(records))


__all__ = [
    "SplitError",
    "SplitResult",
    "SplitRule",
    "UnitList",
    "fill_quotas",
    "place",
    "split_manifest",
    "stratum_of",
]
