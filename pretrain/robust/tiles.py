"""What is known of the tiles whose robustness is measured, and whether it can tell anything.

N tiles have a value of each field and a unit. An index can be told if two values of the biology and
two of the confounder occur together, in several units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from manifests import Manifest
from manifests.checks import short
from pretrain.embedding.wanted import wanted_tiles
from pretrain.errors import ConfigError
from pretrain.labelling.labelled import checked_values
from pretrain.labelling.rows import Flags, Integers, Rows, Values
from pretrain.labelling.setrows import limited
from pretrain.labelling.unitrows import units_of
from pretrain.robust.settings import RobustSettings
from pretrain.scoring.robustness import Kinds

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class KnownTiles:
    """What is known of N tiles."""

    rows: Rows
    values: Mapping[str, Values]
    """Field → value of each tile."""
    units: Integers
    by: tuple[str, ...]
    left_out: Mapping[str, int]

    def kept(self, mask: Flags) -> KnownTiles:
        """Only the tiles at which a mask, (N,), is true."""
        values = {
            name: replace(found, codes=found.codes[mask]) for name, found in self.values.items()
        }
        units = np.unique(self.units[mask], return_inverse=True)[1]
        return replace(self, rows=self.rows.kept(mask), values=values, units=units)


def know_tiles(manifest: Manifest, settings: RobustSettings) -> KnownTiles:
    """Read what is known of the tiles, and check that it can tell anything."""
    parts = wanted_tiles(manifest, split=settings.split, mpp=settings.mpp)
    sizes = sorted({part.group for part in parts})
    if len(sizes) > 1:
        raise ConfigError(
            f"the tiles have {len(sizes)} resolutions ({', '.join(sizes)}), and the same tissue "
            "may be in several; choose one by --mpp"
        )
    rows = Rows(manifest, parts)
    values = {name: checked_values(rows, name) for name in settings.predicted}
    biology, confounder = values[settings.biology], values[settings.confounder]
    both = biology.known & confounder.known
    if not both.all() and settings.unlabelled == "refuse":
        raise _unknown(rows, settings, biology, confounder)
    made = limited(rows, np.zeros(len(rows), np.int8), manifest)
    units = units_of(rows, made, settings.by or None)
    left_out = {} if both.all() else {"no biology or confounder": int((~both).sum())}
    return KnownTiles(rows, values, units.numbers, units.by, left_out).kept(both)


def _unknown(rows: Rows, settings: RobustSettings, *values: Values) -> ConfigError:
    names = (settings.biology, settings.confounder)
    name, missing = next(
        (name, ~found.known)
        for name, found in zip(names, values, strict=True)
        if not found.known.all()
    )
    first = rows.name_of(int(np.flatnonzero(missing)[0]))
    return ConfigError(
        f"{int(missing.sum()):,} of {len(rows):,} tiles do not say their {short(name)}, the first "
        f"is {first}; add it with `histotile manifest annotate`, or leave them out by "
        "--unlabelled drop"
    )


def check_crossing(known: KnownTiles, settings: RobustSettings, possible: Kinds) -> None:
    for name in (settings.biology, settings.confounder):
        values = known.values[name]
        there = np.unique(values.codes)
        if len(there) < 2:
            only = f": all are {short(values.names[there[0]])}" if len(there) else ""
            raise ConfigError(
                f"{short(name)} has one value on these tiles{only}; nothing can be told from it, "
                "name a field with two or more"
            )
    if not possible.all.any():
        raise ConfigError(
            f"all tiles belong to one unit by {', '.join(known.by)}, so none has a neighbour; name "
            "a finer field by --by"
        )
    if not possible.crossing.any():
        b, c = short(settings.biology), short(settings.confounder)
        raise ConfigError(
            f"{b} and {c} do not cross: no tile has tiles of its {b} with another {c} and tiles of "
            f"its {c} with another {b} in other units ({_pairs_text(known, settings)}); name two "
            "fields of which two values each occur together"
        )


def pairs_of(known: KnownTiles, settings: RobustSettings) -> dict[str, dict[str, int]]:
    """Tiles of each pair that occurs: biology → confounder → tiles."""
    biology, confounder = known.values[settings.biology], known.values[settings.confounder]
    found: dict[str, dict[str, int]] = {}
    codes, counts = np.unique(
        np.stack([biology.codes, confounder.codes]), axis=1, return_counts=True
    )
    for (b, c), count in zip(codes.T.tolist(), counts.tolist(), strict=True):
        found.setdefault(biology.names[b], {})[confounder.names[c]] = count
    return found


def _pairs_text(known: KnownTiles, settings: RobustSettings) -> str:
    def listed() -> Iterator[str]:
        for b, counts in pairs_of(known, settings).items():
            yield from (f"{short(b)} + {short(c)}" for c in counts)

    pairs = list(listed())
    more = f" and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
    return f"pairs are {', '.join(pairs[:_MOST_NAMED])}{more}"
